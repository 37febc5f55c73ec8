"""Checks of lesson 01, data parallelism. Each runs the learner's function on several ranks and names the symptom.

The ranks only compute and send back what came out; the judging is done here, in the notebook's process, where `Wrong`
keeps its symptom. Notebook 1 (averaging): `average_gradients`, `train_together`, `average_uneven`, `samples_of_rank`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.ranks.run import RankError, RankTimeout, run_ranks
from torchcourse.ranks.who import device

TIME_LIMIT = 20.0  # seconds for one call; healthy ranks need a fraction of one

Tensors = list[torch.Tensor]

# Notebook 1: averaging


@check
def average_gradients(learner: Callable) -> str:
    """Compare with the mean over two and over three ranks, one parameter being frozen."""
    for world_size in (2, 3):
        seen = _with_gradients(learner, [()] * world_size)
        own = [one.before for one in seen]
        mean = [sum(rows) / world_size for rows in zip(*own, strict=True)]
        _refuse_lost_or_moved(seen)
        if all(_same(one.after, mean) for one in seen):
            continue
        if world_size > 2:
            raise Wrong(
                "two_ranks_only",
                "Right on 2 ranks, wrong on 3. Which number in your code is true only when there are two ranks?",
            )
        total = _scaled(mean, world_size)
        if any(_same(seen[0].after, result) and not _same(seen[1].after, result) for result in (mean, total)):
            raise Wrong(
                "one_rank_only",
                "Rank 0 has the result, the other ranks have not. Which collective gives the result to all ranks?",
            )
        _refuse_untouched(seen)
        _refuse_known(
            [one.after for one in seen],
            {
                "sum_not_mean": (
                    [total] * world_size,
                    f"Your gradients are {world_size} times too large: they are the sum over the ranks. "
                    "What turns a sum into a mean?",
                ),
                "divided_twice": (
                    [_scaled(mean, 1 / world_size)] * world_size,
                    f"Your gradients are {world_size} times too small: you divide more than once, "
                    "or what you add up is a mean already.",
                ),
                "only_divided": (
                    [_scaled(rows, 1 / world_size) for rows in own],
                    f"Every rank still has its own gradients, only {world_size} times smaller: "
                    "nothing came from the other ranks.",
                ),
                "copied_not_averaged": (
                    [own[0]] * world_size,
                    "All ranks now hold the gradients of rank 0: those of the others are lost. A broadcast copies; "
                    "here every rank has something to add.",
                ),
            },
        )
        raise Wrong(
            "wrong_value",
            "The ranks' gradients are neither their own nor the mean. Print p.grad before and after for a model with "
            "one weight, on two ranks, and compare with the mean worked out by hand.",
        )
    return "Every rank holds the mean of all ranks' gradients: checked on 2 and on 3 ranks, with a frozen parameter."


@check
def train_together(learner: Callable) -> str:
    """Compare the weights after 0, 1 and 3 batches with one process that starts as rank 0 does."""
    for world_size in (2, 3):
        for batches, runs in zip(_COUNTS, _trained(learner, world_size), strict=True):
            expected = _one_process(runs[0].start, batches)
            right = all(_same(one.end, expected, tolerance=1e-9) for one in runs)
            if right and _shared_out(runs):
                continue
            if world_size > 2:
                raise Wrong(
                    "two_ranks_only",
                    "Right on 2 ranks, wrong on 3. Which number in your code is true only when there are two ranks?",
                )
            _judge_training(runs, batches, expected)
    return "After 0, 1 and 3 batches all ranks hold the very weights of one process: checked on 2 and on 3 ranks."


@check
def average_uneven(learner: Callable) -> str:
    """Compare with the mean over samples, for parts of different sizes on two and on three ranks."""
    for samples in ([3, 1], [5, 5], [6, 2, 1]):
        seen = _with_gradients(learner, [(count,) for count in samples])
        own, total = [one.before for one in seen], sum(samples)
        weighted = [_scaled(rows, n) for n, rows in zip(samples, own, strict=True)]
        added = [sum(rows) for rows in zip(*weighted, strict=True)]
        _refuse_lost_or_moved(seen)
        if all(_same(one.after, _scaled(added, 1 / total)) for one in seen):
            continue
        _refuse_untouched(seen)
        ranks = len(samples)
        everywhere = [one.after for one in seen]
        _refuse_known(
            everywhere,
            {
                "plain_mean": (
                    [[sum(rows) / ranks for rows in zip(*own, strict=True)]] * ranks,
                    f"This is the plain mean: with parts of {samples} samples every rank still counts the same. "
                    "How much should a rank count?",
                ),
                "not_divided": (
                    [added] * ranks,
                    f"Your gradients are {total} times too large, and {total} is the number of samples on all ranks.",
                ),
                "divided_by_ranks": (
                    [_scaled(added, 1 / ranks)] * ranks,
                    f"Your gradients are {total / ranks:g} times too large: you counted each rank by its samples, and "
                    "then divided by the number of ranks.",
                ),
                "divided_twice": (
                    [_scaled(added, 1 / (total * ranks))] * ranks,
                    f"Your gradients are {ranks} times too small: the parts of the batch already add up to 1. "
                    "What else do you divide by?",
                ),
                "not_added": (
                    [_scaled(rows, 1 / total) for rows in weighted],
                    "Each rank has its own gradients, rightly weighted, but they were not added up over the ranks.",
                ),
                "own_total": (
                    [_scaled(added, 1 / n) for n in samples],
                    "The ranks disagree: each divided by its own number of samples. The total is known only "
                    "when the ranks tell one another.",
                ),
                "whole_numbers": (
                    [_scaled(added, 0)] * ranks,
                    "All gradients are 0. Dividing whole numbers with // leaves 0 of every part.",
                ),
            },
        )
        if not all(_same(one.after, seen[0].after) for one in seen):
            raise Wrong(
                "ranks_disagree",
                "After your function the ranks hold different gradients, so their weights will part. "
                "Which number in your code differs from rank to rank when it should not?",
            )
        raise Wrong(
            "wrong_value",
            f"With parts of {samples} samples the gradients are not the mean over all {total} samples. "
            "Try it on paper: one weight, two ranks, 3 samples and 1 sample.",
        )
    return "The mean over samples, whoever holds them: checked on parts of [3, 1], [5, 5] and [6, 2, 1] samples."


@check
def samples_of_rank(learner: Callable) -> str:
    """Deal out several data sets, with a different state of the global random generator on every rank."""
    for total, world_size in ((40, 2), (40, 3), (100, 8)):
        first = [_dealt(learner, total, 0, rank, world_size) for rank in range(world_size)]
        if world_size == 2:
            _judge_deal(first, total, [_dealt(learner, total, 1, rank, world_size) for rank in range(world_size)])
        elif not _fair(first, total):
            raise Wrong(
                "two_ranks_only",
                f"Right for 2 ranks. For {total} samples and {world_size} ranks the parts are "
                f"{[len(part) for part in first]} samples long and hold {len(set().union(*first))} different samples. "
                "All parts must be equally long, with no sample twice; what does not fit is left out.",
            )
    return "Each sample goes to one rank at most, all ranks get equally many, and every epoch is mixed anew."


# What runs in the ranks


@dataclass
class Gradients:
    """The gradients of one rank before and after the learner's function, and whether it moved the weights."""

    before: Tensors
    after: list[torch.Tensor | None]
    moved: bool


