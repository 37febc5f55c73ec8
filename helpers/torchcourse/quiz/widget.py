"""The card and the prediction as ipywidgets, for version 7.7 and later.

What is said comes from `render`, what is done from an `Attempt`. Everything is a native control, so the Tab key, Space
and Enter reach all of it. The answer, the confidence and the reasoning survive a change of language.
"""

import functools
import html
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from torchcourse.quiz import answers, markup, render, texts
from torchcourse.quiz.answers import SURE
from torchcourse.quiz.attempts import Attempt
from torchcourse.quiz.verdict import Verdict


class CardWidget:
    """The controls of one card; `box` is the widget to show."""

    def __init__(self, card: Attempt) -> None:
        self.card, self.question = card, card.question
        self.verdict: Verdict | None = None
        self.checked: tuple[str | float, int] | None = None
        self.reasoned = False
        self.is_open = self.question.kind == "open"

        self.language = widgets.ToggleButtons(
            options=[(label, code) for code, label in texts.LANGUAGES.items()], value=texts.current()
        )
        self.language.style.button_width = "auto"
        self.language.add_class("tc-language")
        self.meta, self.text = widgets.HTML(), widgets.HTML()
        self.choices = self._choices()
        self.typed, self.unit = self._typed(), widgets.HTML()
        self.sure_label = widgets.HTML()
        self.sure = widgets.RadioButtons(options=[("", sure) for sure in SURE], value=None)
        self.sure.layout.width = "auto"
        self.check = widgets.Button(disabled=True, button_style="primary")
        self.hint = widgets.HTML()
        self.feedback = widgets.HTML()
        self.reason_label = widgets.HTML()
        self.reason = widgets.Textarea(layout=widgets.Layout(width="98%", height="4.5em"))
        self.show_why = widgets.Button()
        self.reason_box = widgets.VBox([self.reason_label, self.reason, self.show_why])
        self.said_label, self.said = widgets.HTML(), self._ticks("self_check")
        self.thought_label, self.thought = widgets.HTML(), self._ticks("mistakes")
        self.done = widgets.Button()
        self.tick_box = widgets.VBox([self.said_label, *self.said, self.thought_label, *self.thought, self.done])
        self.result = widgets.HTML()
        self.grade = widgets.HTML()

        head = widgets.HBox([self.meta, self.language])
        head.add_class("tc-head")
        sure = widgets.HBox([self.sure_label, self.sure])
        sure.add_class("tc-sure")
        actions = widgets.HBox([self.check, self.hint])
        actions.add_class("tc-actions")
        answer = self.choices
        if self.typed:
            answer = [widgets.HBox([self.typed, self.unit])]
            answer[0].add_class("tc-typed")
        below = [self.feedback, self.reason_box, self.tick_box, self.result, self.grade]
        self.box = widgets.VBox([widgets.HTML(render.STYLE), head, self.text, *answer, sure, actions, *below])
        self.box.add_class("tc-card")

        self._translate()
        self._start_over()
        self._listen()

    def answer(self) -> str | float | None:
        """Return the learner's answer of this moment in its normal form, None where there is none.

        Raises:
            AnswerError: for a typed answer that cannot be understood.
        """
        if self.typed:
            return answers.read(self.question.kind, self.typed.value.strip(), self.question.letters)
        chosen = [letter for letter, box in zip(self.question.letters, self.choices, strict=True) if box.value]
        return "".join(chosen) or None

    # The parts

    def _choices(self) -> list[widgets.Checkbox]:
        if self.question.kind not in ("one", "several"):
            return []
        return [_tick_box("tc-one" if self.question.kind == "one" else "tc-several") for _ in self.question.letters]

    def _typed(self) -> Any:
        if self.is_open:
            return widgets.Textarea(layout=widgets.Layout(width="98%", height="9em"))
        if self.question.kind in ("number", "text", "order"):
            return widgets.Text(layout=widgets.Layout(width="18em"))
        return None

    def _ticks(self, field: str) -> list[widgets.Checkbox]:
        return [_tick_box("tc-several") for _ in getattr(self.question, field)] if self.is_open else []

    def _listen(self) -> None:
        for place, box in enumerate(self.choices):
            box.observe(functools.partial(self._chose, place), names="value")
        if self.typed:
            self.typed.observe(lambda _change: self._start_over(), names="value")
        self.sure.observe(lambda _change: self._refresh(), names="value")
        self.check.on_click(lambda _button: self._check())
        self.show_why.on_click(lambda _button: self._keep_reason())
        self.done.on_click(lambda _button: self._finish())
        self.language.observe(lambda _change: self._choose_language(), names="value")

    # What happens

    def _chose(self, place: int, change: dict[str, Any]) -> None:
        if self.question.kind == "one" and change["new"]:
            _untick_others(self.choices, place)
        _mark_chosen(self.choices)
        self._start_over()

    def _check(self) -> None:
        answer, sure = self._ready()
        if answer is None or sure is None:
            return
        self.checked = (answer, sure)
        if self.is_open and not self.card.keyless:
            self.card.write(str(answer), sure)
        else:
            self.verdict = self.card.check(answer, sure)
        self._refresh()

    def _keep_reason(self) -> None:
        self._record_reason()
        self.reasoned = True
        self._refresh()

    def _record_reason(self) -> None:
        text = self.reason.value.strip()
        if text and self.checked:
            self.card.reason(self.checked[0], text)

    def _finish(self) -> None:
        if self.checked is None:
            return
        answer, sure = self.checked
        said = [number for number, box in enumerate(self.said, 1) if box.value]
        thought = [number for number, box in enumerate(self.thought, 1) if box.value]
        self.verdict = self.card.tick(str(answer), sure, said, thought)
        self._refresh()

    def _start_over(self) -> None:
        """Take the feedback away, since it is about another answer; a reasoning that was begun is kept first."""
        if self._asks_reason():
            self._record_reason()
        self.verdict, self.checked, self.reasoned = None, None, False
        self.reason.value = ""
        for box in (*self.said, *self.thought):
            box.value = False
        self._refresh()

    def _choose_language(self) -> None:
        texts.choose(self.language.value)
        self._translate()
        self._refresh()

    # What is shown

    def _ready(self) -> tuple[str | float | None, int | None]:
        try:
            return self.answer(), self.sure.value
        except answers.AnswerError:
            return None, None

    def _asks_reason(self) -> bool:
        return self.verdict is not None and self.verdict.right is False and not self.is_open and not self.reasoned

    def _refresh(self) -> None:
        """Show what belongs to the present state."""
        language = self.language.value
        answer, sure = self._ready()
        self.check.disabled = answer is None or sure is None or self.checked == (answer, sure)
        self.hint.value = self._hint_html(language)
        comparing = self.question.kind == "open" and self.checked is not None and not self.card.keyless
        _show(self.tick_box, comparing)
        _show(self.reason_box, self._asks_reason())
        self.feedback.value = self.result.value = ""
        if comparing and self.question.kind == "open":
            self.feedback.value = render.model_answer_html(self.question, language)
            if self.verdict is not None:
                self.result.value = render.feedback_html(self.verdict, self.question, language)
        elif self.verdict is None:
            pass
        elif self._asks_reason():
            self.feedback.value = (
                f'<div class="tc-feedback">{render.verdict_html(self.verdict, self.question, language)}</div>'
            )
        else:
            reasoning = self.reason.value.strip()
            self.feedback.value = render.feedback_html(self.verdict, self.question, language, reasoning)
        if self.card.number:
            self.grade.value = render.grade_html(self.question, self.card.number, answer, language)

    def _hint_html(self, language: str) -> str:
        text = ""
        try:
            self.answer()
        except answers.AnswerError as error:
            text = str(error)
        else:
            if self.check.disabled and self.checked is None:
                text = texts.say("first", language)
            elif self.verdict is not None and not self.verdict.right and self.reasoned:
                text = texts.say("retry", language)
        return f'<span class="tc-meta" lang="{language}">{html.escape(text)}</span>'

    def _translate(self) -> None:
        """Write all texts that do not depend on the state in the language chosen."""
        language = self.language.value
        say = functools.partial(texts.say, language=language)
        self.meta.value = (
            f'<span class="tc-meta">{html.escape(render.meta(self.question, self.card.number, language))}</span>'
        )
        self.text.value = render.question_html(self.question, language)
        self.unit.value = render.unit_html(self.question, language)
        if self.choices:
            for box, label in zip(self.choices, render.choice_labels(self.question, language), strict=True):
                box.description = label
        if self.typed:
            self.typed.placeholder = say(f"kind_{self.question.kind}")
        self.sure_label.value = say("how_sure")
        value = self.sure.value
        self.sure.options = [(say(f"sure_{sure}"), sure) for sure in SURE]
        self.sure.value = value
        self.check.description = say("compare" if self.is_open and not self.card.keyless else "check")
        self.reason_label.value = f'<p style="margin:.8em 0 .2em">{say("what_thought")}</p>'
        self.reason.placeholder = say("because")
        self.show_why.description = say("show_why")
        self.said_label.value = f'<p style="margin:.8em 0 .2em">{say("self_check")}</p>'
        self.thought_label.value = f'<p style="margin:.8em 0 .2em">{say("traps")}</p>'
        self.done.description = say("done")
        if self.question.kind == "open":
            for part, box in zip(self.question.self_check, self.said, strict=True):
                box.description = markup.to_label(part.text[language])
            for trap, box in zip(self.question.mistakes, self.thought, strict=True):
                box.description = markup.to_label(trap.reasoning[language])


