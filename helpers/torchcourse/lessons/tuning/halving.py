"""Stopping early: successive halving, and ASHA, which never waits for a rung to fill.

    asha(Search(accuracies, budget=90), random_settings(SPACE, seed=0))

Trials climb **rungs**: here 1, 3 and 9 epochs. At each rung the best third goes on.
Sources: Jamieson and Talwalkar 2016, https://arxiv.org/abs/1502.07943 (successive halving);
Li et al. 2020, https://arxiv.org/abs/1810.05934 (ASHA, algorithm 2).
"""

import itertools
from collections.abc import Callable, Iterable, Sequence

from torchcourse.lessons.tuning.search import Search, Settings

RUNGS = (1, 3, 9)
"""Epochs at which trials are compared; the last one is the end."""

KEEP = 3
"""One trial of so many goes on."""


def successive_halving(search: Search, settings: Iterable[Settings], rungs: Sequence[int] = RUNGS) -> None:
    """Start as many trials as the budget carries to the end; after each rung, go on with the best third.

    Raises:
        ValueError: for a budget that does not carry one trial to the last rung.
    """
    count = KEEP ** (len(rungs) - 1)
    if not search.affords(_epochs(count, rungs)):
        raise ValueError(
            f"{count} trials on the rungs {', '.join(map(str, rungs))} take {_epochs(count, rungs)} epochs; "
            f"the budget has {search.budget - search.spent} left."
        )
    while search.affords(_epochs(count + 1, rungs)):
        count += 1
    trials = [search.start(setting) for setting in itertools.islice(settings, count)]
    for rung in rungs:
        for trial in trials:
            search.train(trial, rung)
        trials = sorted(trials, key=lambda trial: trial.values[-1], reverse=True)[: len(trials) // KEEP]


def asha(
    search: Search,
    settings: Iterable[Settings],
    rungs: Sequence[int] = RUNGS,
    promote: Callable[[list[dict[int, float]], list[set[int]]], tuple[int, int] | None] | None = None,
) -> None:
    """Promote a trial whenever one has earned it, else start another one, until the budget is spent.

    Args:
        search: its objective and its budget.
        settings: what new trials start with, in this order.
        rungs: epochs at which trials are compared.
        promote: the rule that decides; `promotion` by default.
    """
    promote = promote or promotion
    source = iter(settings)
    values: list[dict[int, float]] = [{} for _ in rungs]
    promoted: list[set[int]] = [set() for _ in rungs]
    while True:
        job = promote(values, promoted)
        if job is None:
            rung, before = 0, 0
        else:
            rung, before = job[1] + 1, rungs[job[1]]
        if not search.affords(rungs[rung] - before):
            return
        if job is None:
            trial = search.start(next(source))
        else:
            trial = search.trials[job[0]]
            promoted[job[1]].add(job[0])
        values[rung][trial.number] = search.train(trial, rungs[rung])


def promotion(values: Sequence[dict[int, float]], promoted: Sequence[set[int]]) -> tuple[int, int] | None:
    """Return (trial, the rung it leaves), or None where a new trial should start.

    Args:
        values: for each rung from the lowest, trial → its value there.
        promoted: for each rung, the trials that have gone on from it already.

    From the highest rung down: a trial may go on if it is among the best third of all that reached its rung.
    """
    for rung in reversed(range(len(values) - 1)):
        ranked = sorted(values[rung], key=values[rung].__getitem__, reverse=True)
        for trial in ranked[: len(ranked) // KEEP]:
            if trial not in promoted[rung]:
                return trial, rung
    return None


def _epochs(count: int, rungs: Sequence[int]) -> int:
    """Return the epochs that successive halving takes for so many trials."""
    total, before = 0, 0
    for rung in rungs:
        total, before, count = total + count * (rung - before), rung, count // KEEP
    return total
