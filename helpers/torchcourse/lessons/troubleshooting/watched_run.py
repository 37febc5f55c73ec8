"""What the invariants judge, and what they say."""

from dataclasses import dataclass

import torch
from torch import nn

from torchcourse.lessons.troubleshooting.training_step import TrainingRecorder


@dataclass(frozen=True)
class WatchedRun:
    """What was recorded of a run, and its model and optimizer as they are at the end."""

    record: TrainingRecorder
    model: nn.Module
    optimizer: torch.optim.Optimizer
    frozen: tuple[str, ...]
    """Beginnings of the names of the parameters that are meant not to learn."""


@dataclass(frozen=True)
class Alarm:
    """One broken invariant: its name, and a sentence with what was seen and where to look."""

    name: str
    message: str

    def __str__(self) -> str:
        return f"{self.name}: {self.message}"