def _call_with_gradients(learner: Callable, arguments: list[tuple], frozen: bool) -> Gradients:
    """Call `learner(model, …)` on a small model whose weights and gradients differ from rank to rank.

    Args:
        arguments: for each rank, what the learner gets besides the model.
        frozen: whether the model has a parameter without a gradient.
    """
    torch.manual_seed(dist.get_rank())
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).to(device())
    model[1].bias.requires_grad_(not frozen)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    generator = torch.Generator().manual_seed(dist.get_rank())
    for parameter in trained:
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(device())
    before, weights = [_copy(p.grad) for p in trained], [_copy(p) for p in model.parameters()]
    learner(model, *arguments[dist.get_rank()])
    after = [None if p.grad is None else _copy(p.grad) for p in trained]
    return Gradients(before, after, moved=not _same([_copy(p) for p in model.parameters()], weights))


_COUNTS = (0, 1, 3)
_RATE = 0.5


@dataclass
class Training:
    """What one rank's training started from, ended with, and which samples went through the model, step by step."""

    start: Tensors
    end: Tensors
    seen: list[list[int]]


def _train(learner: Callable) -> list[Training]:
    """Train on 0, 1 and 3 batches, each time from weights that differ from rank to rank."""
    runs = []
    for count in _COUNTS:
        torch.manual_seed(dist.get_rank())
        model = _small_model().to(device())
        start, seen = [_copy(p) for p in model.parameters()], []
        model.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(_numbers(inputs[0])))
        batches = [(images.to(device()), labels.to(device())) for images, labels in _batches(count)]
        learner(model, batches, _RATE)
        runs.append(Training(start, [_copy(p) for p in model.parameters()], seen))
    return runs


