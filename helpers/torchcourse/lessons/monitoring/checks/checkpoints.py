"""Checks of lesson 04, notebook 3: saving, resuming, repeatable samples, loading elsewhere. Each names the symptom.

In the notebook's order: `save_whole`, `resume`, `noisy_image`, `load_on_one`.
"""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.lessons.monitoring.by_hand import Run
from torchcourse.lessons.monitoring.foreign_examples import absent_gpu, save_as_from
from torchcourse.ranks.run import RankError, run_ranks
from torchcourse.training import CheckpointError, checkpoint
from torchcourse.training.crash import KILL


@check
def save_whole(learner: Callable[[dict, str], Any]) -> str:
    """Kill the process in the midst of torch.save and at each line of the function; look at the file each time."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "last.pt"
        seen = _save(learner, path, "nowhere")
        if _step_in(path) != 2:
            raise Wrong(
                "not_saved", f"After your function, {path.name} still holds the old state. Where did the new one go?"
            )
        if seen["opened"]:
            raise Wrong(
                "torn",
                "You write into the file that holds the old state. From the moment it is opened until it is closed, "
                "the old state is gone and the new one is not there: a kill in between costs both.",
            )
        _judge_kill(learner, path, "in the middle of torch.save")
        lines = min(seen["lines"], _MOST_KILLS)
        for line in range(1, lines + 1):
            _judge_kill(learner, path, line)
        if seen["moved_from"] not in (None, os.fspath(path.parent)):
            raise Wrong(
                "elsewhere",
                f"Your temporary file is in {seen['moved_from']}. If that is another disk, moving it is a copy, and "
                "a copy can be killed half-way. Which folder is certainly on the same disk as the file?",
            )
        if not seen["synced"]:
            raise Wrong(
                "no_fsync",
                "A kill does no harm now, but a power cut may: what you wrote is in the system's memory, and the new "
                "name can reach the disk before the content does. What forces a file to the disk?",
            )
    return f"Killed in the middle of torch.save and at {lines} lines of yours: the file was whole each time."


@check
def resume(learner: tuple[Callable[[Run], dict], Callable[[Run, dict], Any]]) -> str:
    """Stop in two places, build everything anew, restore, and compare each piece and all later losses."""
    capture, restore = learner
    for stop in (7, 27):
        run = Run()
        run.train(stop)
        expected = {
            "model": {name: tensor.clone() for name, tensor in run.model.state_dict().items()},
            "random": torch.get_rng_state(),
            "position": (run.epoch, run.batch),
        }
        loaded = _through_a_file(capture(run))
        torch.set_rng_state(expected["random"])
        again = Run(seed=stop)
        restore(again, loaded)
        _judge_pieces(again, run, expected, f"After step {stop} and a restart")
        torch.set_rng_state(expected["random"])
        after = run.train(13)
        torch.set_rng_state(expected["random"])
        if again.train(13) != after:
            raise Wrong(
                "other_run",
                f"After step {stop} and a restart every piece looks right, and the losses still differ. Does the new "
                "run train the model, the optimizer and the schedule that you restored?",
            )
    return "Stopped within the first and the second epoch: all losses after the restart are those of the unbroken run."


@check
def noisy_image(learner: Callable[[torch.Tensor, int, int, int], torch.Tensor]) -> str:
    """Draw the same sample after other draws, and compare samples that have to differ."""
    image = torch.zeros(1, 28, 28)

    def noise(seed: int, epoch: int, index: int) -> torch.Tensor:
        return learner(image, seed, epoch, index)

    torch.manual_seed(0)
    first = noise(0, 1, 5)
    if not isinstance(first, torch.Tensor) or first.shape != image.shape:
        shape = list(first.shape) if isinstance(first, torch.Tensor) else type(first).__name__
        raise Wrong("shape", f"Return an image of shape {list(image.shape)}. You return {shape}.")
    if image.any():
        raise Wrong(
            "in_place", "You changed the image that was given to you. In the next epoch it would carry this noise too."
        )
    if not 0.05 < float(first.std()) < 0.2:
        raise Wrong(
            "no_noise", f"The noise should have a standard deviation of about 0.1, and it has {float(first.std()):.3g}."
        )
    torch.manual_seed(1)
    before = torch.get_rng_state()
    again = noise(0, 1, 5)
    if not torch.equal(first, again):
        raise Wrong(
            "stream",
            "The same seed, epoch and index gave two different images, one after the other. The noise still comes "
            "from a stream, so it depends on what was drawn before: by this process, or by whichever worker got the "
            "sample.",
        )
    if not torch.equal(before, torch.get_rng_state()):
        raise Wrong(
            "global",
            "Your function moves PyTorch's own random numbers, from which dropout draws: each sample would set "
            "dropout back to the same place. Draw from a generator of your own.",
        )
    for other, symptom, hint in (
        (
            (0, 2, 5),
            "same_every_epoch",
            "In two epochs the image gets the same noise: it is augmented once and for all.",
        ),
        ((0, 1, 6), "same_for_all", "Two different samples get the same noise."),
        ((7, 1, 5), "seed_ignored", "Two runs with different seeds get the same noise: the seed does not count."),
    ):
        if torch.equal(noise(*other), first):
            raise Wrong(symptom, hint)
    numbers = [
        (seed, epoch, index) for seed in (0, 1, 2) for epoch in range(4) for index in (0, 1, 2, 3, 10, 100, 1000)
    ]
    images = {tuple(noise(*key).flatten()[:4].tolist()): key for key in reversed(numbers)}
    if len(images) < len(numbers):
        raise Wrong(
            "collision",
            f"Of {len(numbers)} different combinations of seed, epoch and index, only {len(images)} get noise of "
            "their own. Adding or multiplying the three makes (0, 1, 5) and (0, 0, 6), say, the same number.",
        )
    return f"{len(numbers)} combinations of seed, epoch and index: each has its own noise, whatever was drawn before."


@check
def load_on_one(learner: Callable[[str, nn.Module], Any]) -> str:
    """Give it files of a plain run, of several GPUs, with a confusing name, with a gap, and one that runs code."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pth"
        trained = _net(seed=1).state_dict()
        prefixed = {f"module.{name}": tensor for name, tensor in trained.items()}
        save_as_from(absent_gpu(), prefixed, path)
        _load_and_compare(
            learner, path, _net(), trained, "saved with DistributedDataParallel on a GPU that is not here"
        )
        torch.save(trained, path)
        _load_and_compare(learner, path, _net(), trained, "saved without any wrapper")
        special = _net(seed=1, name="submodule")
        torch.save({f"module.{name}": tensor for name, tensor in special.state_dict().items()}, path)
        confusing = "with DistributedDataParallel, of a model with a layer called submodule"
        _load_and_compare(learner, path, _net(name="submodule"), special.state_dict(), confusing)
        torch.save({name: tensor for name, tensor in prefixed.items() if name != "module.head.bias"}, path)
        try:
            learner(os.fspath(path), _net())
        except NotImplementedError:
            raise
        except Exception:
            pass
        else:
            raise Wrong(
                "silent",
                "A file without head.bias was loaded without a word, and that layer keeps its random values. What "
                "does not fit has to be an error.",
            )
        marker = Path(folder) / "it_ran"
        torch.save({"module.x": torch.ones(1), "surprise": _Surprise(os.fspath(marker))}, path)
        try:
            learner(os.fspath(path), _net())
        except NotImplementedError:
            raise
        except Exception:
            pass
        if marker.exists():
            raise Wrong(
                "ran_code",
                "The last file made a folder on your disk while it was being read. A pickle can run any program; you "
                "switched off what protects from that.",
            )
    return (
        "Loaded: two GPUs' names, one device's names, a layer called submodule. Refused: a gap, and a file that "
        "runs code."
    )


