"""The pictures of a run that was started again: its loss, and how often each sample of the epoch is in the weights."""

from collections.abc import Sequence

import numpy as np

from torchcourse import figures
from torchcourse.figures import COLORS
from torchcourse.lessons.monitoring.seen_samples import SAMPLES, Part, audit


def losses_picture(parts: Sequence[Part]) -> None:
    """Show the loss of each step that counts, one color for each start."""
    figure, axis = figures.new(height=2.8)
    for number, part in enumerate(parts):
        steps = sorted({step for _, step, _ in part.rows})
        axis.plot(steps, part.losses, "o-", markersize=3, label=f"start {number}")
    axis.set(xlabel="step", ylabel="training loss (nats)")
    axis.legend(frameon=False)
    last = parts[-1].losses[-1]
    axis.set_title(f"The loss falls from {parts[0].losses[0]:.2f} to {last:.2f}, through the restart as well")
    figures.show(figure, f"Training loss by step. It falls from {parts[0].losses[0]:.2f} to {last:.2f}.")


def seen_picture(runs: dict[str, Sequence[Part]]) -> None:
    """Show for each run how many samples are in the weights never, once, and more than once."""
    figure, axis = figures.new(height=1.7 + 0.4 * len(runs))
    words = []
    colors = (COLORS["gray"], COLORS["blue"], COLORS["vermillion"])
    for row, (name, parts) in enumerate(runs.items()):
        twice, never = audit([entry for part in parts for entry in part.rows], SAMPLES)
        shares = [len(never), SAMPLES - len(never) - len(twice), len(twice)]
        left = 0
        for share, color, label in zip(shares, colors, ("never", "once", "more than once"), strict=True):
            axis.barh(row, share, left=left, color=color, height=0.6, label=None if row else label)
            if share:
                axis.text(left + share / 2, row, share, ha="center", va="center", color=figures.ink(color))
            left += share
        words.append(f"{name}: {len(never)} samples never, {len(twice)} more than once")
    axis.set_yticks(np.arange(len(runs)), list(runs))
    axis.set(xlabel=f"samples of the epoch, {SAMPLES} in all")
    figure.legend(frameon=False, ncols=3, loc="outside lower center")
    axis.set_title("\n".join(words))
    figures.show(figure, "How often each sample is in the weights. " + ". ".join(words) + ".")
