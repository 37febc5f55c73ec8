"""The picture of a population: the learning rate and the accuracy of each member over the epochs."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from torchcourse import figures
from torchcourse.figures import COLORS
from torchcourse.lessons.tuning.population import Member


def draw_population(members: Sequence[Member], finding: str) -> Figure:
    """Draw each member's learning rate and validation accuracy over the epochs; a ring marks who had copied."""
    figure, axes = figures.new(9.0, 3.2, ncols=2)
    epochs = np.arange(1, len(members[0].scores) + 1)
    best = max(members, key=lambda member: member.scores[-1])
    for member in members:
        color = COLORS["vermillion"] if member is best else COLORS["gray"]
        look = {"color": color, "linewidth": 2 if member is best else 0.8, "zorder": 2 + (member is best)}
        for axis, values in zip(axes, (member.rates, 100 * np.array(member.scores)), strict=True):
            axis.plot(epochs, values, **look)
        copied = [place for place, source in enumerate(member.copied_from) if source is not None]
        axes[0].plot(epochs[copied], np.array(member.rates)[copied], "o", color=color, fillstyle="none", ms=6)
    axes[0].set(yscale="log", xlabel="epoch", ylabel="learning rate (ring: just copied)")
    axes[1].set(xlabel="epoch", ylabel="validation accuracy (%)", ylim=(0, 100))
    figure.suptitle(finding)
    return figure
