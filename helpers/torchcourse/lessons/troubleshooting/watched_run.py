"""What the invariants judge, and what they say."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from torchcourse.lessons.troubleshooting.surroundings import Surroundings
from torchcourse.lessons.troubleshooting.torch_calls import CLASSIFYING
from torchcourse.lessons.troubleshooting.training_records import Loss, Pass
from torchcourse.lessons.troubleshooting.training_watch import TrainingWatch

IN_STEPS_AT_MOST = 0.5  # of the steps may hold a pass without gradients, where such passes are a validation


@dataclass(frozen=True)
class WatchedRun:
    """What was recorded of a run, and its model and optimizer as they are at the end."""

    record: TrainingWatch
    around: Surroundings
    model: nn.Module
    optimizer: torch.optim.Optimizer
    frozen: tuple[str, ...]
    """Beginnings of the names of the parameters that are meant not to learn."""

    @property
    def validations(self) -> list[list[Pass]]:
        """The passes of each validation: without gradients, between steps, and not as a part of every step."""
        blocks: dict[int, list[Pass]] = {}
        for seen in self.record.evaluated:
            blocks.setdefault(seen.step, []).append(seen)
        regular = len(blocks) > IN_STEPS_AT_MOST * (len(self.record.steps) + 1)
        return [] if regular else list(blocks.values())

    @property
    def whole_validations(self) -> list[list[Pass]]:
        """The validations; where the whole model is trained, without calls of its parts alone, as for features."""
        parts = any(not seen.whole for seen in self.record.trained)
        blocks = [[seen for seen in block if seen.whole or parts] for block in self.validations]
        return [block for block in blocks if block]

    @property
    def classified(self) -> list[Loss]:
        """Losses of scores [N, C] against whole-number labels [N]."""
        return [
            loss
            for loss in self.record.losses
            if loss.function in CLASSIFYING and loss.scores.dim() == 2 and loss.target.dim() == 1
        ]

    def mode_dependent(self) -> list[str]:
        """Return the names of the layers that work differently in training and in evaluation."""
        return [
            name
            for name, module in self.model.named_modules()
            if isinstance(module, _BatchNorm)
            or (isinstance(module, _DropoutNd) and module.p > 0)
            or (isinstance(module, nn.RNNBase | nn.MultiheadAttention) and module.dropout > 0)
        ]


@dataclass(frozen=True)
class Alarm:
    """One broken invariant: its name, and a sentence with what was seen and where to look."""

    name: str
    message: str

    def __str__(self) -> str:
        return f"{self.name}: {self.message}"


def rules_of(module: ModuleType) -> list[Callable[[WatchedRun], Iterator[Alarm]]]:
    """Return a module's rules in their order: its public functions of a run that yield alarms."""
    public = [value for name, value in vars(module).items() if inspect.isfunction(value) and name[0] != "_"]
    own = [function for function in public if function.__module__ == module.__name__]
    return [function for function in own if function.__annotations__["return"] == Iterator[Alarm]]


def listed(names: list[str]) -> str:
    """Name up to three layers or parameters."""
    shown = ", ".join(f"`{name}`" if name else "the model" for name in names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
