"""Say what will come out before you look, and see both side by side afterwards.

    predict("01-1.mean", "What is averaged?", ["outputs", "gradients", "losses"])     # in one cell
    …
    outcome("01-1.mean", "The gradients are equal on both ranks.", right="gradients") # after the run

A wrong prediction costs nothing: it is what makes the outcome stick. Both are lines in the journal.
"""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torchcourse import journal, live
from torchcourse.quiz import markup, texts
from torchcourse.quiz.answers import LETTERS
from torchcourse.quiz.render import STYLE, lettered

_asked: dict[str, "Prediction"] = {}
"""The predictions asked for in this session, by name."""


def predict(name: str, question: str = "", choices: Sequence[str] = ()) -> "Prediction":
    """Ask for a prediction and keep it. What was predicted last counts.

    Args:
        name: an id that `outcome` uses again, such as `01-1.mean`. Alone, it names a question asked before.
        question, choices: texts in the little Markdown of `markup`.

    Raises:
        ValueError: if a name stands alone that was not asked before.
    """
    if question:
        _asked[name] = Prediction(name, question, list(choices))
    elif name not in _asked:
        raise ValueError(f"predict('{name}'): run the cell with this question first; then this line knows it.")
    return _asked[name]


def outcome(
    name: str,
    text: str = "",
    right: str | None = None,
    *,
    told: str | None = None,
    values: Sequence[object] = (),
    key: str | None = None,
) -> "Outcome":
    """Show the kept prediction beside what came out. Without a prediction, show the question, the outcome folded below.

    Args:
        name: the id that was given to `predict`.
        text: what came out, in the little Markdown of `markup`.
        right: the choice that turned out right, as it was written in `choices`; None where none is simply right. Where
            it was measured, what came out may be none of the choices: then every prediction came out differently.
        told, values: the text in Base64, with marks of `str.format` for the values in it. So the build writes it: what
            came out is not read by the way.
        key: `right` in Base64, for the same reason.

    Raises:
        ValueError: if `key` is none of the choices that `predict` offered.
    """
    if told is not None:
        text = base64.b64decode(told).decode().format(*values)
    asked = _asked.get(name)
    if key is not None:
        right = base64.b64decode(key).decode()
        if asked and right not in asked.choices:
            raise ValueError(f"outcome('{name}'): '{right}' is none of the choices {asked.choices}.")
    predicted = _kept(name)
    correct = None if predicted is None or right is None else predicted == right
    journal.record("outcome", id=name, predicted=predicted, right=correct, text=text)
    return Outcome(predicted, text, correct, asked, right)


