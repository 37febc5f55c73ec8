"""The checks of milestones M3 and M5: a run on two ranks, and its checkpoint on one device."""

import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import copies, on_ranks, one_thread
from torchcourse.lessons.capstone.delivery import deliver
from torchcourse.lessons.datasets.folder import read_image, read_table
from torchcourse.lessons.transfer.backbones import MNIST_SCALING
from torchcourse.training.event_files import writer
from torchcourse.training.events import read_run
from torchcourse.units import counted

IMAGES, SECONDS = 160, 80.0
Train = Callable[[Path, Path, int], nn.Module]


@check
def ddp_run(learner: Train) -> str:
    """Train on two ranks; compare the ranks' weights and pictures, and read back what was logged."""
    with tempfile.TemporaryDirectory() as place:
        folder, run_dir = deliver(Path(place) / "delivery", IMAGES, seed=13), Path(place) / "run"
        pictures, labels = _pictures(deliver(Path(place) / "others", 80, seed=14, part="test"))
        ones, others = on_ranks(_observed, learner, folder, run_dir, pictures, world_size=2, seconds=SECONDS)
        _judge_ranks(ones, others)
        _judge_order(ones["seen"])
        _judge_log(run_dir)
    share = (ones["logits"].argmax(dim=1) == labels).float().mean().item()
    if share < 0.25:
        raise Wrong(
            "not_learned",
            f"After training, the model reads {share:.0%} of new pictures, and guessing 10%. Do the settings suit it?",
        )
    return f"Two ranks, different pictures, the same weights, one log; new pictures: {share:.0%} right."


@check
def one_device(learner: tuple[Train, Callable[[Path, torch.device], nn.Module]]) -> str:
    """Train on two ranks, load the run in this process, and compare what both models say."""
    train, load = learner
    with tempfile.TemporaryDirectory() as place, one_thread():
        folder, run_dir = deliver(Path(place) / "delivery", 80, seed=15), Path(place) / "run"
        pictures, _ = _pictures(deliver(Path(place) / "others", 80, seed=16, part="test"))
        first, second = on_ranks(_observed, train, folder, run_dir, pictures, world_size=2, seconds=SECONDS)
        _judge_kinds(first, second)
        files = sorted(file for file in run_dir.rglob("*") if file.is_file())
        model = load(run_dir, torch.device("cpu"))
        if not isinstance(model, nn.Module):
            raise Wrong("no_model", f"Return the model; you return a value of type {type(model).__name__}.")
        _judge_loaded(model, first, pictures)
        _judge_loading_again(load, run_dir, files)
    return "The checkpoint of two ranks gives, in one process, the same answers as the model that was trained."


def _observed(train: Train, folder: Path, run_dir: Path, pictures: torch.Tensor) -> dict[str, Any]:
    """Train in a rank, and note which pictures go through the network with gradients."""
    seen: list[int] = []

    def note(module: nn.Module, inputs: tuple) -> None:
        if isinstance(module, nn.Conv2d) and module.in_channels == 1 and torch.is_grad_enabled() and len(seen) < 1000:
            seen.extend(zlib.crc32(row.numpy().tobytes()) for row in inputs[0].detach().cpu())

    hook = nn.modules.module.register_module_forward_pre_hook(note)
    try:
        model = train(folder, run_dir, 3)
    finally:
        hook.remove()
    if not isinstance(model, nn.Module) or isinstance(model, DistributedDataParallel):
        return {"kind": type(model).__name__}
    parameters = copies(model.parameters())
    if other := next((p.dtype for p in parameters if p.dtype != pictures.dtype), None):
        return {"dtype": other}
    model.eval()
    with torch.no_grad():
        logits = model(pictures.to(next(model.parameters()).device)).cpu()
    return {"parameters": parameters, "seen": seen, "logits": logits}


def _judge_kinds(ones: dict[str, Any], others: dict[str, Any]) -> None:
    """Refuse what is no model that can leave the ranks."""
    if dtype := next((what["dtype"] for what in (ones, others) if "dtype" in what), None):
        raise Wrong("dtype", f"The model that you return has weights of the type {dtype}; pictures are torch.float32.")
    kinds = {rank: what["kind"] for rank, what in enumerate((ones, others)) if "kind" in what}
    if "DistributedDataParallel" in kinds.values():
        raise Wrong(
            "wrapped",
            "You return DistributedDataParallel, which lives only as long as the ranks. The model inside is its "
            "`module`: return that one.",
        )
    if len(kinds) == 1:
        rank, kind = kinds.popitem()
        raise Wrong(
            "not_on_every_rank", f"Rank {rank} returns a value of type {kind}. Return the trained model on every rank."
        )
    if kinds:
        raise Wrong("no_model", f"Return the trained model; you return a value of type {kinds[0]}.")


def _judge_order(seen: list[int]) -> None:
    """Refuse pictures that come in one order again and again. Where each is drawn again, that cannot be told."""
    epoch = seen.index(seen[0], 1) if seen and seen.count(seen[0]) > 1 else 0  # the first picture comes again
    if epoch > 20 and len(seen) >= 2 * epoch and seen[:epoch] == seen[epoch : 2 * epoch]:
        raise Wrong(
            "same_order",
            f"The second epoch of rank 0 brings its {epoch} pictures in the very order of the first. Are they "
            "shuffled, and who tells the sampler which epoch it is?",
        )


