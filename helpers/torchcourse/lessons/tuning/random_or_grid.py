"""A planted space of two axes of which one matters: how near do grid and random search come to its peak?

Positions on both axes go from 0 to 1. Source of the picture: Bergstra and Bengio, "Random Search for Hyper-Parameter
Optimization", JMLR 13, 2012, https://jmlr.org/papers/v13/bergstra12a.html.
"""

import numpy as np
from matplotlib.figure import Figure

from torchcourse import figures
from torchcourse.figures import COLORS

WIDTH = 0.05
"""Width of the peak (standard deviation) along the axis that matters."""


def value(points: np.ndarray, peak: float) -> np.ndarray:
    """Return the value [n], from 0 to 1, of points [n, 2]: their first coordinate alone decides."""
    return np.exp(-(((points[:, 0] - peak) / WIDTH) ** 2) / 2)


def grid_points(side: int) -> np.ndarray:
    """Return side² points [side², 2], in the middle of equal cells."""
    axis = (np.arange(side) + 0.5) / side
    return np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)


def random_points(side: int, generator: np.random.Generator) -> np.ndarray:
    """Return side² points [side², 2] that are drawn evenly."""
    return generator.random((side * side, 2))


def best_values(side: int, repeats: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """Return the best value of the grid and of random search [repeats] each, with the peak at a new place each time."""
    generator = np.random.default_rng(side)
    peaks = generator.random(repeats)
    grid = np.array([value(grid_points(side), peak).max() for peak in peaks])
    return grid, np.array([value(random_points(side, generator), peak).max() for peak in peaks])


def draw(side: int, peak: float = 0.42) -> Figure:
    """Draw both searches over the space, and along the lower edge which places on the axis that matters they tried."""
    figure, axes = figures.new(9.0, 3.3, ncols=2, sharey=True)
    searches = {"grid": grid_points(side), "random": random_points(side, np.random.default_rng(3))}
    x = np.linspace(0, 1, 300)
    for axis, (name, points) in zip(axes, searches.items(), strict=True):
        shade = value(np.stack([x, x], axis=1), peak)
        axis.imshow(shade[None], extent=(0, 1, 0, 1), aspect="auto", cmap="Greens", alpha=0.6)
        axis.plot(*points.T, "o", color=COLORS["blue"], ms=5)
        axis.plot(points[:, 0], np.full(len(points), -0.05), "|", color=COLORS["vermillion"], ms=9, clip_on=False)
        best = value(points, peak).max()
        axis.set(xlabel=f"axis that matters; {name}: best {best:.2f} of 1", xlim=(0, 1), ylim=(-0.1, 1))
    axes[0].set_ylabel("axis that does not")
    figure.suptitle(finding(side))
    return figure


def finding(side: int) -> str:
    """Say what so many trials find on average."""
    grid, drawn = best_values(side)
    return (
        f"{side * side} trials: {side} places or {side * side}; best value on average: grid {grid.mean():.2f}, "
        f"random {drawn.mean():.2f}"
    )
