"""Checks of lesson 01 on gradients that the ranks average: one message per parameter, and parts of unequal size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import copies, refuse_known, same
from torchcourse.lessons.data_parallelism.checks.reference import (
    FLOAT32,
    TWO_RANKS_ONLY,
    Tensors,
    added,
    mistaken_averages,
    scaled,
    with_missing_gradients,
    wrong_places,
)
from torchcourse.ranks.who import device
from torchcourse.units import times

TIME_LIMIT = 20.0  # seconds for one call; healthy ranks need a fraction of one


@check
def average_gradients(learner: Callable) -> str:
    """Compare with the mean over two and over three ranks, one parameter being frozen."""
    for ranks in (2, 3):
        _compare(learner, [()] * ranks, [1 / ranks] * ranks, _judge_average)
    return "Every rank holds the mean of all ranks' gradients: checked on 2 and on 3 ranks, with a frozen parameter."


@check
def average_uneven(learner: Callable) -> str:
    """Compare with the mean over samples, for parts of different sizes on two and on three ranks."""
    for counts in ([5, 2], [5, 5], [600, 200, 100]):
        judge = partial(_judge_uneven, counts=counts)
        _compare(learner, [(count,) for count in counts], [count / sum(counts) for count in counts], judge)
    return "The mean over samples, whoever holds them: checked on parts of [5, 2], [5, 5] and [600, 200, 100] samples."


def _compare(learner: Callable, arguments: list[tuple], shares: list[float], judge: Callable[..., None]) -> None:
    """Call the learner with each rank's arguments; `judge` what is not the mean to which a rank adds its share."""
    by_rank = with_missing_gradients(
        _call_with_gradients, learner, arguments, world_size=len(arguments), seconds=TIME_LIMIT, hint=_FROZEN
    )
    for call, seen in enumerate(zip(*by_rank, strict=True)):
        mean = added(scaled(one.before, share) for one, share in zip(seen, shares, strict=True))
        _refuse_lost_or_moved(seen)
        if same([one.after for one in seen], [mean] * len(seen), FLOAT32):
            continue
        if call > 0:
            raise Wrong("later_steps", _SECOND_CALL)
        judge(seen, mean)


_FROZEN = "Your code met a parameter whose .grad is None: a frozen parameter has no gradient. Leave it alone."
_SECOND_CALL = (
    "The first call is right. The second one, on the same ranks with new gradients (in float64), is not. What does "
    "your code keep from one call to the next?"
)


@dataclass
class Gradients:
    """The gradients of one rank before and after the learner's function, and what else it changed.

    `names`: the parameters that the gradients belong to. `moved`: the weights. `thawed`: the frozen parameter has a
    gradient now, or is no longer frozen.
    """

    names: list[str]
    before: Tensors
    after: Tensors
    moved: bool
    thawed: bool


def _call_with_gradients(learner: Callable, arguments: list[tuple], missing: bool) -> list[Gradients]:
    """Call `learner(model, …)` twice on a small model whose weights and gradients differ from rank to rank.

    The model has a weight of its own and a layer inside a layer: a loop over its layers misses one of them. The second
    call has new gradients, all in float64.

    Args:
        arguments: for each rank, what the learner gets besides the model.
        missing: whether the model has a frozen parameter, which has no gradient.
    """
    torch.manual_seed(dist.get_rank())
    first = nn.Linear(3, 4)
    first.bias.requires_grad_(not missing)  # not the last one: a loop that ends at it leaves out those after it
    model = nn.Sequential(first, nn.Sequential(nn.Linear(4, 2))).to(device())
    model.register_parameter("scale", nn.Parameter(torch.randn(2, device=device())))
    generator = torch.Generator().manual_seed(dist.get_rank())
    calls = []
    for dtype in (torch.float32, torch.float64):
        model.to(dtype)
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        before = [torch.randn(parameter.shape, generator=generator, dtype=dtype) for parameter in trained.values()]
        for parameter, gradient in zip(trained.values(), before, strict=True):
            parameter.grad = gradient.clone().to(device())
        weights = copies(model.parameters())
        learner(model, *arguments[dist.get_rank()])
        after = [p.grad.detach().cpu() for p in trained.values() if p.grad is not None]
        moved = not same(copies(model.parameters()), weights, FLOAT32)
        thawed = missing and (first.bias.requires_grad or first.bias.grad is not None)
        calls.append(Gradients(list(trained), before, after, moved, thawed))
        first.bias.requires_grad_(not missing)
    return calls


def _refuse_lost_or_moved(seen: Sequence[Gradients]) -> None:
    if any(len(one.after) < len(one.before) for one in seen):
        raise Wrong("gradient_lost", "After your function a .grad is None: the optimizer would skip that parameter.")
    if any(one.moved for one in seen):
        raise Wrong(
            "weights_changed",
            "Your function changed the weights themselves. Only the gradients, p.grad, are to be averaged.",
        )
    if any(one.thawed for one in seen):
        raise Wrong(
            "frozen",
            "The frozen parameter is no longer as it was: it had no gradient, and now it has one, or would get one. "
            "With weight decay even a gradient of zeros makes an optimizer move it. Leave it alone.",
        )


