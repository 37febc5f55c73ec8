"""How often to save: too seldom loses work at a crash, too often spends the time on saving.

A run that saves every T seconds, at C seconds per saving, with M seconds from crash to crash on average, spends the
share C/T on saving, and loses T/2 at a crash, which is the share T/(2M). The sum is least at T = √(2·C·M).

Source: Young, "A first order approximation to the optimum checkpoint interval", CACM 17(9), 1974,
https://doi.org/10.1145/361147.361115. It holds while C is small against M; Daly (2006) has further terms,
https://doi.org/10.1016/j.future.2004.11.016.
"""

import math


def lost_share(interval: float, save_seconds: float, seconds_between_crashes: float) -> float:
    """Return the share of the time that does not train, 0 to 1 and beyond: saving, and work done twice.

    Args:
        interval: seconds from one saving to the next.
        save_seconds: what one saving takes while training waits.
        seconds_between_crashes: the mean.

    Raises:
        ValueError: for an interval or a time between crashes that is not above 0.
    """
    if interval <= 0 or seconds_between_crashes <= 0:
        raise ValueError("The interval and the time between crashes have to be above 0 seconds.")
    return save_seconds / interval + interval / (2 * seconds_between_crashes)


def best_interval(save_seconds: float, seconds_between_crashes: float) -> float:
    """Return the interval in seconds at which least is lost."""
    return math.sqrt(2 * save_seconds * seconds_between_crashes)
