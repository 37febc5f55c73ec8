"""A figure with fixed margins, for pictures that follow a slider.

The layout engine of `figures.new` measures every text several times, which doubles the time to draw. These pictures
know how much room their labels need.
"""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

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
