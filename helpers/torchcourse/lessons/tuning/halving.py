"""Stopping early: successive halving, and ASHA, which never waits for a rung to fill.

    asha(Search(accuracies, budget=90), random_settings(SPACE, seed=0))

Trials climb **rungs**: here 1, 3 and 9 epochs. At each rung the best third goes on.
Sources: Jamieson and Talwalkar 2016, https://arxiv.org/abs/1502.07943 (successive halving);
Li et al. 2020, https://arxiv.org/abs/1810.05934 (ASHA, algorithm 2).
"""

import itertools
from collections.abc import Callable, Iterable, Sequence

from torchcourse.lessons.tuning.search import Search, Settings, check_epochs

RUNGS = (1, 3, 9)
"""Epochs at which trials are compared; the last one is the end."""

KEEP = 3
"""One trial of so many goes on."""


def successive_halving(search: Search, settings: Iterable[Settings], rungs: Sequence[int] = RUNGS) -> None:
    """Start as many trials as the budget carries to the end; after each rung, go on with the best third.

    Of fewer than three the best goes on, as where the settings run out: one trial gets to the last rung.
    A search that was stopped on the way goes on where it was.

    Raises:
        ValueError: for a budget that does not carry one trial to the last rung, and for rungs that do not ascend.
    """
    check_epochs(rungs)
    trials = list(search.trials)
    budget = search.budget - search.spent + sum(trial.epochs for trial in trials)
    count = KEEP ** (len(rungs) - 1)
    if _epochs(count, rungs) > budget:
        raise ValueError(
            f"{count} trials on the rungs {', '.join(map(str, rungs))} take {_epochs(count, rungs)} epochs; "
            f"the budget has {budget} left."
        )
    while _epochs(count + 1, rungs) <= budget:
        count += 1
    new = itertools.islice(search.fresh(settings), max(count - len(trials), 0))
    trials += [search.start(setting) for setting in new]
    for rung in rungs:
        for trial in trials:
            if not search.affords(search.cost(trial, rung)):
                return
            search.train(trial, rung)
        ranked = sorted(trials, key=lambda trial: trial.value_after(rung), reverse=True)
        trials = ranked[: max(len(trials) // KEEP, 1)]


def asha(
    search: Search,
    settings: Iterable[Settings],
    rungs: Sequence[int] = RUNGS,
    promote: Callable[[list[dict[int, float]], list[set[int]]], tuple[int, int] | None] | None = None,
) -> None:
    """Promote a trial whenever one has earned it, else start another one, until the budget is spent.

    A search that was stopped goes on where it was: each trial stands on the rung that it had reached.

    Args:
        search: its objective and its budget.
        settings: what new trials start with, in this order.
        rungs: epochs at which trials are compared.
        promote: the rule that decides; `promotion` by default.

    Raises:
        ValueError: for rungs that do not ascend.
    """
    check_epochs(rungs)
    promote = promote or promotion
    source = search.fresh(settings)
    for trial in [trial for trial in search.trials if not trial.failed and trial.epochs < rungs[-1]]:
        rung = next(rung for rung in rungs if rung >= trial.epochs)
        if not search.affords(search.cost(trial, rung)):
            return
        search.train(trial, rung)
    values, promoted = _standing(search, rungs)
    while True:
        job = promote(values, promoted)
        if job is not None:
            rung, trial = job[1] + 1, search.trials[job[0]]
            if not search.affords(search.cost(trial, rungs[rung])):
                return
            promoted[job[1]].add(job[0])
        else:
            setting = next(source, None) if search.affords(rungs[0]) else None
            if setting is None:
                return
            rung, trial = 0, search.start(setting)
        values[rung][trial.number] = search.train(trial, rungs[rung])


def _standing(search: Search, rungs: Sequence[int]) -> tuple[list[dict[int, float]], list[set[int]]]:
    """Return the values at each rung and who has gone on from it. A failed trial is the worst where it fell."""
    values: list[dict[int, float]] = [{} for _ in rungs]
    for trial in search.trials:
        for place, rung in enumerate(rungs):
            fell = trial.failed and (place == 0 or trial.epochs >= rungs[place - 1])
            if trial.epochs >= rung or fell:
                values[place][trial.number] = trial.value_after(rung)
    return values, [*(set(higher) for higher in values[1:]), set()]


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
