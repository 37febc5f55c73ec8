"""What happens in the steps of somebody else's training loop, written down through PyTorch's own hooks.

    with TrainingRecorder(gradients=True) as record:
        train(model, loader)                    # the loop, as it is
    record.steps[0].rates, record.steps[0].gradient, record.passes[-1].training

The recorder changes no number of the training. For memory, see `tracking`; for losses and batches, `training_watch`.
"""

import contextlib
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.loss import _Loss
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._pytree import tree_leaves

from torchcourse.source_lines import hide

hide(__file__)


@dataclass(frozen=True)
class Pass:
    """One forward pass of a whole model."""

    model: nn.Module
    training: bool
    recorded: bool
    """Whether autograd recorded it: its result has a graph."""
    samples: int


@dataclass(frozen=True)
class Step:
    """One optimizer step, as it was about to happen; one that is given a closure, as it has just happened."""

    rates: tuple[float, ...]
    """The learning rate of each parameter group."""
    gradient: torch.Tensor
    """A copy of all gradients in one vector, those that are None left out; empty unless gradients are kept."""
    passes: int
    """The forward passes with a graph since the last step."""


class TrainingRecorder:
    """Records the forward passes of every outermost module but losses, and every optimizer step, while it is entered.

    Args:
        gradients: keep a copy of each step's gradient. Without, the record keeps no tensor alive.
    """

    def __init__(self, *, gradients: bool = False) -> None:
        self.passes: list[Pass] = []
        self.steps: list[Step] = []
        self._gradients = gradients
        self._open = contextlib.ExitStack()
        self._depth = self._passes = 0

    @property
    def trained(self) -> list[Pass]:
        """The passes with a graph."""
        return [seen for seen in self.passes if seen.recorded]

    def __enter__(self) -> "TrainingRecorder":
        handles = [
            register_optimizer_step_pre_hook(self._before_step),
            register_optimizer_step_post_hook(self._after_step),
            register_module_forward_pre_hook(self._on_call),
            register_module_forward_hook(self._on_return, always_call=True),
        ]
        for handle in handles:
            self._open.callback(handle.remove)
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.close()

    def _on_call(self, *_: Any) -> None:
        self._depth += 1

    def _on_return(self, module: nn.Module, inputs: tuple, output: Any) -> None:
        self._depth -= 1
        if self._depth or isinstance(module, _Loss):
            return
        first = next((item for item in inputs if isinstance(item, torch.Tensor) and item.dim()), None)
        recorded = torch.is_grad_enabled() and any(
            isinstance(part, torch.Tensor) and part.requires_grad for part in tree_leaves(output)
        )
        self._passes += recorded
        self.passes.append(Pass(module, module.training, recorded, 0 if first is None else len(first)))

    def _before_step(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        if not has_closure(args, kwargs):
            self._on_step(optimizer)

    def _after_step(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        if has_closure(args, kwargs):  # its gradient was made inside the step
            self._on_step(optimizer)

    def _on_step(self, optimizer: Optimizer) -> None:
        rates = tuple(float(group["lr"]) for group in optimizer.param_groups)
        gradient = gradient_vector(optimizer) if self._gradients else torch.zeros(0)
        self.steps.append(Step(rates, gradient, self._passes))
        self._passes = 0


def has_closure(args: tuple, kwargs: dict) -> bool:
    """Whether `optimizer.step` was called with a closure; the optimizer itself is the first of its arguments."""
    return any(value is not None for value in (*args[1:2], kwargs.get("closure")))


def parameters_of(optimizer: Optimizer) -> list[torch.Tensor]:
    """Return the parameters that the optimizer has, of all groups."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def gradients_of(optimizer: Optimizer) -> list[torch.Tensor]:
    """Return the gradients that the optimizer's parameters have."""
    return [parameter.grad for parameter in parameters_of(optimizer) if parameter.grad is not None]


def gradient_vector(optimizer: Optimizer) -> torch.Tensor:
    """Return a copy of all gradients that the optimizer's parameters have, in one vector."""
    found = [gradient.to_dense().flatten() for gradient in gradients_of(optimizer)]
    return torch.cat(found) if found else torch.zeros(0)


def with_gradient(optimizer: Optimizer) -> dict[int, torch.Tensor]:
    """Return the parameters whose gradient is not 0, by their ids."""
    owned = parameters_of(optimizer)
    return {id(p): p for p in owned if p.grad is not None and numbers_of(p.grad).count_nonzero()}


def state_of_gradient(parameter: torch.Tensor) -> tuple[int, int]:
    """Return what changes when something is added to a gradient, or another one takes its place."""
    return id(parameter.grad), 0 if parameter.grad is None else parameter.grad._version


def norm_of(optimizer: Optimizer) -> float:
    """Return the norm of all gradients that the optimizer's parameters have."""
    return math.sqrt(sum(numbers_of(gradient).double().square().sum().item() for gradient in gradients_of(optimizer)))


def numbers_of(gradient: torch.Tensor) -> torch.Tensor:
    """Return the numbers that are there of a gradient, sparse or not."""
    return gradient.coalesce().values() if gradient.is_sparse else gradient
