"""What a loss function keeps from batch to batch in its buffers, such as a running center: a part of the training."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

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
            if before is None or not _equal(before, buffer.to(before.device)):
                found[name] = buffer.detach()
        return found

    def check(self, saved: Mapping[str, torch.Tensor]) -> None:
        """Raise CheckpointError if the loss function does not have what `changed` gave.

        A buffer that is None or has no more than one number may be one that takes its shape from the first batch.
        """
        for name, value in saved.items():
            place, last = self._place(name)
            own = place.get(last)
            if last not in place or (own is not None and own.numel() > 1 and own.shape != value.shape):
                raise CheckpointError(
                    f"The checkpoint has the loss function's {name} {list(value.shape)}, which this one lacks or has "
                    "in a different shape. Give the Trainer the loss function that the run began with."
                )

    @torch.no_grad()
    def load(self, saved: Mapping[str, torch.Tensor], device: torch.device) -> None:
        """Take up what `changed` gave, after a `check`."""
        for name, value in saved.items():
            place, last = self._place(name)
            own = place[last]
            if own is not None and own.shape == value.shape:
                own.copy_(value)
            else:
                place[last] = value.to(device, copy=True)

    @contextlib.contextmanager
    def untouched(self) -> Iterator[None]:
        """Let the block work with copies: the graph of the batch under way may need the buffers as they are."""
        modules = self._fn.modules() if isinstance(self._fn, nn.Module) else ()
        own = [(module._buffers, dict(module._buffers)) for module in modules if module._buffers]
        try:
            for place, buffers in own:
                made = {name: one for name, one in buffers.items() if one is not None and not is_lazy(one)}
                place.update({name: one.clone() for name, one in made.items()})
            yield
        finally:
            for place, buffers in own:
                place.update(buffers)

    def _kept(self) -> dict[str, torch.Tensor]:
        """Return the buffers that are meant to be saved, and have numbers by now."""
        return {
            f"{path}.{name}" if path else name: buffer
            for path, module in (self._fn.named_modules() if isinstance(self._fn, nn.Module) else ())
            for name, buffer in module._buffers.items()
            if buffer is not None and name not in module._non_persistent_buffers_set and not is_lazy(buffer)
        }

    def _place(self, name: str) -> tuple[dict[str, torch.Tensor | None], str]:
        """Return where a buffer of this name is, or would be, and what it is called there."""
        path, _, last = name.rpartition(".")
        modules = dict(self._fn.named_modules()) if isinstance(self._fn, nn.Module) else {}
        return (modules[path]._buffers, last) if path in modules else ({}, last)


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    dense = (value if value.layout == torch.strided else value.to_dense() for value in (one, other))
    return torch.equal(*dense)
