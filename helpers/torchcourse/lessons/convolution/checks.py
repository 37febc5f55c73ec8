"""Checks of lesson 08: a convolution by hand, the convolution of mathematics, sizes and fields, shifts."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.checks.borrowed import watch
from torchcourse.checks.kit import AnyOf, number, refuse_formula, refuse_known, same, tensor_of
from torchcourse.lessons.convolution.receptive_field import Field
from torchcourse.lessons.convolution.sizes import output_size

Layers = list[tuple[int, int, int, int]]
"""For each layer (kernel, stride, padding, dilation)."""


@check
def convolve(learner: Callable[..., torch.Tensor]) -> str:
    """Compare with `F.conv2d` over several channels, kernels that are not square, stride and padding."""
    generator = torch.Generator().manual_seed(0)
    cases = [(1, 1, 3, 3, 1, 0), (3, 2, 3, 3, 1, 0), (2, 3, 2, 3, 1, 0), (2, 2, 3, 2, 2, 0), (2, 2, 3, 3, 2, 1)]
    cases.append((1, 2, 2, 3, 3, 2))
    for channels, outputs, rows, columns, stride, padding in cases:
        x = torch.randn(channels, 6, 8, generator=generator, dtype=torch.float64)
        weight = torch.randn(outputs, channels, rows, columns, generator=generator, dtype=torch.float64)
        given = x.clone(), weight.clone()
        with watch(operators=("conv", "im2col"), package="torchcourse.lessons.convolution") as borrowed:
            out = learner(*given, stride, padding)
        if borrowed:
            raise Wrong(
                "library_call",
                f"Your function calls {borrowed[0]}, which does the work that this exercise is about. Write it "
                "yourself: slices, products and sums are enough.",
            )
        _must_be_as_before(given, (x, weight), "the picture or the kernels")
        _judge_convolution(out, x, weight, stride, padding)
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
            "same_size",
            f"{case}the output has the shape {list(right.shape)}. Yours is as large as the picture: {list(as_large)}.",
        )
    out = _tensor_like(out, right, f"{case}the output has the shape {list(right.shape)}.")
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


def _tensor_like(out: Any, right: torch.Tensor, hint: str) -> torch.Tensor:
    """Return the output if its shape and its type of numbers are those of the right one."""
    out = tensor_of(out, right.shape, hint)
    if out.dtype != right.dtype:
        raise Wrong(
            "dtype",
            f"The inputs are {right.dtype}, and your output is {out.dtype}. Keep the type of what you are given.",
        )
    return out


def _must_be_as_before(now: tuple[torch.Tensor, ...], before: tuple[torch.Tensor, ...], what: str) -> None:
    if not all(map(torch.equal, now, before)):
        raise Wrong("inputs_changed", f"Your function changed {what} that it was given. The caller still needs them.")


@check
def flipped(learner: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> str:
    """Compare with the definition of convolution, summed term by term."""
    generator = torch.Generator().manual_seed(1)
    for rows, columns in ((3, 3), (1, 4), (2, 3), (4, 1)):
        image = torch.randn(6, 7, generator=generator, dtype=torch.float64)
        kernel = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
        given = image.clone(), kernel.clone()
        out = learner(*given)
        _must_be_as_before(given, (image, kernel), "the picture or the kernel")
        _judge_flipped(out, image, kernel)
    return "Four kernels, each as the sum in the definition says."


def _judge_flipped(out: Any, image: torch.Tensor, kernel: torch.Tensor) -> None:
    right, size = _by_definition(image, kernel), "×".join(map(str, kernel.shape))
    out = _tensor_like(
        out,
        right,
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
        "transposed": (
            AnyOf(_by_definition(image, kernel.T.flip(axes)) for axes in ((), (0,), (1,), (0, 1))),
            "rows and columns of the kernel changed places, as by a transpose or a quarter turn. Each axis is flipped.",
        ),
        "picture_flipped": (
            AnyOf(_by_definition(image.flip(0, 1), turned) for turned in (kernel, kernel.flip(0, 1))),
            "your output belongs to the picture turned upside down. Picture and output stay the way they are; only the "
            "kernel is turned.",
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
        [(11, 4, 5, 1), (5, 4, 2, 1), (3, 1, 1, 1)],
    ]
    given = [list(layers) for layers in stacks]
    answers = [learner(_PIXELS, layers) for layers in given]
    if given != stacks:
        raise Wrong("inputs_changed", "The list of layers is different after the call. The caller still needs it.")
    _judge_pairs(answers, stacks)
    return f"{len(stacks)} stacks of layers: sizes as PyTorch's, fields as gradients show them."


_PIXELS = 45


def _judge_pairs(answers: list[Any], stacks: list[Layers]) -> None:
    pairs = [_pair(given) for given in answers]
    sizes, fields = [_size(layers) for layers in stacks], [_field(layers) for layers in stacks]
    if pairs == [*zip(fields, sizes, strict=True)]:
        raise Wrong("swapped", "Your two numbers are right, and in the other order.")
    cases = [(layers,) for layers in stacks]
    for place, right, mistakes, symptom, text in (
        (0, sizes, _WRONG_SIZES, "size", "45 pixels give an output of {}"),
        (1, fields, _WRONG_FIELDS, "field", "one output value sees {} pixels, where no edge is in the way"),
    ):
        given = [pair[place] for pair in pairs]
        if same(given, right):
            continue
        refuse_formula(given, cases, mistakes)
        first = next(i for i, value in enumerate(given) if not same(value, right[i]))
        raise Wrong(
            symptom,
            f"For the layers {stacks[first]}, each (kernel, stride, padding, dilation), {text.format(right[first])}, "
            f"and you say {answers[first][place]!r}.",
        )
    for given in answers:
        if any(isinstance(value, float) for value in given):
            raise Wrong("no_int", f"Both are numbers of pixels, so whole numbers. You return {given!r}.")


def _pair(given: Any) -> tuple[float, float]:
    values = [number(value) for value in given] if isinstance(given, tuple | list | torch.Tensor) else []
    if len(values) != 2 or values[0] is None or values[1] is None:
        raise Wrong("wrong_type", f"Return a pair, the output size and the receptive field. You return {given!r}.")
    return values[0], values[1]


def _size(layers: Layers) -> int:
    size = _PIXELS
    for layer in layers:
        size = output_size(size, *layer)
    return size


def _field(layers: Layers) -> int:
    field = Field()
    for layer in layers:
        field = field.after(*layer)
    return field.size


def _wrong_size(
    layers: Layers, sides: int = 2, first: int = 1, dilate: bool = True, rounded: Callable[[float], int] = math.floor
) -> int:
    pixels = _PIXELS
    for kernel, stride, padding, dilation in layers:
        reach = dilation * (kernel - 1) + 1 if dilate else kernel
        pixels = rounded((pixels + sides * padding - reach) / stride) + first
    return pixels


def _wrong_field(layers: Layers, jumps: bool = True, early: bool = False, dilate: bool = True) -> int:
    field, jump = 1, 1
    for kernel, stride, _, dilation in layers:
        own = jump * stride if early else jump
        field += (dilation if dilate else 1) * (kernel - 1) * (own if jumps else 1)
        jump *= stride
    return field


Formulas = dict[str, tuple[list[Callable[[Layers], int]], str]]

_WRONG_SIZES: Formulas = {
    "no_padding": ([lambda layers: _wrong_size(layers, sides=0)], "Your output size leaves the padding out."),
    "one_side": (
        [lambda layers: _wrong_size(layers, sides=1)],
        "Your output size counts the padding once. It is on both sides.",
    ),
    "no_dilation": (
        [lambda layers: _wrong_size(layers, dilate=False)],
        "Your output size forgets that dilation makes the kernel reach further.",
    ),
    "no_first": (
        [lambda layers: _wrong_size(layers, first=0)],
        "You count the steps between positions. The first position counts, too.",
    ),
    "rounded_up": (
        [lambda layers: _wrong_size(layers, rounded=math.ceil), lambda layers: _wrong_size(layers, rounded=round)],
        "Your output size counts a position where the kernel would reach beyond the padded edge. What does not fit is "
        "left out.",
    ),
}

_WRONG_FIELDS: Formulas = {
    "no_jump": (
        [lambda layers: _wrong_field(layers, jumps=False)],
        "Your field ignores strides: after one, neighbors are further apart.",
    ),
    "jump_too_early": (
        [lambda layers: _wrong_field(layers, early=True)],
        "A layer's own stride moves apart what comes *after* it.",
    ),
    "no_dilation": (
        [lambda layers: _wrong_field(layers, dilate=False)],
        "Your field forgets that dilation makes the kernel reach further.",
    ),
    "from_the_end": (
        [lambda layers: _wrong_field(layers[::-1])],
        "Your field lets the strides of *later* layers move a layer's pixels apart. It is those before it that do.",
    ),
    "no_pixel": ([lambda layers: _wrong_field(layers) - 1], "Your field is one pixel too small in each case."),
    "cut_off": (
        [lambda layers: min(_wrong_field(layers), _PIXELS)],
        "Your field is never larger than the picture. With padding it can be: it reaches beyond the edge.",
    ),
}


@check
def pool_shift(learner: Callable[[nn.Module, torch.Tensor], int]) -> str:
    """Ask for the smallest shift that layers follow, with strides and pooling of several sizes."""
    torch.manual_seed(0)
    x = torch.randn(1, 1, 12, _WIDTH)
    conv = nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular")
    halving = nn.Conv2d(1, 2, 3, stride=2, padding=1, padding_mode="circular")
    models: dict[str, tuple[nn.Module, int]] = {
        "one convolution": (conv, 1),
        "stride 2": (halving, 2),
        "pooling by 2×3": (nn.Sequential(conv, nn.MaxPool2d((2, 3))), 3),
        "stride 2, then pooling by 2": (nn.Sequential(halving, nn.MaxPool2d(2)), 4),
        "stride 2, then twice as large": (nn.Sequential(halving, nn.Upsample(scale_factor=2)), 2),
        "a convolution by Fourier transform": (_ByFourier(), 1),
        "a convolution with zero padding": (nn.Conv2d(1, 2, 3, padding=1), _WIDTH),
        "the mean of the whole picture": (nn.AdaptiveAvgPool2d(1), _WIDTH),
        "small numbers, with zero padding": (_small(nn.Conv2d(1, 2, 3, padding=1)), _WIDTH),
        "two channels": (_Of(lambda x: torch.cat([x, F.avg_pool2d(x, (1, 2)).repeat_interleave(2, dim=3)], dim=1)), 2),
        "weights that are the picture": (_Of(lambda y: (x * y).mean().expand_as(y)), _WIDTH),
    }
    for name, (model, right) in models.items():
        given = x.clone()
        found = learner(model.eval(), given)
        _must_be_as_before((given,), (x,), "the pictures")
        if model.training:
            raise Wrong(
                "mode_left_changed", "The model came in evaluation mode, and it is in training mode afterwards."
            )
        if not all(parameter.requires_grad for parameter in model.parameters()):
            raise Wrong("frozen_for_ever", "The model's parameters get no gradients any more. Leave them as they were.")
        _judge_shift(found, right, f"{name}: ")
    return f"{len(models)} models: the smallest shift that each follows, whatever its strides and sizes say."


_WIDTH = 24


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


def _judge_shift(given: Any, right: int, where: str) -> None:
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
            _WIDTH,
            f"{_WIDTH} pixels are the whole picture, and a smaller shift is followed. Did you shift the output by as "
            "many *output places* as the input moved, or by as many pixels?",
        ),
        "zero": (AnyOf(range(-_WIDTH, 1)), "a shift to the right begins at 1 pixel."),
        "not_smallest": (
            AnyOf(range(2 * right, 100, right)),
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
            "signed", f"{where}after a shift by {given} all outputs are smaller. A difference below 0 is one as well."
        )
    if "small" in where:
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
