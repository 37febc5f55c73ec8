"""How a check talks: it runs what the learner wrote, and answers with a symptom and a hint, never with the solution.

A check is a function of the learner's function (or value). It raises `Wrong` for a mistake that it recognises and
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
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torchcourse import journal
from torchcourse.source_lines import Line, is_cell


class Wrong(Exception):
    """A mistake that a check recognised.

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
    state: Literal["right", "wrong", "not done"]
    message: str
    points: float
    symptom: str | None = None

    @property
    def score(self) -> float:
        return self.points if self.state == "right" else 0.0

    def __repr__(self) -> str:
        return f"{self.score:g}"

    def _repr_html_(self) -> str:
        colour, word = {
            "right": ("#009E73", "Right"),
            "wrong": ("#D55E00", "Not yet"),
            "not done": ("#7F7F7F", "Not done yet"),
        }[self.state]
        body = html.escape(self.message).replace("\n", "<br>")
        return (
            f'<div role="status" style="border-left:5px solid {colour};padding:.4em .8em;margin:.2em 0">'
            f"<b>{word}.</b> {body}</div>"
        )


def check(body: Callable[[Any], str]) -> Callable[..., Checked]:
    """Turn the body of a check into what a lesson's check cell calls: `name(learner, points=1) -> Checked`."""

    @functools.wraps(body)
    def run(learner: Any, points: float = 1) -> Checked:
        exercise = f"{_lesson(body.__module__)}.{body.__name__}"
        state, message, symptom = _judge(body, learner)
        journal.record("check", exercise=exercise, state=state, symptom=symptom, message=message)
        return Checked(exercise, state, message, points, symptom)

    return run


def _lesson(module: str) -> str:
    """The lesson of a check as the journal names it, such as `lesson01`; the number stands in the wing, as `LESSON`."""
    package, _, rest = module.partition(".lessons.")
    wing = sys.modules.get(f"{package}.lessons.{rest.partition('.')[0]}")
    return f"lesson{wing.LESSON:02d}" if wing else module.rpartition(".")[2]


NOT_DONE = "Fill in the exercise above, run it, then run this cell again."


def _judge(body: Callable[[Any], str], learner: Any) -> tuple[str, str, str | None]:
    if learner is ...:
        return "not done", NOT_DONE, None
    try:
        return "right", body(learner), None
    except Wrong as wrong:
        return "wrong", wrong.hint, wrong.symptom
    except NotImplementedError:
        return "not done", NOT_DONE, None
    except Exception as error:
        if _kind(error) == "NotImplementedError":
            return "not done", NOT_DONE, None
        if _kind(error) == "Wrong":
            # Raised inside a rank, where only the class name and the text of the hint travel back.
            return "wrong", getattr(error, "message", str(error)), "in_a_rank"
        return "wrong", _sentence(error), f"raised_{_kind(error)}"


def _kind(error: BaseException) -> str:
    """The class name of the error; for a `RankError`, of the error that the rank met."""
    return getattr(error, "kind", None) or type(error).__name__


def _sentence(error: Exception) -> str:
    """Say what the learner's code raised and at which line of the cell, without the frames of the check."""
    text = getattr(error, "message", None) or str(error)
    what = f"Your code stopped with {_kind(error)}: {text}" if text else f"Your code stopped with {_kind(error)}."
    where = ""
    if hasattr(error, "rank"):
        where = f"\nIt happened in rank {error.rank}. Run the exercise cell by itself to see the whole message."
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if is_cell(frame.filename):
            where = f"\nLine {frame.lineno} of your cell: {Line(frame.filename, frame.lineno or 0).text}"
            break
    return what + where
