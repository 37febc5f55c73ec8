"""The picture of what crashes cost: the formula as a line, and simulated runs as points with their errors."""

from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator

from torchcourse import figures
from torchcourse.error_bars import standard_error
from torchcourse.figures import COLORS
from torchcourse.lessons.monitoring.crash_costs import daly_interval, expected_loss, simulated_loss
from torchcourse.lessons.monitoring.save_interval import best_interval, lost_share

SEEDS = range(8)


def costs_picture(cases: Sequence[tuple[float, float]]) -> None:
    """Show a chart per case (seconds per save, seconds between crashes) with its first-order and its exact formula."""
    figure, axes = figures.new(height=3.4, ncols=len(cases))
    words = []
    for axis, (save, between) in zip(np.atleast_1d(axes), cases, strict=True):
        best = best_interval(save, between)
        intervals = np.geomspace(best / 5, best * 5, 60)
        axis.plot(intervals / 60, [lost_share(t, save, between) for t in intervals], "--", label="C/T + T/2M")
        axis.plot(intervals / 60, [expected_loss(t, save, between) for t in intervals], color="black", label="exact")
        points = np.geomspace(best / 4, best * 4, 7)
        runs = np.array([[simulated_loss(t, save, between, seed=seed) for seed in SEEDS] for t in points])
        axis.errorbar(
            points / 60,
            runs.mean(axis=1),
            yerr=2 * standard_error(runs),
            fmt="o",
            color=COLORS["vermillion"],
            markersize=4,
            label="simulated, ± 2 s.e.",
        )
        finding = (
            f"saved every {best / 60:.0f} min (Young): {expected_loss(best, save, between):.1%} lost; "
            f"every {daly_interval(save, between) / 60:.0f} min (Daly): "
            f"{expected_loss(daly_interval(save, between), save, between):.1%}"
        )
        words.append(f"Saving takes {save:g} s, a crash comes every {between / 3600:g} h: {finding}.")
        axis.axvline(best / 60, color=COLORS["gray"], linestyle=":")
        axis.set(xscale="log", xlabel="minutes of work between two saves", ylabel="time lost per time of work")
        axis.set_title(
            f"C = {save:g} s, M = {between / 3600:g} h:\nat Young's {best / 60:.0f} min, "
            f"{expected_loss(best, save, between):.1%} lost"
        )
        axis.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        ticks = [tick for tick in (1, 3, 10, 30, 100, 300) if intervals[0] < 60 * tick < intervals[-1]]
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        axis.legend(frameon=False, fontsize=8)
    figures.show(figure, " ".join(words))
