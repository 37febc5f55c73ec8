"""The one colored box of the course: a bar at the left in the color of its kind, for verdicts, hints and reports."""

from typing import Literal

Kind = Literal["right", "wrong", "open", "info"]

# Colors that color-blind readers tell apart, as in `figures.COLORS`. A word says the same as the color.
_COLORS: dict[Kind, str] = {"right": "#009E73", "wrong": "#D55E00", "open": "#666666", "info": "#0072B2"}


def color(kind: Kind) -> str:
    """Return the color of a kind of box, for a bar beside a word. A word of that color would be too faint to read."""
    return _COLORS[kind]


def box(kind: Kind, body: str, live: bool = True) -> str:
    """Return HTML text in a box. `body` is HTML already; with `live` a screen reader reads it out when it appears."""
    role = ' role="status"' if live else ""
    return f'<div{role} style="border-left:5px solid {_COLORS[kind]};padding:.4em .8em;margin:.2em 0">{body}</div>'
