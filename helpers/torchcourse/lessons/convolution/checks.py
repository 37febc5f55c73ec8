"""Checks of lesson 08: a convolution by hand, the convolution of mathematics, sizes and fields, shifts."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import AnyOf, refuse_known, same, tensor_of
from torchcourse.lessons.convolution.receptive_field import Field
from torchcourse.lessons.convolution.sizes import output_size

Layers = list[tuple[int, int, int, int]]
"""For each layer (kernel, stride, padding, dilation)."""


@check
def convolve(learner: Callable[..., torch.Tensor]) -> str:
    """Compare with `F.conv2d` over several channels, kernels that are not square, stride and padding."""
    generator = torch.Generator().manual_seed(0)
    cases = [(1, 1, 3, 3, 1, 0), (3, 2, 3, 3, 1, 0), (2, 3, 2, 3, 1, 0), (2, 2, 3, 2, 2, 0), (2, 2, 3, 3, 2, 1)]
    for channels, outputs, rows, columns, stride, padding in cases:
        x = torch.randn(channels, 6, 8, generator=generator, dtype=torch.float64)
        weight = torch.randn(outputs, channels, rows, columns, generator=generator, dtype=torch.float64)
        _judge_convolution(learner(x.clone(), weight, stride, padding), x, weight, stride, padding)
    return f"{len(cases)} convolutions, all as F.conv2d: channels, kernels that are not square, stride and padding."


def _judge_convolution(out: Any, x: torch.Tensor, weight: torch.Tensor, stride: int, padding: int) -> None:
    outputs, channels, rows, columns = weight.shape
    case = f"With {channels} channel(s), {outputs} kernel(s) of {rows}×{columns}, stride {stride}, padding {padding}, "

    def convolved(picture: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
        return F.conv2d(picture[None], kernels, stride=stride, padding=padding)[0]

    right = convolved(x, weight)
    as_large = torch.Size((outputs, *x.shape[1:]))
    if isinstance(out, torch.Tensor) and out.shape == as_large != right.shape:
        raise Wrong(
            "same_size", f"{case}your output is as large as the picture: {list(as_large)}. Not all of it is full."
        )
    out = tensor_of(out, right.shape, f"{case}the output has the shape {list(right.shape)}.")
    if same(out, right, tolerance=1e-5):
        return
    every_place = F.conv2d(F.pad(x, (padding,) * 4)[None], weight)[0, :, : right.shape[1], : right.shape[2]]
    known = {
        "kernel_flipped": (convolved(x, weight.flip(2, 3)), "you flipped the kernel. PyTorch's layers do not."),
        "one_channel": (convolved(x[:1], weight[:, :1]), "only the first channel of the picture counts."),
        "mean": (
            AnyOf((right / weight[0].numel(), right / channels)),
            "your values are too small by one factor: a sum is asked for, not a mean.",
        ),
        "stride_ignored": (every_place, "neighbors in your output are neighbors in the picture, too."),
    }
    refuse_known(out, known, tolerance=1e-5, where=case)
    raise Wrong("wrong_value", f"{case}the values differ by up to {(out - right).abs().max():.2g} from F.conv2d.")


@check
def flipped(learner: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> str:
    """Compare with the definition of convolution, summed term by term."""
    generator = torch.Generator().manual_seed(1)
    for rows, columns in ((3, 3), (1, 4), (2, 3), (4, 1)):
        image = torch.randn(6, 7, generator=generator, dtype=torch.float64)
        kernel = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
        _judge_flipped(learner(image.clone(), kernel.clone()), image, kernel)
    return "Four kernels, each as the sum in the definition says."


def _judge_flipped(out: Any, image: torch.Tensor, kernel: torch.Tensor) -> None:
    right, size = _by_definition(image, kernel), "×".join(map(str, kernel.shape))
    out = tensor_of(
        out,
        right.shape,
        f"A kernel of {size} on 6×7 pixels gives {list(right.shape)}: wherever the two overlap by one pixel or more.",
    )
    if same(out, right, tolerance=1e-5):
        return
    known = {
        "not_flipped": (
            _by_definition(image, kernel.flip(0, 1)),
            "it is still the cross-correlation: the sign of each offset is wrong. Try it on a picture with one pixel.",
        ),
        "one_axis": (
            AnyOf(_by_definition(image, kernel.flip(axis)) for axis in (0, 1)),
            "one axis is as it should be, and the other is not. Try it on a picture with one pixel.",
        ),
        "picture_flipped": (
            _by_definition(image.flip(0, 1), kernel),
            "you flipped the picture. The result comes out upside down as well.",
        ),
    }
    refuse_known(out, known, tolerance=1e-5, where=f"With a kernel of {size}, ")
    raise Wrong("wrong_value", f"With a kernel of {size} the values differ by up to {(out - right).abs().max():.2g}.")


def _by_definition(image: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Return the full convolution [H + kH − 1, W + kW − 1]: each pixel lays a scaled copy of the kernel down."""
    (height, width), (rows, columns) = image.shape, kernel.shape
    out = image.new_zeros(height + rows - 1, width + columns - 1)
    for i in range(rows):
        for j in range(columns):
            out[i : i + height, j : j + width] += kernel[i, j] * image
    return out


