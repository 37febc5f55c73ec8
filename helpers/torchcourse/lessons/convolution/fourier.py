"""The route through the Fourier transform (푸리에 변환): a convolution becomes a product, value by value.

Its cost hardly depends on the size of the kernel, so it pays for large ones.
Source: Mathieu, Henaff and LeCun 2013, "Fast Training of Convolutional Networks through FFTs",
https://arxiv.org/abs/1312.5851
"""

import torch

from torchcourse.lessons.convolution.sizes import Pair, check_shapes, output_sizes, pad, pair


def conv2d_fft(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> torch.Tensor:
    """Return the same as `by_hand.conv2d_loops`, up to rounding.

    The transform knows no stride: it computes every position, and the others are dropped. It knows no dilation: the
    holes of the kernel are filled with zeros. Arguments, result and errors are those of `conv2d_loops`.
    """
    check_shapes(x, weight, bias, groups)
    height, width = output_sizes(x, weight, stride, padding, dilation)
    padded, kernel = pad(x, padding), _dilate(weight, dilation)
    shape = padded.shape[2:]
    image = torch.fft.rfft2(padded)  # [N, C, H, W/2+1], complex
    # The conjugate turns the product's convolution into a correlation: PyTorch does not flip the kernel.
    filters = torch.fft.rfft2(kernel, s=shape).conj()
    samples, outputs = x.shape[0], weight.shape[0]
    image = image.reshape(samples, groups, 1, -1, *image.shape[2:])
    filters = filters.reshape(1, groups, outputs // groups, -1, *filters.shape[2:])
    spectrum = (image * filters).sum(dim=3)
    everywhere = torch.fft.irfft2(spectrum, s=shape).reshape(samples, outputs, *shape)
    down, right = pair(stride)
    out = everywhere[:, :, : height * down : down, : width * right : right]
    return out if bias is None else out + bias[:, None, None]


def _dilate(weight: torch.Tensor, dilation: Pair) -> torch.Tensor:
    """Return the kernels with zeros between neighbors."""
    (dil_h, dil_w), (rows, columns) = pair(dilation), weight.shape[2:]
    wide = weight.new_zeros(*weight.shape[:2], dil_h * (rows - 1) + 1, dil_w * (columns - 1) + 1)
    wide[:, :, ::dil_h, ::dil_w] = weight
    return wide
