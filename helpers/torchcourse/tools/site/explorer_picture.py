"""Explorers without a kernel: the pictures along the first slider, made while the notebook runs for the site.

`docs/site/static/frames.js` puts a slider above them. Without JavaScript, the picture of the start shows.
"""

import base64
import html
import io
import re
from typing import Any

import ipywidgets as widgets
from IPython.display import HTML, display

from torchcourse import figures

MOST = 12
"""The most pictures of one explorer; of a longer slider every second, third … value has one."""

_PNG = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=]+)")


def install() -> None:
    """Make each explorer of this kernel show its frames."""
    # A kernel that runs for the site shows them in the place of a widget, which no page can move.
    setattr(figures.Explorer, "_ipython_display_", _show)  # noqa: B010 - mypy takes no assignment to a method


def frames_of(explorer: figures.Explorer) -> str:
    """Return the explorer as HTML: one picture per value of its first slider, that of the start visible."""
    *controls, picture = explorer.children
    first = _first(controls)
    start = first.value
    parts = []
    for text, value in _chosen(_values(first), start):
        first.value = value
        hidden = "" if value == start else " hidden"
        label = html.escape(f"{text}", quote=True)
        parts.append(f'<div class="tc-frame" data-value="{label}"{hidden}>{_small(picture.value)}</div>')
    first.value = start
    name = html.escape(first.description, quote=True)
    others = [html.escape(control.description) for control in controls if control is not first]
    moves = f" {', '.join(others)}: move in the notebook." if others else ""
    return f'<div class="tc-frames" data-control="{name}">{"".join(parts)}<p class="tc-note">{moves.strip()}</p></div>'


def _show(explorer: figures.Explorer) -> None:
    display(HTML(frames_of(explorer)))


def _first(controls: list[Any]) -> Any:
    """Return the first slider; without one, the first control that has values to go through."""
    sliders = (widgets.IntSlider, widgets.FloatSlider, widgets.SelectionSlider)
    return next((control for control in controls if isinstance(control, sliders)), controls[0])


def _values(control: Any) -> list[tuple[str, Any]]:
    """Return what a control can be set to, each value with the words for it."""
    if isinstance(control, widgets.Checkbox):
        return [("off", False), ("on", True)]
    if hasattr(control, "_options_labels"):
        return list(zip(control._options_labels, control._options_values, strict=True))
    count = int((control.max - control.min) / control.step + 1e-9) + 1
    values = [control.min + place * control.step for place in range(count)]
    return [(f"{value:g}", value) for value in values]


def _chosen(values: list[tuple[str, Any]], start: Any) -> list[tuple[str, Any]]:
    """Return at most `MOST` of the values, evenly spread, with the first, the last and that of the start."""
    if len(values) <= MOST:
        return values if any(value == start for _, value in values) else [(f"{start}", start), *values]
    nearest = min(range(len(values)), key=lambda place: (values[place][1] != start, abs(values[place][1] - start)))
    spread = {round(place * (len(values) - 1) / (MOST - 2)) for place in range(MOST - 1)}
    kept = [values[place] for place in sorted(spread | {nearest})]
    return [(text, start if value == values[nearest][1] else value) for text, value in kept]


def _small(picture: str) -> str:
    """Return the HTML with its PNG images in 64 colors each, a fraction of their size."""
    return _PNG.sub(lambda found: f"data:image/png;base64,{_fewer_colors(found[1])}", picture)


def _fewer_colors(data: str) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    image = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
    image.quantize(64, dither=Image.Dither.NONE).save(buffer, format="png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