class Prediction:
    """A question about what will come out. Show it in a notebook, or call `choose`."""

    def __init__(self, name: str, question: str, choices: list[str]) -> None:
        self.name, self.question, self.choices = name, question, choices
        self.renew: live.Replace = live.unseen

    @property
    def kept(self) -> str | None:
        """The choice that the learner made last, if it is one of these."""
        choice = _kept(self.name)
        return choice if choice in self.choices else None

    def choose(self, choice: str) -> "Prediction":
        """Predict by code: one of the choices, or its letter."""
        if choice not in self.choices:
            letter = choice.strip().upper()
            place = LETTERS.find(letter) if len(letter) == 1 else -1
            if not 0 <= place < len(self.choices):
                last = LETTERS[len(self.choices) - 1]
                raise ValueError(f"'{choice}' is none of the choices; give one of them, or a letter from A to {last}.")
            choice = self.choices[place]
        if choice != self.kept:
            journal.record("prediction", id=self.name, choice=choice)
        return self

    def _line(self) -> str:
        """The line that predicts by code, once the question has been asked."""
        return f'from torchcourse.quiz import predict; predict("{self.name}").choose("A")'

    def __repr__(self) -> str:
        lines = [markup.to_plain(self.question)]
        lines += [f"  {letter}  {markup.to_plain(each)}" for letter, each in zip(LETTERS, self.choices, strict=False)]
        if self.kept:
            lines.append(texts.say("predicted", choice=markup.to_plain(self.kept)))
        return "\n".join([*lines, texts.say("predict_by_code", how=self._line())])

    def _repr_html_(self) -> str:
        """Return what stays when nothing can be clicked: the question, one's prediction, and how to go on."""
        how = texts.say("predict_by_code", how=f"<code>{html.escape(self._line())}</code>")
        return (
            f'{STYLE}<div class="tc-card"><div class="tc-meta">{texts.say("predict")}</div>{self.asked_html()}'
            f'<p class="tc-meta tc-below">{how}</p></div>'
        )

    def asked_html(self, right: str | None = None) -> str:
        """Return the question and its choices; one's own is marked, and the right one where it is given."""
        rows = []
        for choice, (_letter, label) in zip(self.choices, lettered(self.choices), strict=True):
            marks = [texts.say("right_choice")] if choice == right else []
            marks += [texts.say("your_choice")] if choice == self.kept else []
            look = " tc-chosen" if choice == self.kept else ""
            said = f' <i class="tc-meta">← {", ".join(marks)}</i>' if marks else ""
            rows.append(f'<div class="tc-choice{look}">{label}{said}</div>')
        return f'<div class="tc-question">{markup.to_html(self.question)}</div>{"".join(rows)}'

    def _ipython_display_(self) -> None:
        self.renew = live.show(self.widget, self._repr_html_(), repr(self))

    def widget(self) -> Any:
        """Return the question with its choices as a widget."""
        from torchcourse.quiz.widget import PredictionForm

        def choose(letter: str) -> None:
            self.choose(letter)
            self.renew(self._repr_html_(), repr(self))

        return PredictionForm(self.question, self.choices, self.kept, choose)


@dataclass
class Outcome:
    """What came out, with what was predicted, and the right choice where there is one."""

    predicted: str | None
    text: str
    right: bool | None
    asked: Prediction | None
    choice: str | None

    def _line(self) -> str:
        if self.predicted is None:
            return texts.say("no_prediction")
        line = texts.say("predicted", choice=markup.to_plain(self.predicted))
        if self.right is None:
            return line
        return f"{line} {texts.say('came_true' if self.right else 'came_different')}"

    def __repr__(self) -> str:
        return f"{self._line()}\n{texts.say('outcome')}: {markup.to_plain(self.text)}"

    def _repr_html_(self) -> str:
        look = {True: "tc-right", False: "tc-partly", None: ""}[self.right]
        verdict = (
            f'<div class="tc-verdict {look} tc-below"><p><b>{texts.say("outcome")}</b></p>'
            f"{markup.to_html(self.text)}</div>"
        )
        asked = ""
        if self.predicted is None:
            verdict = f"<details><summary>{texts.say('show_anyway')}</summary>{verdict}</details>"
            asked = self.asked.asked_html() if self.asked else ""
        elif self.asked and self.choice:
            asked = self.asked.asked_html(self.choice)
        keys = f'data-lm-suppress-shortcuts="true" onkeydown="{html.escape(_KEYS)}"'
        return (
            f'{STYLE}<div class="tc-card" role="status" {keys}>'
            f'<div class="tc-meta">{html.escape(self._line())}</div>{asked}{verdict}</div>'
        )


_KEYS = """
event.stopPropagation()
const cell = this.closest(".jp-Cell")
if (!cell || !(event.key === "Escape" || (event.key === "Enter" && event.shiftKey))) return
event.preventDefault()
cell.focus()
if (event.key === "Enter") cell.dispatchEvent(new KeyboardEvent("keydown", event))
"""
"""The way out of an outcome that keeps its keys, as `cell_keys.js` has it for a widget."""


def _kept(name: str) -> str | None:
    """Return what was predicted last."""
    made = (entry for entry in reversed(journal.read()) if entry["kind"] == "prediction" and entry.get("id") == name)
    return next((entry.get("choice") for entry in made), None)
