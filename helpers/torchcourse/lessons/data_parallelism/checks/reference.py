"""What several checks of lesson 01 compare with: one process on one thread, and the known mistakes of averaging."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from torchcourse.checks import Wrong
from torchcourse.checks.kit import copies, on_ranks, one_thread, same
from torchcourse.ranks.who import device

Tensors = list[torch.Tensor]

FLOAT32 = 1e-5
"""The relative tolerance for gradients in float32; the other checks compute in float64."""

TWO_RANKS_ONLY = "Right on 2 ranks, wrong on 3. Which number in your code is true only when there are two ranks?"

NO_RESULT = (
    "Your code used None where it wanted a value. Collectives such as dist.all_reduce return None: they write into the "
    "tensor that you give them."
)

NOTHING_CAME = "nothing came from the other ranks, or not before you went on (async_op: wait for it)."

EVALUATING = (
    "the result is right for this model, but you train it in evaluation mode. A model with dropout or BatchNorm "
    "would then train in a different way. Leave the mode as it is."
)


Batches = list[tuple[torch.Tensor, torch.Tensor]]
"""Images [each, 4] and labels [each]."""


def classifier() -> nn.Module:
    """Return a model from 4 features to 3 classes, in float64."""
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def samples(batches: int, each: int, seed: int) -> Batches:
    """Return batches for `classifier`, in float64."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(batches, each, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (batches, each), generator=generator)
    return list(zip(images, labels, strict=True))


def on_device(batches: Batches) -> Batches:
    return [(images.to(device()), labels.to(device())) for images, labels in batches]


@one_thread()
def one_process(
    model: nn.Module, start: Tensors, rate: float, losses: Iterable[Callable[[nn.Module], torch.Tensor]]
) -> list[Tensors]:
    """Return the weights of one process at the start and after each step of SGD.

    Args:
        start: the weights to start from.
        rate: the learning rate.
        losses: for each step what is called with the model and gives the loss.
    """
    with torch.no_grad():
        for parameter, values in zip(model.parameters(), start, strict=True):
            parameter.copy_(values)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    history = [copies(model.parameters())]
    for loss_of in losses:
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
        history.append(copies(model.parameters()))
    return history


def scaled(tensors: Iterable[torch.Tensor], factor: float) -> Tensors:
    return [factor * tensor for tensor in tensors]


def added(ranks: Iterable[Sequence[torch.Tensor]]) -> Tensors:
    """Add up the tensors of the ranks, parameter by parameter."""
    return [torch.stack(rows).sum(dim=0) for rows in zip(*ranks, strict=True)]


def with_missing_gradients(
    function: Callable[..., Any],
    *arguments: Any,
    world_size: int,
    seconds: float,
    hint: str,
    known: Mapping[str, tuple[str, str]] | None = None,
) -> list[Any]:
    """Run `function(*arguments, missing=True)` on ranks, where some gradients are None; explain a None that it met.

    With `missing=False` no gradient is None: a None that the learner's code meets there as well is of its own making.

    Args:
        hint: for a gradient that is None.
        known: as for `on_ranks`, and so are the others.
    """

    def run(missing: bool, symptom: str, hint: str) -> list[Any]:
        known_errors = {"NoneType": (symptom, hint), **(known or {})}
        return on_ranks(
            partial(function, missing=missing),
            *arguments,
            world_size=world_size,
            seconds=seconds,
            left_alone=None,
            known=known_errors,
        )

    try:
        return run(True, "no_gradient", hint)
    except Wrong as wrong:
        if wrong.symptom == "no_gradient":
            run(False, "nothing_returned", NO_RESULT)
        raise


def wrong_places(found: Iterable[Tensors], right: Tensors, tolerance: float = 1e-8) -> list[int]:
    """The places of the tensors that are not right on every rank; `found`: the tensors of each rank."""
    rows = zip(right, *found, strict=True)
    return [place for place, (one, *ours) in enumerate(rows) if not same(ours, [one] * len(ours), tolerance)]


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
