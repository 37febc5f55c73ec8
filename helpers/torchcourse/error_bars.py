"""How sure a mean is: standard errors, and the difference of two methods that had the same seeds.

gain = paired(ours, theirs)      # a value for each seed
print(gain)                      # mean ± standard error
gain.clear                       # whether the interval of 95 % leaves out zero
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Difference:
    """A mean of paired differences, its standard error (표준 오차), and of how many pairs."""

    mean: float
    error: float
    pairs: int

    @property
    def low(self) -> float:
        """The lower end of the interval of 95 % confidence."""
        return self.mean - t95(self.pairs - 1) * self.error

    @property
    def high(self) -> float:
        """Its upper end."""
        return self.mean + t95(self.pairs - 1) * self.error

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ± {self.error:.3f}"

    def in_points(self) -> str:
        """Say a difference of percentages with its interval, in percentage points."""
        return f"{self.mean:+.2f} points, 95 % interval {self.low:+.2f} to {self.high:+.2f}".replace("-", "−")


def paired(ones: ArrayLike, others: ArrayLike) -> Difference:
    """Return by how much `ones` are above `others`, seed by seed: what a seed does to both cancels out.

    Raises:
        ValueError: for lists of different lengths, or fewer than two seeds.
    """
    ones, others = np.asarray(ones, dtype=float), np.asarray(others, dtype=float)
    if ones.shape != others.shape or ones.ndim != 1 or len(ones) < 2:
        raise ValueError(
            f"Pairs need two lists of the same two values or more, not {ones.shape} and {others.shape}: "
            "one pair has no error bar."
        )
    differences = ones - others
    return Difference(differences.mean().item(), standard_error(differences).item(), len(differences))


def standard_error(values: ArrayLike) -> np.ndarray:
    """Return the standard error of the mean over the last dimension: [..., N] → [...]."""
    values = np.asarray(values, dtype=float)
    return values.std(axis=-1, ddof=1) / np.sqrt(values.shape[-1])


def t95(freedom: int) -> float:
    """Return how many standard errors an interval of 95 % reaches to each side (Student's t; 1.96 for very many).

    Within 4 % for 2 degrees of freedom, and better for more. It is the expansion 26.7.5 of Abramowitz and Stegun,
    Handbook of Mathematical Functions, 1964.

    Raises:
        ValueError: for less than one degree of freedom.
    """
    if freedom < 1:
        raise ValueError(f"An interval needs one degree of freedom or more, but there are {freedom}.")
    z, n = 1.959964, freedom
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    )
