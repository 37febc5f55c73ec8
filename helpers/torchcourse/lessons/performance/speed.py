"""Is a function faster? Measured as a ratio, in one run, in pairs.

Seconds say little about a function: they change with the machine, and with what else it does. A ratio of two times that
were taken one right after the other says much more. Each pair gets new inputs of its own, and each output of a
timed call is compared afterwards: so no work can be left out.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Comparison:
    """How many times as fast a function was, in each pair of calls."""

    ratios: tuple[float, ...]

    @property
    def middle(self) -> float:
        return statistics.median(self.ratios)

    @property
    def quarters(self) -> tuple[float, float]:
        """The range in which the middle half of the pairs lies."""
        low, _, high = statistics.quantiles(self.ratios, n=4)
        return low, high

    def __str__(self) -> str:
        low, high = min(self.ratios), max(self.ratios)
        return f"{self.middle:.1f} times as fast (median of {len(self.ratios)} pairs, {low:.1f} to {high:.1f})"


def compare(
    ours: Callable[..., Any],
    other: Callable[..., Any],
    draw: Callable[[int], tuple[Any, ...]],
    judge: Callable[[Any, tuple[Any, ...], Any], None],
    target: float,
    pairs: int = 9,
    most: int = 45,
    clock: Callable[[], float] = time.perf_counter,
) -> Comparison:
    """Time `other` and `ours` in turn, until the middle half of the ratios lies on one side of the target.

    Args:
        ours: the function whose speed is asked for.
        other: the one that it is compared with.
        draw: number of the pair → the arguments of both. It is called once for each function, and must return equal
            values for equal numbers.
        judge: output of `ours`, the arguments, output of `other`; raises where they differ.
        target: how many times as fast `ours` should be.
        pairs: how many pairs are taken at least, after one that is not counted. A busy machine needs more.
        most: how many at most.
        clock: what tells the time, in seconds.
    """
    ratios: list[float] = []
    number = 0
    while number <= pairs or (number <= most and not _clear(Comparison(tuple(ratios)), target)):
        first, second = draw(number), draw(number)
        for_judge = draw(number)
        # In turn first and second: what comes second finds the data in the cache.
        if number % 2:
            seconds, right = _timed(other, first, clock)
            own_seconds, output = _timed(ours, second, clock)
        else:
            own_seconds, output = _timed(ours, second, clock)
            seconds, right = _timed(other, first, clock)
        judge(output, for_judge, right)
        if number:
            ratios.append(seconds / max(own_seconds, 1e-9))
        number += 1
    return Comparison(tuple(ratios))


def _timed(function: Callable[..., Any], arguments: tuple[Any, ...], clock: Callable[[], float]) -> tuple[float, Any]:
    start = clock()
    output = function(*arguments)
    return clock() - start, output


def _clear(comparison: Comparison, target: float) -> bool:
    low, high = comparison.quarters
    return low >= target or high < target
