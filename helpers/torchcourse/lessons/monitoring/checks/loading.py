"""Check of lesson 04, notebook 3: a loader for files of several GPUs, which refuses gaps and programs."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.checks.errors import is_hole
from torchcourse.checks.kit import same
from torchcourse.lessons.monitoring.foreign_examples import absent_gpu, save_as_from

Load = Callable[[str, nn.Module], Any]


@check
def load_on_one(learner: Load) -> str:
    """Give it files of a plain run, of several GPUs, with a confusing name, with a gap, and one that runs code."""
    with tempfile.TemporaryDirectory() as folder:
        path, marker = Path(folder) / "model.pth", Path(folder) / "it_ran"
        trained = _wrapped(_net(seed=1).state_dict())
        save_as_from(absent_gpu(), trained, path)
        what = "A file saved with DistributedDataParallel on a GPU that is not here: "
        hint = "its names begin with “module.”, and those of your model do not."
        _load_and_compare(learner, path, "body", what, ("prefix", hint))
        for name, wrapped, symptom, hint in _NAMES:
            weights = _net(seed=1, name=name).state_dict()
            torch.save(_wrapped(weights) if wrapped else weights, path)
            saved = "with DistributedDataParallel" if wrapped else "without any wrapper"
            what = f"A file saved {saved}, of a model with a layer called {name}: its names do not fit any more. "
            _load_and_compare(learner, path, name, what, (symptom, hint))
        for symptom, weights, what in (
            ("silent", {n: one for n, one in trained.items() if n != "module.head.bias"}, "without head.bias"),
            ("other_names", {n.replace("head", "tail"): one for n, one in trained.items()}, "with tail for head"),
            ("surplus", trained | {"module.extra.bias": torch.ones(3)}, "with a layer more than the model has"),
            ("other_shape", trained | {"module.head.bias": torch.ones(1)}, "whose head.bias has 1 value and not 3"),
        ):
            torch.save(weights, path)
            if not _refuses(learner, path):
                raise Wrong(symptom, f"A file {what} was loaded without a word. What does not fit has to be an error.")
        torch.save({"module.x": torch.ones(1), "surprise": _Surprise(os.fspath(marker))}, path)
        _refuses(learner, path)
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


_NAMES = (
    ("body", False, "plain_file", "Is “module.” taken off or asked for where no name begins with it?"),
    ("submodule", True, "replaced_inside", "Did you take “module.” out of the middle of a name as well?"),
    ("encoder", True, "letters", "Did you take off the word “module.”, or all letters that are in it?"),
    ("submodule", False, "replaced_inside", "Did you take “module.” out of the middle of a name?"),
    ("module2", False, "not_the_prefix", "What a wrapper puts in front is “module.”, with the dot."),
    ("module", True, "taken_off_twice", "The wrapper put “module.” in front once; a second one is the layer's own."),
)
"""The layer of a model, whether its file is saved from a wrapper, and what is said where the names do not fit."""


class _Surprise:
    """When unpickled as usual, makes a folder: harmless, but it could be any command."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.folder,)


def _net(seed: int = 0, name: str = "body") -> nn.Module:
    torch.manual_seed(seed)
    norm = nn.BatchNorm1d(4)
    norm(torch.randn(8, 4))  # a model that was trained has statistics of its own
    return nn.ModuleDict({name: nn.Sequential(nn.Linear(6, 4), norm), "head": nn.Linear(4, 3)})


def _wrapped(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"module.{name}": tensor for name, tensor in weights.items()}


def _load_and_compare(learner: Load, path: Path, name: str, what: str, misfit: tuple[str, str]) -> None:
    """Load and compare with the weights that were saved; `misfit`: symptom and hint for names that do not fit."""
    right, model = _net(seed=1, name=name).state_dict(), _net(name=name)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kinds = [(one.dtype, one.requires_grad) for one in model.parameters()]
    try:
        learner(os.fspath(path), model)
    except (RuntimeError, KeyError) as error:
        text = str(error)
        if "deserialize" in text:
            raise Wrong(
                "device",
                f"{what}torch.load stops, since it wants to put each tensor back to where it was. Which argument tells "
                "it another place?",
            ) from None
        names = {*right, *_wrapped(right)}
        if "in loading state_dict" not in text and not (isinstance(error, KeyError) and error.args[0] in names):
            raise
        symptom, hint = misfit
        if symptom == "prefix" and "module." not in text:
            raise  # the names were seen to
        raise Wrong(symptom, what + hint) from None
    what = what.partition(": ")[0]
    now = model.state_dict()
    if same(now, start, tolerance=0):
        raise Wrong(
            "nothing_loaded",
            f"{what}: no error, and the model that your function got is exactly as it was. Do the weights go into this "
            "model, and into no copy of it? If you call load_state_dict, look at the names that it returns.",
        )
    if others := [name for name in right if not same(now.get(name), right[name], tolerance=0)]:
        raise Wrong(
            "partly",
            f"{what}: {len(others)} of {len(right)} tensors are not those of the file, {others[0]} for one. Is each of "
            "them loaded, and none rounded?",
        )
    if [(one.dtype, one.requires_grad) for one in model.parameters()] != kinds:
        raise Wrong(
            "model_changed",
            f"{what}: the weights are right, but the model is not as it was: the type of its numbers has changed, or "
            "which parameters ask for gradients.",
        )


def _refuses(learner: Load, path: Path) -> bool:
    """Whether the learner's function ends in an error about the file, and not in one of its own spelling."""
    try:
        learner(os.fspath(path), _net())
    except (NameError, ImportError):
        raise
    except Exception as error:
        if is_hole(error):
            raise
        return True
    return False
