"""The picture of the save interval: what saving and repeated work cost, and the explorer of it."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from torchcourse import figures
from torchcourse.figures import COLORS
from torchcourse.lessons.monitoring.save_interval import best_interval, lost_share


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
