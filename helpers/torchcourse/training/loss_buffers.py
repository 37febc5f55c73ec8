"""What a loss function keeps from batch to batch in its buffers, such as a running center: a part of the training."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from torchcourse.training.checkpoint import CheckpointError


class LossBuffers:
    """The buffers of a loss function that is a module; of any other there are none.

    A checkpoint keeps those that training changes. The others, such as class weights, are what the new loss function
    says.
    """

    def __init__(self, fn: Any) -> None:
        self._fn = fn
        self._at_first = {name: buffer.clone() for name, buffer in self._kept().items()}

    def changed(self) -> dict[str, torch.Tensor]:
        """Return those that are not as they were at first, by name."""
        found = {}
        for name, buffer in self._kept().items():
            before = self._at_first.get(name)
            if before is None or before.shape != buffer.shape or not torch.equal(before, buffer.to(before.device)):
                found[name] = buffer.detach()
        return found

    def check(self, saved: Mapping[str, torch.Tensor]) -> None:
        """Raise CheckpointError if the loss function does not have what `changed` gave."""
        own = self._kept()
        for name, value in saved.items():
            if name not in own or own[name].shape != value.shape:
                raise CheckpointError(
                    f"The checkpoint has the loss function's {name} {list(value.shape)}, which this one lacks or has "
                    "in a different shape. Give the Trainer the loss function that the run began with."
                )

    @torch.no_grad()
    def load(self, saved: Mapping[str, torch.Tensor]) -> None:
        """Take up what `changed` gave."""
        own = self._kept()
        for name, value in saved.items():
            own[name].copy_(value)

    @contextlib.contextmanager
    def untouched(self) -> Iterator[None]:
        """Let the block work with copies: the graph of the batch under way may need the buffers as they are."""
        modules = self._fn.modules() if isinstance(self._fn, nn.Module) else ()
        own = [(module._buffers, dict(module._buffers)) for module in modules if module._buffers]
        try:
            for place, buffers in own:
                place.update({name: None if one is None else one.clone() for name, one in buffers.items()})
            yield
        finally:
            for place, buffers in own:
                place.update(buffers)

    def _kept(self) -> dict[str, torch.Tensor]:
        """Return the buffers that `state_dict` has."""
        if not isinstance(self._fn, nn.Module):
            return {}
        kept = self._fn.state_dict(keep_vars=True)
        return {name: buffer for name, buffer in self._fn.named_buffers() if name in kept}
