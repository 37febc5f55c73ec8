"""Pictures of a receptive field: the pixels that one output value sees, and how much each of them counts."""

from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from torch import nn

from torchcourse.figures import new
from torchcourse.lessons.convolution.receptive_field import by_gradient


def draw_field(model: nn.Module, picture: torch.Tensor, title: str) -> Figure:
    """Draw which pixels of a gray picture [H, W] reach the middle output value of a model for one channel."""
    seen = by_gradient(model, (1, *picture.shape))
    figure, axis = new(5.2, 3.2)
    axis.imshow(torch.where(seen, picture, 0.25 * picture).numpy(), cmap="gray", vmin=0, vmax=1)
    axis.set(title=title, xlabel="pixels", ylabel="pixels")
    return figure


def draw_influence(maps: Mapping[int, torch.Tensor], title: str) -> Figure:
    """Draw the influence [H, W] of each column, for each number of layers of 3×3; dots are the ends of the field."""
    figure, axis = new(6.5, 2.6)
    for layers, strength in maps.items():
        columns = strength.sum(dim=0)
        places = torch.arange(len(columns)) - len(columns) // 2
        (line,) = axis.plot(places, columns / columns.max(), label=f"{layers} layers")
        axis.plot([-layers, layers], [0, 0], "o", color=line.get_color(), markersize=5)
    axis.set(
        title=title, xlabel="pixels from the middle (dots: the end of the field)", ylabel="influence (largest = 1)"
    )
    axis.legend(frameon=False)
    return figure
