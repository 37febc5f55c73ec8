"""The card and the prediction as forms. What is said comes from `render`, what is done from an `Attempt`."""

import functools
import html
from collections.abc import Callable

from torchcourse.quiz import answers, markup, render, texts
from torchcourse.quiz.answers import SURE
from torchcourse.quiz.attempts import Attempt
from torchcourse.quiz.form import Form
from torchcourse.quiz.verdict import Verdict


class CardForm(Form):
    """The form of one card. The answer, the confidence and the reasoning survive a change of language.

    Args:
        card: the question, and what judges an answer to it.
        changed: called after each answer that was written down.
    """

    def __init__(self, card: Attempt, changed: Callable[["CardForm"], object] = lambda form: None) -> None:
        super().__init__()
        self.card, self.question, self.changed = card, card.question, changed
        self.last = card.last()
        self.verdict: Verdict | None = None
        self.checked: tuple[str | float, int] | None = None
        self.reasoning: str | None = None
        """What the learner thought, None until that was asked and answered; it may be empty."""
        self.raw: list[str] = []
        self.compares = self.question.kind == "open" and not card.keyless
        self.begin()

    @property
    def answer(self) -> str | float | None:
        """The learner's answer of this moment in its normal form, None where there is none.

        Raises:
            AnswerError: for a typed answer that cannot be understood.
        """
        if self.question.kind in ("one", "several"):
            return "".join(self.values.get("answer", [])) or None
        return answers.read(self.question.kind, self.first("answer").strip(), self.question.letters)

    @property
    def asks_reason(self) -> bool:
        wrong = self.verdict is not None and self.verdict.right is False
        return wrong and not self.compares and self.reasoning is None and self.card.asks_reasoning

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
        answer, sure = self._ready()
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

    def _ready(self) -> tuple[str | float | None, int | None]:
        try:
            return self.answer, int(self.first("sure") or 0) or None
        except answers.AnswerError:
            return None, None

    # What is shown

    def draw(self) -> dict[str, str]:
        language, question = texts.current(), self.question
        past = render.past(question, self.last, language)
        head = render.heading(self.card.title, question, self.card.number, language, past)
        say = functools.partial(texts.say, language=language)
        answer, sure = self._ready()
        sureness = [(str(each), html.escape(say(f"sure_{each}"))) for each in SURE]
        able = answer is not None and sure is not None and self.checked != (answer, sure)
        hint = f' aria-describedby="{self.model_id}-hint"'
        check = render.button("check", say("compare" if self.compares else "check"), able=able, more=hint)
        return {
            "head": f'<div class="tc-head"><span class="tc-meta">{html.escape(head)}</span>'
            f"{render.language_buttons(language)}</div>",
            "answer": render.answer_fields(question, language, self.model_id),
            "sure": render.group("sure", "radio", say("how_sure"), sureness),
            "actions": f'<div class="tc-actions">{check}{self._hint(able, language)}</div>',
            "feedback": self._feedback(language),
            "reason": render.reason_field(language) if self.asks_reason else "",
            "ticks": render.ticks(question, language) if self.compares and self.checked else "",
            "result": render.feedback_html(self.verdict, question, language) if self.compares and self.verdict else "",
            "grade": render.grade_html(question, self.card.number, answer, language) if self.card.number else "",
            "note": f'<p class="tc-meta tc-below" role="status">{html.escape(self._note(language))}</p>',
            "notes": render.notes_html(language),
        }

    def _note(self, language: str) -> str:
        return "" if self.checked is None or self.asks_reason else self.card.note(language)

    def _hint(self, able: bool, language: str) -> str:
        text, look = "", "tc-meta"
        try:
            _ = self.answer
        except answers.AnswerError as error:
            text, look = str(error), "tc-error"
        else:
            if not able and self.checked is None:
                text = texts.say("first", language)
            elif (
                self.verdict is not None and self.verdict.right is False and not self.compares and not self.asks_reason
            ):
                text = texts.say(self.card.after_wrong, language)
        return f'<span id="{self.model_id}-hint" class="{look}" role="status">{html.escape(text)}</span>'

    def _feedback(self, language: str) -> str:
        if self.question.kind == "open" and self.compares:
            return render.model_answer_html(self.question, language) if self.checked else ""
        if self.verdict is None:
            return ""
        if self.asks_reason:
            return f'<div class="tc-feedback">{render.verdict_html(self.verdict, self.question, language)}</div>'
        return render.feedback_html(self.verdict, self.question, language, self.reasoning or "")


class PredictionForm(Form):
    """The choices of one prediction. A click is kept at once.

    Args:
        question, choices: texts in the little Markdown of `markup`.
        kept: the choice made last, if any.
        choose: what keeps a choice.
    """

    def __init__(self, question: str, choices: list[str], kept: str | None, choose: Callable[[str], object]) -> None:
        super().__init__()
        self.question, self.offered, self.choose = question, choices, choose
        if kept in choices:
            self.values = {"answer": [answers.LETTERS[choices.index(kept)]]}
        self.begin()

    def act(self, action: str, value: str) -> bool:
        if chosen := self.first("answer"):
            self.choose(chosen)
        return False

    def draw(self) -> dict[str, str]:
        say = texts.say("prediction_kept") if self.values.get("answer") else ""
        choices = render.lettered([markup.to_inline(choice) for choice in self.offered])
        asked = f'<div class="tc-question">{markup.to_html(self.question)}</div>'
        return {
            "head": f'<span class="tc-meta">{texts.say("predict")}</span>',
            "answer": render.group("answer", "radio", asked, choices),
            "kept": f'<span class="tc-meta" role="status">{say}</span>',
            "notes": render.notes_html(texts.current()),
        }
