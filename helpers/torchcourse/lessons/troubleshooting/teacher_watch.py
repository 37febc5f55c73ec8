"""Networks beside the model that put out targets: whether they drop units, or average over the batch, as in training.

What comes out of such a layer, without a gradient, is followed from call to call to a loss's target.
"""

import weakref
from dataclasses import dataclass, replace
from typing import Any

import torch

from torchcourse.lessons.troubleshooting.model_calls import can_be_kept, tensors_of
from torchcourse.lessons.troubleshooting.torch_calls import TorchCall
from torchcourse.lessons.troubleshooting.watcher import Loop, Notes, Watcher
from torchcourse.source_lines import hide

hide(__file__)

_LAYERS = {"linear", "conv1d", "conv2d", "conv3d"}
WEIGHTS_AT_MOST = 4  # that are looked at in each step


@dataclass(frozen=True)
class _Followed:
    """What is known of a tensor that came out of a layer in training mode."""

    what: str
    """What the layer does."""
    weighed: bool = False
    """Whether a layer with weights came after it."""


class Teachers(Watcher):
    """Notes the steps in which a target came out of a network, other than the model, in training mode."""

    def __init__(self, loop: Loop) -> None:
        super().__init__(loop)
        self.taught: dict[int, str] = {}
        """By step, what a layer of such a network does in training mode only."""
        self.shapes: set[torch.Size] = set()
        """The shapes of such a network's weights."""
        self.changed = False
        """Whether such a network's weights have changed, or are the model's own."""
        self.repeated = False
        """Whether it was called several times for one step."""
        self._own = {id(parameter) for parameter in loop.model.parameters()}
        self._followed = Notes()
        self._weights: dict[int, tuple[weakref.ref[torch.Tensor], float]] = {}
        self._used: set[int] = set()

    def on_step(self) -> None:
        """Forget what came out for the step that is about to be taken."""
        self._followed.clear()
        self._used.clear()

    def on_call(self, call: TorchCall) -> None:
        """Follow what came out of a layer in training mode."""
        what, out = _in_training(call), call.out
        if not (what or self._followed) or not isinstance(out, torch.Tensor):
            return
        if out.requires_grad or self.loop.inside:
            return
        known = next(filter(None, map(self._followed.of, tensors_of(call.args))), _Followed(what) if what else None)
        if known is None:
            return
        layer = call.name in _LAYERS and len(call.args) > 1
        if layer:
            self._on_weight(call.args[1])
        self._followed[out] = replace(known, weighed=known.weighed or layer)

    def on_target(self, target: torch.Tensor) -> None:
        """Note whether a target came out of such a network."""
        known = self._followed.of(target)
        if known is not None and known.weighed:
            self.taught[self.loop.step] = known.what

    def _on_weight(self, weight: Any) -> None:
        if not isinstance(weight, torch.Tensor) or not can_be_kept(weight):
            return
        key = id(weight)
        self.shapes.add(weight.shape)
        self.changed = self.changed or key in self._own
        self.repeated = self.repeated or key in self._used
        self._used.add(key)
        if key in self._weights or len(self._weights) < WEIGHTS_AT_MOST:
            now = weight.detach().double().sum().item()
            kept, before = self._weights.setdefault(key, (weakref.ref(weight), now))
            self.changed = self.changed or kept() is not weight or now != before


def _in_training(call: TorchCall) -> str:
    """Return what a layer does that does otherwise in evaluation; "" where it is none, or does not."""
    if call.drops:
        return "dropped some of its units by chance"
    if call.name == "batch_norm" and call.get(5, "training", False):
        return "normalized with the statistics of each batch"
    return ""