def _judge_ranks(ones: dict[str, Any], others: dict[str, Any]) -> None:
    _judge_kinds(ones, others)
    pairs = zip(ones["parameters"], others["parameters"], strict=True)
    apart = max((one - other).abs().max().item() for one, other in pairs)
    if apart > 1e-5:
        raise Wrong(
            "ranks_apart",
            f"After training, the weights of the two ranks are {apart:.2g} apart: there are two models. "
            "Which parameters does DistributedDataParallel know, and does it see the forward pass?",
        )
    start = int(0.3 * IMAGES)  # of the first epoch, where no picture comes twice
    one, other = set(ones["seen"][:start]), set(others["seen"][:start])
    if one and len(one & other) > 0.3 * len(one):
        raise Wrong(
            "same_data",
            f"Of the first {len(one)} pictures that rank 0 trained on, rank 1 had {len(one & other)}, too. "
            "Two ranks that see the same do the work of one.",
        )


def _judge_log(run_dir: Path) -> None:
    files = sorted(run_dir.rglob("*tfevents*")) if run_dir.exists() else []
    if not files:
        raise Wrong("no_events", "There are no event files for TensorBoard below the folder of the run.")
    for folder in {file.parent for file in files}:
        writers = {writer(file.name) for file in files if file.parent == folder}
        if len(writers) > 1:
            raise Wrong("two_writers", f"{len(writers)} processes wrote into one log. Which rank is to write?")
    points = {
        tag: steps for folder in {file.parent for file in files} for tag, (steps, _) in read_run(folder).scalars.items()
    }
    curves = [tag.lower() for tag, steps in points.items() if len(set(steps)) > 1]
    for name, what in (("loss", "a loss"), ("val", "a value of the validation part")):
        if not any(name in tag for tag in curves):
            has = ", ".join(f"{tag} ({_points(steps)})" for tag, steps in points.items())
            raise Wrong(
                "no_curve",
                f"The log has no curve with {what}: no tag with {name!r} in it and points at two steps or more. "
                f"It has {has or 'none at all'}.",
            )
    if len(curves) == 1:
        raise Wrong(
            "one_curve",
            f"The log has one curve, {curves[0]}: a loss and a value of the validation part are two of them.",
        )
    if not any(file.is_file() and file not in files for file in run_dir.rglob("*")):
        raise Wrong(
            "no_checkpoint", "The run leaves its log and no checkpoint below its folder: M5 has nothing to load."
        )


def _points(steps: list[int]) -> str:
    at = f", all at step {steps[0]}" if len(steps) > 1 and len(set(steps)) == 1 else ""
    return counted(len(steps), "point") + at


def _judge_loaded(model: nn.Module, first: dict[str, Any], pictures: torch.Tensor) -> None:
    if model.training:
        raise Wrong(
            "training_mode", "The model is in training mode: BatchNorm would use the batch that is asked about."
        )
    if others := sorted({str(p.dtype) for p in model.parameters() if p.dtype != pictures.dtype}):
        raise Wrong(
            "dtype", f"Pictures are {pictures.dtype}, and the loaded model has weights of the type {others[0]}."
        )
    with torch.no_grad():
        logits = model(pictures)
    if logits.shape != first["logits"].shape:
        raise Wrong(
            "shape",
            f"For {len(pictures)} pictures, the loaded model returns the shape {list(logits.shape)}, and "
            f"the trained one {list(first['logits'].shape)}.",
        )
    if not torch.isfinite(logits).all() or (logits - first["logits"]).abs().max() > 1e-2:
        apart = (logits - first["logits"]).abs().max().item()
        agree = (logits.argmax(dim=1) == first["logits"].argmax(dim=1)).float().mean().item()
        raise Wrong(
            "different_model",
            f"The loaded model's numbers are up to {apart:.2g} from the trained one's, and it names the same digit for "
            f"{agree:.0%} of the pictures. Which weights did the file hold, of which moment, under which names? Did "
            "loading leave any out, and does something come after the last layer? The model that `train` returns "
            "counts.",
        )


def _judge_loading_again(load: Callable[[Path, torch.device], nn.Module], run_dir: Path, files: list[Path]) -> None:
    """Refuse what works once: a run that is used up, a second call that fails, a model that is no checkpoint's."""
    if gone := [file.name for file in files if not file.exists()]:
        raise Wrong("checkpoint_gone", f"Loading has taken {gone[0]} away. Whoever loads this run again finds nothing.")
    load(run_dir, torch.device("cpu"))
    with tempfile.TemporaryDirectory() as empty:
        try:
            load(Path(empty), torch.device("cpu"))
        except (Exception, SystemExit):  # whatever the learner's way to say that there is nothing
            return
    raise Wrong(
        "no_run_needed",
        "For a folder without any file your function gives a model, too. Which run do its weights come from?",
    )


def _pictures(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the pictures of a delivery that can be read, scaled for the backbone, and their labels."""
    images, labels = [], []
    for row in read_table(folder / "labels.csv", ("file", "label")):
        try:
            images.append(read_image(folder / row["file"]))
        except ValueError:
            continue
        labels.append(int(row["label"]))
    return MNIST_SCALING(1 - torch.stack(images), 1), torch.tensor(labels)
