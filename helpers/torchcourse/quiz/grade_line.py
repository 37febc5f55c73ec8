"""The typed answer of a quiz notebook: what the learner sees, and what nbgrader reads as points."""

import html
from typing import Any

from torchcourse import notice
from torchcourse.quiz import answers, texts


class Received:
    """An answer as it was typed. Its `repr` is the number of points, 0 as long as no key has been applied.

    It never raises because of what a learner typed: an answer that cannot be understood says so and earns nothing.
    """

    def __init__(self, lesson: str, question: str, answer: Any, kind: str, letters: str, points: float) -> None:
        self.lesson, self.question = lesson, question
        self.kind, self.letters, self.points = kind, letters, points
        self.answer: str | float | None = None
        self.trouble = ""
        self._share: float | None = None
        try:
            self.answer = answers.read(kind, answer, letters)
        except answers.AnswerError as error:
            self.trouble = str(error)

    def grade(self, key: Any, tolerance: float = 0.0) -> None:
        """Apply the key; the hidden test of the check cell calls this. See `answers.score` for what a key is."""
        self._share = answers.score(self.kind, self.answer, key, self.letters, tolerance)

    @property
    def score(self) -> float:
        return self.points * (self._share or 0.0)

    @property
    def message(self) -> str:
        if self.trouble:
            return texts.say("not_understood", reason=self.trouble)
        if self.answer is None:
            return texts.say("not_answered")
        if self._share is None:
            return texts.say("received", answer=answers.show(self.answer, self.kind))
        return texts.say("graded", score=f"{self.score:.3g}", points=f"{self.points:g}")

    def __repr__(self) -> str:
        return f"{self.score:.6g}"

    def _repr_html_(self) -> str:
        kind: notice.Kind = "wrong" if self.trouble else "open" if self.answer is None else "info"
        return notice.box(kind, html.escape(self.message))


def received(
    lesson: str, question: str, answer: Any, *, kind: str, letters: str = answers.LETTERS, points: float = 1
) -> Received:
    """Take the answer that a learner typed to a question of a quiz notebook.

    Args:
        lesson: the bank's name. question: the question's id.
        answer: what was typed; `...` as long as there is none.
        kind: what kind of answer the question takes, of `answers.KINDS`.
        letters: the letters of its choices or items.
        points: what a right answer earns.
    """
    return Received(lesson, question, answer, kind, letters, points)
