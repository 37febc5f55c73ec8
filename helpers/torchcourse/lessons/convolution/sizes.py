"""What a convolution puts out and what it costs, by formula: output size, parameters, multiplications.

Source: Dumoulin and Visin 2016, "A guide to convolution arithmetic for deep learning", https://arxiv.org/abs/1603.07285
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

Pair = int | Sequence[int]
"""One number for both directions, or (height, width)."""


def pair(value: Pair) -> tuple[int, int]:
    """Return (height, width), which are the same for one number.

    Raises:
        ValueError: for a name such as "same", or for more than two numbers.
    """
    _refuse_name(value)
    numbers = tuple(value) if isinstance(value, Sequence) else (value,)
    if len(numbers) not in (1, 2):
        raise ValueError(f"Give one number for both directions, or (height, width), but not {value}.")
    return int(numbers[0]), int(numbers[-1])


def output_size(size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """Return how many positions a kernel has along one dimension of `size` pixels: ⌊(n + 2p − d(k−1) − 1)/s⌋ + 1.

    Raises:
        ValueError: if a number makes no sense, or the kernel is larger than the padded input.
    """
    _refuse_name(padding)
    if kernel < 1 or stride < 1 or dilation < 1 or padding < 0:
        raise ValueError(
            f"Kernel, stride and dilation begin at 1 and padding at 0, but these are {kernel}, {stride}, {dilation} "
            f"and {padding}."
        )
    reach = dilation * (kernel - 1) + 1
    if size + 2 * padding < reach:
        raise ValueError(
            f"The kernel reaches over {reach} pixels, but the input has only {size + 2 * padding} with its padding. "
            "Pad more, or take a smaller kernel or dilation."
        )
    return (size + 2 * padding - reach) // stride + 1


def output_sizes(
    x: torch.Tensor, weight: torch.Tensor, stride: Pair = 1, padding: Pair = 0, dilation: Pair = 1
) -> tuple[int, int]:
    """Return height and width of the convolution of images [N, C, H, W] with kernels [O, C/groups, kH, kW]."""
    parts = zip(x.shape[2:], weight.shape[2:], pair(stride), pair(padding), pair(dilation), strict=True)
    height, width = (output_size(*part) for part in parts)
    return height, width


def pad(x: torch.Tensor, padding: Pair) -> torch.Tensor:
    """Return images [N, C, H, W] with so many rows and columns of zeros on each side."""
    rows, columns = pair(padding)
    return F.pad(x, (columns, columns, rows, rows))


def transposed_output_size(
    size: int, kernel: int, stride: int = 1, padding: int = 0, output_padding: int = 0, dilation: int = 1
) -> int:
    """Return the size that a transposed convolution puts out: (n − 1)s − 2p + d(k−1) + output_padding + 1.

    Raises:
        ValueError: if a number makes no sense, the output would be empty, or `output_padding` is not smaller than
            stride or dilation.
    """
    _refuse_name(padding)
    if min(size, kernel, stride, dilation) < 1 or min(padding, output_padding) < 0:
        raise ValueError(
            f"Size, kernel, stride and dilation begin at 1 and both paddings at 0, but these are {size}, {kernel}, "
            f"{stride}, {dilation}, {padding} and {output_padding}."
        )
    if output_padding >= max(stride, dilation):
        raise ValueError(
            f"output_padding={output_padding} has to be smaller than the stride ({stride}) or dilation ({dilation})."
        )
    out = (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1
    if out < 1:
        raise ValueError(f"The padding of {padding} cuts away everything: the output would have {out} pixels.")
    return out


@dataclass(frozen=True)
class Cost:
    """What a layer costs: numbers to learn, and multiplications with their additions for one sample."""

    parameters: int
    multiply_adds: int


def conv_cost(
    channels_in: int, channels_out: int, kernel: Pair, size_out: Pair, groups: int = 1, bias: bool = True
) -> Cost:
    """Return the cost of a convolution that puts out [channels_out, *size_out]."""
    (height, width), (rows, columns) = pair(size_out), pair(kernel)
    weights = channels_out * (channels_in // groups) * rows * columns
    return Cost(weights + channels_out * bias, weights * height * width)


def dense_cost(inputs: int, outputs: int, bias: bool = True) -> Cost:
    """Return the cost of a dense layer from `inputs` to `outputs` numbers."""
    return Cost(inputs * outputs + outputs * bias, inputs * outputs)


def check_shapes(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, groups: int) -> None:
    """Refuse tensors that do not belong together.

    Args:
        x: [N, C, H, W].
        weight: [O, C/groups, kH, kW].
        bias: [O], or None.

    Raises:
        ValueError: in one sentence with both sizes.
    """
    if x.ndim != 4 or weight.ndim != 4:
        raise ValueError(
            f"Images come as [N, C, H, W] and kernels as [O, C/groups, kH, kW], but these have the shapes "
            f"{list(x.shape)} and {list(weight.shape)}."
        )
    channels, outputs = x.shape[1], weight.shape[0]
    if groups < 1 or channels % groups or outputs % groups:
        raise ValueError(
            f"groups={groups} has to divide the {channels} input channels and the {outputs} output channels."
        )
    if weight.shape[1] != channels // groups:
        raise ValueError(
            f"The kernel takes {weight.shape[1]} channels in each group, but the image has {channels} channels in "
            f"{groups} group(s), so {channels // groups} in each."
        )
    if bias is not None and tuple(bias.shape) != (outputs,):
        raise ValueError(
            f"The bias has the shape {list(bias.shape)}; it takes one number per output channel: [{outputs}]."
        )


def _refuse_name(padding: object) -> None:
    if isinstance(padding, str):
        raise ValueError(
            f"padding={padding!r} is a name that PyTorch knows, but here padding is a number: the zeros on each side. "
            "'valid' is 0, and 'same' is dilation · (kernel − 1) / 2 with stride 1."
        )
