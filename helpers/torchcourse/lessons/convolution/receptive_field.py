"""The receptive field (수용 영역): the part of the input that one output value can see, by formula and by gradient.

Source of the formula: Araujo, Norris and Sim 2019, "Computing Receptive Fields of Convolutional Neural Networks",
https://distill.pub/2019/computing-receptive-fields/
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from torchcourse.lessons.convolution.sizes import Pair, pair


@dataclass(frozen=True)
class Field:
    """What the value at position i of a layer sees along one dimension: the pixels from start + i·jump on, `size` many.

    Attributes:
        size: pixels of the input.
        jump: pixels between what two neighboring values see: the product of the strides.
        start: the first pixel that the value at position 0 sees; negative in the padding.
    """

    size: int = 1
    jump: int = 1
    start: int = 0

    def after(self, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> "Field":
        """Return the field of the next layer's values."""
        return Field(
            self.size + dilation * (kernel - 1) * self.jump, self.jump * stride, self.start - padding * self.jump
        )


def by_formula(model: nn.Module) -> tuple[Field, Field]:
    """Return the field of one output value in height and in width, for layers that follow one another.

    Raises:
        ValueError: for a layer that mixes all places, or whose reach is not known here.
    """
    height = width = Field()
    for name, layer in _leaves(model):
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
            stride = layer.kernel_size if layer.stride is None else layer.stride
            padding = _padding(layer)
            dilation = getattr(layer, "dilation", 1)
            parts = [pair(value) for value in (layer.kernel_size, stride, padding, dilation)]
            height = height.after(*(part[0] for part in parts))
            width = width.after(*(part[1] for part in parts))
        elif not isinstance(layer, _POINTWISE):
            raise ValueError(
                f"Layer {name or '(the model)'}, a {type(layer).__name__}, has no local field that is known here. "
                "Ask for the layers before it: by_formula(model[:n])."
            )
    return height, width


def by_gradient(model: nn.Module, shape: tuple[int, int, int], place: tuple[int, int] | None = None) -> torch.Tensor:
    """Return which pixels reach one output value, as a truth value for each: [H, W].

    A gradient that is zero by chance (a ReLU that is off, a maximum elsewhere) would hide a pixel. So this looks at a
    copy of the model whose weights are all positive, with means in place of maxima and nothing cut off.

    Args:
        model: layers that take [1, C, H, W] to [1, O, H', W'].
        shape: (C, H, W) of the input.
        place: row and column of the output value; the middle one by default.
    """
    x = torch.ones(1, *shape, dtype=torch.float64, requires_grad=True)
    out = _transparent(model)(x)
    row, column = place if place is not None else (out.shape[2] // 2, out.shape[3] // 2)
    (gradient,) = torch.autograd.grad(out[0, :, row, column].sum(), x)
    return gradient[0].abs().sum(dim=0) > 0


_POINTWISE = (
    *(nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Identity),
    *(nn.BatchNorm2d, nn.Dropout, nn.Dropout2d),
)
"""Layers that look at no neighbors. (BatchNorm does in training, through its statistics; not in evaluation.)"""


def _leaves(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, layer) for name, layer in model.named_modules() if not list(layer.children())]


def _padding(layer: Any) -> Pair:
    if layer.padding == "valid":
        return 0
    if layer.padding == "same":
        reach = [d * (k - 1) for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
        return reach[0] // 2, reach[1] // 2
    return layer.padding


def _transparent(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model).double().eval()
    if not list(model.children()):
        return _transparent_layer(model)
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if not list(layer.children()):
                setattr(parent, name, _transparent_layer(layer))
    return model


def _transparent_layer(layer: nn.Module) -> nn.Module:
    if isinstance(layer, nn.MaxPool2d):
        return _MeanPool(layer)
    if isinstance(layer, nn.Conv2d):
        nn.init.ones_(layer.weight)
        return layer
    return nn.Identity() if isinstance(layer, _POINTWISE) else layer


class _MeanPool(nn.Module):
    """The mean in place of a maximum: also over padding and with dilation, which nn.AvgPool2d lacks."""

    def __init__(self, pool: nn.MaxPool2d) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pool, channels = self.pool, x.shape[1]
        kernel = torch.ones(channels, 1, *pair(pool.kernel_size), dtype=x.dtype)
        return nn.functional.conv2d(
            x, kernel, stride=pool.stride, padding=pool.padding, dilation=pool.dilation, groups=channels
        )
