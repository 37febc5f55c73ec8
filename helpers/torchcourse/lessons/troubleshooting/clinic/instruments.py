"""What judges and evidence measure with: optimizer steps and forward passes, recorded through PyTorch's own hooks.

The program is not changed for it. For memory, see `torchcourse.lessons.troubleshooting.tracking`.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader


@dataclass(frozen=True)
class Step:
    """One optimizer step, as it was about to happen."""

    rates: tuple[float, ...]
    """The learning rate of each parameter group."""
    gradient: torch.Tensor
    """A copy of all gradients in one vector, those that are None left out."""


@dataclass(frozen=True)
class Pass:
    """One forward pass of a whole model."""

    model: nn.Module
    training: bool
    recorded: bool
    """Whether autograd recorded it: its result has a graph."""
    samples: int


@dataclass
class Record:
    steps: list[Step] = field(default_factory=list)
    passes: list[Pass] = field(default_factory=list)


@contextlib.contextmanager
def watch(gradients: bool = True) -> Iterator[Record]:
    """Record all optimizer steps and all forward passes of outermost modules inside the block.

    Args:
        gradients: whether to keep a copy of each step's gradient; without it the record keeps no tensor alive.
    """
    record = Record()
    depth = 0

    def on_step(optimizer: Optimizer, *_: Any) -> None:
        rates = tuple(float(group["lr"]) for group in optimizer.param_groups)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        found = [parameter.grad.flatten() for parameter in parameters if parameter.grad is not None]
        record.steps.append(Step(rates, torch.cat(found) if found and gradients else torch.zeros(0)))

    def enter(*_: Any) -> None:
        nonlocal depth
        depth += 1

    def leave(module: nn.Module, inputs: tuple, output: Any) -> None:
        nonlocal depth
        depth -= 1
        if depth == 0 and not isinstance(module, nn.modules.loss._Loss):
            samples = len(inputs[0]) if inputs and isinstance(inputs[0], torch.Tensor) and inputs[0].ndim else 0
            recorded = any(isinstance(part, torch.Tensor) and part.requires_grad for part in tree_leaves(output))
            record.passes.append(Pass(module, module.training, recorded, samples))

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


class ObservedLoader:
    """A loader that calls `on_batch()` whenever a batch is asked for, and once more after the last."""

    def __init__(self, loader: DataLoader, on_batch: Callable[[], Any]) -> None:
        self.loader, self.on_batch = loader, on_batch
        self.dataset = loader.dataset

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            self.on_batch()
            yield batch
            del batch
        self.on_batch()
