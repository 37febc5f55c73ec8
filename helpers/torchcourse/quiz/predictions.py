"""Say what will come out before you look, and see both side by side afterwards.

    predict("01-1.mean", "What is averaged?", ["outputs", "gradients", "losses"])     # in one cell
    …
    outcome("01-1.mean", "The gradients are equal on both ranks.", right="gradients") # after the run

A wrong prediction costs nothing: it is what makes the outcome stick. Both are lines in the journal.
"""

import html
from typing import Any

from torchcourse import journal
from torchcourse.quiz import markup, texts
from torchcourse.quiz.answers import LETTERS

_asked: dict[str, list[str]] = {}
"""The choices of each prediction asked in this session, by its name."""


def predict(name: str, question: str, choices: list[str]) -> "Prediction":
    """Ask for a prediction and keep it. What was predicted last counts.

    Args:
        name: an id that `outcome` uses again, such as `01-1.mean`.
        question, choices: texts in the little Markdown of `markup`.
    """
    _asked[name] = choices
    return Prediction(name, question, choices)


def outcome(name: str, text: str, right: str | None = None) -> "Outcome":
    """Show the kept prediction beside what came out. Without a prediction, show the outcome alone.

    Args:
        name: the id that was given to `predict`.
        text: what came out, in the little Markdown of `markup`.
        right: the choice that turned out right, as it was written in `choices`; None where none is simply right.

    Raises:
        ValueError: if `right` is none of the choices that `predict` offered.
    """
    if right is not None and right not in _asked.get(name, [right]):
        raise ValueError(f"outcome('{name}'): '{right}' is none of the choices {_asked[name]}.")
    predicted = _kept(name)
    correct = None if predicted is None or right is None else predicted == right
    journal.record("outcome", id=name, predicted=predicted, right=correct, text=text)
    return Outcome(predicted, text, correct)


class Prediction:
    """A question about what will come out. Show it in a notebook, or call `choose`."""

    def __init__(self, name: str, question: str, choices: list[str]) -> None:
        self.name, self.question, self.choices = name, question, choices

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

    def __repr__(self) -> str:
        listed = [
            f"  {letter}  {markup.to_plain(choice)}" for letter, choice in zip(LETTERS, self.choices, strict=False)
        ]
        kept = [texts.say("predicted", choice=markup.to_plain(self.kept))] if self.kept else []
        return "\n".join([markup.to_plain(self.question), *listed, *kept])

    def _repr_mimebundle_(self, **_kwargs: Any) -> dict[str, Any]:
        from torchcourse.quiz.cards import widget_bundle
        from torchcourse.quiz.render import STYLE

        listed = "".join(f"<li>{markup.to_inline(choice)}</li>" for choice in self.choices)
        static = (
            f'{STYLE}<div class="tc-card"><div class="tc-question">{markup.to_html(self.question)}</div>'
            f'<ol type="A">{listed}</ol></div>'
        )
        return {"text/plain": repr(self), "text/html": static} | widget_bundle(self.widget)

    def widget(self) -> Any:
        """Return the question with its choices as an ipywidget."""
        from torchcourse.quiz.widget import PredictionWidget

        return PredictionWidget(self.question, self.choices, self.kept, self.choose).box


class Outcome:
    """What came out, with what was predicted."""

    def __init__(self, predicted: str | None, text: str, right: bool | None) -> None:
        self.predicted, self.text, self.right = predicted, text, right

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
        from torchcourse.quiz.render import STYLE

        look = {True: "tc-right", False: "tc-partly", None: ""}[self.right]
        return (
            f'{STYLE}<div class="tc-card" role="status"><div class="tc-meta">{html.escape(self._line())}</div>'
            f'<div class="tc-verdict {look}" style="margin-top:6px"><p><b>{texts.say("outcome")}</b></p>'
            f"{markup.to_html(self.text)}</div></div>"
        )


def _kept(name: str) -> str | None:
    choices = [
        entry.get("choice") for entry in journal.read() if entry["kind"] == "prediction" and entry.get("id") == name
    ]
    return choices[-1] if choices else None
