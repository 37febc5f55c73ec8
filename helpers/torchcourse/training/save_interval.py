"""How often to save: too seldom loses work at a crash, too often spends the time on saving.

A run that saves every T seconds, at C seconds a saving, with M seconds from crash to crash on average, spends the share
C/T on saving, and loses T/2 at a crash, which is the share T/(2M). The sum is least at T = √(2·C·M).

Source: Young, "A first order approximation to the optimum checkpoint interval", CACM 17(9), 1974,
https://doi.org/10.1145/361147.361115. It holds while C is small against M; Daly (2006) has further terms,
https://doi.org/10.1016/j.future.2004.11.016.
"""

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from torchcourse import figures
from torchcourse.figures import COLORS


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


def interval_picture() -> Any:
    """Return the explorer: how often to save, by how long it takes and how often the run crashes."""
    return figures.explorer(
        draw_interval,
        alt=lambda **values: f"Lost time over the save interval. {_finding(**values)}.",
        save_seconds=(1, 120, 30),
        hours_between_crashes=(1.0, 48.0, 3.0, 0.5),
        minutes_between_saves=(1, 120, 60),
    )


def draw_interval(save_seconds: float, hours_between_crashes: float, minutes_between_saves: float) -> Figure:
    """Draw both losses and their sum over the interval, with the chosen and the best one marked."""
    crashes = 3600 * hours_between_crashes
    minutes = np.geomspace(0.5, 150, 200)
    figure, axis = figures.new(height=3.4)
    axis.plot(minutes, save_seconds / (60 * minutes), "--", color=COLORS["blue"], label="saving")
    axis.plot(minutes, 60 * minutes / (2 * crashes), "--", color=COLORS["vermillion"], label="work done twice")
    axis.plot(minutes, [lost_share(60 * t, save_seconds, crashes) for t in minutes], color="black", label="both")
    best = best_interval(save_seconds, crashes)
    axis.plot(
        best / 60, lost_share(best, save_seconds, crashes), "o", color=COLORS["green"], markersize=9, label="least"
    )
    chosen = lost_share(60 * minutes_between_saves, save_seconds, crashes)
    axis.plot(minutes_between_saves, chosen, "s", color=COLORS["orange"], markersize=8, label="your choice")
    axis.set(xscale="log", xlabel="minutes between two savings", ylabel="share of the time lost", ylim=(0, 0.6))
    axis.set_xticks([1, 3, 10, 30, 100], ["1", "3", "10", "30", "100"])
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.legend(frameon=False, ncols=2)
    axis.set_title(_finding(save_seconds, hours_between_crashes, minutes_between_saves))
    return figure


def _finding(save_seconds: float, hours_between_crashes: float, minutes_between_saves: float) -> str:
    crashes = 3600 * hours_between_crashes
    chosen, best = lost_share(60 * minutes_between_saves, save_seconds, crashes), best_interval(save_seconds, crashes)
    least = lost_share(best, save_seconds, crashes)
    every = f"Saving every {minutes_between_saves:g} min"
    return f"{every} loses {chosen:.1%} of the time; every {best / 60:.0f} min it would be {least:.1%}"
