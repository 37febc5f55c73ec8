"""The interactive picture of lesson 01: one bar for the gradient of each rank, their plain mean, and the right answer.

sizes, gradients, whole = …                 # [N] sample counts, [N, P] a gradient for each rank, [P]
bars(sizes, gradients, whole)               # a figure; its title states the finding
describe(sizes, gradients, whole)           # the same in words
"""

import torch
from matplotlib.figure import Figure

from torchcourse import figures

WEIGHT = -10  # the bars show one of the P numbers; counted from the end, this is the first output's bias


def bars(sizes: list[int], gradients: torch.Tensor, whole: torch.Tensor) -> Figure:
    """Draw the gradient for one weight: on each rank, their plain mean, and over the whole batch.

    Args:
        sizes: how many samples each of the N ranks has.
        gradients: one gradient for each rank, [N, P].
        whole: the gradient of the whole batch, [P].
    """
    mean = gradients.mean(dim=0)
    names = [f"rank {rank} ({size})" for rank, size in enumerate(sizes)] + ["plain mean", "whole batch"]
    values = [*gradients[:, WEIGHT].tolist(), mean[WEIGHT].item(), whole[WEIGHT].item()]
    colours = [figures.COLORS["sky"]] * len(sizes) + [figures.COLORS["orange"], figures.COLORS["black"]]
    figure, axes = figures.new(height=1.5 + 0.26 * len(names))
    axes.barh(names, values, color=colours, height=0.7)
    axes.axvline(whole[WEIGHT].item(), color=figures.COLORS["black"], linewidth=1, linestyle="--")
    axes.axvline(0, color=figures.COLORS["grey"], linewidth=0.8)
    axes.invert_yaxis()
    axes.set(xlabel="gradient for one weight, the bias of output 0", title=finding(sizes, gradients, whole))
    axes.set_ylabel("rank (samples)")
    return figure


def finding(sizes: list[int], gradients: torch.Tensor, whole: torch.Tensor) -> str:
    """Say in one line how the plain mean stands to the gradient of the whole batch, over all weights."""
    ranks, mean = len(sizes), gradients.mean(dim=0)
    off = _distance(mean, whole)
    if off < 1e-9:
        return f"The plain mean is right (distance {off:.0e})"
    if _distance(ranks * mean, whole) < 1e-9:
        return f"Sum loss: the plain mean is 1/{ranks} of the right gradient"
    return f"Plain mean {off:.0%} off: {min(sizes)} samples count as much as {max(sizes)}"


def describe(sizes: list[int], gradients: torch.Tensor, whole: torch.Tensor) -> str:
    """Return the picture in words, as its text alternative."""
    each = ", ".join(f"rank {rank} ({size} samples) {gradients[rank, WEIGHT]:.3f}" for rank, size in enumerate(sizes))
    mean, right = gradients.mean(dim=0)[WEIGHT], whole[WEIGHT]
    return f"{finding(sizes, gradients, whole)}. Bars: {each}, plain mean {mean:.3f}, whole batch {right:.3f}."


def _distance(vector: torch.Tensor, right: torch.Tensor) -> float:
    return ((vector - right).norm() / right.norm()).item()
