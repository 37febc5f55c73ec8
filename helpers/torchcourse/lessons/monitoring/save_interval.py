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
        a_save_takes_s=(1, 120, 30),
        a_crash_every_h=(1.0, 48.0, 3.0, 0.5),
        save_every_min=(1, 120, 60),
    )


def draw_interval(a_save_takes_s: float, a_crash_every_h: float, save_every_min: float) -> Figure:
    """Draw both losses and their sum over the interval, with the chosen and the best one marked.

    Args:
        a_save_takes_s: seconds. a_crash_every_h: hours, the mean. save_every_min: minutes, the chosen interval.
    """
    crashes = 3600 * a_crash_every_h
    minutes = np.geomspace(0.5, 150, 200)
    figure, axis = figures.new(height=3.4)
    axis.plot(minutes, a_save_takes_s / (60 * minutes), "--", color=COLORS["blue"], label="saving")
    axis.plot(minutes, 60 * minutes / (2 * crashes), "--", color=COLORS["vermillion"], label="work done twice")
    axis.plot(minutes, [lost_share(60 * t, a_save_takes_s, crashes) for t in minutes], color="black", label="both")
    best = best_interval(a_save_takes_s, crashes)
    axis.plot(
        best / 60, lost_share(best, a_save_takes_s, crashes), "o", color=COLORS["green"], markersize=9, label="least"
    )
    chosen = lost_share(60 * save_every_min, a_save_takes_s, crashes)
    axis.plot(save_every_min, chosen, "s", color=COLORS["orange"], markersize=8, label="your choice")
    axis.set(xscale="log", xlabel="minutes between two savings", ylabel="share of the time lost", ylim=(0, 0.6))
    axis.set_xticks([1, 3, 10, 30, 100], ["1", "3", "10", "30", "100"])
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.legend(frameon=False, ncols=2)
    axis.set_title(_finding(a_save_takes_s, a_crash_every_h, save_every_min))
    return figure


def _finding(a_save_takes_s: float, a_crash_every_h: float, save_every_min: float) -> str:
    crashes = 3600 * a_crash_every_h
    chosen, best = lost_share(60 * save_every_min, a_save_takes_s, crashes), best_interval(a_save_takes_s, crashes)
    least = lost_share(best, a_save_takes_s, crashes)
    every = f"Saving every {save_every_min:g} min"
    return f"{every} loses {chosen:.1%} of the time; every {best / 60:.0f} min it would be {least:.1%}"
