"""Where a loss's targets come from: labels that were interpolated, and noise that the model was not shown.

Told by `torch_calls` of each call. What is drawn or interpolated outside the model is followed from call to call, to a
target and to what the model gets.
"""

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from torchcourse.lessons.troubleshooting.chance_watch import DRAWS, NUMBERS_AT_LEAST
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


class Origins:
    """Notes what targets were made from.

    Args:
        steps: says how many steps have been taken.
        inside: says whether a forward pass of the model is under way.
    """

    def __init__(self, steps: Callable[[], int], inside: Callable[[], bool]) -> None:
        self.interpolated: dict[int, str] = {}
        """By step, the function that had interpolated the labels of a loss."""
        self.unknown_noise: set[int] = set()
        """The steps in which a target was noise, and the model got something else with other noise of its shape."""
        self._steps, self._inside = steps, inside
        self._known: dict[int, tuple[weakref.ref[torch.Tensor], Origin]] = {}
        self._given: set[tuple[int, torch.Size]] = set()
        self._draws, self._by = 0, ""

    def on_step(self) -> None:
        """Forget what was drawn for the step that has been taken."""
        self._known.clear()
        self._given.clear()

    def on_pass(self, arguments: tuple[tuple, dict]) -> None:
        """Note what the model is about to get."""
        if self._known:
            found = [self._origin(leaf) for leaf in tree_leaves(arguments)]
            self._given |= {drawn for one in found if one is not None and one.mixed for drawn in one.noise}

    def on_target(self, target: torch.Tensor) -> None:
        """Note a target of a loss."""
        origin = self._origin(target)
        if origin is None:
            return
        if origin.interpolated and not target.is_floating_point():
            self.interpolated[self._steps()] = self._by
        if origin.pure and len(origin.noise) == 1 and self._given and not origin.noise & self._given:
            shape = next(iter(origin.noise))[1]
            if any(other == shape for _, other in self._given):
                self.unknown_noise.add(self._steps())

    def is_drawn(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor was made of random numbers alone."""
        origin = self._origin(tensor)
        return origin is not None and bool(origin.noise) and not origin.mixed

    def on_call(self, name: str, args: tuple, kwargs: dict, out: Any) -> None:
        """Note that a function of torch got these arguments, and what came out."""
        if self._inside() or not torch.is_grad_enabled():
            return
        if name in _DRAWS and isinstance(out, torch.Tensor) and out.numel() >= NUMBERS_AT_LEAST:
            self._draws += 1
            self._note(out, Origin(frozenset({(self._draws, out.shape)}), pure=True))
        elif name in _MIXING:
            given = args[0] if args else kwargs.get("input")
            if isinstance(out, torch.Tensor) and _labels(given) and bool((out != out.round()).any()):
                self._by = name
                self._note(out, Origin(interpolated=True))
        if self._known and name not in _DRAWS:
            self._follow(name, args, out)

    def _follow(self, name: str, args: tuple, out: Any) -> None:
        parts = list(_tensors(args))
        origins = [origin for part in parts if (origin := self._origin(part)) is not None]
        if not origins:
            return
        arranged = name in _ARRANGING
        for tensor in _tensors((out,)):
            other = any(self._origin(part) is None and part.numel() == tensor.numel() for part in parts)
            origin = Origin(
                noise=frozenset().union(*(one.noise for one in origins)),
                pure=arranged and all(one.pure for one in origins),
                mixed=any(one.mixed for one in origins) or (other and not arranged),
                interpolated=(arranged or name in _CUTTING) and all(one.interpolated for one in origins),
            )
            known = self._origin(tensor)
            self._note(tensor, origin if known is None else replace(known, noise=known.noise | origin.noise))

    def _note(self, tensor: torch.Tensor, origin: Origin) -> None:
        self._known[id(tensor)] = weakref.ref(tensor), origin

    def _origin(self, tensor: Any) -> Origin | None:
        kept = self._known.get(id(tensor))
        return kept[1] if kept is not None and kept[0]() is tensor else None


def _labels(given: Any) -> bool:
    """Whether these are maps of labels: a few whole numbers, and most neighbors the same."""
    if not isinstance(given, torch.Tensor) or given.requires_grad or given.dim() < 3 or given.numel() < 16:
        return False
    whole = not given.is_floating_point() or torch.equal(given, given.round())
    return whole and len(given.unique()) in LABELS and (given.diff(dim=-1) == 0).float().mean().item() > 0.5


def _tensors(parts: tuple) -> Iterator[torch.Tensor]:
    for part in parts:
        if isinstance(part, torch.Tensor):
            yield part
        elif isinstance(part, list | tuple):
            yield from (inner for inner in part if isinstance(inner, torch.Tensor))
