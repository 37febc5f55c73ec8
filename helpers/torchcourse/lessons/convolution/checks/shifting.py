"""The check of lesson 08's exercise on the smallest shift that a model follows."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import AnyOf, number, refuse_known, result_of


@check
def pool_shift(learner: Callable[[nn.Module, torch.Tensor], int]) -> str:
    """Ask for the smallest shift that layers follow, with strides and pooling of several sizes."""
    torch.manual_seed(0)
    pictures = {width: torch.randn(1, 1, 12, width) for width in (_WIDTH, _OTHER_WIDTH)}
    x = pictures[_WIDTH]
    conv = nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular")
    halving = nn.Conv2d(1, 2, 3, stride=2, padding=1, padding_mode="circular")
    padded = nn.Conv2d(1, 2, 3, padding=1)
    models: dict[str, tuple[nn.Module, int]] = {
        "one convolution": (conv, 1),
        "stride 2": (halving, 2),
        "pooling by 2×3": (nn.Sequential(conv, nn.MaxPool2d((2, 3))), 3),
        "stride 2, then pooling by 2": (nn.Sequential(halving, nn.MaxPool2d(2)), 4),
        "stride 2, then twice as large": (nn.Sequential(halving, nn.Upsample(scale_factor=2)), 2),
        "a convolution by Fourier transform": (_ByFourier(), 1),
        "a convolution with zero padding": (padded, _WIDTH),
        "the mean of the whole picture": (nn.AdaptiveAvgPool2d(1), _WIDTH),
        "small numbers, with zero padding": (_small(nn.Conv2d(1, 2, 3, padding=1)), _WIDTH),
        "two channels": (_Of(lambda x: torch.cat([x, F.avg_pool2d(x, (1, 2)).repeat_interleave(2, dim=3)], dim=1)), 2),
        "weights that are the picture": (_Of(lambda y: (x * y).mean((1, 2, 3), True).expand_as(y)), _WIDTH),
        "weights of the other sign": (_Of(lambda y: -(x * y).mean((1, 2, 3), True).expand_as(y)), _WIDTH),
        "a large bias, with zero padding": (nn.Sequential(padded, _Of(lambda y: y + 30)), _WIDTH),
        f"zero padding, {_OTHER_WIDTH} pixels": (padded, _OTHER_WIDTH),
        f"stride 2, {_OTHER_WIDTH} pixels": (halving, 2),
    }
    for name, (model, right) in models.items():
        picture = pictures[_OTHER_WIDTH if "pixels" in name else _WIDTH]
        found = result_of(partial(learner, model.eval()), picture, what="the pictures")
        if model.training:
            raise Wrong(
                "mode_left_changed", "The model came in evaluation mode, and it is in training mode afterwards."
            )
        if not all(parameter.requires_grad for parameter in model.parameters()):
            raise Wrong("frozen_for_ever", "The model's parameters get no gradients any more. Leave them as they were.")
        _judge_shift(found, right, f"{name}: ", picture.shape[3])
    return f"{len(models)} models: the smallest shift that each follows, whatever its strides and sizes say."


_WIDTH, _OTHER_WIDTH = 24, 20


class _Of(nn.Module):
    """A function as a model."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def _small(layer: nn.Conv2d) -> nn.Conv2d:
    """Make the outputs a thousand times smaller: what differs at the edge then differs by less than 0.01."""
    for parameter in layer.parameters():
        parameter.data *= 1e-3
    return layer


class _ByFourier(nn.Module):
    """A convolution around the edge whose rounding errors differ from shift to shift."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kernel = F.pad(torch.tensor([[0.3, -0.7, 0.9]]), (0, x.shape[3] - 3, 0, x.shape[2] - 1))
        return torch.fft.irfft2(torch.fft.rfft2(x) * torch.fft.rfft2(kernel), x.shape[2:])


def _judge_shift(given: Any, right: int, where: str, width: int) -> None:
    if given is None:
        raise Wrong(
            "nothing_returned", f"{where}your function returns None. A shift by the whole picture is always followed."
        )
    shift = number(given)
    if shift is None or isinstance(given, bool) or shift != int(shift):
        raise Wrong("wrong_type", f"{where}return a whole number of pixels. You return {given!r}.")
    if shift == right:
        return
    known = {
        "never": (
            width,
            f"{width} pixels are the whole picture, and a smaller shift is followed. "
            + (
                "Which shift do you try first?"
                if right == 1
                else "Did you shift the output by as many *output places* as the input moved, or by as many pixels?"
            ),
        ),
        "zero": (AnyOf(range(-width, 1)), "a shift to the right begins at 1 pixel."),
        "not_smallest": (
            AnyOf([shift] if shift > right and shift % right == 0 else []),
            "your shift is followed, but it is not the smallest one.",
        ),
    }
    refuse_known(shift, known, where=where)
    if right == _WIDTH and "mean" in where:
        raise Wrong(
            "no_whole_place",
            f"{where}the output has one place, so a shift by {given} of {_WIDTH} pixels would move it by "
            f"{given}/{_WIDTH} of a place. That is no whole number.",
        )
    if "channels" in where and shift == 1:
        raise Wrong(
            "one_channel", f"{where}the first follows a shift by 1, and the second does not. All outputs count."
        )
    if "weights" in where:
        raise Wrong(
            "signed",
            f"{where}after a shift by {given} all outputs change in one direction. A difference below 0 is one, too.",
        )
    if "small" in where or "large bias" in where:
        raise Wrong(
            "tolerance",
            f"{where}a shift by {given} changes the output at the edge by more than 1e-5. How large a difference do "
            "you let pass?",
        )
    if "2×3" in where and shift == 2:
        raise Wrong("downward", f"{where}a shift *down* by 2 pixels is followed. To the right is `dims=3`.")
    if shift == 1:
        raise Wrong(
            "always_one",
            f"{where}shift the picture by one pixel and look: is the output the old one, shifted? With rounding errors "
            "of about 1e-6 two outputs are equal, with differences of 0.1 they are not.",
        )
    raise Wrong("wrong_value", f"{where}you say {given!r}, but the output does not follow a shift by that.")
