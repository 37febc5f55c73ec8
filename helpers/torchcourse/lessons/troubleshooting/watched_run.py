"""What the invariants judge, and what they say."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.data import DataLoader

from torchcourse.lessons.troubleshooting.torch_calls import CLASSIFYING
from torchcourse.lessons.troubleshooting.training_records import Loss, Pass, inputs_of
from torchcourse.lessons.troubleshooting.training_watch import TrainingWatch

IN_STEPS_AT_MOST = 0.5  # of the steps may hold a pass without gradients, where such passes are a validation


class WatchedRun(TrainingWatch):
    """A training run that is recorded, and what the rules ask of it.

    Args:
        model: as the loop calls it.
        optimizer: the one that steps it.
        frozen: beginnings of the names of the parameters that are meant not to learn.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, frozen: tuple[str, ...] = ()) -> None:
        super().__init__(model, optimizer)
        self.frozen = frozen

    @property
    def validations(self) -> list[list[Pass]]:
        """The passes of each validation: without gradients, between steps, and not as a part of every step."""
        blocks: dict[int, list[Pass]] = {}
        for seen in self.evaluated:
            blocks.setdefault(seen.step, []).append(seen)
        regular = len(blocks) > IN_STEPS_AT_MOST * (len(self.steps) + 1)
        return [] if regular else list(blocks.values())

    @property
    def whole_validations(self) -> list[list[Pass]]:
        """The validations; where the whole model is trained, without calls of its parts alone, as for features."""
        parts = any(not seen.whole for seen in self.trained)
        blocks = [[seen for seen in block if seen.whole or parts] for block in self.validations]
        return [block for block in blocks if block]

    def losses_of(self, *functions: Callable) -> list[Loss]:
        """Return the losses that these functions have given."""
        return [loss for loss in self.losses if loss.function in functions]

    @property
    def classified(self) -> list[Loss]:
        """Losses of scores [N, C] against whole-number labels [N]."""
        return [loss for loss in self.losses_of(*CLASSIFYING) if loss.scores.dim() == 2 and loss.target.dim() == 1]

    @property
    def learned_from(self) -> list[torch.Tensor]:
        """The inputs that steps have learned from."""
        return inputs_of(self.trained)

    @property
    def validated_on(self) -> list[Pass]:
        """The passes of all validations."""
        return [seen for block in self.whole_validations for seen in block]

    @property
    def reached(self) -> set[str]:
        """The names of the parameters that had a gradient other than 0 in a step."""
        return {name for step in self.steps for name, norm in step.norms.items() if norm}

    @property
    def rates(self) -> list[float]:
        """The highest learning rate of each step."""
        return [max(step.rates) for step in self.steps]

    @property
    def sources(self) -> list[Any]:
        """The loaders and samplers that were gone through."""
        return list({id(entry.source): entry.source for entry in self.around.iterations}.values())

    @property
    def loaders(self) -> list[DataLoader]:
        """The loaders that were gone through."""
        return [source for source in self.sources if isinstance(source, DataLoader)]

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
