"""The picture of grid and random search over a space where one axis matters."""

import numpy as np
from matplotlib.figure import Figure

from torchcourse import figures
from torchcourse.figures import COLORS
from torchcourse.lessons.tuning.random_or_grid import best_values, grid_points, random_points, value


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