# Saving

_MOST_KILLS = 10  # each takes a process of its own


def _save(learner: Callable, path: Path, kill_at: int | str) -> dict[str, Any] | None:
    """Run the learner's function in a process of its own over a file with step 1; None if it was killed."""
    checkpoint.save({"step": 1}, path)
    try:
        return run_ranks(_save_in_a_rank, learner, os.fspath(path), kill_at, world_size=1)[0]
    except RankError as error:
        if error.kind == "ProcessDied" and kill_at != "nowhere":
            return None
        raise


def _save_in_a_rank(learner: Callable, path: str, kill_at: int | str) -> dict[str, Any]:
    seen: dict[str, Any] = {"lines": 0, "opened": False, "synced": False, "moved_from": None}
    files = {learner.__code__.co_filename} if hasattr(learner, "__code__") else set()

    def audit(event: str, args: tuple) -> None:
        if event == "open" and isinstance(args[0], str | bytes) and os.fsdecode(args[0]) == path:
            writes = isinstance(args[1], str) and any(letter in args[1] for letter in "wax+")
            seen["opened"] |= writes
        elif event == "os.rename" and os.fspath(args[1]) == path:
            seen["moved_from"] = os.path.dirname(os.path.abspath(os.fspath(args[0])))

    def trace(frame: Any, event: str, _arg: Any) -> Any:
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            seen["lines"] += 1
            if seen["lines"] == kill_at:
                os.kill(os.getpid(), KILL)
        return trace

    real_save, real_sync = torch.save, os.fsync

    def half_save(state: Any, target: Any, *args: Any, **options: Any) -> None:
        real_save(state, Path(path).with_name("measure.tmp"), *args, **options)
        whole = Path(path).with_name("measure.tmp").read_bytes()
        file = open(target, "wb") if isinstance(target, str | os.PathLike) else target  # noqa: SIM115
        file.write(whole[: len(whole) // 2])
        file.flush()
        os.kill(os.getpid(), KILL)

    def in_place_save(state: Any, target: Any, *args: Any, **options: Any) -> None:
        seen["opened"] |= isinstance(target, str | os.PathLike) and os.path.abspath(os.fspath(target)) == path
        real_save(state, target, *args, **options)

    def sync(descriptor: int) -> None:
        seen["synced"] |= seen["moved_from"] is None
        real_sync(descriptor)

    torch.save = half_save if kill_at == "in the middle of torch.save" else in_place_save
    os.fsync = sync
    sys.addaudithook(audit)
    state = {"step": 2, "weights": torch.ones(1000)}
    sys.settrace(trace)
    try:
        learner(state, path)
    finally:
        sys.settrace(None)
        torch.save, os.fsync = real_save, real_sync
    return seen


def _judge_kill(learner: Callable, path: Path, moment: int | str) -> None:
    if _save(learner, path, moment) is not None:
        return
    where = moment if isinstance(moment, str) else f"at its line number {moment} (counted as they run)"
    if not path.exists():
        raise Wrong(
            "gone",
            f"The process was killed {where}, and now there is no file at all: the old one was taken away before the "
            "new one had its name. One call can do both at once.",
        )
    if _step_in(path) is None:
        raise Wrong(
            "too_early",
            f"The process was killed {where}, and the file is unreadable: it got its name before all of it was "
            "written. When is what you wrote certainly in the file?",
        )


def _step_in(path: Path) -> int | None:
    try:
        return torch.load(path, weights_only=True)["step"]
    except Exception:
        return None


# Resuming


def _through_a_file(state: Any) -> dict[str, Any]:
    if not isinstance(state, dict):
        raise Wrong("no_dict", f"capture() should return a dict of all pieces. It returned a {type(state).__name__}.")
    with tempfile.TemporaryDirectory() as folder:
        try:
            checkpoint.save(state, Path(folder) / "state.pt")
            return checkpoint.load(Path(folder) / "state.pt")
        except TypeError as error:
            raise Wrong(
                "unsavable", f"{error} Put states into the dict, not objects: most objects have a method for that."
            ) from None
        except CheckpointError as error:
            raise Wrong("unsavable", str(error)) from None


def _judge_pieces(again: Run, run: Run, expected: dict[str, Any], when: str) -> None:
    drawn = torch.get_rng_state()
    parameters = {name for name, _ in run.model.named_parameters()}
    for name, tensor in again.model.state_dict().items():
        if not torch.equal(tensor, expected["model"][name]):
            if name in parameters:
                raise Wrong("model", f"{when}, {name} is not as it was: the model begins with other weights.")
            raise Wrong(
                "buffers",
                f"{when}, {name} is not as it was. The parameters are not all of a model: BatchNorm also keeps "
                "statistics.",
            )
    if (again.epoch, again.batch) != expected["position"]:
        raise Wrong(
            "position",
            f"{when}, training goes on at epoch {again.epoch}, batch {again.batch}; it had come to epoch "
            f"{expected['position'][0]}, batch {expected['position'][1]}. Some samples come twice, or never.",
        )
    if again.scheduler.optimizer is not again.optimizer:
        raise Wrong(
            "unlinked",
            f"{when}, the schedule still steers the optimizer that was there before: the one that trains keeps its "
            "rate.",
        )
    ours, theirs = run.optimizer.state_dict(), again.optimizer.state_dict()
    if not _same(ours["state"], theirs["state"]):
        raise Wrong(
            "optimizer",
            f"{when}, the optimizer has forgotten: AdamW keeps two running means for each weight, and yours has "
            f"{len(theirs['state'])} of {len(ours['state'])} entries, or others. The first steps will be of another "
            "length.",
        )
    if run.scheduler.state_dict()["last_epoch"] != again.scheduler.state_dict()["last_epoch"]:
        raise Wrong(
            "scheduler",
            f"{when}, the schedule is at step {again.scheduler.last_epoch} instead of {run.scheduler.last_epoch}: the "
            "learning rate starts over.",
        )
    if run.optimizer.param_groups[0]["lr"] != again.optimizer.param_groups[0]["lr"]:
        rates = again.optimizer.param_groups[0]["lr"], run.optimizer.param_groups[0]["lr"]
        raise Wrong("rate", f"{when}, the learning rate is {rates[0]:.6f} instead of {rates[1]:.6f}.")
    if not torch.equal(drawn, expected["random"]):
        raise Wrong(
            "random",
            f"{when}, all else is right, but dropout will draw other numbers: the state of PyTorch's generator is "
            "not the one of the moment of saving.",
        )


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


# Loading


class _Surprise:
    """When unpickled as usual, makes a folder: harmless, but it could be any command."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.folder,)


def _net(seed: int = 0, name: str = "body") -> nn.Module:
    torch.manual_seed(seed)
    return nn.ModuleDict({name: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)), "head": nn.Linear(4, 3)})


def _load_and_compare(
    learner: Callable, path: Path, model: nn.Module, right: dict[str, torch.Tensor], what: str
) -> None:
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        learner(os.fspath(path), model)
    except (RuntimeError, KeyError) as error:
        text = str(error)
        if "deserialize" in text:
            raise Wrong(
                "device",
                f"A file {what}: torch.load stops, since it wants to put each tensor back to where it was. Which "
                "argument tells it another place?",
            ) from None
        if "in loading state_dict" not in text and not isinstance(error, KeyError):
            raise
        if "submodule" in what:
            raise Wrong(
                "replaced_inside",
                f"A file {what}: you took “module.” out of the middle of a name as well. The wrapper put it only in "
                "front.",
            ) from None
        if "without any wrapper" in what:
            raise Wrong(
                "plain_file",
                f"A file {what} does not load any more: you take something off names that have no such beginning.",
            ) from None
        raise Wrong(
            "prefix", f"A file {what}: its names begin with “module.”, and those of your model do not."
        ) from None
    now = model.state_dict()
    changed = [name for name, tensor in now.items() if not torch.equal(tensor, start[name])]
    if not changed:
        raise Wrong(
            "nothing_loaded",
            f"A file {what}: no error, and the model is exactly as it was. Look at what load_state_dict returned: "
            "not one name fitted.",
        )
    if any(not torch.equal(tensor.cpu(), right[name]) for name, tensor in now.items()):
        raise Wrong("partly", f"A file {what}: some tensors were loaded and some were not. Which names are left over?")