class PredictionWidget:
    """The choices of one prediction; `box` is the widget to show. A click is kept at once.

    Args:
        question, choices: texts in the little Markdown of `markup`.
        kept: the choice made last, if any.
        choose: what keeps a choice.
    """

    def __init__(self, question: str, choices: list[str], kept: str | None, choose: Callable[[str], object]) -> None:
        self.offered, self.choose = choices, choose
        self.choices = [_tick_box("tc-one") for _ in choices]
        for letter, text, box in zip(answers.LETTERS, choices, self.choices, strict=False):
            box.description = f"<b>{letter}</b>&nbsp; {markup.to_label(text)}"
            box.value = text == kept
        self.kept = widgets.HTML()
        asked = widgets.HTML(f'<div class="tc-question">{markup.to_html(question)}</div>')
        label = widgets.HTML(f'<span class="tc-meta">{texts.say("predict")}</span>')
        self.box = widgets.VBox([widgets.HTML(render.STYLE), label, asked, *self.choices, self.kept])
        self.box.add_class("tc-card")
        self._refresh()
        for place, box in enumerate(self.choices):
            box.observe(functools.partial(self._chose, place), names="value")

    def _chose(self, place: int, change: dict[str, Any]) -> None:
        if change["new"]:
            _untick_others(self.choices, place)
            self.choose(self.offered[place])
        self._refresh()

    def _refresh(self) -> None:
        _mark_chosen(self.choices)
        chosen = any(box.value for box in self.choices)
        self.kept.value = f'<span class="tc-meta" role="status">{texts.say("prediction_kept") if chosen else ""}</span>'


def _tick_box(look: str) -> widgets.Checkbox:
    box = widgets.Checkbox(value=False, indent=False, layout=widgets.Layout(width="auto", height="auto"))
    # Version 7 takes HTML in a label anyhow; version 8 asks first, and cleans it.
    if box.has_trait("description_allow_html"):
        box.description_allow_html = True
    box.add_class("tc-choice")
    box.add_class(look)
    return box


def _untick_others(boxes: list[widgets.Checkbox], place: int) -> None:
    for other, box in enumerate(boxes):
        if other != place:
            box.value = False


def _mark_chosen(boxes: list[widgets.Checkbox]) -> None:
    for box in boxes:
        (box.add_class if box.value else box.remove_class)("tc-chosen")


def _show(widget: widgets.Widget, visible: bool) -> None:
    widget.layout.display = None if visible else "none"
