"""The one plotting style of the course, and pictures that answer a slider.

A lesson draws with `new()`, shows with `show(figure, alt)`, and lets the reader play with `explorer(draw, …)`. A
picture that follows a slider has to be quick: it draws on a `canvas()` with fixed margins, and many `bars()` at once.
Figures never touch pyplot's global state: nothing stays open, and a cell that fails leaves nothing behind.

Where no slider shows, `at(name, …)` draws an explorer's picture for values that are given by code.
"""

import base64
import functools
import html
import io
import itertools
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.text import Text

from torchcourse import live
from torchcourse.controls import Control, checked, control, control_boxes, steps, values, with_keys

if TYPE_CHECKING:
    import ipywidgets as widgets

__all__ = [  # `steps` and `values` are what an explorer's arguments are written with
    "COLORS",
    "CYCLE",
    "Explorer",
    "Picture",
    "at",
    "bars",
    "canvas",
    "explorer",
    "headline",
    "ink",
    "legend",
    "new",
    "show",
    "steps",
    "to_html",
    "values",
]

COLORS = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "vermillion": "#D55E00",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "yellow": "#F0E442",
    "black": "#000000",
    "gray": "#666666",
    "light gray": "#CCCCCC",
}
"""Colors that color-blind readers tell apart (Okabe and Ito 2008, https://jfly.uni-koeln.de/color/), and two grays that
nobody takes for one of them. Pictures draw with no others, so that any two may stand side by side."""

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


def ink(ground: str) -> str:
    """Return "black" or "white", whichever is easier to read on this color, by the contrast of WCAG 2.2.

    Source: https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio. The better one has a contrast of 4.58 at least.
    """
    parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(ground)]
    luminance = sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))
    return "black" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "white"


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


class Explorer:
    """Controls and a picture that follows them. Show it in a notebook, or ask `at` for the picture of other values.

    The picture of the start stays where no widget shows, with a line that draws it for other values.
    """

    def __init__(
        self, draw: Callable[..., Figure | str], alt: str | Callable[..., str], controls: Mapping[str, Control]
    ) -> None:
        self.draw, self.alt, self.controls = draw, alt, dict(controls)
        self._start = self._html(self._values({}))
        self.name = _remembered(self)

    def at(self, **values: Any) -> "Picture":
        """Return the picture for these values; the controls that are not named stand as at the start.

        Raises:
            ValueError: for a control that does not exist, a value that it cannot be set to, or values that together
                cannot be drawn.
        """
        chosen = self._values(values)
        return Picture(self.draw(**chosen), self._words(chosen))

    @functools.cached_property
    def children(self) -> "tuple[widgets.Widget, ...]":
        """The controls, and last the picture, as ipywidgets.

        Raises:
            ImportError: on a host without ipywidgets.
        """
        import ipywidgets as widgets

        boxes, picture = control_boxes(self.controls), widgets.HTML(self._start)

        def redraw(_change: Any) -> None:
            picture.value = self._html({name: box.value for name, box in boxes.items()})

        for box in boxes.values():
            box.observe(redraw, names="value")
        return (*boxes.values(), picture)

    def widget(self) -> "widgets.VBox":
        """Return the controls and the picture as one ipywidget."""
        import ipywidgets as widgets

        return with_keys(widgets.VBox(list(self.children)))

    def __repr__(self) -> str:
        alt = re.search('(?:alt|aria-label)="([^"]*)"', self._start)
        words = f"[picture: {html.unescape(alt[1])}]" if alt else html.unescape(re.sub("<[^>]*>", "", self._start))
        return f"{words}\n{MOVE_BY_CODE} {self._line()}"

    def _repr_html_(self) -> str:
        """Return what stays when nothing can be moved: the picture of the start, and how to go on."""
        return f"{self._start}<p>{MOVE_BY_CODE} <code>{html.escape(self._line(), quote=False)}</code></p>"

    def _ipython_display_(self) -> None:
        live.show(self.widget, self._repr_html_(), repr(self))

    def _line(self) -> str:
        """The line that draws other values by code, once the explorer's cell has run."""
        values = "".join(f", {name}={value!r}" for name, value in self._values({}).items())
        return f'from torchcourse import figures; figures.at("{self.name}"{values})'

    def _values(self, given: Mapping[str, Any]) -> dict[str, Any]:
        return checked(self.controls, given)

    def _html(self, values: Mapping[str, Any]) -> str:
        try:
            return to_html(self.draw(**values), self._words(values))
        except ValueError as error:
            return f"<p><b>Not possible:</b> {html.escape(str(error))}</p>"

    def _words(self, values: Mapping[str, Any]) -> str:
        return self.alt(**values) if callable(self.alt) else self.alt


MOVE_BY_CODE = "To move the controls, run this cell. Where none show then, change the values in this line and run it:"


def explorer(
    draw: Callable[..., Figure | str], *, alt: str | Callable[..., str], **controls: tuple | list | bool | Control
) -> Explorer:
    """Return controls and a picture, `draw(**values)`, that is drawn again whenever one of them moves.

    A control is `(low, high, start)` for a slider (whole steps when all three are whole numbers; a fourth number is
    the step), a list for a choice, a truth value for a tick box, or what `steps` and `values` return. The keyboard
    reaches all of them: Tab to a control, arrow keys to move it. `alt` is the text alternative, or a function of the
    same values.

    A value that cannot be drawn (`ValueError`) is answered with its sentence instead of the picture.
    """
    return Explorer(draw, alt, {name: control(name, spec) for name, spec in controls.items()})


def at(name: str, **values: Any) -> "Picture":
    """Return the picture of an explorer for these values, by code: for where no control shows.

    Args:
        name: as the line below the explorer's picture has it.
        values: of its controls; those that are left out stand as at the start.

    Raises:
        ValueError: for an explorer whose cell has not run, or values that cannot be drawn.
    """
    if name not in _made:
        raise ValueError(f"figures.at('{name}'): run the cell of this picture first; then this line knows it.")
    return _made[name].at(**values)


_made: dict[str, Explorer] = {}
"""The explorers of this session, by name."""


def _remembered(made: Explorer) -> str:
    """Keep an explorer under a name of its own, that of its function or of its controls; a cell run again keeps it."""
    stem = getattr(_plain(made.draw), "__name__", "picture")
    stem = stem if stem.isidentifier() else "_".join(made.controls)  # a lambda
    names = itertools.chain([stem], (f"{stem}_{number}" for number in itertools.count(2)))
    name = next(name for name in names if name not in _made or _alike(_made[name], made))
    _made[name] = made
    return name


def _alike(one: Explorer, other: Explorer) -> bool:
    return _code(one.draw) == _code(other.draw) and list(one.controls) == list(other.controls)


def _code(draw: Callable[..., Any]) -> Any:
    return getattr(_plain(draw), "__code__", _plain(draw))


def _plain(draw: Callable[..., Any]) -> Callable[..., Any]:
    return draw.func if isinstance(draw, functools.partial) else draw


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
