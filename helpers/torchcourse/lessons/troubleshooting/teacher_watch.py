"""Networks beside the model that put out targets: whether they drop units, or average over the batch, as in training.

Told by `torch_calls` of each call. What comes out of such a layer, without a gradient, is followed to a loss's target.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from torchcourse.lessons.troubleshooting.model_calls import can_be_kept
from torchcourse.lessons.troubleshooting.torch_calls import DROPOUTS, drops
from torchcourse.source_lines import hide

hide(__file__)

_DROPOUTS = {function.__name__ for function in DROPOUTS}
_LAYERS = {"linear", "conv1d", "conv2d", "conv3d"}
WEIGHTS_AT_MOST = 4  # that are looked at in each step


@dataclass(frozen=True)
class _Followed:
    """A tensor that came out of a layer in training mode."""

    tensor: "weakref.ref[torch.Tensor]"
    what: str
    """What the layer does."""
    weighed: bool = False
    """Whether a layer with weights came after it."""


class Teachers:
    """Notes the steps in which a target came out of a network, other than `model`, in training mode.

    Args:
        model: the one that is trained.
        steps: says how many steps have been taken.
        inside: says whether a forward pass of the model is under way.
    """

    def __init__(self, model: nn.Module, steps: Callable[[], int], inside: Callable[[], bool]) -> None:
        self.taught: dict[int, str] = {}
        """By step, what a layer of such a network does in training mode only."""
        self.shapes: set[torch.Size] = set()
        """The shapes of such a network's weights."""
        self.changed = False
        """Whether such a network's weights have changed, or are the model's own."""
        self.repeated = False
        """Whether it was called several times for one step."""
        self._own = {id(parameter) for parameter in model.parameters()}
        self._steps, self._inside = steps, inside
        self._followed: dict[int, _Followed] = {}
        self._weights: dict[int, tuple[weakref.ref[torch.Tensor], float]] = {}
        self._used: set[int] = set()

    def on_step(self) -> None:
        """Forget what came out for the step that has been taken."""
        self._followed.clear()
        self._used.clear()

    def on_call(self, name: str, args: tuple, kwargs: dict, out: Any) -> None:
        """Note that a function of torch got these arguments, and what came out."""
        what = _in_training(name, args, kwargs)
        if not (what or self._followed) or not isinstance(out, torch.Tensor) or out.requires_grad or self._inside():
            return
        parts = [part for arg in args for part in (arg if isinstance(arg, list | tuple) else (arg,))]
        known = next((one for part in parts if (one := self._known(part)) is not None), None)
        if what and known is None:
            known = _Followed(weakref.ref(out), what)
        if known is None:
            return
        layer = name in _LAYERS and len(args) > 1
        if layer:
            self._on_weight(args[1])
        self._followed[id(out)] = replace(known, tensor=weakref.ref(out), weighed=known.weighed or layer)

    def on_target(self, target: torch.Tensor) -> None:
        """Note a target of a loss."""
        known = self._known(target)
        if known is not None and known.weighed:
            self.taught[self._steps()] = known.what

    def _known(self, tensor: Any) -> _Followed | None:
        kept = self._followed.get(id(tensor))
        return kept if kept is not None and kept.tensor() is tensor else None

    def _on_weight(self, weight: Any) -> None:
        if not isinstance(weight, torch.Tensor) or not can_be_kept(weight):
            return
        key = id(weight)
        self.shapes.add(weight.shape)
        self.changed = self.changed or key in self._own
        self.repeated = self.repeated or key in self._used
        self._used.add(key)
        if key in self._weights or len(self._weights) < WEIGHTS_AT_MOST:
            kept, before = self._weights.setdefault(key, (weakref.ref(weight), weight.detach().double().sum().item()))
            now = weight.detach().double().sum().item()
            self.changed = self.changed or kept() is not weight or now != before


def _in_training(name: str, args: tuple, kwargs: dict) -> str:
    """Return what a layer does that does otherwise in evaluation; "" where it is none, or does not."""
    if name in _DROPOUTS and drops(args, kwargs):
        return "dropped some of its units by chance"
    if name == "batch_norm" and (args[5] if len(args) > 5 else kwargs.get("training", False)):
        return "normalized with the statistics of each batch"
    return ""
