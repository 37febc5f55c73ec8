"""What several checks of lesson 01 compare with: one process on one thread, and the known mistakes of averaging."""

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from torchcourse.checks import Wrong

Tensors = list[torch.Tensor]

FLOAT32 = 1e-5
"""The relative tolerance for gradients in float32; the other checks compute in float64."""

TWO_RANKS_ONLY = "Right on 2 ranks, wrong on 3. Which number in your code is true only when there are two ranks?"


NOTHING_CAME = "nothing came from the other ranks, or not before you went on (async_op: wait for it)."

EVALUATING = (
    "the result is right for this model, but you train it in evaluation mode. A model with dropout or BatchNorm "
    "would then train in a different way. Leave the mode as it is."
)


def classifier() -> nn.Module:
    """Return a model from 4 features to 3 classes, in float64."""
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def samples(batches: int, each: int, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return batches for `classifier`: images [each, 4] in float64 and labels [each]."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(batches, each, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (batches, each), generator=generator)
    return list(zip(images, labels, strict=True))


def started(model: nn.Module, start: Tensors) -> nn.Module:
    """Return the model with these weights."""
    with torch.no_grad():
        for parameter, values in zip(model.parameters(), start, strict=True):
            parameter.copy_(values)
    return model


def scaled(tensors: Iterable[torch.Tensor], factor: float) -> Tensors:
    return [factor * tensor for tensor in tensors]


def added(ranks: Iterable[Sequence[torch.Tensor]]) -> Tensors:
    """Add up the tensors of the ranks, parameter by parameter."""
    return [torch.stack(rows).sum(dim=0) for rows in zip(*ranks, strict=True)]


def mistaken_averages(own: list[Tensors]) -> dict[str, tuple[list[Tensors], str]]:
    """The known mistakes of averaging: symptom → the gradients that it leaves on each rank, and the hint.

    Args:
        own: the gradients of each rank before.
    """
    n, total = len(own), added(own)
    return {
        "sum_not_mean": (
            [total] * n,
            f"Your gradients are {n} times too large: they are the sum over the ranks. What turns a sum into a mean?",
        ),
        "divided_twice": (
            [scaled(total, 1 / n**2)] * n,
            f"Your gradients are {n} times too small: you divide more than once, by too large a number, or what you "
            "add up is a mean already.",
        ),
        "only_divided": (
            [scaled(gradients, 1 / n) for gradients in own],
            f"Every rank still has its own gradients, only {n} times smaller: {NOTHING_CAME}",
        ),
        "added_to_own": (
            [[one + part / n for one, part in zip(gradients, total, strict=True)] for gradients in own],
            "Each rank holds its own gradients and the mean, added up. The mean is to stand in their place.",
        ),
        "copied_not_averaged": (
            [own[0]] * n,
            "All ranks now hold the gradients of rank 0: those of the others are lost. A broadcast copies; here every "
            "rank has something to add.",
        ),
    }


def times_as_large(mine: torch.Tensor, right: torch.Tensor) -> float | None:
    """Return the number by which `right` is multiplied in `mine`; None where no number does it, or only 0."""
    mine, right = mine.flatten().double(), right.flatten().double()
    times = (mine @ right / (right @ right)).item()
    return times if times and torch.allclose(mine, times * right, rtol=1e-6, atol=1e-12) else None


def refuse_shortened(given: int, left: int, where: str = "") -> None:
    """Refuse a learner that was given a list of so many batches, of which so many are left in it."""
    if left != given:
        raise Wrong(
            "list_changed",
            f"{where}The list had {given} batch{'es' * (given > 1)} before your function, and has {left} afterwards: a "
            "second epoch would see other data. Go through the list and leave it as it is.",
        )
