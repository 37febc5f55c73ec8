"""The picture of a receptive field: the pixels that one output value sees."""

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
