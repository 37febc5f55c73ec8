"""The interactive picture of lesson 01: one bar for the gradient of each rank, their plain mean, and the right answer.

sizes, gradients, whole = …                 # [N] sample counts, [N, P] a gradient for each rank, [P]
bars(sizes, gradients, whole)               # a figure; its title states the finding
describe(sizes, gradients, whole)           # the same in words
"""

import torch
from matplotlib.figure import Figure

from torchcourse.figures import COLORS, bars, canvas, headline

WEIGHT = -10  # the bars show one of the P numbers; counted from the end, this is the first output's bias


def draw(sizes: list[int], gradients: torch.Tensor, whole: torch.Tensor) -> Figure:
    """Draw the gradient for one weight: on each rank, their plain mean, and over the whole batch.

    Args:
        sizes: how many samples each of the N ranks has.
        gradients: one gradient for each rank, [N, P].
        whole: the gradient of the whole batch, [P].
    """
    right = whole[WEIGHT].item()
    names = [f"rank {rank} ({size})" for rank, size in enumerate(sizes)] + ["plain mean", "whole batch"]
    values = [*gradients[:, WEIGHT].tolist(), gradients.mean(dim=0)[WEIGHT].item(), right]
    colors = [COLORS["sky"]] * len(sizes) + [COLORS["orange"], COLORS["black"]]
    figure, axis = canvas(7.0, 1.0 + 0.26 * len(names), left=1.3, right=0.2, bottom=0.6, top=0.4)
    bars(axis, [(0, row - 0.35, value, 0.7) for row, value in enumerate(values)], colors)
    axis.axvline(right, color=COLORS["black"], linewidth=1, linestyle="--")
    axis.axvline(0, color=COLORS["gray"], linewidth=0.8)
    low, high = min(*values, 0), max(*values, 0)
    room = 0.05 * (high - low)
    axis.set(xlim=(low - room, high + room), ylim=(len(names) - 0.5, -0.5))
    axis.set_yticks(range(len(names)), names)
    axis.set_xlabel("gradient for one weight, the bias of output 0")
    axis.set_ylabel("rank (its samples)")
    axis.tick_params(axis="y", length=0)
    headline(figure, finding(sizes, gradients, whole))
    return figure


def finding(sizes: list[int], gradients: torch.Tensor, whole: torch.Tensor) -> str:
    """Say in one line how the plain mean stands to the gradient of the whole batch, over all weights."""
    ranks, mean = len(sizes), gradients.mean(dim=0)
    off = _distance(mean, whole)
    if off < 1e-9:
        return f"The plain mean is right (distance {off:.0e})"
    if _distance(ranks * mean, whole) < 1e-9:
        return f"Sum loss: the plain mean is 1/{ranks} of the right gradient"
    return f"Plain mean {off:.0%} off: a part of {min(sizes)} counts as much as one of {max(sizes)}"


def describe(sizes: list[int], gradients: torch.Tensor, whole: torch.Tensor) -> str:
    """Return the picture in words, as its text alternative."""
    each = ", ".join(f"rank {rank} ({size}) {gradients[rank, WEIGHT]:.3f}" for rank, size in enumerate(sizes))
    mean, right = gradients.mean(dim=0)[WEIGHT], whole[WEIGHT]
    title = finding(sizes, gradients, whole)
    return f"{title}. Bars, with samples: {each}, plain mean {mean:.3f}, whole batch {right:.3f}."


def _distance(vector: torch.Tensor, right: torch.Tensor) -> float:
    return ((vector - right).norm() / right.norm()).item()
