"""Pictures of transfer: accuracy over the number of labels, and what a scaling does to a picture."""

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.figure import Figure

from torchcourse.error_bars import paired, standard_error
from torchcourse.figures import COLORS, new
from torchcourse.lessons.transfer.few_labels import LABELS, METHODS, Results

_COLORS = dict(zip(METHODS, ("grey", "orange", "blue", "vermillion"), strict=True))


def close_to_best(accuracy: Mapping[str, np.ndarray]) -> list[str]:
    """Return the methods that are not clearly below the one with the best mean: within two standard errors of the
    paired difference. `accuracy` holds one value a seed for each method."""
    best = max(accuracy, key=lambda method: np.mean(accuracy[method]))
    return [method for method in accuracy if method == best or not clearly_below(accuracy[method], accuracy[best])]


def clearly_below(ones: np.ndarray, others: np.ndarray) -> bool:
    """Whether `ones` are below `others` by more than two standard errors of the paired difference."""
    difference = paired(ones, others)
    return difference.mean < -2 * difference.error


def describe_labels(labels: int, results: Results) -> str:
    """Say which methods are best with so many labels a class, and which of them trains fastest: the title."""
    row = LABELS.index(labels)
    best = close_to_best({method: values[row] for method, values in results.accuracy.items()})
    cheapest = min(best, key=lambda method: np.median(results.seconds[method][row]))
    count = f"{labels} label{'s' if labels > 1 else ''} a class"
    if len(best) == 1:
        return f"{count}: {best[0]} is clearly best"
    return f"{count}: {', '.join(best)} are level; cheapest of them: {cheapest}"


def draw_labels(labels: int, results: Results) -> Figure:
    """Draw accuracy over the number of labels for each method, and the CPU seconds at one number of labels."""
    row = LABELS.index(labels)
    figure, (left, right) = new(9.5, 3.4, ncols=2, width_ratios=[2, 1])
    for method, values in results.accuracy.items():
        mean, error = 100 * values.mean(axis=1), 100 * standard_error(values)
        left.errorbar(LABELS, mean, yerr=2 * error, marker="o", ms=4, capsize=3, color=COLORS[_COLORS[method]])
        name = {"nearest neighbour": "nearest\nneighbour"}.get(method, method)
        seconds, accuracy = np.median(results.seconds[method][row]), mean[row]
        right.errorbar(max(seconds, 1e-3), accuracy, yerr=2 * error[row], marker="o", color=COLORS[_COLORS[method]])
        # One label above its point: where training is dear, the points lie close to one another.
        place, side = ((-4, 14), "center") if method == "fine-tuned" else ((6, -12), "left")
        right.annotate(
            name, (max(seconds, 1e-3), accuracy), place, textcoords="offset points", ha=side, fontsize=8,
            color=COLORS[_COLORS[method]],
        )  # fmt: skip
    left.axvline(labels, color=COLORS["grey"], lw=0.8, ls="--")
    left.set(xscale="log", xlabel="labelled images of each digit", ylabel="test accuracy, %  (± 2 standard errors)")
    left.set_xticks(LABELS, [str(number) for number in LABELS])
    left.minorticks_off()
    right.set(xscale="log", xlabel="training, CPU seconds", ylabel="test accuracy, %", xlim=(5e-4, 60))
    right.margins(y=0.2)
    figure.suptitle(describe_labels(labels, results))
    return figure


def draw_scalings(pictures: Mapping[str, torch.Tensor], title: str) -> Figure:
    """Draw one picture [H, W] as a network gets it in several scalings, all in the same greys."""
    figure, axes = new(1.9 * len(pictures) + 0.8, 2.7, ncols=len(pictures), squeeze=False)
    for axis, (name, picture) in zip(axes[0], pictures.items(), strict=True):
        image = axis.imshow(picture.numpy(), cmap="gray", vmin=-1, vmax=3)
        axis.set_xlabel(f"{name}\nmean {picture.mean():.2f}, spread {picture.std():.2f}", fontsize=8)
        axis.set(xticks=[], yticks=[])
    figure.colorbar(image, ax=list(axes[0]), label="value that the network gets", shrink=0.8)
    figure.suptitle(title)
    return figure
