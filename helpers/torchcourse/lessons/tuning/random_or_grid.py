"""A planted space of two axes of which one matters: how near do grid and random search come to its peak?

Positions on both axes go from 0 to 1. Source of the picture: Bergstra and Bengio, "Random Search for Hyper-Parameter
Optimization", JMLR 13, 2012, https://jmlr.org/papers/v13/bergstra12a.html.
"""

import numpy as np

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
