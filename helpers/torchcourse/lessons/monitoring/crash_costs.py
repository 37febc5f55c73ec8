"""What crashes cost: the exact expectation, the best interval from it, and a simulation that checks both.

A run works for T seconds, saves for C seconds, and so on. It crashes once in M seconds on average, at any moment with
the same chance, also while it saves or starts. A crash takes it back to the last save, and R seconds are lost until it
runs again.

Source: Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps", FGCS 22(3), 2006,
https://doi.org/10.1016/j.future.2004.11.016. Young's √(2·C·M) is its first term (`save_interval`).
"""

import math

import numpy as np

from torchcourse.lessons.monitoring.save_interval import best_interval


def expected_loss(interval: float, save_seconds: float, between_crashes: float, start_seconds: float = 0.0) -> float:
    """Return the seconds lost per second of work: on saving, on work done twice, and on starting.

    Args:
        interval: T, seconds of work from one save to the next.
        save_seconds: C, for which the work waits.
        between_crashes: M, the mean.
        start_seconds: R, after each crash.

    Raises:
        ValueError: for an interval or a time between crashes that is not above 0.
    """
    if interval <= 0 or between_crashes <= 0:
        raise ValueError("The interval and the time between crashes have to be above 0 seconds.")
    growth = math.expm1((interval + save_seconds) / between_crashes)
    return between_crashes * math.exp(start_seconds / between_crashes) * growth / interval - 1


def simulated_loss(
    interval: float,
    save_seconds: float,
    between_crashes: float,
    start_seconds: float = 0.0,
    *,
    saves: int = 2000,
    seed: int = 0,
) -> float:
    """Return the same number from a run with so many saves whose crashes are drawn, as `expected_loss` has it."""
    draw = np.random.default_rng(seed).exponential
    clock = 0.0
    for _ in range(saves):
        crash = draw(between_crashes)
        while crash < interval + save_seconds:  # back to the last save, and start; that may crash as well
            clock += crash
            crash = draw(between_crashes)
            while crash < start_seconds:
                clock += crash
                crash = draw(between_crashes)
            clock += start_seconds
            crash -= start_seconds
        clock += interval + save_seconds
    return clock / (saves * interval) - 1


def daly_interval(save_seconds: float, between_crashes: float) -> float:
    """Return the best interval with Daly's further terms; for a save longer than two times between crashes, M."""
    if save_seconds >= 2 * between_crashes:
        return between_crashes
    ratio = save_seconds / (2 * between_crashes)
    return best_interval(save_seconds, between_crashes) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - save_seconds
