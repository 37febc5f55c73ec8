"""The one plotting style of the course, and pictures that answer a slider.

A lesson draws with `new()`, shows with `show(figure, alt)`, and lets the reader play with `explorer(draw, …)`. A
picture that follows a slider has to be quick: it draws on a `canvas()` with fixed margins, and many `bars()` at once.
Figures never touch pyplot's global state: nothing stays open, and a cell that fails leaves nothing behind.
"""

import base64
import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.text import Text

from torchcourse import live

COLORS = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "vermillion": "#D55E00",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "yellow": "#F0E442",
    "black": "#000000",
    "gray": "#7F7F7F",
}
"""Colors that color-blind readers tell apart (Okabe and Ito 2008, https://jfly.uni-koeln.de/color/), and a gray."""

CYCLE = [COLORS[name] for name in ("blue", "orange", "green", "vermillion", "purple", "sky", "black")]


def new(width: float = 7.0, height: float = 3.2, **subplots: Any) -> tuple[Figure, Any]:
    """Return a figure of `width` × `height` inches and its axes (an array of axes with `ncols=` or `nrows=`)."""
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained", facecolor="white")
    axes = figure.subplots(**subplots)
    for axis in axes.flat if hasattr(axes, "flat") else [axes]:
        axis.set_prop_cycle(color=CYCLE)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def canvas(
    width: float, height: float, *, left: float, right: float, bottom: float, top: float, **subplots: Any
) -> tuple[Figure, Any]:
    """Return a figure and its axes, as `new` does, with margins in inches.

    The layout engine of `new` measures every text several times, which doubles the time to draw.
    """
    figure, axes = new(width, height, **subplots)
    figure.set_layout_engine(None)
    figure.subplots_adjust(left=left / width, right=1 - right / width, bottom=bottom / height, top=1 - top / height)
    return figure, axes


def bars(axis: Axes, rectangles: list[tuple[float, float, float, float]], colors: list[str], **look: Any) -> None:
    """Draw many rectangles (left, bottom, width, height) at once, which is faster than one by one."""
    corners = [
        [(left, bottom), (left + width, bottom), (left + width, bottom + height), (left, bottom + height)]
        for left, bottom, width, height in rectangles
    ]
    axis.add_collection(PolyCollection(corners, facecolors=colors, **look))


def headline(figure: Figure, finding: str) -> None:
    """Put the finding above everything else."""
    figure.suptitle(finding, fontsize=11.5, fontweight="bold")


def legend(figure: Figure, colors: Mapping[str, str]) -> None:
    """Explain colors in one row at the foot of the figure."""
    handles = [Patch(color=color, label=name) for name, color in colors.items()]
    look = {"frameon": False, "fontsize": 8.5, "handlelength": 1, "columnspacing": 1.2}
    figure.legend(handles=handles, loc="lower center", ncols=len(colors), **look)


def show(figure: Figure | str, alt: str) -> None:
    """Display a figure, or SVG text, under the cell. `alt` says in words what a reader sees in it."""
    from IPython.display import display

    display(Picture(figure, alt))


class Picture:
    """A figure as a notebook shows it: an image with a text alternative, or that text where no image can show."""

    def __init__(self, figure: Figure | str, alt: str) -> None:
        self.alt = alt
        self._html = to_html(figure, alt)

    def _repr_html_(self) -> str:
        return self._html

    def __repr__(self) -> str:
        return f"[picture: {self.alt}]"


def to_html(figure: Figure | str, alt: str) -> str:
    """Return the figure as an `<img>` with its text alternative; SVG or HTML text passes through, labeled with it."""
    label = html.escape(alt, quote=True)
    if isinstance(figure, str):
        return f'<div role="img" aria-label="{label}">{figure}</div>'
    # Only here: set_title and suptitle go back to matplotlib's own size and weight.
    for title in _titles(figure):
        title.set(fontsize=11, fontweight="bold")
    png = _png(figure)
    if _shrink_clipped(figure):
        png = _png(figure)
    data = base64.b64encode(png).decode()
    return f'<img alt="{label}" style="max-width:100%" src="data:image/png;base64,{data}">'


