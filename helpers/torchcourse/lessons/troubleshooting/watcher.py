"""What the watchers of a training loop share: how far the loop is, what they are told, and notes about tensors."""

import contextlib
from collections.abc import Iterable
from typing import Any, Self

import torch
from torch import nn
from torch.optim.optimizer import Optimizer
from torch.utils.weak import WeakIdKeyDictionary

from torchcourse.lessons.troubleshooting.torch_calls import TorchCall
from torchcourse.lessons.troubleshooting.training_records import Loss, Pass, Step
from torchcourse.source_lines import hide

hide(__file__)


class Loop:
    """The loop that trains `model` with `optimizer`, as far as it has come."""

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self.model, self.optimizer = model, optimizer
        self.passes: list[Pass] = []
        self.losses: list[Loss] = []
        self.steps: list[Step] = []
        self.depth = 0
        """How many calls of the model and of its parts are under way, one within the other."""
        self.in_backward = False

    @property
    def step(self) -> int:
        """How many steps have been taken."""
        return len(self.steps)

    @property
    def inside(self) -> bool:
        """Whether a forward pass of the model is under way."""
        return self.depth > 0 and not self.in_backward


class Watcher:
    """Notes one side of what a loop does. It is told of each call of torch, pass, target and step."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.close()

    def on_call(self, call: TorchCall) -> None:
        """Note a call that is over."""

    def on_pass(self, arguments: tuple[tuple, dict]) -> None:
        """Note what the model is about to get."""

    def on_target(self, target: torch.Tensor) -> None:
        """Note a target of a loss."""

    def on_step(self) -> None:
        """Forget what belongs to the step that is about to be taken."""


class Notes(WeakIdKeyDictionary):
    """Notes about tensors: each is there as long as its tensor."""

    def of(self, value: Any) -> Any:
        """Return what is noted of a tensor; None where nothing is, and of whatever else it may be."""
        return self.get(value) if isinstance(value, torch.Tensor) else None

    def add(self, tensors: Iterable[torch.Tensor]) -> None:
        """Note that these are among them."""
        for tensor in tensors:
            self[tensor] = True
