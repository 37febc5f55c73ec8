"""Check of lesson 04, notebook 3: a loader for files of several GPUs, which refuses gaps and programs."""

import os
import tempfile
from collections.abc import Callable, Iterator
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
        trained, special = _net(seed=1).state_dict(), _net(seed=1, name="submodule").state_dict()

        save_as_from(absent_gpu(), _wrapped(trained), path)
        what = "A file saved with DistributedDataParallel on a GPU that is not here: "
        hint = "its names begin with “module.”, and those of your model do not."
        _load_and_compare(learner, path, _net(), trained, what, ("prefix", hint))

        torch.save(trained, path)
        what = "A file saved without any wrapper: "
        hint = "it does not load any more. Is “module.” taken off or asked for where no name begins with it?"
        _load_and_compare(learner, path, _net(), trained, what, ("plain_file", hint))

        torch.save(_wrapped(special), path)
        what = "A file saved with DistributedDataParallel, of a model with a layer called submodule: "
        hint = "you took “module.” out of the middle of a name as well. The wrapper put it only in front."
        _load_and_compare(learner, path, _net(name="submodule"), special, what, ("replaced_inside", hint))

        letters = _net(seed=1, name="encoder").state_dict()
        torch.save(_wrapped(letters), path)
        what = "A file saved with DistributedDataParallel, of a model with a layer called encoder: "
        hint = "its names do not fit any more. Did you take off the word “module.”, or all letters that are in it?"
        _load_and_compare(learner, path, _net(name="encoder"), letters, what, ("letters", hint))

        _judge_confusing_names(learner, path)
        for symptom, weights, seen in _misfits(_wrapped(trained)):
            torch.save(weights, path)
            if not _refuses(learner, path):
                raise Wrong(symptom, f"{seen} What does not fit has to be an error.")
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


def _judge_confusing_names(learner: Load, path: Path) -> None:
    """Layers whose names look like the wrapper's: in the middle, in the beginning, and exactly."""
    for name, wrap, symptom, hint in (
        ("submodule", False, "replaced_inside", "you took “module.” out of the middle of a name."),
        (
            "module2",
            False,
            "not_the_prefix",
            "it does not load any more. What a wrapper puts in front is “module.”, with the dot.",
        ),
        (
            "module",
            True,
            "taken_off_twice",
            "it does not load any more. The wrapper put “module.” in front once; a second one is the layer's own.",
        ),
    ):
        weights = _net(seed=1, name=name).state_dict()
        torch.save(_wrapped(weights) if wrap else weights, path)
        saved = "with DistributedDataParallel" if wrap else "without any wrapper"
        what = f"A file saved {saved}, of a model with a layer called {name}: "
        _load_and_compare(learner, path, _net(name=name), weights, what, (symptom, hint))


def _misfits(weights: dict[str, torch.Tensor]) -> Iterator[tuple[str, dict[str, torch.Tensor], str]]:
    """Yield what does not fit into the model: a symptom, the file's content, and what is seen when it is loaded."""
    yield (
        "silent",
        {name: tensor for name, tensor in weights.items() if name != "module.head.bias"},
        "A file without head.bias was loaded without a word, and that layer keeps its random values.",
    )
    yield (
        "other_names",
        {name.replace("head", "tail"): tensor for name, tensor in weights.items()},
        "A file with a layer called tail was loaded without a word into a model whose layer is called head. The names "
        "say what belongs where, not the order.",
    )
    yield (
        "surplus",
        weights | {"module.extra.bias": torch.ones(3)},
        "A file with a layer more than the model has was loaded without a word: the other weights were trained to work "
        "with it.",
    )
    yield (
        "other_shape",
        weights | {"module.head.bias": torch.ones(1)},
        "A file whose head.bias has 1 value was loaded without a word into a model where it has 3.",
    )


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


def _load_and_compare(
    learner: Load, path: Path, model: nn.Module, right: dict[str, torch.Tensor], what: str, misfit: tuple[str, str]
) -> None:
    """Load and compare with the `right` weights; `misfit` is the symptom and the hint for names that do not fit."""
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
    now = model.state_dict()
    if same(now, start, tolerance=0):
        raise Wrong(
            "nothing_loaded",
            f"{what}no error, and the model that your function got is exactly as it was. Do the weights go into this "
            "model, and into no copy of it? If you call load_state_dict, look at the names that it returns.",
        )
    if not same(now, right, tolerance=0) and same(now, right, tolerance=0.02):
        raise Wrong("rounded", f"{what}the weights are nearly those of the file: something is rounded on the way.")
    if not same(now, right, tolerance=0):
        raise Wrong("partly", f"{what}some tensors were loaded and some were not. Which names are left over?")
    if [(one.dtype, one.requires_grad) for one in model.parameters()] != kinds:
        raise Wrong(
            "model_changed",
            f"{what}the weights are right, but the model is not as it was: the type of its numbers has changed, or "
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
