"""Checks of lesson 08: a convolution by hand, and the convolution of mathematics."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from torchcourse.checks import Wrong, check
from torchcourse.checks.borrowed import watch
from torchcourse.checks.kit import AnyOf, refuse_known, result_of, same, tensor_of


@check
def convolve(learner: Callable[..., torch.Tensor]) -> str:
    """Compare with `F.conv2d` over several channels, kernels that are not square, stride and padding."""
    generator = torch.Generator().manual_seed(0)
    cases = [(1, 1, 3, 3, 1, 0), (3, 2, 3, 3, 1, 0), (2, 3, 2, 3, 1, 0), (2, 2, 3, 2, 2, 0), (2, 2, 3, 3, 2, 1)]
    cases += [(1, 2, 2, 3, 3, 2), (1, 1, 3, 2, 1, 2)]
    for channels, outputs, rows, columns, stride, padding in cases:
        x = torch.randn(channels, 6, 8, generator=generator, dtype=torch.float64)
        weight = torch.randn(outputs, channels, rows, columns, generator=generator, dtype=torch.float64)
        with watch(operators=("conv", "im2col"), package="torchcourse.lessons.convolution") as borrowed:
            try:
                out = result_of(learner, x, weight, stride, padding, what="the picture or the kernels")
            except Exception:
                if not borrowed:
                    raise
        if borrowed:
            raise Wrong(
                "library_call",
                f"Your function calls {borrowed[0]}, which does the work that this exercise is about. Write it "
                "yourself: slices, products and sums are enough.",
            )
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
    out = tensor_of(out, right.shape, f"{case}the output has the shape {list(right.shape)}.", right.dtype)
    if same(out, right, tolerance=_TOLERANCE):
        return
    every_place = F.conv2d(F.pad(x, (padding,) * 4)[None], weight)[0, :, : right.shape[1], : right.shape[2]]
    known = {
        "kernel_flipped": (convolved(x, weight.flip(2, 3)), "you flipped the kernel. PyTorch's layers do not."),
        "one_channel": (convolved(x[:1], weight[:, :1]), "only the first channel of the picture counts."),
        "mean": (
            AnyOf((right / weight[0].numel(), right / channels)),
            "your values are too small by one factor: a sum is asked for, not a mean.",
        ),
        "transposed": (
            convolved(x, weight.transpose(2, 3)) if rows == columns else torch.empty(0),
            "rows and columns of the kernel changed places.",
        ),
        "stride_ignored": (every_place, "neighbors in your output are neighbors in the picture, too."),
    }
    refuse_known(out, known, tolerance=_TOLERANCE, where=case)
    raise Wrong("wrong_value", f"{case}the values differ by up to {_off(out, right)} from F.conv2d.")


_TOLERANCE = 1e-9
"""Of numbers of 64 bits: what was computed with 32 is further off."""


def _off(out: torch.Tensor, right: torch.Tensor) -> str:
    """How far off the output is, and what that may come from."""
    off = (out - right).abs().max()
    return f"{off:.2g}{', as if they were computed with 32 bits' if off < 1e-5 else ''}"


@check
def flipped(learner: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> str:
    """Compare with the definition of convolution, summed term by term."""
    generator = torch.Generator().manual_seed(1)
    for rows, columns in ((3, 3), (1, 4), (2, 3), (4, 1)):
        image = torch.randn(6, 7, generator=generator, dtype=torch.float64)
        kernel = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
        out = result_of(learner, image, kernel, what="the picture or the kernel")
        _judge_flipped(out, image, kernel)
    return "Four kernels, each as the sum in the definition says."


def _judge_flipped(out: Any, image: torch.Tensor, kernel: torch.Tensor) -> None:
    right, size = _by_definition(image, kernel), "×".join(map(str, kernel.shape))
    overlap = (
        f"A kernel of {size} on 6×7 pixels gives {list(right.shape)}: wherever the two overlap by one pixel or more."
    )
    out = tensor_of(out, right.shape, overlap, right.dtype)
    if same(out, right, tolerance=_TOLERANCE):
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
    refuse_known(out, known, tolerance=_TOLERANCE, where=f"With a kernel of {size}, ")
    raise Wrong("wrong_value", f"With a kernel of {size} the values differ by up to {_off(out, right)}.")


def _by_definition(image: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Return the full convolution [H + kH − 1, W + kW − 1]: each pixel lays a scaled copy of the kernel down."""
    (height, width), (rows, columns) = image.shape, kernel.shape
    out = image.new_zeros(height + rows - 1, width + columns - 1)
    for i in range(rows):
        for j in range(columns):
            out[i : i + height, j : j + width] += kernel[i, j] * image
    return out
