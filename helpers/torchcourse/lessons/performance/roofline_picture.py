"""The roofline of a machine, with the layers of a model under it."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from torchcourse.figures import COLORS, canvas, headline, new, show
from torchcourse.lessons.performance.roofline import Machine, Point

FAR = 0.1
"""Below this share of its roof, neither memory nor computing limits a layer."""


def show_roofline(machine: Machine, points: Sequence[Point]) -> None:
    """Show layers under the roof, below the cell."""
    show(draw_roofline(machine, points), describe_roofline(machine, points))


def draw_roofline(machine: Machine, points: Sequence[Point]) -> Figure:
    """Draw the roof over arithmetic intensity, both axes logarithmic, and a dot for each layer, numbered in order."""
    figure, axis = new(8.5, 4.0)
    intensities = [point.intensity for point in points] + [machine.ridge]
    low, high = min(intensities) / 3, max(intensities) * 3
    x = np.geomspace(low, high, 200)
    axis.loglog(x, [machine.roof(value) / 1e9 for value in x], color=COLORS["black"], label="the roof, measured")
    for bound, color, marker in (("memory", COLORS["orange"], "o"), ("compute", COLORS["blue"], "s")):
        own = [point for point in points if point.bound(machine) == bound]
        axis.loglog(
            [point.intensity for point in own],
            [point.speed / 1e9 for point in own],
            marker,
            color=color,
            label=f"roof by {bound}",
        )
    for number, point in enumerate(points, start=1):
        axis.annotate(
            str(number), (point.intensity, point.speed / 1e9), xytext=(5, 3), textcoords="offset points", fontsize=8
        )
    axis.set(xlabel="arithmetic intensity (operations per byte)", ylabel="speed (10⁹ operations per second)")
    axis.legend(frameon=False, fontsize=8.5)
    headline(figure, _finding(machine, points).replace("; ", ";\n"))
    return figure


def describe_roofline(machine: Machine, points: Sequence[Point]) -> str:
    """Say in words what `draw_roofline` shows."""
    layers = "; ".join(
        f"{number} {point.name}: {point.intensity:.2g} operations per byte, {point.reached(machine):.0%} of its roof"
        for number, point in enumerate(points, start=1)
    )
    return f"{_finding(machine, points)}. {layers}."


def _finding(machine: Machine, points: Sequence[Point]) -> str:
    memory = sum(point.bound(machine) == "memory" for point in points)
    far = sum(point.reached(machine) < FAR for point in points)
    found = (
        f"Fewer than {machine.ridge:.1f} operations per byte: memory is the roof of {memory} of {len(points)} layers"
    )
    return found + (f"; something else limits {far}, at less than a tenth of the roof" if far else "")


def draw_dense(machine: Machine, batch: int, width: int, bytes_per_number: int) -> Figure:
    """Draw where a dense layer [width → width] stands under the roof, by formula, for a batch and a size of numbers."""
    figure, axis = canvas(8.0, 3.4, left=0.9, right=0.2, bottom=0.6, top=0.5)
    x = np.geomspace(0.1, 2000, 60)
    axis.loglog(x, [machine.roof(value) / 1e9 for value in x], color=COLORS["black"])
    intensity = dense_intensity(batch, width, bytes_per_number)
    color = COLORS["orange" if intensity < machine.ridge else "blue"]
    axis.loglog([intensity], [machine.roof(intensity) / 1e9], "o", color=color, markersize=9)
    axis.axvline(machine.ridge, color=COLORS["gray"], linewidth=0.8, linestyle=":")
    axis.set(xlabel="arithmetic intensity (operations per byte)", ylabel="possible speed\n(10⁹ operations per second)")
    headline(figure, _dense_finding(machine, batch, width, bytes_per_number))
    return figure


def describe_dense(machine: Machine, batch: int, width: int, bytes_per_number: int) -> str:
    """Say in words what `draw_dense` shows."""
    return f"{_dense_finding(machine, batch, width, bytes_per_number)}. The roof bends at {machine.ridge:.1f}."


def dense_intensity(batch: int, width: int, bytes_per_number: int) -> float:
    """Return the operations per byte of a dense layer [width → width]: weights, inputs and outputs are moved once."""
    return 2 * batch * width**2 / (bytes_per_number * (width**2 + 2 * batch * width))


def _dense_finding(machine: Machine, batch: int, width: int, bytes_per_number: int) -> str:
    intensity = dense_intensity(batch, width, bytes_per_number)
    limit = "memory" if intensity < machine.ridge else "compute"
    return f"{batch} samples, {width} → {width}: {intensity:.1f} operations per byte, {limit} is the limit"
