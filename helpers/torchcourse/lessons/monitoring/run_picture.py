"""Pictures of a run's log: what its event files hold, drawn."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from torchcourse import figures
from torchcourse.lessons.monitoring.diagnosis import layer_gradients, must_be_watched, rms
from torchcourse.training.events import RunLog
from torchcourse.training.histograms import Histogram


def draw_card(run: RunLog, name: str) -> Figure:
    """Draw what there is to see of a run side by side: weights, gradients, units, and curves.

    Raises:
        ValueError: for a run that was not watched.
    """
    must_be_watched(run)
    figure, axes = figures.new(10.5, 2.5, ncols=4)
    _weights_of_first_layer(axes[0], run)
    _gradients_by_layer(axes[1], run)
    _dead_or_saturated(axes[2], run)
    draw_curves(axes[3], run)
    figure.suptitle(f"{name}: {describe_card(run)}")
    return figure


def describe_card(run: RunLog) -> str:
    """Say in a line what the picture of a run shows."""
    sizes = list(layer_gradients(run).values())
    first = next(tag for tag in run.histograms if tag.startswith("weights/"))
    start, end = (run.histograms[first][index][1].std for index in (0, -1))
    what, shares = _shares(run)
    middle = f", {max(shares):.0%} {what} at most" if shares else ""
    ratio = sizes[0] / max(sizes[-1], 1e-30)
    return f"weights of layer 1 spread {start:.2g} → {end:.2g}, gradient first/last layer {ratio:.1g}{middle}"


def draw_curves(axes: Axes, run: RunLog) -> None:
    """Draw the losses of training and validation over the steps, as far as there are any."""
    for which, style in (("train", "-"), ("val", "o-")):
        steps, losses = run.scalars.get(f"loss/{which}", ([], []))
        axes.plot(steps, losses, style, markersize=3, label="training" if which == "train" else "validation")
    axes.set(xlabel="step", ylabel="loss")
    written = [loss for tag, (_, values) in run.scalars.items() if tag.startswith("loss/") for loss in values]
    losses = [loss for loss in written if math.isfinite(loss)]
    low, high = min(losses, default=0), max(losses, default=1)
    if high > 100 and low > 0:
        axes.set_yscale("log")
    elif low >= 0 and 0 < high <= 100:
        axes.set_ylim(0, min(high, 4) * 1.1)
    axes.legend(fontsize=7, frameon=False)
    trained = run.scalars.get("loss/train", ([], []))[1]
    axes.set_title(f"training loss: {trained[0]:.3g} to {trained[-1]:.3g}" if trained else "no loss", fontsize=9)


def draw_layers(run: RunLog, what: str, look: int) -> Figure:
    """Draw the histograms of all layers at one look: "weights", "gradients" or "activations".

    Raises:
        ValueError: if there is no such look.
    """
    tags = [tag for tag in run.histograms if tag.startswith(f"{what}/") and not tag.endswith("bias")]
    taken = sorted({step for tag in tags for step, _ in run.histograms[tag]})
    if not 1 <= look <= len(taken):
        raise ValueError(f"This run was looked at {len(taken)} times.")
    step = taken[look - 1]
    found = [(tag.partition("/")[2], dict(run.histograms[tag]).get(step)) for tag in tags]
    figure, axes = figures.new(8, 0.9 + 0.42 * len(found), squeeze=False)
    axes = axes[0, 0]
    for row, (_, histogram) in enumerate(reversed(found)):
        if histogram is not None:
            _ridge(axes, histogram, row)
    axes.set_yticks(range(len(found)), [name for name, _ in reversed(found)])
    axes.set_xlabel(f"size of the {what}: powers of ten, signs left out")
    axes.set_xlim(-12, 6)
    axes.grid(axis="x", alpha=0.3)
    sizes = [rms(histogram) for _, histogram in found if histogram is not None]
    axes.set_title(f"{what} at step {step}: typically {sizes[0]:.1g} in the first row, {sizes[-1]:.1g} in the last")
    return figure


def draw_over_time(run: RunLog, tag: str) -> Figure:
    """Draw one histogram at all looks, the first at the back, as TensorBoard does."""
    looks = run.histograms[tag]
    figure, axes = figures.new(7, 3.4)
    width = max(max(abs(histogram.low), abs(histogram.high)) for _, histogram in looks)
    grid = np.linspace(-width, width, 161)
    for place, (_, histogram) in enumerate(looks):
        density = _density(histogram, grid)
        base = len(looks) - place
        shade = 0.25 + 0.75 * place / max(len(looks) - 1, 1)
        axes.fill_between(
            grid,
            base,
            base + 3 * density / max(density.max(), 1e-12),
            color=figures.COLORS["orange"],
            alpha=shade,
            edgecolor="white",
            linewidth=0.6,
            zorder=place,
        )
    steps = [step for step, _ in looks]
    shown = sorted({0, len(looks) // 2, len(looks) - 1})
    axes.set_yticks([len(looks) - place for place in shown], [f"step {steps[place]}" for place in shown])
    first, last = looks[0][1].std, looks[-1][1].std
    axes.set_xlabel("value")
    axes.set_title(f"{tag}: standard deviation {first:.2g} at step {steps[0]}, {last:.2g} at step {steps[-1]}")
    return figure


def _weights_of_first_layer(axes: Axes, run: RunLog) -> None:
    tag = next(tag for tag in run.histograms if tag.startswith("weights/"))
    looks = run.histograms[tag]
    first, last = looks[0][1], looks[-1][1]
    grid = np.linspace(-4 * first.std, 4 * first.std, 61)
    for (step, histogram), color in zip((looks[0], looks[-1]), ("gray", "blue"), strict=True):
        axes.plot(grid, _density(histogram, grid), color=figures.COLORS[color], label=f"step {step}")
    axes.set(xlabel="weight", yticks=[])
    axes.legend(fontsize=7, frameon=False)
    ratio = last.std / first.std
    axes.set_title(f"weights, layer 1: spread ×{ratio:.3g}", fontsize=9)


def _gradients_by_layer(axes: Axes, run: RunLog) -> None:
    sizes = list(layer_gradients(run).values())
    axes.plot(range(1, len(sizes) + 1), [max(size, 1e-12) for size in sizes], "o-")
    axes.set(yscale="log", ylim=(1e-12, max(1e3, 10 * max(sizes))), xlabel="layer", ylabel="gradient, RMS")
    axes.set_xticks(range(1, len(sizes) + 1))
    axes.tick_params(labelsize=7)
    axes.set_title(f"gradients: {min(sizes):.0e} to {max(sizes):.0e}", fontsize=9)


def _shares(run: RunLog) -> tuple[str, list[float]]:
    """What can be wrong with this run's units, and the share of each layer at the last look."""
    for what in ("dead", "saturated"):
        if shares := run.last(what):
            return what, list(shares.values())
    return "", []