@check
def size_and_field(learner: Callable[[int, Layers], tuple[int, int]]) -> str:
    """Compare with the sizes of real layers and with the field that gradients show."""
    stacks: list[Layers] = [
        [(3, 1, 0, 1)],
        [(3, 1, 1, 1), (3, 1, 1, 1)],
        [(5, 2, 2, 1), (3, 1, 1, 1)],
        [(3, 1, 0, 2), (2, 2, 0, 1), (3, 2, 1, 1)],
        [(7, 2, 3, 1), (3, 2, 1, 1), (3, 1, 2, 2)],
    ]
    for layers in stacks:
        _judge_pair(learner(45, list(layers)), layers)
    return f"{len(stacks)} stacks of layers: sizes as PyTorch's, fields as gradients show them."


def _judge_pair(given: Any, layers: Layers) -> None:
    size, field = 45, Field()
    for layer in layers:
        size, field = output_size(size, *layer), field.after(*layer)
    if not isinstance(given, tuple) or len(given) != 2:
        raise Wrong("wrong_type", f"Return a pair, the output size and the receptive field. You return {given!r}.")
    where = f"For the layers {layers}, each (kernel, stride, padding, dilation), "
    if given == (field.size, size) and size != field.size:
        raise Wrong("swapped", f"{where}your two numbers are right, and in the other order.")
    if not same(given[0], size):
        refuse_known(given[0], _wrong_sizes(layers), where=where)
        raise Wrong("size", f"{where}45 pixels give an output of {size}, and you say {given[0]!r}.")
    if not same(given[1], field.size):
        refuse_known(given[1], _wrong_fields(layers), where=where)
        raise Wrong("field", f"{where}one output value sees {field.size} pixels, and you say {given[1]!r}.")
    if not all(isinstance(value, int) for value in given):
        raise Wrong("no_int", f"Both are numbers of pixels, so whole numbers. You return {given!r}.")


def _wrong_sizes(layers: Layers) -> dict[str, tuple[int, str]]:
    def size(sides: int = 2, first: int = 1, dilate: bool = True) -> int:
        pixels = 45
        for kernel, stride, padding, dilation in layers:
            reach = dilation * (kernel - 1) + 1 if dilate else kernel
            pixels = (pixels + sides * padding - reach) // stride + first
        return pixels

    return {
        "one_side": (size(sides=1), "your output size counts the padding once. It is on both sides."),
        "no_dilation": (size(dilate=False), "your output size forgets that dilation makes the kernel reach further."),
        "no_first": (size(first=0), "you count the steps between positions. The first position counts, too."),
    }


def _wrong_fields(layers: Layers) -> dict[str, tuple[int, str]]:
    early, jump = 1, 1
    for kernel, stride, _, dilation in layers:
        jump *= stride
        early += dilation * (kernel - 1) * jump
    return {
        "no_jump": (
            1 + sum(dilation * (kernel - 1) for kernel, _, _, dilation in layers),
            "your field ignores strides: after one, neighbors are further apart.",
        ),
        "jump_too_early": (early, "a layer's own stride moves apart what comes *after* it."),
    }


@check
def pool_shift(learner: Callable[[nn.Module, torch.Tensor], int]) -> str:
    """Ask for the smallest shift that layers follow, with strides and pooling of several sizes."""
    torch.manual_seed(0)
    x = torch.randn(1, 1, 24, 24)
    conv = nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular")
    halving = nn.Conv2d(1, 2, 3, stride=2, padding=1, padding_mode="circular")
    models: dict[str, tuple[nn.Module, int]] = {
        "one convolution": (conv, 1),
        "stride 2": (halving, 2),
        "pooling by 3": (nn.Sequential(conv, nn.MaxPool2d(3)), 3),
        "stride 2, then pooling by 2": (nn.Sequential(halving, nn.MaxPool2d(2)), 4),
    }
    for name, (model, right) in models.items():
        _judge_shift(learner(model, x), right, f"{name}: ")
    return f"{len(models)} models: the smallest shift that each follows is the product of its strides."


def _judge_shift(given: Any, right: int, where: str) -> None:
    if same(given, right):
        return
    known = {
        "never": (
            24,
            "you say that only the shift by the whole picture is followed. Did you shift the output by as many "
            "*output places* as the input moved, or by as many pixels?",
        ),
        "zero": (0, "a shift by 0 pixels is none. Begin at 1."),
        "not_smallest": (
            AnyOf(range(2 * right, 100, right)),
            "your shift is followed, but it is not the smallest one.",
        ),
        "always_one": (
            1,
            "shift the picture by one pixel and look: is the output the old one, shifted? With rounding errors of "
            "about 1e-6 two outputs are equal, with differences of 0.1 they are not.",
        ),
    }
    refuse_known(given, known, where=where)
    raise Wrong("wrong_value", f"{where}you say {given!r}, but the output does not follow a shift by that.")
