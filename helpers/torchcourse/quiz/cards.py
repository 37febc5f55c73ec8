"""One question to practise on: a card with buttons in a notebook, or answered by code.

    card("04_monitoring_and_checkpoints", "manage-training")
    card("04_monitoring_and_checkpoints", "manage-training").answer("AC", sure=2)

Every answer is a line in the journal. So is the reasoning behind a wrong one.
"""

from typing import TYPE_CHECKING, Any

from torchcourse.quiz import answers, texts
from torchcourse.quiz.answers import SURE
from torchcourse.quiz.attempts import Attempt

if TYPE_CHECKING:
    from torchcourse.quiz.verdict import Verdict


def card(lesson: str, question: str, *, grade_line: bool = True) -> "Card":
    """Show a question of a lesson's bank.

    Args:
        lesson: the bank's name, such as `04_monitoring_and_checkpoints`.
        question: the id of a question or of one of its variants.
        grade_line: whether to show the line to type for a grade, as in a quiz notebook.

    Raises:
        BankError: for a lesson or a question that does not exist; the message lists those that do.
    """
    from torchcourse.quiz import bank

    found = bank.lesson(lesson)
    first, shown = found.question(question)
    return Card(found, first, shown, grade_line=grade_line)


class Card(Attempt):
    """A question and the learner's answer to it. Show it in a notebook, or call `answer`."""

    def answer(
        self,
        answer: Any,
        sure: int | None = None,
        reasoning: str = "",
        *,
        said: list[int] | None = None,
        thought: list[int] | None = None,
    ) -> "Feedback":
        """Answer by code, where buttons do not show, and return the feedback.

        Args:
            answer: letters such as "AC", a number, or a text, as the question asks.
            sure: 1 for guessing, 2 for fairly sure, 3 for certain.
            reasoning: what you thought; it is kept for your review if the answer was wrong.
            said, thought: for an open question, the numbers that you tick in its two lists after reading the model
                answer. Without `said`, the model answer and the lists are shown.
        """
        if sure is not None and sure not in SURE:
            return Feedback(self, "'sure' is 1 for guessing, 2 for fairly sure, or 3 for certain.")
        try:
            read = answers.read(self.question.kind, answer, self.question.letters)
        except answers.AnswerError as error:
            return Feedback(self, str(error))
        if read is None:
            return Feedback(self, texts.say("first"))
        if self.question.kind != "open" or self.keyless:
            verdict = self.check(read, sure)
        elif said is None:
            self.write(str(read), sure)
            return Feedback(self, compare=True)
        else:
            verdict = self.tick(str(read), sure, said, thought or [])
        if reasoning and not verdict.right:
            self.reason(read, reasoning)
        return Feedback(self, verdict=verdict, reasoning="" if verdict.right else reasoning)

    def _how(self) -> str:
        example = {"number": "0.5", "text": '"word"', "open": '"…"'}.get(self.question.kind, '"A"')
        return f'quiz.card("{self.lesson}", "{self.question.id}").answer({example}, sure=2)'

    def __repr__(self) -> str:
        from torchcourse.quiz import render

        how = texts.say("by_code", how=self._how())
        return render.plain_text(self.question, self.number, texts.current(), how)

    def _repr_mimebundle_(self, **_kwargs: Any) -> dict[str, Any]:
        from torchcourse.quiz import render

        how = texts.say("by_code", how=self._how())
        static = render.static_html(self.question, self.number, texts.current(), how)
        return {"text/plain": repr(self), "text/html": static} | widget_bundle(self.widget)

    def widget(self) -> Any:
        """Return the card as an ipywidget."""
        from torchcourse.quiz.widget import CardWidget

        return CardWidget(self).box


class Feedback:
    """What a card answers to `answer`: a sentence, the model answer to compare with, or the verdict and its reasons."""

    def __init__(
        self,
        card: Card,
        message: str = "",
        *,
        compare: bool = False,
        verdict: "Verdict | None" = None,
        reasoning: str = "",
    ) -> None:
        self.card, self.message, self.compare = card, message, compare
        self.verdict, self.reasoning = verdict, reasoning

    @property
    def right(self) -> bool | None:
        return None if self.verdict is None else self.verdict.right

    def __repr__(self) -> str:
        from torchcourse.quiz import render

        if self.verdict is not None:
            return render.feedback_text(self.verdict, self.card.question, texts.current(), self.reasoning)
        if self.compare and self.card.question.kind == "open":
            return f"{render.model_answer_text(self.card.question, texts.current())}\n\n{texts.say('tick_by_code')}"
        return self.message

    def _repr_html_(self) -> str | None:
        from torchcourse.quiz import render

        if self.verdict is None:
            return None
        inner = render.feedback_html(self.verdict, self.card.question, texts.current(), self.reasoning)
        return f'{render.STYLE}<div class="tc-card">{inner}</div>'


def widget_bundle(make: Any) -> dict[str, Any]:
    """Return what a notebook needs to show the widget that `make` returns; nothing where there are no widgets."""
    try:
        import ipywidgets  # noqa: F401
    except ImportError:
        return {}
    view = {"version_major": 2, "version_minor": 0, "model_id": make().model_id}
    return {"application/vnd.jupyter.widget-view+json": view}
