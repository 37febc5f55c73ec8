"""The parts of a step as bars: one row per loop, one color per part."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from torchcourse.figures import CYCLE, bars, canvas, headline, legend, show

Parts = Mapping[str, float]
"""Milliseconds per step, by part."""


def show_parts(loops: Mapping[str, Parts]) -> None:
    """Show where the time of each loop's step goes, under the cell."""
    show(draw_parts(loops), describe_parts(loops))


def draw_parts(loops: Mapping[str, Parts]) -> Figure:
    """Draw one bar per loop, made of its parts (ms per step)."""
    names = list(dict.fromkeys(name for parts in loops.values() for name in parts))
    colors = {name: CYCLE[number % len(CYCLE)] for number, name in enumerate(names)}
    figure, axis = canvas(8.5, 1.5 + 0.5 * len(loops), left=1.9, right=0.3, bottom=0.95, top=0.4)
    rectangles, fills = [], []
    for row, parts in enumerate(loops.values()):
        left = 0.0
        for name, value in parts.items():
            rectangles.append((left, row - 0.35, value, 0.7))
            fills.append(colors[name])
            left += value
    bars(axis, rectangles, fills, edgecolors="white", linewidths=0.5)
    axis.set(xlim=(0, 1.02 * max(sum(parts.values()) for parts in loops.values())), ylim=(len(loops) - 0.5, -0.5))
    axis.set_yticks(range(len(loops)), list(loops))
    axis.set_xlabel("time per step (ms), measured")
    headline(figure, _finding(loops))
    legend(figure, colors)
    return figure


def describe_parts(loops: Mapping[str, Parts]) -> str:
    """Say in words what `draw_parts` shows."""
    rows = (
        f"{loop}: " + ", ".join(f"{name} {value:.2f} ms" for name, value in parts.items()) + "."
        for loop, parts in loops.items()
    )
    return f"{_finding(loops)}. {' '.join(rows)}"


def _finding(loops: Mapping[str, Parts]) -> str:
    largest = {loop: max(parts, key=lambda name: parts[name]) for loop, parts in loops.items()}
    shares = {loop: loops[loop][name] / sum(loops[loop].values()) for loop, name in largest.items()}
    if len(loops) > 1 and len(set(largest.values())) == 1:
        name = next(iter(largest.values()))
        return f"Most time per step – {name}: {min(shares.values()):.0%} to {max(shares.values()):.0%}"
    return "Most time per step – " + ", ".join(f"{loop}: {shares[loop]:.0%} {name}" for loop, name in largest.items())
