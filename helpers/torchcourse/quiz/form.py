"""A form in the page of a notebook, drawn by Python and filled in with native controls.

Python gives the form's parts as HTML; `form.js` shows those that have changed, and tells of each choice. So the focus,
the arrow keys, the groups and their names are the browser's own, and a part is written once, for the form and for its
static twin. On Colab, anywidget turns the support for such widgets on.
"""

import uuid
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from torchcourse.live import CELL_KEYS
from torchcourse.quiz.render import CSS

Values = dict[str, list[str]]


class Form(anywidget.AnyWidget):
    """A form whose state is in Python; a subclass says what its parts are (`draw`) and what happens (`act`).

    A subclass sets what `draw` needs before it calls this `__init__`: a page that connects just then asks for the state
    of all widgets, in a thread of its own, and keeps the answer. So there is no state without parts.
    """

    _esm = CELL_KEYS + Path(__file__).with_name("form.js").read_text(encoding="utf-8")
    _css = CSS
    parts = traitlets.Dict().tag(sync=True)
    """HTML by name, in the order of the page."""
    values = traitlets.Dict().tag(sync=True)
    """What is filled in, by the name of the control: each a list of texts."""

    def __init__(self, values: Values | None = None) -> None:
        self.mark = f"tc-{uuid.uuid4().hex[:12]}"
        """What the ids of this form's elements begin with: no other form on the page has it."""
        self.values = values or {}
        super().__init__(parts=self.draw())
        self.on_msg(self._heard)

    def draw(self) -> dict[str, str]:
        """Return all parts for the present state."""
        raise NotImplementedError

    def act(self, action: str, value: str) -> bool:
        """Do what a control asks for, with `values` as they are now; whether the focus goes to the verdict."""
        raise NotImplementedError

    def do(self, action: str, value: str = "", **changed: Any) -> bool:
        """Do what happens in the page when these values are filled in and this control is used."""
        self.values = {**self.values, **changed}
        focus = self.act(action, value)
        self.parts = self.draw()
        return focus

    def first(self, name: str) -> str:
        """Return the value of a control that has one, an empty text where it has none."""
        return next(iter(self.values.get(name, [])), "")

    def _heard(self, _widget: Any, message: Any, _buffers: Any) -> None:
        self.values = message["values"]
        focus = self.do(message["action"], message["value"])
        # Only now has everything been kept: an error on the way leaves the page without this word.
        self.send({"done": message["number"], "focus": focus})
