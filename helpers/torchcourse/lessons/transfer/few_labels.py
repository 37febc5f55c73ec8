"""How many labels does it take? From MNIST to the small digits, with 1 to 100 labelled images of each digit.

    runs = [run("fine-tuned", per_class=5, seed=seed) for seed in range(5)]     # trains, here and now
    table = results()                                                          # all of it, trained before
    paired(table.accuracy["fine-tuned"][0], table.accuracy["scratch"][0])      # mean difference ± standard error

Four ways to use the labels, from cheap to dear: the `METHODS`. Each seed chooses other images to train on, the same
ones for every method, so methods are compared seed by seed. All are tested on the same 500 images.
"""

import functools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from torchcourse.data import digits
from torchcourse.data.datasets import DIGITS_MEAN, DIGITS_STD
from torchcourse.lessons.transfer.backbones import MNIST_SCALING, Classifier, mnist_cnn
from torchcourse.lessons.transfer.features import extract, train_head
from torchcourse.lessons.transfer.finetune import fine_tune

METHODS = ("nearest neighbour", "frozen", "fine-tuned", "scratch")
"""Nearest neighbour compares raw pixels and trains nothing; the others are a head on frozen features, two rates from
pretrained weights, and one rate from random ones."""

LABELS = (1, 2, 5, 10, 20, 50, 100)
"""The numbers of labelled images of each digit in the table."""

SEEDS = 10
TABLE = Path(__file__).parent / "tables" / "few_labels.npz"

WHITE = 16
"""The value of a white pixel of the digits."""


def digit_pixels(split: Literal["train", "test"] = "train") -> tuple[torch.Tensor, torch.Tensor]:
    """Return the small digits as pixels from 0 to 16, float32 [N, 1, 12, 12], and their labels [N].

    A digit fills 8×8 pixels. Two dark pixels on each side give it the place that MNIST's digits have in their pictures.
    """
    images, labels = digits(split).tensors
    return F.pad((images * DIGITS_STD + DIGITS_MEAN).round(), (2,) * 4), labels


def pick(labels: torch.Tensor, per_class: int, seed: int) -> torch.Tensor:
    """Return the positions of `per_class` images of each class, chosen by the seed; fewer labels are part of more.

    Raises:
        ValueError: if a class has not so many.
    """
    if per_class < 1 or per_class > labels.bincount().min():
        raise ValueError(f"per_class={per_class}, but the classes have {labels.bincount().tolist()} images.")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return torch.cat([order[labels[order] == label][:per_class] for label in labels.unique()])


@dataclass(frozen=True)
class Run:
    """What one method reached from one choice of images: accuracy from 0 to 1, and CPU seconds of training."""

    accuracy: float
    seconds: float


def run(method: str, per_class: int, seed: int) -> Run:
    """Train with one method on a seed's choice of images, and test it on the 500 test images.

    Raises:
        ValueError: for an unknown method, or more labels than there are.
    """
    if method not in METHODS:
        raise ValueError(f"The methods are {', '.join(METHODS)}, but not {method!r}.")
    inputs, labels, test_inputs, test_labels = _scaled()
    chosen = pick(labels, per_class, seed)
    inputs, labels = inputs[chosen], labels[chosen]
    start = time.process_time()
    if method == "nearest neighbour":
        distances = torch.cdist(test_inputs.flatten(1), inputs.flatten(1))
        guesses, seconds = labels[distances.argmin(dim=1)], time.process_time() - start
        return Run((guesses == test_labels).float().mean().item(), seconds)
    model = trained(method, inputs, labels, seed)
    seconds = time.process_time() - start
    return Run(accuracy(model, test_inputs, test_labels), seconds)


def trained(method: str, inputs: torch.Tensor, labels: torch.Tensor, seed: int) -> nn.Module:
    """Return a model that was trained by one of the methods that train, on scaled digits."""
    data = TensorDataset(inputs, labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Classifier(mnist_cnn(pretrained=method != "scratch"), num_classes=10)
        if method == "frozen":
            model.head = train_head(extract(model.body, inputs), labels, num_classes=10)
            return model
        if method == "fine-tuned":
            return fine_tune(model, data, {"head": 1e-2, "body": 1e-3}, epochs=10, batch_size=10, seed=seed)
        return fine_tune(model, data, {"head": 3e-3, "body": 3e-3}, epochs=30, batch_size=30, seed=seed)


def accuracy(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of right guesses, from 0 to 1, whatever device the model is on."""
    device = next(model.parameters()).device
    guesses = extract(model, inputs.to(device), batch_size=250).argmax(dim=1).cpu()
    return (guesses == labels).float().mean().item()


@dataclass(frozen=True)
class Results:
    """The table: for each method, accuracies and CPU seconds of training, [numbers of labels, seeds]."""

    accuracy: dict[str, np.ndarray]
    seconds: dict[str, np.ndarray]
    made: str


@functools.cache
def results() -> Results:
    """Return what `python -m torchcourse.tools.make_data.few_labels` measured: all `METHODS`, `LABELS` and `SEEDS`."""
    with np.load(TABLE) as file:
        accuracy, seconds = (
            {method: file[f"{method}/{kind}"] for method in METHODS} for kind in ("accuracy", "seconds")
        )
        return Results(accuracy, seconds, made=str(file["made"]))


@functools.cache
def _scaled() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Training and test images as the MNIST network wants them, [N, 1, 28, 28], each followed by its labels."""
    (pixels, labels), (test_pixels, test_labels) = digit_pixels("train"), digit_pixels("test")
    return MNIST_SCALING(pixels, WHITE), labels, MNIST_SCALING(test_pixels, WHITE), test_labels
