"""The picture of a search: how far each trial was trained, and how good it was there."""

import numpy as np
from matplotlib.figure import Figure

from torchcourse import figures
from torchcourse.figures import COLORS
from torchcourse.lessons.tuning.halving import RUNGS
from torchcourse.lessons.tuning.search import Search


def draw_curves(search: Search) -> Figure:
    """Draw the value of each trial over the epochs, and a cross where one failed."""
    figure, axis = figures.new(height=3.3)
    colors = {RUNGS[0]: "gray", RUNGS[1]: "orange", RUNGS[2]: "blue"}
    for trial in search.trials:
        color = COLORS[colors.get(trial.epochs, "gray")]
        epochs = np.arange(1, trial.epochs + 1)
        axis.plot(epochs, 100 * np.array(trial.values), "o-", color=color, ms=4, linewidth=1, zorder=trial.epochs)
        if trial.failed:
            axis.plot(trial.epochs + 1, 0, "x", color=COLORS["vermillion"], ms=7, clip_on=False, zorder=20)
    for rung in RUNGS:
        axis.axvline(rung, color=COLORS["light gray"], linewidth=0.8, zorder=0)
    axis.set(xlabel="epoch (lines: rungs)", ylabel="validation accuracy (%)", ylim=(0, 100), xticks=range(1, 10))
    axis.set_title(curves_finding(search))
    return figure


def curves_finding(search: Search) -> str:
    """Say how many trials got how far, and how many failed."""
    further, ended = (sum(trial.epochs >= rung for trial in search.trials) for rung in RUNGS[1:])
    failed = f", {len(search.failures)} failed" if search.failures else ""
    return (
        f"{len(search.trials)} trials began{failed}, {further} passed epoch 1, {ended} reached the end: "
        f"{search.spent} epochs, best {100 * search.best.values[-1]:.1f}%"
    )
