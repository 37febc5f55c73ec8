"""Drawn: the magnitudes of a training step over its layers, with the limits of a small format."""

import math

import torch
from matplotlib.figure import Figure

from torchcourse import figures
from torchcourse.lessons.troubleshooting.overflow import FORMATS, Magnitudes, describe_magnitudes


def draw_magnitudes(found: Magnitudes, name: str) -> Figure:
    """Draw magnitudes over layers, with the limits of the format."""
    limits = torch.finfo(FORMATS[name])
    figure, axes = figures.new(height=3.4)
    top = 1e8
    layers = range(1, len(found.forward) + 1)
    for values, style, label in (
        (found.forward, "o-", "outputs"),
        (found.backward, "s--", "gradients of the outputs"),
    ):
        axes.semilogy(layers, [v if math.isfinite(v) else math.nan for v in values], style, label=label)
    for values, height in ((found.forward, top), (found.backward, top / 30)):
        lost = [layer for layer, v in zip(layers, values, strict=True) if not math.isfinite(v)]
        axes.plot(lost, [height] * len(lost), "x", color=figures.COLORS["vermillion"], markersize=9, mew=2)
    if not all(map(math.isfinite, found.forward + found.backward)):
        axes.plot([], [], "x", color=figures.COLORS["vermillion"], mew=2, label="nan or inf (outputs above gradients)")
    for value, text in ((limits.max, "largest in"), (limits.smallest_normal, "smallest of full precision in")):
        if 1e-12 < value < 10 * top:
            axes.axhline(value, color=figures.COLORS["gray"], linestyle=":")
            axes.text(
                1,
                value * 1.8,
                f"{text} {name}: {value:,.0f}" if 1 < value < 1e6 else f"{text} {name}: {value:.0e}",
                fontsize=8,
                color=figures.COLORS["gray"],
            )
    axes.set(
        xlabel="layer",
        ylabel="largest magnitude",
        ylim=(1e-12, top * 30),
        xticks=list(layers),
        title=describe_magnitudes(found),
    )
    axes.legend(frameon=False, loc="lower left")
    return figure
