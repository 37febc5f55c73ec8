"""How many labels does it take? From MNIST to the small digits, with 1 to 100 labeled images of each digit.

    runs = [run("fine-tuned", per_class=5, seed=seed) for seed in range(5)]     # trains, here and now
    table = results()                                                          # all of it, trained before
    table.paired("fine-tuned", "scratch", labels=5)                             # mean difference ± standard error

Four ways to use the labels, from cheap to expensive: the `METHODS`. Each seed chooses other images to train on, the
same ones for every method, so methods are compared seed by seed. All are tested on the same 500 images.

The two methods with learning rates are tuned alike: each has four `RECIPES`, of which the best one is taken. It is
chosen with other seeds, on training images that those seeds did not choose. These are more labels than the methods get
to train on; who has fewer labels can tune less well.
"""

import functools
import itertools
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from torchcourse.data import digits
from torchcourse.data.datasets import DIGITS_MEAN, DIGITS_STD
from torchcourse.error_bars import Difference, paired
from torchcourse.lessons.transfer.backbones import MNIST_SCALING, Classifier, mnist_cnn
from torchcourse.lessons.transfer.features import extract, train_head
from torchcourse.lessons.transfer.finetune import fine_tune

METHODS = ("nearest neighbor", "frozen", "fine-tuned", "scratch")
"""Nearest neighbor compares raw pixels and trains nothing; the others are a head on frozen features, two rates from
pretrained weights, and one rate from random ones."""

LABELS = (1, 2, 5, 10, 20, 50, 100)
"""The numbers of labeled images of each digit in the table."""

SEEDS = {"nearest neighbor": 40, "frozen": 40, "fine-tuned": 10, "scratch": 10}
"""How many seeds the table has: what costs little has more. The first ones are the same for every method."""

TUNED_AT, TUNING_SEEDS = (1, 5, 20), range(100, 103)
"""The numbers of labels at which recipes are compared, and the seeds that choose the images for it."""

MARGIN = 0.01
"""A difference of accuracies that would not matter: one point."""

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


class Recipe(NamedTuple):
    """How a network is trained: learning rates of head and body, and how often each image comes.

    Training ends after `MOST_STEPS` steps at the latest.
    """

    head: float
    body: float
    epochs: int


RECIPES = {
    "fine-tuned": tuple(Recipe(1e-2, body, epochs) for body, epochs in itertools.product((1e-3, 3e-3), (10, 30))),
    "scratch": tuple(Recipe(rate, rate, epochs) for rate, epochs in itertools.product((3e-3, 1e-2), (30, 90))),
}
"""What each method that has learning rates may choose from. Random weights need more epochs than pretrained ones."""

MOST_STEPS = 1000
_BATCH = {"fine-tuned": 10, "scratch": 30}


@dataclass(frozen=True)
class Run:
    """What one method reached from one choice of images: accuracy from 0 to 1, and CPU seconds of training."""

    accuracy: float
    seconds: float


def run(method: str, per_class: int, seed: int, recipe: Recipe | None = None) -> Run:
    """Train with one method on a seed's choice of images, and test it on the 500 test images.

    Args:
        method: one of `METHODS`.
        per_class: labeled images of each digit.
        seed: chooses them.
        recipe: of a method that has some; by default the best one, `best_recipe`.

    Raises:
        ValueError: for an unknown method, or more labels than there are.
    """
    if method not in METHODS:
        raise ValueError(f"The methods are {', '.join(METHODS)}, but not {method!r}.")
    inputs, labels, test_inputs, test_labels = _scaled()
    chosen = pick(labels, per_class, seed)
    inputs, labels = inputs[chosen], labels[chosen]
    if method in RECIPES and recipe is None:
        recipe = best_recipe(method, per_class, results().tuning)
    start = time.process_time()
    if method == "nearest neighbor":
        distances = torch.cdist(test_inputs.flatten(1), inputs.flatten(1))
        guesses, seconds = labels[distances.argmin(dim=1)], time.process_time() - start
        return Run((guesses == test_labels).float().mean().item(), seconds)
    model = trained(method, inputs, labels, seed, recipe)
    seconds = time.process_time() - start
    return Run(accuracy(model, test_inputs, test_labels), seconds)


