"""Pictures of choosing: what the best of many trials scores, and which learning rates serve a batch size."""

import numpy as np
from matplotlib.figure import Figure

from torchcourse import figures
from torchcourse.figures import COLORS
from torchcourse.lessons.tuning import replay
from torchcourse.lessons.tuning.digits_task import BATCHES, SPACE
from torchcourse.lessons.tuning.selection import window


def draw_selection(trials: int, scores: np.ndarray, own: np.ndarray) -> Figure:
    """Draw both means over the number of trials, with one number marked.

    Args:
        trials: the number to mark.
        scores: [splits, 780, 2], from `selection.mean_scores`; the bands are the standard deviation over splits.
        own: [780, 2], the same for the split of the course, drawn dashed.

    Raises:
        ValueError: for a number of trials that no search has.
    """
    if not 1 <= trials <= scores.shape[1]:
        raise ValueError(f"There are 1 to {scores.shape[1]} trials, but not {trials}.")
    figure, axis = figures.new(height=3.3)
    means, spread = 100 * scores.mean(axis=0), 100 * scores.std(axis=0)
    x = np.arange(1, scores.shape[1] + 1)
    for part, (name, color) in enumerate((("on validation, where it was chosen", "orange"), ("on test", "blue"))):
        axis.plot(x, means[:, part], color=COLORS[color], label=name)
        low, high = means[:, part] - spread[:, part], means[:, part] + spread[:, part]
        axis.fill_between(x, low, high, color=COLORS[color], alpha=0.15, linewidth=0)
        own_label = "the same on the course's split" if part else None
        axis.plot(x, 100 * own[:, part], "--", color=COLORS[color], linewidth=1, label=own_label)
        axis.plot(trials, means[trials - 1, part], "o", color=COLORS[color])
    axis.axvline(trials, color=COLORS["gray"], linewidth=0.8)
    axis.set(xscale="log", xlim=(5, len(x)), ylim=(92, 99.5), ylabel="accuracy of the chosen one (%)")
    axis.set_xlabel(f"trials (mean and standard deviation over {len(scores)} splits)")
    axis.legend(frameon=False, fontsize=9, loc="lower right")
    axis.set_title(_finding(trials, scores))
    return figure


def trials_picture(scores: np.ndarray, own: np.ndarray) -> figures.Explorer:
    """Return the explorer: how many trials to choose from."""
    steps = {5, 10, 20, 50, 100, 200, 400, 780, *range(60, 780, 20)}
    return figures.explorer(
        lambda trials: draw_selection(trials, scores, own),
        alt=lambda trials: f"Accuracy of the chosen setting over the number of trials. {_finding(trials, scores)}.",
        trials=figures.values("trials", sorted(steps), start=20),
    )


def _finding(trials: int, scores: np.ndarray) -> str:
    val, test = 100 * scores[:, trials - 1].mean(axis=0)
    gap = f"{val - test:+.1f}".replace("-", "−")
    plural = "trial" if trials == 1 else "trials"
    return f"The best of {trials} {plural}: {val:.1f}% on validation, {test:.1f}% on test, a gap of {gap} points"


def draw_rates(batch_size: int) -> Figure:
    """Draw the last validation accuracy over the learning rate, for every batch size, with one in full color."""
    final = 100 * replay.accuracies("batches")[..., -1]
    figure, axis = figures.new(height=3.2)
    for row, size in enumerate(BATCHES):
        chosen = size == batch_size
        color = COLORS["vermillion" if chosen else "light gray"]
        axis.plot(SPACE["lr"], final[row], "o-" if chosen else "-", color=color, zorder=2 + chosen, markersize=4)
    axis.set(xscale="log", xlabel="learning rate (SGD with momentum 0.9)", ylabel="validation accuracy (%)")
    axis.set_title(rates_finding(batch_size))
    return figure


def rates_finding(batch_size: int) -> str:
    """Say which learning rates serve a batch size."""
    good = window(batch_size)
    return f"Batch size {batch_size}: {good[0]:.2g} to {good[-1]:.2g} reach 80% in 9 epochs"
