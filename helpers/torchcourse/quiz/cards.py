"""One question to practise on: a card with buttons in a notebook, or answered by code.

    card("04_monitoring_and_checkpoints", "manage-training")
    card("04_monitoring_and_checkpoints", "manage-training").answer("AC", sure=2)

Every answer is a line in the journal. So is the reasoning behind a wrong one.
"""

import html
import os
from typing import TYPE_CHECKING, Any, cast

from torchcourse import journal, live
from torchcourse.quiz import answers, texts
from torchcourse.quiz.answers import SURE
from torchcourse.quiz.attempts import Attempt

if TYPE_CHECKING:
    from torchcourse.quiz.verdict import Verdict


def card(
    lesson: str, question: str, *, grade_line: bool = True, order: str = "", draw: int = 0, number: int | None = None
) -> "Card":
    """Show a question of a lesson's bank.

    Args:
        lesson: the bank's name, such as `04_monitoring_and_checkpoints`.
        question: the id of a question or of one of its variants.
        grade_line: whether to show the line to type for a grade, as in a quiz notebook.
        order: the order of the choices, in the letters of the bank's file. A quiz notebook gives its own, so that its
            letters stay those of the card when the bank changes; without one the choices stand as in the file.
        draw: the number of an order that a review or a final quiz drew; it goes before `order`.
        number: the question's number in its quiz notebook, where it differs from that in the bank: a notebook that was
            drawn for one student asks in wordings that the bank does not number.

    Raises:
        BankError: for a lesson or a question that does not exist; the message lists those that do.
    """
    if "NBGRADER_EXECUTION" in os.environ:
        return cast(Card, NotShown())
    from torchcourse.quiz import bank, choice_order

    found = bank.lesson(lesson)
    first, shown = found.question(question)
    shown = choice_order.redrawn(shown, draw) if draw else choice_order.in_file_order(shown, order)
    made = Card(found, first, shown, grade_line=grade_line and not draw, draw=draw)
    if number is not None:
        made.number = number
    return made


class NotShown:
    """In the place of a card while a notebook is graded: nobody looks at it, and the bank with its keys is hidden."""

    def answer(self, *_answer: Any, **_more: Any) -> "NotShown":
        return self

    def _repr_mimebundle_(self, **_kinds: Any) -> dict[str, str]:
        return {"text/plain": ""}


class Card(Attempt):
    """A question and the learner's answer to it. Show it in a notebook, or call `answer`."""

    renew: live.Replace = staticmethod(live.unseen)

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

    def _line(self) -> str:
        """The line that answers by code, in any notebook."""
        from torchcourse.quiz import choice_order

        order = choice_order.moved(self.question)
        drawn = f", draw={self.draw}" if self.draw else f', order="{order}"' if order else ""
        call = f'card("{self.lesson}", "{self.question.id}"{drawn}).answer({self._example()}, sure=2)'
        return f"from torchcourse.quiz import card; {call}"

    def _example(self) -> str:
        """Return an answer of the form that the question asks for, as it is typed in code."""
        typed = {"number": "0.5", "text": '"word"', "open": '"…"', "order": f'"{self.question.letters}"'}
        return typed.get(self.question.kind, '"A"')

    def __repr__(self) -> str:
        from torchcourse.quiz import render

        language = texts.current()
        past = render.past(self.question, self.last(), language)
        head = render.heading(self.title, self.question, self.number, language, past)
        return render.plain_text(self.question, head, language, texts.say("by_code", how=self._line()))

    def _repr_html_(self) -> str:
        """Return what stays when nothing can be clicked: the question, one's last answer, and how to go on."""
        from torchcourse.quiz import render

        language, last = texts.current(), self.last(same=True)
        told, past = "", render.past(self.question, self.last(), language)
        if last and last.get("form") == self.question.kind:
            told, past = render.told_html(self.question, last, language, fresh=journal.when(last) >= self.begun), ""
        head = render.heading(self.title, self.question, self.number, language, past)
        how = texts.say("by_code", how=f"<code>{html.escape(self._line())}</code>")
        return render.static_html(self.question, head, language, how, told)

    def _ipython_display_(self) -> None:
        self.renew = live.show(self.widget, self._repr_html_(), repr(self))

    def widget(self) -> Any:
        """Return the card as a widget."""
        from torchcourse.quiz.widget import CardForm

        return CardForm(self, lambda _form: self.renew(self._repr_html_(), repr(self)))


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
