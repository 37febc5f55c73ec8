"""What several judges do: train a copy of a model; look at steps, weights, optimizer, and the images that arrived."""

import copy
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from torchcourse.checks import Wrong
from torchcourse.data import mnist
from torchcourse.lessons.troubleshooting.clinic.observed_loader import ObservedLoader
from torchcourse.lessons.troubleshooting.training_step import Step, TrainingRecorder


@dataclass(frozen=True)
class Trained:
    """A model after an epoch, the optimizer steps that it took, and what the epoch returned."""

    model: nn.Module
    steps: list[Step]
    returned: Any


def train_copy(
    epoch: Callable,
    start: nn.Module,
    loader: DataLoader | ObservedLoader,
    rate: float,
    *more: Any,
    gradients: bool = True,
) -> Trained:
    """Call `epoch(model, loader, optimizer, *more)` with a copy of `start` and with plain SGD, and record its steps.

    Args:
        gradients: whether the steps keep their gradients; without them the record keeps no tensor alive.
    """
    model = copy.deepcopy(start)
    with TrainingRecorder(gradients=gradients) as record:
        returned = epoch(model, loader, torch.optim.SGD(model.parameters(), lr=rate), *more)
    return Trained(model, record.steps, returned)


def expect_steps(given: Sized, expected: Sized) -> None:
    """Refuse a training epoch that makes another number of optimizer steps than expected."""
    if len(given) != len(expected):
        raise Wrong(
            "steps",
            f"For {len(expected)} batches your epoch makes {len(given)} steps. One step per batch, as it was before.",
        )


def expect_weights(given: nn.Module, expected: nn.Module) -> None:
    """Refuse a model that does not end with exactly the expected weights."""
    if any(not torch.equal(a, b) for a, b in zip(given.parameters(), expected.parameters(), strict=True)):
        raise Wrong("training_changed", "The model ends with other weights: the repair has changed the training.")


def expect_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Refuse every optimizer but SGD with momentum 0.9."""
    if not isinstance(optimizer, torch.optim.SGD) or any(group["momentum"] != 0.9 for group in optimizer.param_groups):
        raise Wrong("other_optimizer", "The optimizer was SGD with momentum 0.9, and it was not at fault.")


def image_numbers(images: Iterable[torch.Tensor], count: int, left_out: Iterable[int]) -> list[int | None]:
    """Return for each image which of the first `count` of MNIST it is; None for one of `left_out` or an unknown one.

    Args:
        images: 784 values each, scaled to 0–1.
        count: how many images were written to the file or folder.
        left_out: the numbers of those that cannot be read.
    """
    pixels, _ = mnist()[:count]
    pixels = ((pixels - pixels.min()) / (pixels.max() - pixels.min()) * 255).byte()
    readable = set(range(count)).difference(left_out)
    known = {pixels[number].numpy().tobytes(): number for number in readable}
    return [known.get((image * 255).round().byte().numpy().tobytes()) for image in images]
