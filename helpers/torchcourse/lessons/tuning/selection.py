"""Choosing among many trials on few images: what the chosen one scores there, and what it scores on fresh images.

The score that chose is too good: among many settings that are about equal, the one whose mistakes happen to fall
outside the validation images wins. Source: Cawley and Talbot, "On Over-fitting in Model Selection and Subsequent
Selection Bias in Performance Evaluation", JMLR 11, 2010, https://jmlr.org/papers/v11/cawley10a.html.
"""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from torchcourse import figures
from torchcourse.figures import COLORS
from torchcourse.lessons.tuning import replay
from torchcourse.lessons.tuning.digits_task import BATCHES, SPACE

COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 400, 780)
ORDERS = 100


def chosen_scores(order: np.ndarray) -> np.ndarray:
    """Return accuracies [trials, 2]: validation and test, of the best on validation among the first 1, 2, … trials.

    Args:
        order: the positions of the trials [trials] in the flattened table "space". Of each trial, the epoch is chosen
            too, as whoever keeps the best state of each run does.
    """
    val = replay.accuracies("space", "val").reshape(780, -1)[order]
    test = replay.accuracies("space", "test").reshape(780, -1)[order]
    epochs = val.argmax(axis=1)
    rows = np.arange(len(order))
    best_val, its_test = val[rows, epochs], test[rows, epochs]
    leader, leaders = 0, []
    for row in rows:
        leader = row if best_val[row] > best_val[leader] else leader
        leaders.append(leader)
    return np.stack([best_val[leaders], its_test[leaders]], axis=1)


def mean_scores(orders: int = ORDERS) -> np.ndarray:
    """Return `chosen_scores` [orders, 780, 2] of so many random searches through the whole table."""
    generator = np.random.default_rng(0)
    return np.stack([chosen_scores(generator.permutation(780)) for _ in range(orders)])


def draw_selection(trials: int, scores: np.ndarray) -> Figure:
    """Draw both means of `scores` [orders, 780, 2] over the number of trials, with one number marked.

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
        axis.plot(trials, means[trials - 1, part], "o", color=COLORS[color])
    axis.axvline(trials, color=COLORS["grey"], linewidth=0.8)
    axis.set(xscale="log", ylim=(92, 99), xlabel="trials", ylabel="accuracy of the chosen one (%)")
    axis.legend(frameon=False, fontsize=9, loc="lower right")
    axis.set_title(_finding(trials, scores))
    return figure


def selection_picture(scores: np.ndarray) -> Any:
    """Return the explorer: how many trials to choose from."""
    import ipywidgets as widgets

    steps = [*COUNTS[2:], *range(60, 780, 20)]
    slider = widgets.SelectionSlider(
        options=sorted(set(steps)),
        value=20,
        description="trials",
        style={"description_width": "11em"},
        layout=widgets.Layout(width="36em", max_width="100%"),
    )
    return figures.explorer(
        lambda trials: draw_selection(trials, scores),
        alt=lambda trials: f"Accuracy of the chosen setting over the number of trials. {_finding(trials, scores)}.",
        trials=slider,
    )


def _finding(trials: int, scores: np.ndarray) -> str:
    val, test = 100 * scores[:, trials - 1].mean(axis=0)
    gap = f"{val - test:+.1f}".replace("-", "−")
    plural = "trial" if trials == 1 else "trials"
    return f"The best of {trials} {plural}: {val:.1f} % on validation, {test:.1f} % on test, a gap of {gap} points"


def draw_rates(batch_size: int) -> Figure:
    """Draw the last validation accuracy over the learning rate, for every batch size, with one in full colour."""
    final = 100 * replay.accuracies("batches")[..., -1]
    figure, axis = figures.new(height=3.2)
    for row, size in enumerate(BATCHES):
        chosen = size == batch_size
        color = COLORS["vermillion"] if chosen else "#CCCCCC"
        axis.plot(SPACE["lr"], final[row], "o-" if chosen else "-", color=color, zorder=2 + chosen, markersize=4)
    axis.set(xscale="log", xlabel="learning rate (SGD with momentum 0.9)", ylabel="validation accuracy (%)")
    axis.set_title(rates_finding(batch_size))
    return figure


def rates_finding(batch_size: int) -> str:
    """Say which learning rates serve a batch size."""
    good = window(batch_size)
    return f"Batch size {batch_size}: {good[0]:.2g} to {good[-1]:.2g} reach 80 % in 9 epochs"


def window(batch_size: int) -> list[float]:
    """Return the learning rates with which a batch size reaches 80 % on validation by the last epoch."""
    final = replay.accuracies("batches")[BATCHES.index(batch_size), :, -1]
    return [rate for rate, value in zip(SPACE["lr"], final, strict=True) if value >= 0.8]
