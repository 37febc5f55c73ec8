"""PyTorch's settings that hold for the whole notebook: what code leaves switched over, every later cell meets.

    with kept() as left:
        learner()
    if left: …                              # ["your code leaves gradients switched off …"]

Importing this imports no torch: without it, there is nothing to switch.
"""

import contextlib
import sys
from collections.abc import Iterator

_NO_GRADIENTS = (
    "your code leaves gradients switched off for the whole notebook, so no later cell could "
    "train. (They are on again.) What ends by itself is `with torch.no_grad():`."
)
_OTHER_DTYPE = (
    "your code leaves {0} as the type of all new tensors in the notebook. (It is {1} again.) "
    "A tensor takes its own type as `dtype=`."
)


@contextlib.contextmanager
def kept() -> Iterator[list[str]]:
    """Yield a list that afterwards says what the block left switched over; all of it is put back.

    Gradients are on inside, also where an earlier call of the same code had left them off.
    """
    left: list[str] = []
    torch = sys.modules.get("torch")
    if torch is None:
        yield left
        return
    dtype = torch.get_default_dtype()
    torch.set_grad_enabled(True)
    try:
        yield left
    finally:
        if not torch.is_grad_enabled():
            left.append(_NO_GRADIENTS)
        torch.set_grad_enabled(True)
        if (new := torch.get_default_dtype()) != dtype:
            left.append(_OTHER_DTYPE.format(new, dtype))
            torch.set_default_dtype(dtype)
