"""Training runs that fail on purpose, each in one way: what a healthy and a sick run look like in TensorBoard.

    run = train("vanishing", "runs/vanishing")

Every run is one `Trainer` on MNIST digits, watched at a few dozen steps. `family` chooses the network: "dense" layers,
"narrow" ones, more and thinner, or "conv"olutions. The seed decides the weights and the order of the samples.
"""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from torchcourse.data import mnist
from torchcourse.data.memory_loader import MemoryLoader
from torchcourse.training.events import RunLog, read_run
from torchcourse.training.trainer import Trainer

Family = Literal["dense", "narrow", "conv"]


@dataclass(frozen=True)
class Recipe:
    """What makes a run: the activation and the depth, how the weights start, and how it is trained."""

    activation: Callable[[], nn.Module] = nn.ReLU
    depth: int = 4
    scale: float | None = None  # of the initial weights, in units of He's √(2 / inputs); None: PyTorch's own start
    bias: float | None = None
    clip: float | None = None  # upper limit of the gradient's norm
    pool: int = 1  # pixels that are averaged to one before the network sees them, along each side
    samples: int = 4000
    batch: int | None = None  # None: 100, or a quarter of few samples
    lr: float = 0.02
    epochs: int = 3
    every: int = 20  # steps between two values, and between two looks


RECIPES = {
    "healthy": Recipe(scale=1.0),
    "vanishing": Recipe(activation=nn.Sigmoid, depth=7),
    "exploding": Recipe(depth=8, scale=1.7, epochs=1, every=1),
    "dead units": Recipe(bias=-2.0),
    "saturated": Recipe(activation=nn.Tanh, scale=6.0),
    "overfitting": Recipe(depth=2, scale=1.0, samples=200, epochs=40),
    "underfitting": Recipe(depth=2, scale=1.0, pool=14),
}
"""The kinds of runs. The names are those of `diagnosis`."""


def train(
    kind: str | Recipe,
    log_dir: str | os.PathLike,
    *,
    seed: int = 0,
    family: Family = "dense",
    epochs: int | None = None,
) -> RunLog:
    """Train a run of this kind and return what its event files hold. A run that explodes may end early, and says so.

    Args:
        kind: one of `RECIPES`, or a recipe of your own.
        log_dir: a new folder for the event files.
        epochs: instead of the recipe's own number.

    Raises:
        ValueError: for a kind that there is not.
    """
    if isinstance(kind, str) and kind not in RECIPES:
        raise ValueError(f"There is no run of kind {kind!r}. The kinds are {', '.join(RECIPES)}.")
    recipe = RECIPES[kind] if isinstance(kind, str) else kind
    torch.manual_seed(seed)
    model = build(recipe, family)
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.lr, momentum=0.9)
    trainer = Trainer(
        model,
        optimizer,
        nn.functional.cross_entropy,
        clip_norm=recipe.clip,
        log_dir=log_dir,
        log_every=recipe.every,
        watch_every=recipe.every,
        progress=False,
    )
    loader = MemoryLoader(_digits("train", recipe.samples), recipe.batch or min(100, recipe.samples // 4), seed=seed)
    validation = MemoryLoader(_digits("test", 500), 500, shuffle=False)
    try:
        trainer.fit(loader, epochs or recipe.epochs, validation)
    except FloatingPointError as error:
        print(f"{log_dir}: {str(error).partition(',')[0]}.")
    return read_run(log_dir)


def build(recipe: Recipe, family: Family = "dense") -> nn.Sequential:
    """Return the network of a recipe, for images [N, 1, 28, 28]."""
    side = 28 // recipe.pool
    front: list[nn.Module] = [nn.AvgPool2d(recipe.pool)] if recipe.pool > 1 else []
    if family == "conv":
        layers = _convolutions(recipe, side)
    else:
        width, depth = (64, recipe.depth) if family == "dense" else (32, recipe.depth + 2)
        layers = _dense(recipe, side * side, width, depth)
    model = nn.Sequential(*front, *layers)
    for layer in [module for module in model if isinstance(module, nn.Linear | nn.Conv2d)][:-1]:
        assert layer.bias is not None  # each layer here has one
        if recipe.scale is not None:
            nn.init.kaiming_normal_(layer.weight)
            layer.weight.data *= recipe.scale
            nn.init.zeros_(layer.bias)
        if recipe.bias is not None:
            nn.init.constant_(layer.bias, recipe.bias)
    return model


def _dense(recipe: Recipe, inputs: int, width: int, depth: int) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Flatten()]
    for number in range(depth):
        layers += [nn.Linear(width if number else inputs, width), recipe.activation()]
    return [*layers, nn.Linear(width, 10)]


def _convolutions(recipe: Recipe, side: int, channels: int = 12) -> list[nn.Module]:
    """Two convolutions that halve the sides where these are long enough, then others that keep them."""
    layers: list[nn.Module] = []
    for number in range(recipe.depth):
        stride = 2 if side > 7 else 1
        side = -(-side // stride)
        layers += [nn.Conv2d(channels if number else 1, channels, 3, stride, padding=1), recipe.activation()]
    return [*layers, nn.Flatten(), nn.Linear(channels * side * side, 10)]


@functools.cache
def _digits(split: Literal["train", "test"], count: int) -> tuple[torch.Tensor, ...]:
    """Return the first images and labels; read from the disk once, for runs by the dozen."""
    return mnist(split)[:count]
