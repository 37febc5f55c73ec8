"""Which storages come into being, in which step, by which operation, and on which way through the code.

`tracking` tells what memory is used for, and where its peak is. Leaks need other facts: the step of a birth, and the
whole way of calls to it, because the line that keeps a tensor is often in a caller of the line that makes it.
"""

import contextlib
import linecache
import sys
import sysconfig
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from torchcourse.lessons.troubleshooting._where import name_of

_HERE = str(Path(__file__).parent)
_NOT_YOURS = (
    str(Path(torch.__file__).parent),
    *{sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")},
    "<frozen ",
)


@dataclass(frozen=True)
class Line:
    """A line of source: where it is and what it says."""

    file: str
    number: int
    function: str = "<module>"

    @property
    def text(self) -> str:
        return linecache.getline(self.file, self.number).strip()

    def __str__(self) -> str:
        return f"line {self.number} of {name_of(self.file)}: {self.text}"


@dataclass(frozen=True)
class Birth:
    """A storage: what it is, who made it, and a weak reference that tells whether it is still there."""

    storage: weakref.ref
    key: int
    bytes: int
    step: int
    op: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    lines: tuple[Line, ...]

    @property
    def alive(self) -> bool:
        return self.storage() is not None


class Births(TorchDispatchMode):
    """While it is entered, writes down each storage that an operation makes, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.step = 0
        self.all: dict[int, Birth] = {}
        self.lines: set[Line] = set()  # where anything was made

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = {storage_key(tensor): tensor for tensor in tree_leaves(out) if isinstance(tensor, torch.Tensor)}
        given = {storage_key(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        lines = None
        for key, tensor in made.items():
            if key is None or key in given or (key in self.all and self.all[key].alive):
                continue
            lines = your_lines() if lines is None else lines
            self.lines.update(lines[:2])
            storage = tensor.untyped_storage()
            name = getattr(func, "__name__", str(func)).partition(".")[0]
            self.all[key] = Birth(
                weakref.ref(storage), key, storage.nbytes(), self.step, name, tuple(tensor.shape), tensor.dtype, lines
            )
        return out

    def alive(self) -> list[Birth]:
        self.all = {key: birth for key, birth in self.all.items() if birth.alive}
        return list(self.all.values())


def storage_key(tensor: torch.Tensor) -> int | None:
    """Return a number for the memory behind a tensor, the same for all its views; None where there is none."""
    with contextlib.suppress(NotImplementedError, RuntimeError):  # sparse and some wrapped tensors
        return tensor.untyped_storage()._cdata
    return None


def your_lines(limit: int = 6) -> tuple[Line, ...]:
    """Return where the running code is, innermost first, without the frames of PyTorch, Python and this room."""
    lines, frame = [], sys._getframe(1)
    while frame is not None and len(lines) < limit:
        if is_yours(frame.f_code.co_filename):
            lines.append(Line(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        frame = frame.f_back
    return tuple(lines)


def is_yours(file: str) -> bool:
    return not file.startswith(_NOT_YOURS) and str(Path(file).parent) != _HERE
