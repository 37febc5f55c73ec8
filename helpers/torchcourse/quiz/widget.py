"""The card and the prediction as forms. What is said comes from `render`, what is done from an `Attempt`."""

import html
from collections.abc import Callable

from torchcourse import journal
from torchcourse.quiz import answers, markup, render, texts
from torchcourse.quiz.answers import SURE
from torchcourse.quiz.attempts import Attempt
from torchcourse.quiz.form import Form, Values
from torchcourse.quiz.questions import OpenQuestion
from torchcourse.quiz.verdict import Verdict

_last_forms: dict[tuple[str, str, str], "CardForm"] = {}
"""The form that each question was put in last, by journal, lesson and question."""


class CardForm(Form):
    """The form of one card. The answer, the confidence and the reasoning survive a change of language.

    Args:
        card: the question, and what judges an answer to it.
        changed: called after each answer that was written down.
    """

    def __init__(self, card: Attempt, changed: Callable[["CardForm"], object] = lambda form: None) -> None:
        self.card, self.question, self.changed = card, card.question, changed
        self.last = card.last()
        self.verdict: Verdict | None = None
        self.checked: tuple[str | float, int] | None = None
        self.reasoning: str | None = None
        """What the learner thought, None until that was asked and answered; it may be empty."""
        self.raw: list[str] = []
        self.compares = self.question.kind == "open" and not card.keyless
        super().__init__(self._begun_before())

    @property
    def asks_reason(self) -> bool:
        return self.is_wrong and self.reasoning is None and self.card.asks_reasoning

    @property
    def is_wrong(self) -> bool:
        return self.verdict is not None and self.verdict.right is False and not self.compares

    def _begun_before(self) -> Values:
        """Let go of the form that put this question last, as a cell that runs again takes it off the page.

        Its reasoning that was begun goes into the journal. Its text that was never checked is returned, to go on with.
        """
        key = (str(journal.path()), self.card.lesson, self.question.id)
        before, _last_forms[key] = _last_forms.get(key), self
        if before is None:
            return {}
        if before.asks_reason:
            before._record_reason()
        if self.question.kind != "open" or before.checked is not None:
            return {}
        return {name: before.values[name] for name in ("answer", "sure") if name in before.values}

    # What happens

    def act(self, action: str, value: str) -> bool:
        if self.values.get("answer", []) != self.raw:
            self._start_over()
        if action == "language":
            texts.choose(value)
        elif action == "check":
            return self._check()
        elif action == "why" and self.asks_reason:
            self._record_reason()
            self.reasoning = self.first("reason").strip()
            self.changed(self)
            return True
        elif action == "done" and self.checked is not None:
            answer, sure = self.checked
            said, thought = ([int(number) for number in self.values.get(name, [])] for name in ("said", "thought"))
            self.verdict = self.card.tick(str(answer), sure, said, thought)
            self.changed(self)
            return True
        return False

    def _check(self) -> bool:
        answer, sure, _trouble = self._given()
        if answer is None or sure is None or self.checked == (answer, sure):
            return False
        self.checked, self.reasoning = (answer, sure), None
        if self.compares:
            self.card.write(str(answer), sure)
        else:
            self.verdict = self.card.check(answer, sure)
        self.changed(self)
        return True

    def _start_over(self) -> None:
        """Take the feedback away, since it is about a different answer; a reasoning that was begun is kept first."""
        if self.asks_reason:
            self._record_reason()
        self.raw = self.values.get("answer", [])
        self.verdict = self.checked = self.reasoning = None
        self.values = {name: held for name, held in self.values.items() if name in ("answer", "sure")}

    def _record_reason(self) -> None:
        text = self.first("reason").strip()
        if text and self.checked:
            self.card.reason(self.checked[0], text)

    def _given(self) -> tuple[str | float | None, int | None, str]:
        """Return the answer in its normal form, how sure it is, and what is wrong with one that is not understood."""
        typed = "".join(self.values.get("answer", [])).strip()
        try:
            answer = answers.read(self.question.kind, typed, self.question.letters)
        except answers.AnswerError as error:
            return None, None, str(error)
        return answer, int(self.first("sure") or 0) or None, ""

    # What is shown

    def draw(self) -> dict[str, str]:
        card, question = self.card, self.question
        head = card.heading(render.past(question, self.last))
        answer, sure, trouble = self._given()
        sureness = [(str(each), render.said(f"sure_{each}")) for each in SURE]
        able = answer is not None and sure is not None and self.checked != (answer, sure)
        hint = "" if able or self.checked else texts.say("first")
        if self.is_wrong and not self.asks_reason:
            hint = texts.say(card.after_wrong)
        look, name = "tc-error" if trouble else "tc-meta", f"{self.mark}-hint"
        said = f'<span id="{name}" class="{look}" role="status">{html.escape(trouble or hint)}</span>'
        label = texts.say("compare" if self.compares else "check")
        check = render.button("check", label, able=able, more=f' aria-describedby="{name}"')
        note = "" if self.checked is None or self.asks_reason else card.note()
        return {
            "head": f'<div class="tc-head"><span class="tc-meta">{html.escape(head)}</span>'
            f"{render.language_buttons()}</div>",
            "answer": render.answer_fields(question, self.mark),
            "sure": render.group("sure", "radio", texts.say("how_sure"), sureness),
            "actions": f'<div class="tc-actions">{check}{said}</div>',
            **self._feedback(),
            "grade": render.grade_html(question, card.number, answer) if card.number else "",
            "note": f'<p class="tc-meta tc-below" role="status">{html.escape(note)}</p>',
            "notes": render.notes_html(),
        }

    def _feedback(self) -> dict[str, str]:
        """Return what follows a check: the model answer and what to tick, or the verdict and what was thought."""
        parts = dict.fromkeys(("feedback", "reason", "ticks", "result"), "")
        if isinstance(self.question, OpenQuestion) and self.compares:
            if self.checked:
                parts["feedback"] = render.model_answer_html(self.question)
                parts["ticks"] = render.ticks(self.question)
            if self.verdict:
                parts["result"] = render.feedback_html(self.verdict, self.question)
        elif self.asks_reason and self.verdict:
            parts["feedback"] = f'<div class="tc-feedback">{render.verdict_html(self.verdict, self.question)}</div>'
            parts["reason"] = render.reason_field()
        elif self.verdict:
            parts["feedback"] = render.feedback_html(self.verdict, self.question, self.reasoning or "")
        return parts


class PredictionForm(Form):
    """The choices of one prediction. A click is kept at once.

    Args:
        question, choices: texts in the little Markdown of `markup`.
        kept: the choice made last, if any.
        choose: what keeps a choice.
    """

    def __init__(self, question: str, choices: list[str], kept: str | None, choose: Callable[[str], object]) -> None:
        self.question, self.offered, self.choose = question, choices, choose
        values = {"answer": [answers.LETTERS[choices.index(kept)]]} if kept in choices else {}
        super().__init__(values)

    def act(self, action: str, value: str) -> bool:
        if chosen := self.first("answer"):
            self.choose(chosen)
        return False

    def draw(self) -> dict[str, str]:
        say = texts.say("prediction_kept") if self.values.get("answer") else ""
        asked = f'<div class="tc-question">{markup.to_html(self.question)}</div>'
        return {
            "head": f'<span class="tc-meta">{texts.say("predict")}</span>',
            "answer": render.group("answer", "radio", asked, render.lettered(self.offered)),
            "kept": f'<span class="tc-meta" role="status">{say}</span>',
            "notes": render.notes_html(),
        }
