"""What the pictures of this room share: figures with fixed margins, bars, titles, legends, sliders over given values.

The layout engine of `figures.new` measures every text several times, which doubles the time to draw. A picture that
follows a slider knows how much room its labels need.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as widgets
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from torchcourse.figures import new


def canvas(
    width: float, height: float, *, left: float, right: float, bottom: float, top: float, **subplots: Any
) -> tuple[Figure, Axes]:
    """Return a figure and its axes, as `figures.new` does, with margins in inches."""
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
    """Explain colours in one row at the foot of the figure."""
    handles = [Patch(color=color, label=name) for name, color in colors.items()]
    look = {"frameon": False, "fontsize": 8.5, "handlelength": 1, "columnspacing": 1.2}
    figure.legend(handles=handles, loc="lower center", ncols=len(colors), **look)


def steps(description: str, low: int, high: int, start: int) -> widgets.IntSlider:
    """Return a slider over whole numbers, in the look of `figures.explorer`."""
    return widgets.IntSlider(start, low, high, description=description, **_look())


def values(description: str, options: Sequence[float], start: float) -> widgets.SelectionSlider:
    """Return a slider over the given values, in the look of `figures.explorer`."""
    return widgets.SelectionSlider(options=options, value=start, description=description, **_look())


def _look() -> dict[str, Any]:
    return {"style": {"description_width": "11em"}, "layout": widgets.Layout(width="36em", max_width="100%")}