def _dead_or_saturated(axes: Axes, run: RunLog) -> None:
    what, shares = _shares(run)
    axes.bar(range(1, len(shares) + 1), shares, color=figures.COLORS["vermillion"])
    axes.set(ylim=(0, 1), xlabel="layer", ylabel="share")
    axes.set_xticks(range(1, len(shares) + 1))
    kind = {"dead": "dead units", "saturated": "saturated outputs"}.get(what, "no such units")
    axes.set_title(f"{kind}: {max(shares, default=0):.0%}", fontsize=9)


def _ridge(axes: Axes, histogram: Histogram, row: int) -> None:
    """Draw how many values have which size, on a log axis; those that are 0 are written in words."""
    grid = np.arange(-12, 6.1, 0.25)
    reached = np.concatenate([[0.0], np.cumsum(histogram.counts)])
    within = np.interp(10**grid, histogram.edges, reached) - np.interp(-(10**grid), histogram.edges, reached)
    counts = np.diff(within)
    if counts.max() > 0:
        color = figures.COLORS["blue"]
        axes.stairs(row + 0.85 * counts / counts.max(), grid, baseline=row, fill=True, color=color, alpha=0.7)
    if histogram.zeros > 0.005:
        axes.text(-11.9, row + 0.2, f"{histogram.zeros:.0%} are 0", fontsize=8)


def _density(histogram: Histogram, grid: np.ndarray) -> np.ndarray:
    """The share of values between the points of a grid, by the bins that overlap it."""
    reached = np.concatenate([[0.0], np.cumsum(histogram.counts)]) / max(histogram.number, 1)
    edges = np.clip(histogram.edges, histogram.low, histogram.high)
    return np.gradient(np.interp(grid, edges, reached))