def _small_model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def _batches(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return batches of 12 samples. The first feature of a sample is its number, by which the check knows it again."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 12, 4, generator=generator, dtype=torch.float64)
    images[:, :, 0] = torch.arange(12) / 12
    labels = torch.randint(3, (count, 12), generator=generator)
    return list(zip(images, labels, strict=True))


def _numbers(images: torch.Tensor) -> list[int]:
    return (images[:, 0] * 12).round().int().tolist()


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().clone()


# Judging


def _on_ranks(function: Callable, *arguments: Any, world_size: int) -> list[Any]:
    try:
        return run_ranks(function, *arguments, world_size=world_size, timeout=TIME_LIMIT)
    except RankError as error:
        if not isinstance(error, RankTimeout) and not error.left_alone:
            raise
        raise Wrong(
            "hang",
            "A rank waited for others that never came. A collective ends only when all ranks "
            "call it, equally often: is one of yours inside an if, or in a loop of different length?",
        ) from None


def _with_gradients(learner: Callable, arguments: list[tuple]) -> list[Gradients]:
    """Call the learner on one rank for each of `arguments`, and explain a `None` that it trips over."""
    try:
        return _on_ranks(_call_with_gradients, learner, arguments, True, world_size=len(arguments))
    except RankError as error:
        if error.kind not in ("TypeError", "AttributeError") or "None" not in error.message:
            raise
    try:
        _on_ranks(_call_with_gradients, learner, arguments, False, world_size=len(arguments))
    except RankError:
        raise Wrong(
            "nothing_returned",
            "Your code used None where it wanted a value. Collectives such as dist.all_reduce return None: "
            "they write into the tensor that you give them.",
        ) from None
    raise Wrong(
        "no_gradient",
        "Your code met a parameter whose .grad is None: a frozen parameter has no gradient. Leave it alone.",
    )


def _same(ours: Sequence[torch.Tensor | None], other: Sequence[torch.Tensor], tolerance: float = 1e-5) -> bool:
    return all(
        a is not None and a.shape == b.shape and torch.allclose(a, b, rtol=tolerance, atol=tolerance / 10)
        for a, b in zip(ours, other, strict=True)
    )


def _scaled(tensors: Tensors, factor: float) -> Tensors:
    return [factor * tensor for tensor in tensors]


def _refuse_known(found: list[Tensors], known: dict[str, tuple[list[Tensors], str]]) -> None:
    """Raise the first known mistake whose values are those found, on every rank."""
    for symptom, (values, hint) in known.items():
        if all(_same(ours, theirs) for ours, theirs in zip(found, values, strict=True)):
            raise Wrong(symptom, hint)


def _refuse_lost_or_moved(seen: list[Gradients]) -> None:
    if any(gradient is None for one in seen for gradient in one.after):
        raise Wrong("gradient_lost", "After your function a .grad is None: the optimizer would skip that parameter.")
    if any(one.moved for one in seen):
        raise Wrong(
            "weights_changed",
            "Your function changed the weights themselves. Only the gradients, p.grad, are to be averaged.",
        )


def _refuse_untouched(seen: list[Gradients]) -> None:
    """Refuse gradients that are still a rank's own: all of them, or those of some parameters."""
    for rank, one in enumerate(seen):
        kept = [_same([after], [before]) for after, before in zip(one.after, one.before, strict=True)]
        if all(kept) and rank > 0:
            raise Wrong(
                "nothing_changed",
                f"Rank {rank} still has its own gradients. The result must arrive in p.grad itself, on every rank: "
                "a new tensor or a return value does not reach the optimizer.",
            )
        if any(kept) and rank > 0:
            raise Wrong(
                "some_parameters",
                f"Rank {rank} still has its own gradient for parameter number {kept.index(True)} of the model, while "
                "others changed. All parameters need it, biases too.",
            )


def _trained(learner: Callable, world_size: int) -> list[list[Training]]:
    """Return, for each number of batches, what came out on each rank."""
    return [list(runs) for runs in zip(*_on_ranks(_train, learner, world_size=world_size), strict=True)]


def _one_process(start: Tensors, batches: int) -> Tensors:
    model = _small_model()
    with torch.no_grad():
        for parameter, values in zip(model.parameters(), start, strict=True):
            parameter.copy_(values)
    optimizer = torch.optim.SGD(model.parameters(), lr=_RATE)
    for images, labels in _batches(batches):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return [_copy(parameter) for parameter in model.parameters()]


def _shared_out(runs: list[Training]) -> bool:
    """Whether at each step every sample went through the model of exactly one rank."""
    return len({len(one.seen) for one in runs}) == 1 and all(
        sorted(chain(*parts)) == list(range(12)) for parts in zip(*(one.seen for one in runs), strict=True)
    )


def _judge_training(runs: list[Training], batches: int, expected: Tensors) -> None:
    """Raise what is wrong with a training on two ranks."""
    agree = all(_same(one.end, runs[0].end, tolerance=1e-9) for one in runs)
    if batches == 0:
        if agree:
            raise Wrong(
                "other_start",
                "All ranks start from the same weights, but not from those of rank 0.",
            )
        raise Wrong(
            "different_start",
            "Before the first batch the ranks hold different weights: each was started with its own seed. "
            "Averaged gradients do not bring them together.",
        )
    if not _shared_out(runs):
        first, second = (one.seen[0] if one.seen else [] for one in runs)
        if len(first) == len(second) == 12:
            raise Wrong(
                "whole_batch",
                "Each rank computed all 12 samples of the batch. The weights may be right, but no work was shared.",
            )
        if set(first) & set(second):
            raise Wrong(
                "same_shard",
                f"In the first step rank 0 computed the samples {first} and rank 1 {second}: some of them twice. "
                "Each sample belongs to one rank.",
            )
        raise Wrong(
            "samples_lost",
            f"In the first step rank 0 computed the samples {first} and rank 1 {second}, out of 0 to 11, "
            "and one model call a batch is enough.",
        )
    if not agree:
        raise Wrong(
            "not_averaged",
            "The ranks start equal and are different after the first step: each took a step along its own gradient. "
            "Between backward() and step() something is missing, or it comes too early.",
        )
    if batches > 1:
        raise Wrong(
            "later_steps",
            "The first step is right, the later ones are not. What is still in p.grad when the second batch arrives?",
        )
    moved, wanted = _moved(runs[0].end, runs[0].start), _moved(expected, runs[0].start)
    ratio = (moved @ wanted / (wanted @ wanted)).item()
    if torch.allclose(moved, ratio * wanted, atol=1e-9) and not torch.isclose(torch.tensor(ratio), torch.tensor(1.0)):
        raise Wrong(
            "step_too_long" if ratio > 1 else "step_too_short",
            f"The first step goes the right way, but it is {ratio:.3g} times as long as that of one process on the "
            "whole batch. Is your gradient a mean over the ranks, and your loss a mean over samples?",
        )
    raise Wrong(
        "wrong_step",
        "After one batch all ranks agree, but on other weights than one process has. Do the images and the labels "
        "of a rank belong together?",
    )


def _moved(end: Tensors, start: Tensors) -> torch.Tensor:
    return torch.cat([(b - a).flatten() for a, b in zip(start, end, strict=True)])


def _dealt(learner: Callable, total: int, epoch: int, rank: int, world_size: int) -> list[int]:
    """Call the learner as rank `rank` would: every process has a global random generator in a state of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1000 + rank)
        answer = learner(total, epoch, rank, world_size)
    try:
        numbers = [int(number) for number in answer]
    except TypeError:
        raise Wrong(
            "no_list", f"Your function returned {type(answer).__name__}, not the numbers of this rank's samples."
        ) from None
    if any(not 0 <= number < total for number in numbers):
        raise Wrong("out_of_range", f"With {total} samples the numbers run from 0 to {total - 1}; yours do not.")
    return numbers


def _fair(parts: list[list[int]], total: int) -> bool:
    """Whether all parts are equally long, hold no sample twice, and leave out no more than does not fit."""
    flat = list(chain(*parts))
    return len(set(flat)) == len(flat) == total - total % len(parts) and len({len(part) for part in parts}) == 1


def _judge_deal(first: list[list[int]], total: int, second: list[list[int]]) -> None:
    """Raise what is wrong with a deal among two ranks: `first` in epoch 0, `second` in epoch 1."""
    one, two = first
    if one == two:
        raise Wrong("same_data", f"Both ranks get the same {len(one)} samples: that is the fault of the lab itself.")
    if shared := set(one) & set(two):
        raise Wrong(
            "overlap",
            f"The ranks get different lists, but share {len(shared)} of {total} samples. Does each rank mix in its own "
            "way? They must cut up one and the same order.",
        )
    if len(one) != len(two):
        raise Wrong(
            "uneven", f"Rank 0 gets {len(one)} samples and rank 1 gets {len(two)}: one would wait for the other."
        )
    if not _fair(first, total):
        raise Wrong(
            "samples_lost",
            f"Of {total} samples only {len(set(one + two))} are ever used, and {len(one + two)} places are dealt out.",
        )
    if not _fair(second, total):
        raise Wrong("second_epoch", "Epoch 0 is dealt out rightly, epoch 1 is not.")
    if first == second:
        raise Wrong(
            "same_every_epoch",
            "Epoch 1 brings the same samples to the same ranks in the same order as epoch 0. What should the seed "
            "depend on?",
        )
    if any(part == sorted(part) for part in first):
        raise Wrong("not_mixed", "The samples come in the order of the data set. Mix them before you deal them out.")
