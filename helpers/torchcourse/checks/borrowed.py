"""See whether an answer calls the very thing that the exercise asks for: PyTorch's operator, or the package's function.

    with watch(operators=("conv",), package="torchcourse.lessons.convolution") as borrowed:
        out = learner(x, weight)
    if borrowed: …                          # ["PyTorch's convolution"]

What counts is what runs, not what is written: an alias, a layer or `torch.ops` come to the same operator.
"""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


@contextlib.contextmanager
def watch(operators: Sequence[str] = (), package: str | None = None) -> Iterator[list[str]]:
    """Yield a list that fills with what is called in the block, in this thread, and is not the learner's own.

    Args:
        operators: pieces of names, such as `"conv"`: each operator of PyTorch with one of them in its name counts.
        package: a package or module of the course; each of its functions counts.
    """
    found: list[str] = []
    before = sys.getprofile()

    def see(frame: FrameType, event: str, _: Any) -> None:
        name = frame.f_globals.get("__name__", "")
        if event == "call" and package and (name == package or name.startswith(f"{package}.")):
            found.append(f"the package's {frame.f_code.co_name}")

    sys.setprofile(see)
    try:
        with _Operators(operators, found):
            yield found
    finally:
        sys.setprofile(before)


class _Operators(TorchDispatchMode):
    def __init__(self, pieces: Sequence[str], found: list[str]) -> None:
        super().__init__()
        self.pieces, self.found = pieces, found


def _see(self: _Operators, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
    name = func.name().partition("::")[2].partition(".")[0].strip("_")
    if any(piece in name for piece in self.pieces):
        self.found.append(f"PyTorch's {name}")
    return func(*args, **(kwargs or {}))


# Set here and not in the class: torch wraps what it finds there, and imports its compiler for that, which takes 4 s.
_Operators.__torch_dispatch__ = _see  # type: ignore[method-assign, assignment]  # see above
