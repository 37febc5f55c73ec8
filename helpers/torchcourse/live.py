"""Show something that answers a reader's clicks, and a static form of it where nothing answers.

A widget lives as long as its kernel. In a notebook that is opened again, in an export to HTML, or where ipywidgets is
missing, JupyterLab shows an error in its place, or nothing. So a cell gets two outputs: the widget, and below it a
static form, which a style rule hides while the widget is on the page.
"""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

VIEW = "application/vnd.jupyter.widget-view+json"
CELL_KEYS = Path(__file__).with_name("cell_keys.js").read_text(encoding="utf-8")
"""JavaScript that a widget's module begins with, so that it keeps its keys: `keepKeys(root)`."""
Replace = Callable[[str, str], None]
LOST = "The kernel of this cell has gone, so its controls do nothing. Run the cell again."


def show(make: Callable[[], Any], static: str, text: str) -> Replace:
    """Display the widget that `make` returns and its static form, as HTML and as plain text.

    Without ipywidgets (`make` raises ImportError), the static form stands alone.

    Returns:
        A function that replaces the static form: the notebook that is saved afterwards holds the new one.
    """
    from IPython.display import display

    mark = uuid.uuid4().hex[:12]
    try:
        widget = make()
    except ImportError:
        widget = None
    if widget is not None:
        widget.add_class("tc-live").add_class(f"tc-live-{mark}")
        # With an empty text, a program that knows no widgets shows nothing here, and the static form below.
        view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
        display({VIEW: view, "text/html": "", "text/plain": ""}, raw=True)
    style = _style(mark) if widget is not None else ""

    def bundle(static: str, text: str) -> dict[str, str]:
        return {"text/html": f'{style}<div data-tc-static="{mark}">{static}</div>', "text/plain": text}

    handle = display(bundle(static, text), raw=True, display_id=mark)

    def replace(static: str, text: str) -> None:
        if handle is not None:  # outside a notebook there is nothing to replace
            handle.update(bundle(static, text), raw=True)

    return replace


def unseen(_static: str, _text: str) -> None:
    """Stand in for what `show` returns, as long as nothing has been shown."""


def _style(mark: str) -> str:
    """Return the rules that choose between the two outputs.

    The widget hides the static form; where it is missing, JupyterLab's complaint about that is hidden, as is the one
    about a widget that this page cannot draw, because kernel and page have ipywidgets that do not fit. A widget whose
    kernel has gone says so in words: by itself, each of its parts would show a broken chain. A form says it itself.
    """
    live, static = f".tc-live-{mark}", f'[data-tc-static="{mark}"]'
    output, error = ".jp-OutputArea-child", f"{live} > .jupyter-widgets-error-widget"
    drawn = f"body:has({live}):not(:has({error}))"
    return (
        "<style>"
        f"{drawn} {static}, {drawn} {output}:has({static}), {output}:has({error}),"
        f"{output}:not(:has({live})):has(+ {output} {static}) {{display: none}}"
        f"{live}.jupyter-widgets-disconnected::before, {live} .jupyter-widgets-disconnected::before"
        " {content: none !important}"
        f'{live}.jupyter-widgets-disconnected:not(:has(form))::after {{content: "{LOST}"; display: block;'
        " margin-top: 8px; padding: 6px 12px; border-left: 5px solid #d55e00}"
        "</style>"
    )