_NAME_SLIDERS = """
// ipywidgets gives a slider no name: here it gets the words that stand beside it.
function render({ el }) {
  let watch
  const begin = () => {
    const box = el.parentElement
    if (!box) return setTimeout(begin, 50)
    const name = () => {
      for (const slider of box.querySelectorAll("[role=slider]:not([aria-label])")) {
        const label = slider.closest(".jupyter-widgets")?.querySelector("label")
        if (label) slider.setAttribute("aria-label", label.textContent)
      }
    }
    watch = new MutationObserver(name)
    watch.observe(box, { childList: true, subtree: true })
    name()
  }
  begin()
  return () => watch?.disconnect()
}
export default { render }
"""


class Explorer(widgets.VBox):
    """Controls and a picture that follows them. The picture of the start stays where no widget shows."""

    def _ipython_display_(self) -> None:
        start = self.children[-1].value
        alt = re.search('(?:alt|aria-label)="([^"]*)"', start)
        words = html.unescape(alt[1]) if alt else start
        live.show(self._named, f"{start}<p>To move the controls, run this cell.</p>", f"[picture: {words}]")

    def _named(self) -> widgets.VBox:
        import anywidget

        return widgets.VBox([self, anywidget.AnyWidget(_esm=_NAME_SLIDERS)])


def explorer(
    draw: Callable[..., Figure | str],
    *,
    alt: str | Callable[..., str],
    **controls: tuple | list | bool | widgets.Widget,
) -> Explorer:
    """Return a widget that draws `draw(**values)` again whenever a control moves.

    A control is `(low, high, start)` for a slider (whole steps when all three are whole numbers; a fourth number is
    the step), a list for a choice, a truth value for a tick box, or any ipywidget. The keyboard reaches all of them:
    Tab to a control, arrow keys to move it. `alt` is the text alternative, or a function of the same values.

    A value that cannot be drawn (`ValueError`) is answered with its sentence instead of the picture.
    """
    boxes = {name: _control(name, spec) for name, spec in controls.items()}
    picture = widgets.HTML()

    def redraw(_change: Any = None) -> None:
        values = {name: box.value for name, box in boxes.items()}
        try:
            figure = draw(**values)
        except ValueError as error:
            picture.value = f"<p><b>Not possible:</b> {html.escape(str(error))}</p>"
            return
        picture.value = to_html(figure, alt(**values) if callable(alt) else alt)

    for box in boxes.values():
        box.observe(redraw, names="value")
    redraw()
    return Explorer([*boxes.values(), picture])


def steps(description: str, low: int, high: int, start: int) -> widgets.IntSlider:
    """Return a slider over whole numbers, in the look of `explorer`."""
    return widgets.IntSlider(start, low, high, description=description, **_look())


def values(description: str, options: Sequence[float], start: float) -> widgets.SelectionSlider:
    """Return a slider over the given values, in the look of `explorer`."""
    return widgets.SelectionSlider(options=options, value=start, description=description, **_look())


def _control(name: str, spec: Any) -> widgets.Widget:
    look = {"description": name.replace("_", " "), **_look()}
    if isinstance(spec, widgets.Widget):
        return spec
    if isinstance(spec, bool):
        return widgets.Checkbox(value=spec, **look)
    if isinstance(spec, list):
        return widgets.Dropdown(options=spec, value=spec[0], **look)
    low, high, start, *step = spec
    whole = all(isinstance(number, int) for number in spec)
    kind = widgets.IntSlider if whole else widgets.FloatSlider
    step = step[0] if step else 1 if whole else (high - low) / 50
    return kind(min=low, max=high, value=start, step=step, continuous_update=True, **look)


def _look() -> dict[str, Any]:
    return {"style": {"description_width": "11em"}, "layout": widgets.Layout(width="36em", max_width="100%")}


def _titles(figure: Figure) -> list[Text]:
    titles = [*(axis.title for axis in figure.axes), getattr(figure, "_suptitle", None)]
    return [title for title in titles if title is not None and title.get_text()]


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Little compression: a picture that follows a slider must be quick, and it never leaves the machine.
    figure.savefig(buffer, format="png", pil_kwargs={"compress_level": 1})
    return buffer.getvalue()


def _shrink_clipped(figure: Figure) -> bool:
    """Make titles smaller that run over the edge of a figure that has been drawn; say whether there were any."""
    clipped = False
    for title in _titles(figure):
        box = title.get_window_extent()
        middle = (box.x0 + box.x1) / 2
        room = 2 * min(middle, figure.bbox.width - middle)
        if box.width > room:
            title.set_fontsize(float(title.get_fontsize()) * 0.98 * room / box.width)
            clipped = True
    return clipped