def validated(method: str, per_class: int, seed: int, recipe: Recipe) -> float:
    """Train with a recipe; return its accuracy, from 0 to 1, on the training images that the seed did not choose."""
    inputs, labels, _, _ = _scaled()
    chosen = pick(labels, per_class, seed)
    others = torch.ones(len(labels), dtype=torch.bool).index_fill(0, chosen, False)
    model = trained(method, inputs[chosen], labels[chosen], seed, recipe)
    return accuracy(model, inputs[others], labels[others])


def trained(
    method: str, inputs: torch.Tensor, labels: torch.Tensor, seed: int, recipe: Recipe | None = None
) -> nn.Module:
    """Return a model that was trained by one of the methods that train, on scaled digits.

    All but "frozen" need a recipe.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Classifier(mnist_cnn(pretrained=method != "scratch"), num_classes=10)
        if recipe is None:
            model.head = train_head(extract(model.body, inputs), labels, num_classes=10)
            return model
        rates = {"head": recipe.head, "body": recipe.body}
        data, batch = TensorDataset(inputs, labels), _BATCH[method]
        epochs = min(recipe.epochs, MOST_STEPS // math.ceil(len(data) / batch))
        # On the CPU, also beside a GPU: the seconds are the CPU's, and the table was made there.
        return fine_tune(model, data, rates, epochs, batch, seed=seed, device="cpu")


def best_recipe(method: str, per_class: int, tuning: Mapping[str, np.ndarray]) -> Recipe:
    """Return the recipe of a method that was best on validation, at the largest of `TUNED_AT` up to so many labels.

    Args:
        tuning: as `Results` holds it.
    """
    row = max(place for place, count in enumerate(TUNED_AT) if count <= per_class)
    return RECIPES[method][int(tuning[method][row].mean(axis=-1).argmax())]


def accuracy(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of right guesses, from 0 to 1, whatever device the model is on."""
    device = next(model.parameters()).device
    guesses = extract(model, inputs.to(device), batch_size=250).argmax(dim=1).cpu()
    return (guesses == labels).float().mean().item()


@dataclass(frozen=True)
class Results:
    """The table.

    Attributes:
        accuracy, seconds: for each method, test accuracies and CPU seconds of training, [`LABELS`, its `SEEDS`].
        tuning: for each method with `RECIPES`, validation accuracies, [`TUNED_AT`, recipes, `TUNING_SEEDS`].
        made: which command made it, and when.
    """

    accuracy: dict[str, np.ndarray]
    seconds: dict[str, np.ndarray]
    tuning: dict[str, np.ndarray]
    made: str

    def paired(self, one: str, other: str, labels: int) -> Difference:
        """Return by how much one method is above another at a number of labels, over the seeds that both have."""
        row = LABELS.index(labels)
        ones, others = self.accuracy[one][row], self.accuracy[other][row]
        both = min(len(ones), len(others))
        return paired(ones[:both], others[:both])

    def shared(self, labels: int) -> dict[str, np.ndarray]:
        """Return every method's accuracies at a number of labels, over the seeds that all of them have."""
        rows = {method: values[LABELS.index(labels)] for method, values in self.accuracy.items()}
        both = min(map(len, rows.values()))
        return {method: row[:both] for method, row in rows.items()}


@functools.cache
def results() -> Results:
    """Return what `python -m torchcourse.tools.make_data.few_labels` measured: all `METHODS`, `LABELS` and `SEEDS`."""
    with np.load(TABLE) as file:
        accuracy, seconds = (
            {method: file[f"{method}/{kind}"] for method in METHODS} for kind in ("accuracy", "seconds")
        )
        tuning = {method: file[f"{method}/tuning"] for method in RECIPES}
        return Results(accuracy, seconds, tuning, made=str(file["made"]))


@functools.cache
def _scaled() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Training and test images as the MNIST network wants them, [N, 1, 28, 28], each followed by its labels."""
    (pixels, labels), (test_pixels, test_labels) = digit_pixels("train"), digit_pixels("test")
    return MNIST_SCALING(pixels, WHITE), labels, MNIST_SCALING(test_pixels, WHITE), test_labels
