"""The functions that a Trainer calls: what they change goes on in the loop, on all ranks, and into the checkpoint."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from torchcourse.ranks import who
from torchcourse.training.checkpoint import some
from torchcourse.training.wrappers import wrap


class Learning:
    """The model as training calls it, made again when different parameters learn.

    DistributedDataParallel looks once, when it is made, at what learns. What learns from a later step on it never
    averages, so that the ranks' weights drift apart without a word; for what is frozen later it waits.

    Args:
        given: the model as the Trainer got it, in wrappers or not.
        model: inside its wrappers.
        device: of the model.
    """

    def __init__(self, given: nn.Module, model: nn.Module, device: torch.device) -> None:
        self.replica = wrap(given, device)
        self._given, self._model, self._device = given, model, device
        self._known = self._now()

    def follow(self) -> tuple[nn.Module, Callable[[], AbstractContextManager]]:
        """Return the replica, a new one where what learns has changed, and its `no_sync`. Every rank has to call it.

        Raises:
            ValueError: if it has, and the wrapper is the user's own.
        """
        if who.world_size() > 1 and (now := self._now()).keys() != self._known.keys():
            self._wrap_again(now)
        # With a static graph torch's own `no_sync` fails (2.13); to average in each backward pass is right too.
        static = getattr(self.replica, "static_graph", False)
        return self.replica, nullcontext if static else getattr(self.replica, "no_sync", nullcontext)

    def _wrap_again(self, now: dict[nn.Parameter, str]) -> None:
        changed = [name for one, name in (self._known | now).items() if (one in now) != (one in self._known)]
        if self.replica is self._given:
            raise ValueError(
                f"What learns has changed since the model was wrapped: {some(changed)}. Its own wrapper goes on with "
                "what it found then. Give the Trainer the model itself: it wraps it, and again when this changes."
            )
        self.replica, self._known = wrap(self.replica.module, self._device), now  # type: ignore[arg-type]

    def _now(self) -> dict[nn.Parameter, str]:
        return {parameter: name for name, parameter in self._model.named_parameters() if parameter.requires_grad}


def kept(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Any]:
    """Return what shows whether a function has changed something that a checkpoint keeps: rates, groups, weights."""
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    settings = [_settings(group) for group in optimizer.param_groups]
    state = [value for values in optimizer.state.values() for value in (values or {}).values()]
    tensors = [*model.parameters(), *model.buffers(), *(one for one in state if isinstance(one, torch.Tensor))]
    return [settings, [*map(id, held)], [(id(tensor), tensor._version) for tensor in tensors]]


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    plain = {name: value.tolist() if isinstance(value, torch.Tensor) else value for name, value in group.items()}
    return {name: value for name, value in plain.items() if name != "params"}