def _refuse_untouched(seen: Sequence[Gradients]) -> None:
    """Refuse what is still a rank's own on a rank other than 0: all gradients, or those of some parameters."""
    for rank, one in enumerate(seen[1:], start=1):
        kept = [same(after, before, FLOAT32) for after, before in zip(one.after, one.before, strict=True)]
        if all(kept):
            raise Wrong(
                "nothing_changed",
                f"Rank {rank} still has its own gradients. The result must arrive in p.grad itself, on every rank: "
                "a new tensor or a return value does not reach the optimizer.",
            )
        if any(kept):
            raise Wrong(
                "some_parameters",
                f"Rank {rank} still has its own gradient for the parameter {one.names[kept.index(True)]}, while others "
                "changed. All that have a gradient need it: biases, those of the model itself and of layers inside "
                "layers, and those that come after a frozen one, too.",
            )


def _judge_average(seen: Sequence[Gradients], mean: Tensors) -> None:
    """Raise what is wrong with an average, on two ranks."""
    if len(seen) > 2:
        raise Wrong("two_ranks_only", TWO_RANKS_ONLY)
    first, second = (one.after for one in seen)
    for result in (mean, scaled(mean, 2)):
        if same(first, result, FLOAT32) and not same(second, result, FLOAT32):
            raise Wrong(
                "one_rank_only",
                "Rank 0 has the result, the other ranks have not. Which collective gives the result to all ranks?",
            )
    _refuse_untouched(seen)
    refuse_known([first, second], mistaken_averages([one.before for one in seen]), FLOAT32)
    if same([first, second], [mean] * 2, 1e-2):
        raise Wrong("dtype", "The means are right to a few digits only. Does a number of 16 bits hold them on the way?")
    wrong = [seen[0].names[place] for place in wrong_places([first, second], mean, FLOAT32)]
    if len(wrong) < len(mean):
        raise Wrong(
            "some_parameters",
            f"Right for some parameters, and wrong for {', '.join(wrong)}. Is each gradient written back to where it "
            "came from?",
        )
    raise Wrong(
        "wrong_value",
        "The ranks' gradients are neither their own nor the mean. Print p.grad before and after for a model with "
        "one weight, on two ranks, and compare with the mean worked out by hand. Does your code wait for a collective "
        "that it starts with async_op?",
    )


def _judge_uneven(seen: Sequence[Gradients], mean: Tensors, counts: list[int]) -> None:
    """Raise what is wrong with a mean over samples."""
    _refuse_untouched(seen)
    after = [one.after for one in seen]
    refuse_known(after, _uneven_mistakes([one.before for one in seen], counts), FLOAT32)
    ratio = float(after[0][0].flatten()[0] / mean[0].flatten()[0])
    if same(after, [scaled(mean, ratio)] * len(counts), FLOAT32):
        raise Wrong(
            "wrong_factor",
            f"Your gradients are {times(ratio)} the mean over all samples, on every rank. By which numbers do you "
            "multiply and divide, and how often?",
        )
    if not same(after, [after[0]] * len(counts), FLOAT32):
        raise Wrong(
            "ranks_disagree",
            "After your function the ranks hold different gradients, so their weights will part. "
            "Which number in your code differs from rank to rank when it should not?",
        )
    raise Wrong(
        "wrong_value",
        f"With parts of {counts} samples the gradients are not the mean over all {sum(counts)} samples. "
        "Try it on paper: one weight, two ranks, 4 samples and 1 sample.",
    )


def _uneven_mistakes(own: list[Tensors], counts: list[int]) -> dict[str, tuple[list[Tensors], str]]:
    """Return what known mistakes leave on each rank; `own`: the gradients of each rank before."""
    ranks, total = len(counts), sum(counts)
    weighted = [scaled(before, n) for before, n in zip(own, counts, strict=True)]
    whole = added(weighted)
    return {
        "plain_mean": (
            [scaled(added(own), 1 / ranks)] * ranks,
            f"This is the plain mean: with parts of {counts} samples every rank still counts the same. "
            "How much should a rank count?",
        ),
        "not_divided": (
            [whole] * ranks,
            f"Your gradients are {total} times too large, and {total} is the number of samples on all ranks.",
        ),
        "divided_by_ranks": (
            [scaled(whole, 1 / ranks)] * ranks,
            f"Your gradients are {total / ranks:g} times too large: you counted each rank by its samples, and "
            "then divided by the number of ranks.",
        ),
        "not_weighted": (
            [scaled(added(own), 1 / total)] * ranks,
            f"You divided by {total}, the number of all samples, and every rank still counts the same. By what must "
            "each rank multiply its gradients, which are a mean, before they are added?",
        ),
        "total_grows": (
            [[part / (total * ranks**place) for place, part in enumerate(whole)]] * ranks,
            f"The first parameter is right, and each one after it is {ranks} times too small against the one before: "
            "the total was added up again for each parameter, from totals.",
        ),
        "not_added": (
            [scaled(rows, 1 / total) for rows in weighted],
            "Each rank has its own gradients, correctly weighted, but they were not added up over the ranks.",
        ),
        "own_total": (
            [scaled(whole, 1 / n) for n in counts],
            "The ranks disagree: each divided by its own number of samples. The total is known only "
            "when the ranks tell one another.",
        ),
        "whole_numbers": (
            [scaled(whole, 0)] * ranks,
            "All gradients are 0. Dividing whole numbers with // leaves 0 of every part.",
        ),
    }
