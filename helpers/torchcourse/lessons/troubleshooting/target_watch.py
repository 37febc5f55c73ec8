"""Where a loss's targets come from: labels that were interpolated, and noise that the model was not shown.

What is drawn or interpolated outside the model is followed from call to call, to a target and to what the model gets.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch

from torchcourse.lessons.troubleshooting.chance_watch import DRAWS, NUMBERS_AT_LEAST
from torchcourse.lessons.troubleshooting.model_calls import is_plain, tensors_of
from torchcourse.lessons.troubleshooting.torch_calls import TorchCall
from torchcourse.lessons.troubleshooting.watcher import Loop, Notes, Watcher
from torchcourse.source_lines import hide

hide(__file__)

_DRAWS = DRAWS | {"normal_"}
LABELS = range(3, 33)  # different whole numbers of a picture that are labels; more are shades
_MIXING = {"interpolate", "grid_sample", "avg_pool2d", "adaptive_avg_pool2d"}
_ARRANGING = {"squeeze", "unsqueeze", "view", "reshape", "flatten", "permute", "transpose", "contiguous", "clone"}
_ARRANGING |= {"detach", "__getitem__", "stack", "cat", "to", "float", "double", "type", "cpu"}
_ARRANGING |= {"expand", "expand_as", "view_as", "reshape_as", "type_as", "__get__"}
_CUTTING = {"long", "int", "short", "round", "floor", "ceil", "trunc", "round_", "floor_", "clamp", "clamp_"}


@dataclass(frozen=True)
class Origin:
    """What a tensor was made from.

    Attributes:
        noise: of each drawn tensor that is in it, a number and its shape.
        pure: whether it is what was drawn, at most arranged differently.
        mixed: whether something that was not drawn is in it too.
        interpolated: whether it is labels, of which each was computed from several.
    """

    noise: frozenset[tuple[int, torch.Size]] = frozenset()
    pure: bool = False
    mixed: bool = False
    interpolated: bool = False


class Origins(Watcher):
    """Notes what targets were made from."""

    def __init__(self, loop: Loop) -> None:
        super().__init__(loop)
        self.interpolated: dict[int, str] = {}
        """By step, the function that had interpolated the labels of a loss."""
        self.unknown_noise: set[int] = set()
        """The steps in which a target was noise, and the model got something else with other noise of its shape."""
        self._known = Notes()
        self._given: set[tuple[int, torch.Size]] = set()
        self._draws, self._by = 0, ""

    def on_step(self) -> None:
        """Forget what was drawn for the step that is about to be taken."""
        self._known.clear()
        self._given.clear()

    def on_pass(self, arguments: tuple[tuple, dict]) -> None:
        """Note the noise in what the model is about to get."""
        if self._known:
            found: list[Origin] = [*filter(None, map(self._known.of, tensors_of(arguments)))]
            self._given |= {drawn for one in found if one.mixed for drawn in one.noise}

    def on_target(self, target: torch.Tensor) -> None:
        """Note what a target was made from."""
        origin = self._known.of(target)
        if origin is None:
            return
        if origin.interpolated and not target.is_floating_point():
            self.interpolated[self.loop.step] = self._by
        if origin.pure and len(origin.noise) == 1 and not origin.noise & self._given:
            shape = next(iter(origin.noise))[1]
            if any(other == shape for _, other in self._given):
                self.unknown_noise.add(self.loop.step)

    def is_drawn(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor was made of random numbers alone."""
        origin = self._known.of(tensor)
        return origin is not None and bool(origin.noise) and not origin.mixed

    def on_call(self, call: TorchCall) -> None:
        """Note what is drawn or interpolated, and follow it."""
        name, out = call.name, call.out
        if self.loop.inside or not torch.is_grad_enabled():
            return
        if name in _DRAWS and is_plain(out) and out.numel() >= NUMBERS_AT_LEAST:
            self._draws += 1
            self._known[out] = Origin(frozenset({(self._draws, out.shape)}), pure=True)
        elif name in _MIXING and _labels(call.first) and bool((out != out.round()).any()):
            self._by = name
            self._known[out] = Origin(interpolated=True)
        if self._known and name not in _DRAWS:
            self._follow(name, list(tensors_of(call.args)), out)

    def _follow(self, name: str, parts: list[torch.Tensor], out: Any) -> None:
        origins: list[Origin] = [*filter(None, map(self._known.of, parts))]
        if not origins:
            return
        arranged = name in _ARRANGING
        for tensor in tensors_of(out):
            other = any(part not in self._known and part.numel() == tensor.numel() for part in parts)
            origin = Origin(
                noise=frozenset().union(*(one.noise for one in origins)),
                pure=arranged and all(one.pure for one in origins),
                mixed=any(one.mixed for one in origins) or (other and not arranged),
                interpolated=(arranged or name in _CUTTING) and all(one.interpolated for one in origins),
            )
            known = self._known.of(tensor)
            self._known[tensor] = origin if known is None else replace(known, noise=known.noise | origin.noise)


def _labels(given: Any) -> bool:
    """Whether these are maps of labels: a few whole numbers, and most neighbors the same."""
    if not is_plain(given) or given.requires_grad or given.dim() < 3 or given.numel() < 16:
        return False
    whole = not given.is_floating_point() or torch.equal(given, given.round())
    return whole and len(given.unique()) in LABELS and (given.diff(dim=-1) == 0).float().mean().item() > 0.5
