"""Convolution by hand, as PyTorch means it (it is a cross-correlation, 교차 상관: the kernel is not flipped).

`conv2d_loops` says what is computed. `conv2d_im2col` computes the same as one matrix product. `conv_transpose2d` is
the same product the other way round. All equal `torch.nn.functional` and are differentiable.
"""

import torch
import torch.nn.functional as F

from torchcourse.lessons.convolution.sizes import (
    Pair,
    check_shapes,
    output_size,
    output_sizes,
    pad,
    pair,
    transposed_output_size,
)


def conv2d_loops(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> torch.Tensor:
    """Return the convolution of `x` with `weight`, one output value after the other.

    Args:
        x: images [N, C, H, W].
        weight: kernels [O, C/groups, kH, kW].
        bias: [O], added to every value of an output channel.
        stride: step of the kernel, for both directions or as (height, width); so are the next two.
        padding: zeros around the image.
        dilation: distance between neighbors within the kernel.
        groups: the channels fall into so many groups, and a group of outputs sees one group of inputs.

    Returns:
        [N, O, H', W'], with the sizes of `sizes.output_size`.

    Raises:
        ValueError: for shapes that do not belong together, or a kernel that is larger than the padded image.
    """
    check_shapes(x, weight, bias, groups)
    (rows, columns), (down, right), (dil_h, dil_w) = weight.shape[2:], pair(stride), pair(dilation)
    height, width = output_sizes(x, weight, stride, padding, dilation)
    padded = pad(x, padding)
    per_group_in, per_group_out = x.shape[1] // groups, weight.shape[0] // groups
    out = x.new_zeros(x.shape[0], weight.shape[0], height, width)
    for channel in range(weight.shape[0]):
        first = channel // per_group_out * per_group_in
        for i in range(height):
            for j in range(width):
                top, left = i * down, j * right
                patch = padded[
                    :,
                    first : first + per_group_in,
                    top : top + dil_h * (rows - 1) + 1 : dil_h,
                    left : left + dil_w * (columns - 1) + 1 : dil_w,
                ]
                out[:, channel, i, j] = (patch * weight[channel]).sum(dim=(1, 2, 3))
    return out if bias is None else out + bias[:, None, None]


def im2col(x: torch.Tensor, kernel: Pair, stride: Pair = 1, padding: Pair = 0, dilation: Pair = 1) -> torch.Tensor:
    """Return each patch that a kernel lies over as a column: [N, C·kH·kW, H'·W'].

    The columns run through the positions row by row. Within a column come the channels, then the kernel's rows.
    It is what `torch.nn.functional.unfold` returns.
    """
    (rows, columns), (down, right), (dil_h, dil_w) = pair(kernel), pair(stride), pair(dilation)
    pad_h, pad_w = pair(padding)
    height = output_size(x.shape[2], rows, down, pad_h, dil_h)
    width = output_size(x.shape[3], columns, right, pad_w, dil_w)
    padded = pad(x, padding)
    i = dil_h * torch.arange(rows)[:, None] + down * torch.arange(height)  # [kH, H']: the row that each one reads
    j = dil_w * torch.arange(columns)[:, None] + right * torch.arange(width)  # [kW, W']
    patches = padded[:, :, i[:, None, :, None], j[None, :, None, :]]  # [N, C, kH, kW, H', W']
    return patches.reshape(x.shape[0], x.shape[1] * rows * columns, height * width)


def conv2d_im2col(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> torch.Tensor:
    """Return the same as `conv2d_loops`, as one matrix product per group: kernels [O, C·kH·kW] times `im2col`.

    It holds every pixel up to kH·kW times, which is the price for the fast product.

    Source: Chellapilla, Puri and Simard 2006, "High Performance Convolutional Neural Networks for Document Processing",
    https://inria.hal.science/inria-00112631
    """
    check_shapes(x, weight, bias, groups)
    columns = im2col(x, weight.shape[2:], stride, padding, dilation)
    samples, outputs, places = x.shape[0], weight.shape[0], columns.shape[2]
    columns = columns.reshape(samples, groups, -1, places)
    kernels = weight.reshape(groups, outputs // groups, -1)
    out = (kernels @ columns).reshape(samples, outputs, *output_sizes(x, weight, stride, padding, dilation))
    return out if bias is None else out + bias[:, None, None]


def conv_transpose2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    output_padding: Pair = 0,
    groups: int = 1,
    dilation: Pair = 1,
) -> torch.Tensor:
    """Return the transposed convolution: each input value lays a scaled kernel into the output, where they add up.

    It takes [N, C, H, W] and kernels [C, O/groups, kH, kW] to [N, O, H', W'], and is the gradient of `conv2d_im2col`
    with respect to its input: the product with the transposed matrix.

    Raises:
        ValueError: for shapes that do not belong together, or a padding that cuts everything away.
    """
    check_shapes(x, weight.transpose(0, 1) if groups == 1 else _as_forward(weight, groups), bias, groups)
    samples, channels = x.shape[:2]
    (rows, columns), (down, right), (dil_h, dil_w) = weight.shape[2:], pair(stride), pair(dilation)
    (pad_h, pad_w), (more_h, more_w) = pair(padding), pair(output_padding)
    transposed_output_size(x.shape[2], rows, down, pad_h, more_h, dil_h)  # refuses what leaves nothing
    transposed_output_size(x.shape[3], columns, right, pad_w, more_w, dil_w)
    per_group = weight.shape[1]
    kernels = weight.reshape(groups, channels // groups, per_group * rows * columns)
    values = x.reshape(samples, groups, channels // groups, -1)
    patches = (kernels.transpose(1, 2) @ values).reshape(samples, groups * per_group * rows * columns, -1)
    whole = (
        transposed_output_size(x.shape[2], rows, down, dilation=dil_h),
        transposed_output_size(x.shape[3], columns, right, dilation=dil_w),
    )
    out = F.fold(patches, whole, (rows, columns), (dil_h, dil_w), stride=(down, right))
    out = F.pad(out, (-pad_w, more_w - pad_w, -pad_h, more_h - pad_h))  # negative: cut away
    return out if bias is None else out + bias[:, None, None]


def _as_forward(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """Return a transposed convolution's kernels in the order of the convolution from its input to its output."""
    channels, per_group = weight.shape[:2]
    split = weight.reshape(groups, channels // groups, per_group, *weight.shape[2:])
    return split.transpose(1, 2).reshape(groups * per_group, channels // groups, *weight.shape[2:])
