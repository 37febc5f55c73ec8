"""One question to practise on: a card with buttons in a notebook, or answered by code.

    card("04_monitoring_and_checkpoints", "manage-training")
    card("04_monitoring_and_checkpoints", "manage-training").answer("AC", sure=2)

Every answer is a line in the journal. So is the reasoning behind a wrong one.
"""

import html
import os
from collections.abc import Sequence
from typing import Any, cast

from torchcourse import journal, live
from torchcourse.quiz import answers, bank, choice_order, render, texts
from torchcourse.quiz.answers import SURE
from torchcourse.quiz.attempts import Attempt
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
    found = bank.lesson(lesson)
    first, shown = found.question(question)
    if number is None and grade_line and not draw:
        number = found.number(shown)
    shown = choice_order.redrawn(shown, draw) if draw else choice_order.in_file_order(shown, order)
    return Card(found, first, shown, number=number, draw=draw)


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
            return Feedback("'sure' is 1 for guessing, 2 for fairly sure, or 3 for certain.")
        question = self.question
        try:
            read = answers.read(question.kind, answer, question.letters)
        except answers.AnswerError as error:
            return Feedback(str(error))
        if read is None:
            return Feedback(texts.say("first"))
        if question.kind != "open" or self.keyless:
            verdict = self.check(read, sure)
        elif said is None:
            self.write(str(read), sure)
            return Feedback(f"{render.model_answer_text(question)}\n\n{texts.say('tick_by_code')}")
        else:
            verdict = self.tick(str(read), sure, said, thought or [])
        reasoning = "" if verdict.right else reasoning
        if reasoning:
            self.reason(read, reasoning)
        shown = render.feedback_html(verdict, question, reasoning)
        return Feedback(render.feedback_text(verdict, question, reasoning), shown, verdict)

    def _line(self) -> str:
        """The line that answers by code, in any notebook."""
        order = choice_order.moved(self.question)
        drawn = f", draw={self.draw}" if self.draw else f', order="{order}"' if order else ""
        call = f'card("{self.lesson}", "{self.question.id}"{drawn}).answer({self._example()}, sure=2)'
        return f"from torchcourse.quiz import card; {call}"

    def _example(self) -> str:
        """Return an answer of the form that the question asks for, as it is typed in code."""
        typed = {"number": "0.5", "text": '"word"', "open": '"…"', "order": f'"{self.question.letters}"'}
        return typed.get(self.question.kind, '"A"')

    def __repr__(self) -> str:
        head = self.heading(render.past(self.question, self.last()))
        return render.plain_text(self.question, head, texts.say("by_code", how=self._line()))

    def _repr_html_(self) -> str:
        """Return what stays when nothing can be clicked: the question, one's last answer, and how to go on."""
        last = self.last(same=True)
        told, past = "", render.past(self.question, self.last())
        if last and last.get("form") == self.question.kind:
            told, past = render.told_html(self.question, last, fresh=journal.when(last) >= self.begun), ""
        how = texts.say("by_code", how=f"<code>{html.escape(self._line())}</code>")
        return render.static_html(self.question, self.heading(past), how, told)

    def _ipython_display_(self) -> None:
        self.renew = live.show(self.widget, self._repr_html_(), repr(self))

    def widget(self) -> Any:
        """Return the card as a widget."""
        from torchcourse.quiz.widget import CardForm

        return CardForm(self, lambda _form: self.renew(self._repr_html_(), repr(self)))


class Feedback:
    """What a card answers to `answer`: a sentence, the model answer to compare with, or the verdict and its reasons."""

    def __init__(self, text: str, shown: str = "", verdict: Verdict | None = None) -> None:
        self.text, self.shown = text, shown
        self.right = verdict.right if verdict else None

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str | None:
        return f'{render.STYLE}<div class="tc-card">{self.shown}</div>' if self.shown else None


class Deck:
    """Cards under a few sentences."""

    def __init__(self, lines: list[str], cards: Sequence[Card] = ()) -> None:
        self.lines, self.cards = lines, list(cards)

    def __repr__(self) -> str:
        return "\n\n".join([*self.lines, *map(repr, self.cards)])

    def _repr_html_(self) -> str:
        return render.sentences(self.lines) + "".join(card._repr_html_() for card in self.cards)

    def _ipython_display_(self) -> None:
        from IPython.display import HTML, display

        display(HTML(render.sentences(self.lines)), *self.cards)
