"""Check of lesson 01 on a whole training that ranks do together: it ends where one process ends."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

import torch
import torch.distributed as dist
import torch.nn.functional as F

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import copies, on_ranks, one_thread, same
from torchcourse.lessons.data_parallelism.checks.reference import (
    TWO_RANKS_ONLY,
    Tensors,
    classifier,
    samples,
    started,
)
from torchcourse.ranks.who import device

TIME_LIMIT = 20.0  # seconds for one call; healthy ranks need a fraction of one

_COUNTS = (0, 1, 3)
_BATCH = 12
_RATE = 0.5


@check
def train_together(learner: Callable) -> str:
    """Compare the weights after 0, 1 and 3 batches with one process that starts as rank 0 does."""
    for world_size in (2, 3):
        by_rank = on_ranks(_train, learner, world_size=world_size, seconds=TIME_LIMIT, left_alone=None)
        for count, runs in zip(_COUNTS, zip(*by_rank, strict=True), strict=True):
            expected = _one_process(runs[0].start, count)
            if same([one.end for one in runs], [expected] * world_size) and _shared_out(runs):
                continue
            if world_size > 2:
                raise Wrong("two_ranks_only", TWO_RANKS_ONLY)
            _judge_training(runs, count, expected)
    return "After 0, 1 and 3 batches all ranks hold the very weights of one process: checked on 2 and on 3 ranks."


@dataclass
class Training:
    """What one rank's training started from, ended with, and which samples went through the model, step by step."""

    start: Tensors
    end: Tensors
    seen: list[list[int]]


Runs = tuple[Training, ...]


def _train(learner: Callable) -> list[Training]:
    """Train on 0, 1 and 3 batches, each time from weights that differ from rank to rank."""
    runs = []
    for count in _COUNTS:
        torch.manual_seed(dist.get_rank())
        model = classifier().to(device())
        run = Training(copies(model.parameters()), [], [])
        model.register_forward_pre_hook(lambda _, inputs, run=run: run.seen.append(_numbers_of(inputs[0])))
        learner(model, [(images.to(device()), labels.to(device())) for images, labels in _batches(count)], _RATE)
        run.end = copies(model.parameters())
        runs.append(run)
    return runs


def _batches(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return batches in which the first feature of a sample is its number, by which the check knows it again."""
    batches = samples(count, _BATCH, seed=1)
    for images, _ in batches:
        images[:, 0] = torch.arange(_BATCH) / _BATCH
    return batches


def _numbers_of(images: torch.Tensor) -> list[int]:
    return (images[:, 0] * _BATCH).round().int().tolist()


@one_thread()
def _one_process(start: Tensors, batches: int) -> Tensors:
    model = started(classifier(), start)
    optimizer = torch.optim.SGD(model.parameters(), lr=_RATE)
    for images, labels in _batches(batches):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return copies(model.parameters())


def _shared_out(runs: Runs) -> bool:
    """Whether at each step every sample went through the model of exactly one rank."""
    return len({len(one.seen) for one in runs}) == 1 and all(
        sorted(chain(*parts)) == list(range(_BATCH)) for parts in zip(*(one.seen for one in runs), strict=True)
    )


def _judge_training(runs: Runs, batches: int, expected: Tensors) -> None:
    """Raise what is wrong with a training on two ranks."""
    agree = same(runs[1].end, runs[0].end)
    if batches == 0 and agree:
        raise Wrong("other_start", "All ranks start from the same weights, but not from those of rank 0.")
    if batches == 0:
        raise Wrong(
            "different_start",
            "Before the first batch the ranks hold different weights: each was started with its own seed. "
            "Averaged gradients do not bring them together.",
        )
    if not _shared_out(runs):
        _judge_shares(*(one.seen[0] if one.seen else [] for one in runs))
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
    _judge_first_step(runs[0], expected)


def _judge_shares(first: list[int], second: list[int]) -> None:
    """Raise what is wrong with the samples that two ranks computed in the first step."""
    if len(first) == len(second) == _BATCH:
        raise Wrong(
            "whole_batch",
            f"Each rank computed all {_BATCH} samples of the batch. The weights may be right, but no work was shared.",
        )
    if set(first) & set(second):
        raise Wrong(
            "same_shard",
            f"In the first step rank 0 computed the samples {first} and rank 1 {second}: some of them twice. "
            "Each sample belongs to one rank.",
        )
    raise Wrong(
        "samples_lost",
        f"In the first step rank 0 computed the samples {first} and rank 1 {second}, out of 0 to {_BATCH - 1}, "
        "and one model call per batch is enough.",
    )


def _judge_first_step(one: Training, expected: Tensors) -> None:
    moved, wanted = _moved(one.end, one.start), _moved(expected, one.start)
    ratio = (moved @ wanted / (wanted @ wanted)).item()
    if torch.allclose(moved, ratio * wanted, atol=1e-9) and not same(ratio, 1.0, tolerance=1e-5):
        raise Wrong(
            "step_too_long" if ratio > 1 else "step_too_short",
            f"The first step goes the right way, but it is {ratio:.3g} times as long as that of one process on the "
            "whole batch. Is your gradient a mean over the ranks, and your loss a mean over samples?",
        )
    raise Wrong(
        "wrong_value",
        "After one batch all ranks agree, but on other weights than one process has. Do the images and the labels "
        "of a rank belong together?",
    )


def _moved(end: Tensors, start: Tensors) -> torch.Tensor:
    return torch.cat([(b - a).flatten() for a, b in zip(start, end, strict=True)])
