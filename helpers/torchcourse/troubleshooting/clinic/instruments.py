"""What judges and evidence measure with: optimizer steps and forward passes, recorded through PyTorch's own hooks.

The program is not changed for it. For memory, see `torchcourse.troubleshooting.tracking`.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook


@dataclass(frozen=True)
class Step:
    """One optimizer step, as it was about to happen."""

    rates: tuple[float, ...]
    """The learning rate of each parameter group."""
    gradient: torch.Tensor
    """All gradients in one vector (those that are None left out), a copy."""


@dataclass(frozen=True)
class Pass:
    """One forward pass of a whole model."""

    model: nn.Module
    training: bool
    grad: bool
    """Whether autograd recorded it."""
    samples: int


@dataclass
class Record:
    steps: list[Step] = field(default_factory=list)
    passes: list[Pass] = field(default_factory=list)


@contextlib.contextmanager
def watch() -> Iterator[Record]:
    """Record all optimizer steps and all forward passes of outermost modules inside the block."""
    record = Record()
    depth = 0

    def on_step(optimizer: Optimizer, *_: Any) -> None:
        rates = tuple(float(group["lr"]) for group in optimizer.param_groups)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        gradients = [parameter.grad.flatten().clone() for parameter in parameters if parameter.grad is not None]
        record.steps.append(Step(rates, torch.cat(gradients) if gradients else torch.zeros(0)))

    def enter(module: nn.Module, inputs: tuple) -> None:
        nonlocal depth
        if depth == 0 and not isinstance(module, nn.modules.loss._Loss):
            samples = len(inputs[0]) if inputs and isinstance(inputs[0], torch.Tensor) and inputs[0].ndim else 0
            record.passes.append(Pass(module, module.training, torch.is_grad_enabled(), samples))
        depth += 1

    def leave(*_: Any) -> None:
        nonlocal depth
        depth -= 1

    handles = [
        register_optimizer_step_pre_hook(on_step),
        register_module_forward_pre_hook(enter),
        register_module_forward_hook(leave, always_call=True),
    ]
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()
