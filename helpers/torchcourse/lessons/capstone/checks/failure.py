"""The check of milestone M4: the diagnosis of the colleague's run."""

import contextlib
import copy
import random
from collections import defaultdict
from collections.abc import Callable
from types import EllipsisType
from typing import Any

import numpy as np

from torchcourse.checks import NotDone, Wrong, check
from torchcourse.lessons.capstone import _planted
from torchcourse.lessons.capstone.colleague import CAUSES
from torchcourse.lessons.capstone.records import Records


@check
def diagnosis(learner: tuple[str | EllipsisType, str, Callable[[Records], bool]]) -> str:
    """Try the learner's test on runs with the same failure, with none, and with different ones; then the name.

    Of a name without evidence nothing is said: it is judged when the test tells the run from all others.
    """
    name, cause, shows = learner
    if isinstance(name, EllipsisType) or isinstance(cause, EllipsisType):
        raise NotDone("Write your name and the cause in the cell above.")
    if not isinstance(cause, str) or cause not in CAUSES:
        raise Wrong("unknown_cause", f"{cause!r} is not among the causes. Print CAUSES, and take one of its names.")
    runs = _planted.known_runs(name)
    random.SystemRandom().shuffle(runs)  # a test that counts its calls is no evidence
    rings: dict[str, list[bool]] = defaultdict(list)
    for kind, run in runs:
        given = copy.deepcopy(run)
        rings[kind].append(_answer(shows(given)))
        if changed := [name for name, value in vars(run).items() if not _equal(vars(given)[name], value)]:
            raise Wrong(
                "inputs_changed",
                f"Your test has changed `{changed[0]}` of the records that it was given. Whoever looks at them next "
                "sees different evidence: work on a copy.",
            )
    if any(rings["healthy"]):
        raise Wrong(
            "rings_for_healthy",
            f"Your test is true of {sum(rings['healthy'])} of {len(rings['healthy'])} runs in which nothing is wrong. "
            "What does it measure that a healthy run does not show?",
        )
    if not all(rings["own"]):
        raise Wrong(
            "misses_own",
            "Your test is false of a run with your failure, other pictures and different random numbers. "
            "Does it depend on what was drawn, or is its limit too near to your run?",
        )
    if any(rings["other"]):
        raise Wrong(
            "rings_for_others",
            f"Your test is true of {sum(rings['other'])} of {len(rings['other'])} runs that have a different failure. "
            "It sees that something is wrong, and not what. Which record can only your failure change?",
        )
    if cause != _planted.drawn(name):
        raise Wrong(
            "wrong_name",
            f"Your test tells your run from all others, but {CAUSES[cause]!r} is not what it shows. "
            "Say in words what the numbers are, then read the causes again.",
        )
    return f"Your test is true of all {len(rings['own'])} runs with this failure, and of none of the others."


def _equal(one: Any, other: Any) -> bool:
    return np.array_equal(one, other) if isinstance(other, np.ndarray) else one == other


def _answer(found: Any) -> bool:
    several = isinstance(found, list | tuple) and found and all(isinstance(one, bool | np.bool_) for one in found)
    if found is not None and not isinstance(found, str) and not several:
        with contextlib.suppress(ValueError, RuntimeError):  # an array or a tensor of several
            return bool(found)
    raise Wrong(
        "not_one_answer",
        f"Your test returns {found!r:.60}, and a run has one answer, True or False. Where there are several: does the "
        "failure show in any of them, or in all?",
    )
