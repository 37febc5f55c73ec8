"""What a loop writes in place into its stored samples, and whether it meets that again in a later step.

A batch or a sample that is a view of the data has the data's own memory: what an
augmentation writes there in place stays, and the next epoch adds more to it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from torchcourse.lessons.troubleshooting.model_calls import can_be_kept, is_plain, tensors_of
from torchcourse.lessons.troubleshooting.torch_calls import TorchCall
from torchcourse.lessons.troubleshooting.watcher import Loop, Watcher
from torchcourse.source_lines import hide

hide(__file__)

_TAKING = {"__getitem__", "split", "chunk", "narrow", "unbind", "select", "tensor_split"}
_CHANGING = {"add_", "__iadd__", "sub_", "__isub__", "mul_", "__imul__", "div_", "__itruediv__", "__idiv__"}
_CHANGING |= {"masked_fill_", "clamp_", "__setitem__"}
SHARE_AT_MOST = 0.5  # of the data: a larger part is no batch of it
PLACES_AT_MOST, ROWS_AT_MOST = 4096, 64

_Place = tuple[int, torch.Size, tuple[int, ...]]
_Print = tuple[float, float]


@dataclass
class _Written:
    """What was written last to one place."""

    print: _Print
    step: int
    came_back: bool = False
    """Whether it was still there when the place was taken in a later step."""
    changed_at: int = -1
    """The step in which what had come back was changed once more."""


class Stored(Watcher):
    """Notes the steps in which the model got samples that had been changed in place, and before that already.

    Args:
        loop: the one that is watched.
        drawn: says whether a tensor was made of random numbers alone.
    """

    def __init__(self, loop: Loop, drawn: Callable[[torch.Tensor], bool]) -> None:
        super().__init__(loop)
        self.piled: set[int] = set()
        self._drawn = drawn
        self._places: dict[_Place, _Written] = {}
        self._again: dict[_Place, _Written] = {}

    def on_step(self) -> None:
        """Forget what was changed for the step that is about to be taken."""
        self._again.clear()

    def on_call(self, call: TorchCall) -> None:
        """Note what is taken out of the data, or written there."""
        name, out = call.name, call.out
        if name in _TAKING and self._places:
            for part in out if isinstance(out, list | tuple) else (out,):
                self._on_taken(part)
        elif name in _CHANGING or (self._places and (_writes(name) or "out" in call.kwargs)):
            written: Any = call.kwargs.get("out", call.first)
            if not self.loop.inside and _is_part(written):
                self._on_written(name, written, call.args[-1:])

    def on_pass(self, arguments: tuple[tuple, dict]) -> None:
        """Note what the model is about to get: the changed samples themselves, or copies of them in a batch."""
        if not self._again or self.loop.step in self.piled:
            return
        memory, prints = {place[0] for place in self._again}, {one.print for one in self._again.values()}
        for tensor in tensors_of(arguments):
            if can_be_kept(tensor) and tensor.dim() and tensor.numel():
                rows = tensor[:ROWS_AT_MOST]
                if tensor.data_ptr() in memory or any(_print(row) in prints for row in rows if row.numel()):
                    self.piled.add(self.loop.step)
                    return

    def _on_taken(self, part: Any) -> None:
        known = self._places.get(_place(part)) if _is_part(part) else None
        if known is not None and known.step < self.loop.step:
            known.came_back = _print(part) == known.print

    def _on_written(self, name: str, part: torch.Tensor, values: tuple) -> None:
        place, now = _place(part), self.loop.step
        known = self._places.get(place)
        fills, full = name not in _CHANGING, len(self._places) >= PLACES_AT_MOST
        if part.requires_grad or not part.is_floating_point() or (known is None and (fills or full)):
            return
        print_ = _print(part)
        if known is None:
            self._places[place] = _Written(print_, now)
            return
        # Other numbers for each sample are data: a buffer that is filled again, or a trace that is kept on purpose.
        given = [one for one in values if isinstance(one, torch.Tensor) and one is not part]
        if fills or any(one.numel() >= part.numel() and not self._drawn(one) for one in given):
            known.came_back, known.changed_at = False, -1
            self._again.pop(place, None)
        elif known.came_back and (known.changed_at == now or print_ != known.print):
            known.changed_at = now
            self._again[place] = known
        known.print, known.step = print_, now


def _writes(name: str) -> bool:
    """Whether a function's name says that it works in place."""
    return name.endswith("_") and not name.endswith("__")


def _is_part(tensor: Any) -> bool:
    """Whether a tensor has numbers that are a small part of those of another one, and shares their memory."""
    if not is_plain(tensor) or not tensor._is_view():
        return False
    whole = tensor._base  # of which some rows are a part in one piece; some columns are not
    return whole is not None and 0 < tensor.numel() <= SHARE_AT_MOST * whole.numel() and tensor.is_contiguous()


def _place(part: torch.Tensor) -> _Place:
    return part.data_ptr(), part.shape, part.stride()


def _print(part: torch.Tensor) -> _Print:
    """Return two numbers that tell what is in a tensor now from what was there before."""
    numbers = part.detach().double()
    return numbers.sum().item(), numbers.norm().item()
