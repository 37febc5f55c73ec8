"""What the lesson tunes: a small convolutional network on few digits, with few images, so that settings matter.

    for result in train({"lr": 0.01, "width": 16, "optimizer": "adamw", "weight_decay": 1e-4}, epochs=9, seed=0):
        print(result.val_accuracy)

`SPACE` is the space that everybody searches: by hand, with Optuna, with Ray Tune, and in the table of results.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.data import digits

SPACE: dict[str, tuple] = {
    "lr": tuple(round(10 ** (-4 + number / 3), 7) for number in range(13)),
    "width": (4, 8, 16, 32, 64),
    "optimizer": ("sgd", "adamw", "rmsprop"),
    "weight_decay": (0.0, 1e-4, 1e-2, 1e-1),
}
"""Hyperparameter → its values: learning rates from 1e-4 to 1, three for each power of ten; 780 settings in total."""

IMAGES = (15, 30, 60, 125, 250, 500)
"""The numbers of training images of the table `scaling`."""

BATCHES = (8, 16, 32, 64, 128, 256)
"""The batch sizes of the table `batches`."""

EPOCHS = 9
TRAIN, VALIDATION, TEST = 500, 500, 797
"""How many images each part has. The test part is large, so that it can tell small differences."""

_OPTIMIZERS = {
    "sgd": lambda parameters, lr, decay: torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=decay),
    "adamw": lambda parameters, lr, decay: torch.optim.AdamW(parameters, lr=lr, weight_decay=decay),
    "rmsprop": lambda parameters, lr, decay: torch.optim.RMSprop(parameters, lr=lr, weight_decay=decay),
}


@dataclass(frozen=True)
class EpochResult:
    """What an epoch gave.

    Attributes:
        epoch: its number, from 1.
        val_accuracy, test_accuracy: from 0 to 1.
        seconds: of one thread of a CPU.
        right: bool [1297]: which images of validation, then of test, got their labels.
    """

    epoch: int
    val_accuracy: float
    test_accuracy: float
    seconds: float
    right: np.ndarray = field(repr=False, compare=False)


def parts(train_images: int = TRAIN) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return images [N, 1, 8, 8] and labels [N] of the parts "train", "validation" and "test".

    Raises:
        ValueError: for more images to train on than there are.
    """
    if not 1 <= train_images <= TRAIN:
        raise ValueError(f"There are 1 to {TRAIN} images to train on, but train_images is {train_images}.")
    images, labels = (torch.cat(pair) for pair in zip(digits("train").tensors, digits("test").tensors, strict=True))
    ends = {"train": (0, train_images), "validation": (TRAIN, TRAIN + VALIDATION), "test": (TRAIN + VALIDATION, 1797)}
    return {name: (images[first:last], labels[first:last]) for name, (first, last) in ends.items()}


def digits_cnn(width: int) -> nn.Sequential:
    """Return two convolutions and a dense layer for images [N, 1, 8, 8]; 18·width² parameters and a few."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * width, 10),
    )


def train(
    settings: Mapping[str, Any], epochs: int = EPOCHS, seed: int = 0, batch_size: int = 32, train_images: int = TRAIN
) -> Iterator[EpochResult]:
    """Train one setting, and yield a result after each epoch: whoever stops asking stops the training.

    Args:
        settings: a value for each hyperparameter of `SPACE`; other values than those in it are allowed.
        epochs: how many at most.
        seed: of the weights and of the order of the images.
        batch_size: images per step.
        train_images: how many of the images to train on.

    Raises:
        ValueError: for an optimizer that is not in the space, or an unknown or a missing hyperparameter.
    """
    if set(settings) != set(SPACE):
        raise ValueError(f"A setting has {', '.join(SPACE)}; this one has {', '.join(settings) or 'nothing'}.")
    if settings["optimizer"] not in _OPTIMIZERS:
        raise ValueError(f"The optimizer is one of {', '.join(_OPTIMIZERS)}, but not {settings['optimizer']!r}.")
    images = parts(train_images)
    (x, y), generator = images["train"], torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = digits_cnn(settings["width"])
    optimizer = _OPTIMIZERS[settings["optimizer"]](model.parameters(), settings["lr"], settings["weight_decay"])
    for epoch in range(1, epochs + 1):
        start = time.thread_time()
        train_epoch(model, optimizer, x, y, generator, batch_size)
        seconds = time.thread_time() - start
        judged = [right_ones(model, *images[part]).numpy() for part in ("validation", "test")]
        yield EpochResult(epoch, judged[0].mean().item(), judged[1].mean().item(), seconds, np.concatenate(judged))


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: torch.Tensor,
    y: torch.Tensor,
    generator: torch.Generator,
    batch_size: int = 32,
) -> None:
    """Take a step for each batch of images [N, 1, 8, 8] with labels [N], in an order drawn from the generator."""
    model.train()
    for batch in torch.randperm(len(x), generator=generator).split(batch_size):
        optimizer.zero_grad()
        F.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()


@torch.no_grad()
def right_ones(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return which images [N, 1, 8, 8] the model, in evaluation mode, gives their labels [N]: bool [N]."""
    model.eval()
    return model(x).argmax(dim=1) == y


def accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Return the share of images [N, 1, 8, 8] that the model, in evaluation mode, gives their labels [N]."""
    return right_ones(model, x, y).float().mean().item()
