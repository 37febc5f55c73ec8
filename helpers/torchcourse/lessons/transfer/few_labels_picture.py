"""Pictures of transfer: accuracy over the number of labels, and what a scaling does to a picture."""

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.figure import Figure

from torchcourse.error_bars import paired, standard_error, t95
from torchcourse.figures import COLORS, new
from torchcourse.lessons.transfer.few_labels import LABELS, MARGIN, METHODS, Results

_COLORS = dict(zip(METHODS, ("gray", "orange", "blue", "vermillion"), strict=True))


def good_enough(accuracy: Mapping[str, np.ndarray], margin: float = MARGIN) -> list[str]:
    """Return the methods that are, with 95% confidence, less than the margin below the one with the best mean.

    Args:
        accuracy: one value per seed for each method, from the same seeds.
        margin: a difference that would not matter.
    """
    best = max(accuracy, key=lambda method: np.mean(accuracy[method]))
    return [method for method, values in accuracy.items() if paired(values, accuracy[best]).at_most_below(margin)]


def describe_labels(labels: int, results: Results) -> str:
    """Say which methods are within a point of the best with so many labels, the one first that trains fastest."""
    seconds = {method: np.median(values[LABELS.index(labels)]) for method, values in results.seconds.items()}
    enough = sorted(good_enough(results.shared(labels)), key=lambda method: seconds[method])
    count = f"{labels} label{'s' if labels > 1 else ''} per digit"
    if len(enough) == 1:
        return f"{count}: only {enough[0]} is sure to be within a point of the best"
    return f"{count}; within a point of the best, cheapest first: {', '.join(enough)}"


def draw_labels(labels: int, results: Results) -> Figure:
    """Draw accuracy over the number of labels for each method, and the CPU seconds at one number of labels."""
    row = LABELS.index(labels)
    figure, (left, right) = new(9.5, 3.4, ncols=2, width_ratios=[2, 1])
    for method, values in results.accuracy.items():
        mean, half = 100 * values.mean(axis=1), 100 * t95(values.shape[1] - 1) * standard_error(values)
        left.errorbar(LABELS, mean, yerr=half, marker="o", ms=4, capsize=3, color=COLORS[_COLORS[method]])
        name = {"nearest neighbor": "nearest\nneighbor"}.get(method, method)
        seconds, accuracy = np.median(results.seconds[method][row]), mean[row]
        right.errorbar(max(seconds, 1e-3), accuracy, yerr=half[row], marker="o", color=COLORS[_COLORS[method]])
        # One label on the other side of its point: where training costs much, the points lie close to one another.
        place, side = ((-6, 4), "right") if method == "fine-tuned" else ((6, -12), "left")
        right.annotate(
            name, (max(seconds, 1e-3), accuracy), place, textcoords="offset points", ha=side, fontsize=8,
        )  # fmt: skip
    left.axvline(labels, color=COLORS["gray"], lw=0.8, ls="--")
    left.set(xscale="log", xlabel="labeled images of each digit", ylabel="test accuracy, %  (95% intervals)")
    left.set_xticks(LABELS, [str(number) for number in LABELS])
    left.minorticks_off()
    right.set(xscale="log", xlabel="training, CPU seconds", ylabel="test accuracy, %", xlim=(5e-4, 60))
    right.margins(y=0.2)
    figure.suptitle(describe_labels(labels, results))
    return figure


def draw_scalings(pictures: Mapping[str, torch.Tensor], title: str) -> Figure:
    """Draw one picture [H, W] as a network gets it in several scalings, all in the same grays."""
    figure, axes = new(1.9 * len(pictures) + 0.8, 2.7, ncols=len(pictures), squeeze=False)
    for axis, (name, picture) in zip(axes[0], pictures.items(), strict=True):
        image = axis.imshow(picture.numpy(), cmap="gray", vmin=-1, vmax=3)
        axis.set_xlabel(f"{name}\nmean {picture.mean():.2f}, spread {picture.std():.2f}", fontsize=8)
        axis.set(xticks=[], yticks=[])
    figure.colorbar(image, ax=list(axes[0]), label="value that the network gets", shrink=0.8)
    figure.suptitle(title)
    return figure
