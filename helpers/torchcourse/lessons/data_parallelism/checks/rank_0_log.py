"""Check of lesson 01 on the hang of its lab: a collective that only rank 0 calls when it logs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import copies, numbers, on_ranks, refuse_known, same
from torchcourse.lessons.data_parallelism.checks.reference import (
    NO_RESULT,
    NOTHING_CAME,
    TWO_RANKS_ONLY,
    Batches,
    Tensors,
    classifier,
    on_device,
    one_process,
    refuse_shortened,
    samples,
)
from torchcourse.lessons.data_parallelism.checks.traffic import watched
from torchcourse.ranks.who import device

TIME_LIMIT = 10.0  # seconds for one call; healthy ranks need a fraction of one
LOG_RATE = 0.1  # the learning rate in the frame of the exercise

_STEPS = 4
_ROUNDING = 1e-6  # relative; a log may hold float32


@check
def train_and_log(learner: Callable) -> str:
    """Train on 2 and 3 ranks; compare the weights and rank 0's log with one process."""
    for world_size in (2, 3):
        runs = on_ranks(
            _train_and_log,
            learner,
            world_size=world_size,
            seconds=TIME_LIMIT,
            known={"NoneType": ("nothing_returned", NO_RESULT)},
        )
        end, losses = _trained_by_one(runs[0].start, world_size)
        if not same([one.end for one in runs], [end] * world_size):
            raise Wrong(
                "training_changed",
                f"No rank waits any more, but on {world_size} ranks the weights are no longer those of one process: "
                "the repair touched the training itself.",
            )
        _judge_log([one.log for one in runs], losses)
        if runs[0].destinations and 0 not in runs[0].destinations:
            raise Wrong(
                "other_destination",
                "Rank 0 logs, but your dist.reduce sends the sum to another rank. What the others then hold is not "
                "promised, though here it happens to be right.",
            )
        if numbers(runs[0].short or []) != []:
            raise Wrong(
                "missing_entries",
                f"In a run of one step there is no second one, and nothing to log; your function returned "
                f"{runs[0].short!r} there.",
            )
        refuse_shortened(_STEPS, runs[0].left)
    return "No rank waits, rank 0's log holds the mean loss over all ranks, and the training is what it was."


@dataclass
class Logged:
    """One rank's training: start, end, what the learner's function returned, and where its reduces sent their sums.

    `left`: the length of the list of batches afterwards. `short`: what a run of one step returned.
    """

    start: Tensors
    end: Tensors
    log: Any
    destinations: set[int]
    left: int
    short: Any


def _train_and_log(learner: Callable) -> Logged:
    torch.manual_seed(0)
    model = classifier().to(device())
    start = copies(model.parameters())
    batches = on_device(_batches(dist.get_rank()))
    with watched() as traffic:
        log = learner(model, batches)
    short = learner(classifier().to(device()), batches[:1])
    return Logged(start, copies(model.parameters()), log, traffic.destinations, len(batches), short)


def _batches(rank: int) -> Batches:
    return samples(_STEPS, 6, seed=rank)


def _trained_by_one(start: Tensors, n: int) -> tuple[Tensors, list[list[float]]]:
    """Return the weights at the end and, for each step, the loss of each rank."""
    logged = []

    def loss_of(model: nn.Module, batches: Batches) -> torch.Tensor:
        losses = torch.stack([F.cross_entropy(model(images), labels) for images, labels in batches])
        logged.append(losses.tolist())
        return losses.mean()

    of_each_step = zip(*map(_batches, range(n)), strict=True)
    history = one_process(
        classifier(), start, LOG_RATE, [partial(loss_of, batches=list(step)) for step in of_each_step]
    )
    return history[-1], logged


def _judge_log(logs: Sequence[Any], losses: list[list[float]]) -> None:
    """Refuse a log of rank 0 that is not the mean loss of every second step, and another log that is neither.

    Args:
        logs: what each rank returned.
        losses: for each step the loss of each rank.
    """
    n = len(logs)
    means = [sum(row) / n for row in losses[1::2]]
    log = numbers(logs[0])
    if log is None or len(log) != len(means) or isinstance(logs[0], dict):
        raise Wrong(
            "missing_entries",
            f"{_STEPS} steps, and every second one is logged: rank 0's log should be a list of {len(means)} "
            f"numbers, but your function returned {logs[0]!r}.",
        )
    if not same(log, means, _ROUNDING):
        _judge_entries(log, means, losses)
    for other in map(numbers, logs[1:]):
        if other and not same(other, means, _ROUNDING):
            raise Wrong(
                "other_ranks_log",
                f"Rank 0's log is right, but another rank logged {other}. After dist.reduce only its destination holds "
                "the sum.",
            )


def _judge_entries(log: list[float], means: list[float], losses: list[list[float]]) -> None:
    """Raise what is wrong with the losses that rank 0 logged."""
    n, own = len(losses[0]), [row[0] for row in losses[1::2]]
    known = {
        "even_steps": (
            [sum(row) / n for row in losses[::2]],
            "Rank 0 logs the first and the third step. Every second step is the second, the fourth and so on: what is "
            "`step` there?",
        ),
        "own_loss": (
            own,
            f"Nothing hangs, but rank 0 logs {log[0]:.4f}, its own loss, where the mean over {n} ranks is "
            f"{means[0]:.4f}. The collective was not wrong; who called it was.",
        ),
        "sum_not_mean": (
            [n * mean for mean in means],
            f"Rank 0 logs {n} times the mean loss: it is the sum over the ranks.",
        ),
        "only_divided": (
            [loss / n for loss in own],
            f"Rank 0 logs its own loss divided by {n}: {NOTHING_CAME}",
        ),
    }
    refuse_known(log, known, _ROUNDING)
    if n > 2:
        raise Wrong("two_ranks_only", TWO_RANKS_ONLY)
    raise Wrong(
        "wrong_value",
        f"With {n} ranks rank 0 logs {[round(value, 4) for value in log]}; the mean losses of every second step are "
        f"{[round(mean, 4) for mean in means]}.",
    )
