"""Patient: each rank decides by its own validation loss when to stop, and the others wait for it in a collective."""

import contextlib
import functools
import io
import re
import unittest.mock
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F

from torchcourse import figures
from torchcourse.checks import Wrong
from torchcourse.checks.kit import copies, numbers, on_ranks, same
from torchcourse.data import mnist
from torchcourse.lessons.troubleshooting.clinic.comparisons import called_with, model_of_ranks, step_of_ranks
from torchcourse.lessons.troubleshooting.clinic.program import Program, lines_of_program
from torchcourse.ranks.run import RankError
from torchcourse.units import counted

EPOCHS, BATCH, RATE, MOMENTUM = 12, 16, 0.1, 0.9
TIME_LIMIT = 20.0  # seconds; healthy ranks need one, on a busy machine a few
HANG = (
    "After {seconds:g} seconds the ranks still wait for one another. A longer limit would only make the wait longer: "
    "some rank is in a collective that the others never call."
)
Part = tuple[torch.Tensor, torch.Tensor]


def evidence(program: Program) -> None:
    printed, where = io.StringIO(), ""
    with contextlib.redirect_stdout(printed):
        try:
            program.main()
        except RankError as error:
            lines = [f"  {place}: {code}" for place, code in lines_of_program(error)]
            where = "\n".join([f"rank {error.rank}: {error.note}", *lines])
    found = re.findall(r"\[rank (\d)\] epoch (\d+): validation loss ([\d.]+)", printed.getvalue())
    figure, axis = figures.new()
    lengths, lows = [], []
    for rank in ("0", "1"):
        losses = [float(loss) for one, _, loss in found if one == rank]
        axis.plot(losses, marker="o", label=f"rank {rank}")
        lengths.append(len(losses))
        lows.append(len(losses) - 1 - losses.index(min(losses)))
    axis.set(xlabel="epoch", ylabel="validation loss on its own part")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend()
    finding = f"In epoch {lengths[0] - 1} rank 0 is {lows[0]} epochs after its lowest loss, rank 1 {lows[1]}"
    axis.set_title(finding)
    figures.show(figure, f"The validation loss of each rank on its own part, epoch by epoch. {finding}.")
    print(where)


def judge(program: Program, seed: int) -> str:
    """Train on 2 and on 3 ranks that would stop at different epochs; compare with one process that plays all ranks."""
    stops = []
    for ranks in (2, 3):
        train, val, patience, expected = _disagreement(ranks, seed)
        with called_with(f"{ranks} ranks, {EPOCHS} epochs and a patience of {patience}"):
            runs = on_ranks(
                _train,
                *(program.train_until_stale, train, val, patience, seed),
                world_size=ranks,
                seconds=TIME_LIMIT,
                hang=HANG,
            )
        stops.append(_judge_runs(runs, expected))
    return (
        f"Healed: all ranks stop together, after {stops[0]} epochs on 2 ranks and {stops[1]} on 3, with equal weights."
    )


@dataclass(frozen=True)
class Expected:
    """What one process finds that plays all ranks: after each epoch the weights, and each rank's validation loss."""

    patience: int
    weights: list[list[torch.Tensor]]
    losses: list[list[float]]

    @property
    def own(self) -> list[int]:
        """After how many epochs each rank would stop by its own loss."""
        return [self._stops(column) for column in zip(*self.losses, strict=True)]

    @property
    def mean(self) -> int:
        """After how many they stop by the mean loss."""
        return self._stops([sum(row) for row in self.losses])

    @property
    def shared(self) -> set[int]:
        """After how many they may stop together: by the loss of one, by the mean, by their best, middle or worst loss,
        or when so many of them want to at once."""
        counts = [_stale(column) for column in zip(*self.losses, strict=True)]
        votes = [_first(ranked, self.patience) for ranked in _ranked(zip(*counts, strict=True))]
        return {*self.own, self.mean, *votes, *map(self._stops, _ranked(self.losses))}

    def _stops(self, losses: Sequence[float]) -> int:
        return _first(_stale(losses), self.patience)


@functools.cache  # it may take a second, and a check is run more than once
def _disagreement(ranks: int, seed: int) -> tuple[Part, Part, int, Expected]:
    """Return data, and a patience, with which the ranks would part, and stop before the last epoch."""
    for attempt in range(40):
        first = (211 * seed + 97 * attempt) % 3500
        images, labels = mnist()[first : first + 48 * ranks + 24 * ranks]
        train, val = (images[: 48 * ranks], labels[: 48 * ranks]), (images[48 * ranks :], labels[48 * ranks :])
        patience = 1 + 2 * ((seed + ranks) % 2)  # with 2 ranks a different one than with 3, and never the program's
        expected = _play(train, val, ranks, patience, seed)
        two = _first(_stale([sum(row) for row in expected.losses]), 2)
        if min(expected.own) < max(expected.own) and two not in expected.shared and max(expected.shared) < EPOCHS - 1:
            return train, val, patience, expected
    raise AssertionError(f"no data of seed {seed} on which {ranks} ranks disagree")


