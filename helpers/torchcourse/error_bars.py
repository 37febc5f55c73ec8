"""How sure a mean is: standard errors, and the difference of two methods that had the same seeds.

gain = paired(ours, theirs)      # a value for each seed
print(gain)                      # mean ± standard error (how many pairs)
gain.clear                       # whether the interval of 95% leaves out zero
gain.within(0.01)                # whether it lies within one point of zero: the methods are level

"Clear" and "level" are claims, and each needs evidence. What is neither is open: more seeds may settle it. Of twenty
comparisons without any difference, one is clear by luck; `clear_among` asks more of each.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

MANY = 10_000
"""Degrees of freedom from which on Student's t is taken for this number of them; 1.9602 instead of 1.9600."""


@dataclass(frozen=True)
class Difference:
    """A mean of paired differences, its standard error (표준 오차), and of how many pairs."""

    mean: float
    error: float
    pairs: int

    @property
    def low(self) -> float:
        """The lower end of the interval of 95% confidence."""
        return self.mean - t95(self.pairs - 1) * self.error

    @property
    def high(self) -> float:
        """Its upper end."""
        return self.mean + t95(self.pairs - 1) * self.error

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero: the paired t-test at 5%."""
        return self.clear_among(1)

    def clear_among(self, comparisons: int) -> bool:
        """Whether the difference is clear as one of so many that are read together (Bonferroni: 5% for all of them).

        Raises:
            ValueError: for less than one comparison.
        """
        if comparisons < 1:
            raise ValueError(f"This difference is one of one comparison or more, but comparisons is {comparisons}.")
        return abs(self.mean) > t_reach(self.pairs - 1, 1 - 0.05 / comparisons) * self.error

    def within(self, margin: float) -> bool:
        """Whether the two are **level**: the interval lies between −margin and margin."""
        return self.high < _positive(margin) and self.low > -margin

    def at_most_below(self, margin: float) -> bool:
        """Whether the first is not worse than the second by the margin or more: the interval ends above −margin."""
        return self.low > -_positive(margin)

    def verdict(self, margin: float) -> str:
        """Say "level" within the margin, else "clearly above" or "clearly below", else "open".

        What is clear and within the margin is level: it is there, and it does not matter.
        """
        if self.within(margin):
            return "level"
        return "open" if not self.clear else "clearly above" if self.mean > 0 else "clearly below"

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ± {self.error:.3f} ({self.pairs} pairs)"

    def in_points(self) -> str:
        """Say a difference of percentages with its interval, in percentage points."""
        text = f"{self.mean:+.2f} points, 95% interval {self.low:+.2f} to {self.high:+.2f} ({self.pairs} pairs)"
        return text.replace("-", "−")


def paired(ones: ArrayLike, others: ArrayLike) -> Difference:
    """Return by how much `ones` are above `others`, seed by seed: what a seed does to both cancels out.

    Raises:
        ValueError: for lists of different lengths, fewer than two seeds, or a value that is not a finite number.
    """
    rounding = max(_rounding(ones), _rounding(others))  # 0.1 + 0.2 is not above 0.3
    ones, others = np.asarray(ones, dtype=float), np.asarray(others, dtype=float)
    if ones.shape != others.shape or ones.ndim != 1 or len(ones) < 2:
        raise ValueError(
            f"Pairs need two lists of the same two values or more, not {ones.shape} and {others.shape}: "
            "one pair has no error bar."
        )
    if not (np.isfinite(ones).all() and np.isfinite(others).all()):
        raise ValueError(
            "A value of these pairs is NaN or infinite: a mean would hide which run failed. Give a failed run the "
            "worst value that it can have, or leave its seed out on both sides and say so."
        )
    differences = ones - others
    return Difference(differences.mean().item(), max(standard_error(differences).item(), rounding), len(differences))


def _rounding(values: ArrayLike) -> float:
    """Return how much the largest number may be off by the rounding of its own type, such as float32."""
    given = np.asarray(values)
    kind = given.dtype if given.dtype.kind == "f" else float
    return float(np.finfo(kind).eps * np.max(np.abs(given.astype(float)), initial=0.0))


def standard_error(values: ArrayLike) -> np.ndarray:
    """Return the standard error of the mean over the last dimension: [..., N] → [...].

    Raises:
        ValueError: for fewer than two values.
    """
    values = np.asarray(values, dtype=float)
    if values.shape[-1] < 2:
        raise ValueError("One value has no standard error: it takes two or more.")
    return values.std(axis=-1, ddof=1) / np.sqrt(values.shape[-1])


def t95(freedom: int) -> float:
    """Return how many standard errors an interval of 95% reaches to each side (Student's t; 1.96 for very many).

    Raises:
        ValueError: for less than one degree of freedom.
    """
    return t_reach(freedom, 0.95)


@functools.cache
def t_reach(freedom: int, confidence: float) -> float:
    """Return how many standard errors an interval of this confidence reaches to each side (Student's t).

    Raises:
        ValueError: for less than one degree of freedom, or a confidence that is not between 0 and 1.
    """
    if freedom < 1:
        raise ValueError(f"An interval needs one degree of freedom or more, but there are {freedom}.")
    if not 0 < confidence < 1:
        raise ValueError(f"A confidence lies between 0 and 1, but this one is {confidence}.")
    low, high = 0.0, math.pi / 2  # of the angle whose tangent is t / √freedom
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _covered(middle, min(freedom, MANY)) < confidence else (low, middle)
    return math.tan(low) * math.sqrt(min(freedom, MANY))


def interval_of_share(right: int, count: int) -> tuple[float, float]:
    """Return the 95% interval of a share, from how many of how many were right; it stays between 0 and 1.

    Source: Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953

    Raises:
        ValueError: for none, or more that are right than there are.
    """
    if not 0 <= right <= count or count < 1:
        raise ValueError(f"A share is so many of one or more, but this one is {right} of {count}.")
    share, square = right / count, 1.96**2 / count
    middle = (share + square / 2) / (1 + square)
    half = math.sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)


def _covered(angle: float, freedom: int) -> float:
    """Return the probability that |t| is below √freedom · tan(angle).

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 1964, 26.7.3 and 26.7.4.
    """
    cosine, odd = math.cos(angle), freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for power in range(1 + odd, freedom, 2):
        total += term
        term *= cosine**2 * power / (power + 1)
    if odd:
        return (angle + math.sin(angle) * total) * 2 / math.pi
    return math.sin(angle) * total


def _positive(margin: float) -> float:
    if not margin > 0:
        raise ValueError(f"A margin is above zero, the difference that would not matter, but this one is {margin}.")
    return margin
