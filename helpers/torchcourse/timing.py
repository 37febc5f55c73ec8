"""Candidates measured in turn, and what was measured in words: a median with its range, a ratio of medians."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial


def in_turn(candidates: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Call the candidates one after the other, `rounds` times, after one round that is not counted.

    Returns:
        Wall-clock seconds of each counted call, by candidate.
    """
    return measured_in_turn({name: partial(seconds_of, call) for name, call in candidates.items()}, rounds)


def measured_in_turn(
    candidates: Mapping[str, Callable[[], float]], rounds: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Let the candidates measure themselves one after the other, `rounds` times.

    Args:
        candidates: what returns one measurement, each by its name.
        rounds: how many rounds are counted.
        warm_up: how many rounds go before them.
    """
    measured: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(warm_up + rounds):
        for name, measure in candidates.items():
            value = measure()
            if number >= warm_up:
                measured[name].append(value)
    return measured


def seconds_of(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds of one call, of the wall clock or of a different clock."""
    start = clock()
    call()
    return clock() - start


def spread(values: Iterable[float], unit: str, scale: float = 1.0) -> str:
    """Return median and range, such as `0.13 s (0.12–0.15)`."""
    scaled = sorted(value * scale for value in values)
    low, high = (f"{value:.3g}" for value in (scaled[0], scaled[-1]))
    return f"{statistics.median(scaled):.3g} {unit} ({low}–{high})"


def ratio(values: Iterable[float], reference: Iterable[float]) -> str:
    """Return how many times the reference's median the values' median is."""
    return f"{statistics.median(values) / statistics.median(reference):.2f}×"