def _share(part: Part, rank: int, ranks: int) -> Part:
    return part[0][rank::ranks], part[1][rank::ranks]


def _play(train: Part, val: Part, ranks: int, patience: int, seed: int) -> Expected:
    model = model_of_ranks(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)
    shares = [_share(train, rank, ranks) for rank in range(ranks)]
    losses, weights = [], []
    for _ in range(EPOCHS):
        for batch in torch.arange(len(shares[0][0])).split(BATCH):
            step_of_ranks(model, optimizer, [(images[batch], labels[batch]) for images, labels in shares])
        with torch.no_grad():
            own = [_share(val, rank, ranks) for rank in range(ranks)]
            losses.append([F.cross_entropy(model(images), labels).item() for images, labels in own])
        weights.append(copies(model.parameters()))
    return Expected(patience, weights, losses)


def _ranked(rows: Iterable[Sequence[float]]) -> list[tuple[float, ...]]:
    """Return after each epoch the smallest number of the ranks, the second smallest, and so on."""
    return list(zip(*(sorted(row) for row in rows), strict=True))


def _stale(losses: Sequence[float]) -> list[int]:
    """Return after each epoch how many epochs ago the best loss was found."""
    best = [losses.index(min(losses[: end + 1])) for end in range(len(losses))]
    return [end - found for end, found in enumerate(best)]


def _first(stale: Sequence[float], patience: int) -> int:
    """Return after how many epochs the patience ends; all of them if it does not."""
    return next((epoch for epoch, count in enumerate(stale, start=1) if count >= patience), len(stale))


Run = tuple[list[float] | None, list[torch.Tensor], int]
"""The losses that a rank returned, one for each epoch until it stopped (None: no numbers), its weights, and
how many of its all-reduces ended in an error."""


def _train(train_until_stale: Callable, train: Part, val: Part, patience: int, seed: int) -> Run:
    rank, ranks = dist.get_rank(), dist.get_world_size()
    model = model_of_ranks(seed)
    shares = _share(train, rank, ranks), _share(val, rank, ranks)
    reduce, failed = dist.all_reduce, 0

    def noted(*given: Any, **more: Any) -> Any:
        nonlocal failed
        try:
            return reduce(*given, **more)
        except RuntimeError:
            failed += 1
            raise

    with unittest.mock.patch.object(dist, "all_reduce", noted):
        losses = train_until_stale(model, *shares, epochs=EPOCHS, patience=patience, lr=RATE)
    return numbers(losses), copies(model.parameters()), failed


def _judge_runs(runs: list[Run], expected: Expected) -> int:
    returned = [losses for losses, _, _ in runs if losses is not None]
    if len(returned) < len(runs):
        raise Wrong("wrong_type", "A list of validation losses was returned, one for each epoch, and no longer is.")
    epochs = [len(losses) for losses in returned]
    if len(set(epochs)) > 1:
        raise Wrong(
            "ranks_disagree",
            f"Nobody waits any more, but the ranks stop after {epochs} epochs, and those that go on train alone. "
            "One model needs one decision.",
        )
    alone = [rank for rank, (_, _, failed) in enumerate(runs) if failed]
    if alone:
        raise Wrong(
            "error_swallowed",
            f"In rank {alone[0]} an all-reduce failed, since another rank had left, and your code took that as a sign "
            "to stop. With NCCL there is no such error, only a wait. Which number would have told it before?",
        )
    count = epochs[0]
    if not 1 <= count <= EPOCHS:
        raise Wrong(
            "wrong_value",
            f"Each rank returns {counted(count, 'number')}. It was one validation loss per epoch trained.",
        )
    if not all(same(weights, expected.weights[count - 1], tolerance=1e-2) for _, weights, _ in runs):
        raise Wrong(
            "training_changed",
            f"Each rank returns {counted(count, 'number')}, and its weights are not those that so many epochs with "
            f"averaged gradients and the learning rate {RATE} lead to.",
        )
    if count == EPOCHS:
        raise Wrong(
            "never_stops",
            f"The ranks stay together for all {count} epochs. By then every one of them had its reason to stop, the "
            f"last after {max(expected.own)}. Stopping early was asked for.",
        )
    by_returned = {_first([*_stale(losses), 0], expected.patience) for losses in returned}  # count + 1: not yet
    if count not in expected.shared | by_returned:
        raise Wrong(
            "patience",
            f"The ranks stop together after {count} epochs. With a patience of {expected.patience} they would by their "
            f"own losses after {expected.own}, and by the mean loss after {expected.mean}. Whose patience ends there?",
        )
    for epoch, own in enumerate(expected.losses[:count]):
        for losses in returned:
            if not min(own) - 1e-2 < losses[epoch] < max(own) + 1e-2:
                raise Wrong(
                    "wrong_value",
                    f"The ranks stop together. But for epoch {epoch} a loss of {losses[epoch]:.3f} is returned, where "
                    f"the ranks find {', '.join(f'{loss:.3f}' for loss in own)}: neither one of these nor their mean.",
                )
    return count
