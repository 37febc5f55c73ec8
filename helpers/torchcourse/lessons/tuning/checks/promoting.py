"""The check of lesson 03's exercise 3 of notebook 1: which trial ASHA lets go on."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import refuse_known, result_of, same
from torchcourse.error_bars import paired
from torchcourse.lessons.tuning.comparison import METHODS, compare
from torchcourse.lessons.tuning.digits_task import SPACE
from torchcourse.lessons.tuning.halving import asha
from torchcourse.lessons.tuning.search import random_settings

Promotion = Callable[[list[dict[int, float]], list[set[int]]], tuple[int, int] | None]

BUDGET, SEEDS = 90, range(40)


@check
def promotion(learner: Promotion) -> str:
    """Ask for single decisions, then run ASHA with it on the trained table, against random search."""
    _judge_decisions(learner)
    methods = {
        "random": METHODS["random"],
        "yours": lambda search, seed: asha(search, random_settings(SPACE, seed), promote=learner),
    }
    scores = compare(methods, (BUDGET,), SEEDS)
    gain = paired(scores["yours"][0], scores["random"][0])
    if gain.low <= 0:
        raise Wrong(
            "not_better", f"With {BUDGET} epochs per search, 40 pairs: {gain.in_points()}. It should be above zero."
        )
    return f"{BUDGET} epochs, 40 pairs of searches, ASHA against random search: {gain.in_points()}."


def _judge_decisions(learner: Promotion) -> None:
    for case in _CASES:
        rungs = [*case.rungs, *({} for _ in range(3 - len(case.rungs)))]
        gone = [*case.gone, *(set[int]() for _ in range(len(rungs) - len(case.gone)))]
        given = _decision(learner, rungs, gone)
        if not same(given, case.right):
            refuse_known(given, case.known)
            raise Wrong(case.symptom, f"{case.hint} You return {given!r}.")


def _decision(learner: Promotion, rungs: list[dict[int, float]], gone: list[set[int]]) -> Any:
    given = result_of(learner, rungs, gone, what="`values` or `promoted`, which ASHA keeps")
    if given is not None and not (isinstance(given, tuple | list) and len(given) == 2):
        raise Wrong("wrong_type", f"Return (trial, rung), or None where a new one should start. You return {given!r}.")
    return given


@dataclass(frozen=True)
class _Case:
    """What is at each rung, who has gone on from it, the right decision, and how each other one is refused.

    Rungs that are left out, of three, are empty; nobody has gone on from them.
    """

    rungs: list[dict[int, float]]
    gone: list[set[int]]
    right: tuple[int, int] | None
    symptom: str
    hint: str
    known: dict[str, tuple[Any, str]] = field(default_factory=dict)


_LOW = {0: 0.2, 1: 0.5, 2: 0.9, 3: 0.8, 4: 0.7, 5: 0.1, 6: 0.3}
_MIDDLE, _LAST = {2: 0.91, 3: 0.95, 4: 0.2}, {2: 0.91, 3: 0.95, 4: 0.97}

_CASES = [
    _Case([{0: 0.5, 1: 0.4}], [], None, "too_early", "Two trials at a rung: a third of two is nobody yet."),
    _Case(
        [_LOW],
        [],
        (2, 0),
        "not_the_best",
        "Trial 2 has earned it, from the rung 0: (2, 0).",
        {
            "never": (None, f"Seven trials are at the rung 0, with {_LOW}: nobody is promoted."),
            "worst": ((5, 0), "Trial 5 is promoted, and it has the lowest value of all."),
        },
    ),
    _Case(
        [{0: 0.8, 1: 0.9, 2: 0.1, 3: 0.2, 4: 0.3, 5: 0.4}],
        [],
        (1, 0),
        "not_the_best",
        "Trials 0 and 1 have earned it, with 0.8 and 0.9. The best one goes first: (1, 0).",
    ),
    _Case(
        [_LOW],
        [{2}],
        (3, 0),
        "one_only",
        "A third of seven is two, and trial 3 is the second.",
        {"twice": ((2, 0), "Trial 2 is promoted a second time from the same rung.")},
    ),
    _Case(
        [_LOW],
        [{1, 6}],
        (2, 0),
        "places_taken",
        "Trials 1 and 6 went on early and are not in the best third any more. That takes nothing from trial 2: (2, 0).",
    ),
    _Case(
        [_LOW],
        [{2, 3}],
        None,
        "remaining",
        "Trials 2 and 3 are the third of seven, and have gone on; nobody else is among them.",
    ),
    _Case(
        [_LOW, _MIDDLE],
        [{2}],
        (3, 1),
        "middle",
        "Trial 3 has earned it at the rung 1: (3, 1).",
        {
            "bottom_first": (
                (3, 0),
                "Both rungs have a trial to promote. The higher one goes first: it is nearer the end.",
            )
        },
    ),
    _Case(
        [_LOW, {2: 0.91}],
        [{2}],
        (3, 0),
        "looks_no_further",
        "At the rung 1 is one trial, and nobody goes on from there yet. At the rung 0 trial 3 has earned it: (3, 0).",
    ),
    _Case(
        [_LOW, _MIDDLE],
        [{2, 3}],
        (3, 1),
        "went_on_before",
        "Trial 3 has gone on from the rung 0, and has earned it at the rung 1 as well: (3, 1).",
    ),
    _Case(
        [_LOW | {2: 0.97}, _MIDDLE],
        [{3}],
        (3, 1),
        "highest_value",
        "Trial 2 has 0.97 at the rung 0, trial 3 has 0.95 at the rung 1. The highest rung goes first, whatever the "
        "values: (3, 1).",
    ),
    _Case(
        [_LOW, _MIDDLE, _LAST],
        [{2, 3}, {3}],
        None,
        "last_rung",
        "The last rung is the end, nobody goes on from there.",
    ),
    _Case(
        [_LOW, _MIDDLE, _LAST, {}],
        [{2, 3}, {3}],
        (4, 2),
        "four_rungs",
        "Here are four rungs, and trial 4 has earned it at the rung 2: (4, 2). Count the rungs that you are given.",
    ),
]
