"""How a check talks: it runs what the learner wrote, and answers with a symptom and a hint, never with the solution.

A check is a function of the learner's function (or value). It raises `Wrong` for a mistake that it recognizes and
returns the sentence that is shown on success:

    @check
    def mean_of_gradients(learner):
        ...
        if too_large: raise Wrong("sum_not_mean", "Your gradients are 2 times too large: …")
        return "Right: checked on three inputs."

In the notebook, `mean_of_gradients(my_function, points=2)` never raises. It returns a `Checked`, which a learner
sees as a sentence and nbgrader reads as a number of points.
"""

import functools
import html
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torchcourse import journal, notice
from torchcourse.checks import errors, settings, unrun
from torchcourse.checks.errors import NotDone
from torchcourse.checks.limits import TimeIsUp, time_limit

__all__ = ["Checked", "NotDone", "State", "Wrong", "check"]

State = Literal["right", "wrong", "not done"]


class Wrong(Exception):
    """A mistake that a check recognized.

    Args:
        symptom: a short fixed name of the mistake, for the journal and for tests, such as `sum_not_mean`.
        hint: what is to be seen and where to look next, in one or two sentences. Never the solution.
    """

    def __init__(self, symptom: str, hint: str) -> None:
        super().__init__(hint)
        self.symptom = symptom
        self.hint = hint


@dataclass(frozen=True)
class Checked:
    """The answer of a check. Its `repr` is the number of points earned, which nbgrader reads as partial credit."""

    exercise: str
    state: State
    message: str
    points: float
    symptom: str | None = None

    @property
    def score(self) -> float:
        return self.points if self.state == "right" else 0.0

    def __repr__(self) -> str:
        return f"{self.score:g}"

    def _repr_html_(self) -> str:
        word = {"right": "Right", "wrong": "Not yet", "not done": "Not done yet"}[self.state]
        body = html.escape(self.message).replace("\n", "<br>")
        return notice.box("open" if self.state == "not done" else self.state, f"<b>{word}.</b> {body}")


def check(body: Callable[[Any], str]) -> Callable[..., Checked]:
    """Turn the body of a check into what a lesson's check cell calls: `name(learner, points=1) -> Checked`."""

    @functools.wraps(body)
    def run(learner: Any, points: float = 1) -> Checked:
        exercise = f"{_lesson(body.__module__)}.{body.__name__}"
        state, message, symptom = _judge(body, learner)
        if not_run := unrun.sentence():
            mend = "Mend that line, run the cell, then run this one again."
            message = f"{not_run} {mend}" if state == "not done" else f"{message}\n{not_run}"
        journal.record("check", exercise=exercise, state=state, symptom=symptom, message=message)
        return Checked(exercise, state, message, points, symptom)

    return run


def _lesson(module: str) -> str:
    """The lesson of a check as the journal names it, such as `lesson01`; the number stands in the wing, as `LESSON`."""
    package, _, rest = module.partition(".lessons.")
    wing = sys.modules.get(f"{package}.lessons.{rest.partition('.')[0]}")
    return f"lesson{wing.LESSON:02d}" if wing else module.rpartition(".")[2]


TIME_LIMIT = 90.0
"""Seconds for a check, less what it waits for ranks, which have limits of their own."""

ENDLESS = (
    "Your code was still running after {seconds:g} s, and was stopped. Does each of its loops end? "
    "If they do, it is too slow."
)


def _judge(body: Callable[[Any], str], learner: Any) -> tuple[State, str, str | None]:
    with settings.kept() as left:
        state, message, symptom = _verdict(body, learner)
    if left and state == "right":
        return "wrong", f"The answer is right, but {left[0]}", "mode_left_changed"
    if left and state == "wrong":  # it may be what the rest of the check stumbled over
        message += f"\nBesides, {left[0]}"
    return state, message, symptom


def _verdict(body: Callable[[Any], str], learner: Any) -> tuple[State, str, str | None]:
    if learner is ...:
        return "not done", errors.NOT_DONE, None
    try:
        with time_limit(TIME_LIMIT):
            return "right", body(learner), None
    except Wrong as wrong:
        return "wrong", wrong.hint, wrong.symptom
    except TimeIsUp as end:
        return "wrong", ENDLESS.format(seconds=end.seconds) + errors.still_at(end), "endless"
    except (Exception, SystemExit) as error:
        if errors.is_hole(error):
            return "not done", errors.hole_sentence(error), None
        kind = errors.kind_of(error)
        if kind == "Wrong":
            # Raised inside a rank, where only the class name and the text of the hint travel back.
            return "wrong", getattr(error, "message", str(error)), "in_a_rank"
        return "wrong", errors.sentence(error), f"raised_{kind}"
