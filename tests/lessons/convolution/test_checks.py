"""The checks of lesson 08 accept right answers built in different ways and name wrong ones' symptoms."""

import pytest
import torch
import torch.nn.functional as F

from torchcourse.lessons.convolution import checks as check
from torchcourse.lessons.convolution.by_hand import conv2d_im2col
from torchcourse.lessons.convolution.equivariance import shift_error
from verdicts import accepted, refused, todo


@pytest.mark.parametrize("name", ["convolve", "size_and_field", "pool_shift", "flipped"])
def test_a_stub_is_not_done(name):
    assert getattr(check, name)(todo).state == "not done"


def by_columns(x, weight, stride, padding):
    return conv2d_im2col(x[None], weight, None, stride, padding)[0]


def by_windows(x, weight, stride, padding):
    windows = F.pad(x, (padding,) * 4).unfold(1, weight.shape[2], stride).unfold(2, weight.shape[3], stride)
    return torch.einsum("chwij,ocij->ohw", windows, weight)


@pytest.mark.parametrize("answer", [by_columns, by_windows])
def test_right_convolutions(answer):
    accepted(check.convolve(answer))


def unstrided(x, weight, stride, padding):
    right = by_columns(x, weight, stride, padding)
    return by_columns(x, weight, 1, padding)[:, : right.shape[1], : right.shape[2]]


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda x, w, s, p: by_columns(x, w.flip(2, 3), s, p), "kernel_flipped"),
        (lambda x, w, s, p: by_columns(x[:1], w[:, :1], s, p), "one_channel"),
        (lambda x, w, s, p: by_columns(x, w, s, p) / w[0].numel(), "mean"),
        (lambda x, w, s, p: x.new_zeros(w.shape[0], *x.shape[1:]), "same_size"),
        (lambda x, w, s, p: by_columns(x, w, s, 0), "shape"),
        (unstrided, "stride_ignored"),
        (lambda x, w, s, p: by_columns(x, w, s, p) + 1, "wrong_value"),
    ],
)
def test_wrong_convolutions(answer, symptom):
    refused(check.convolve(answer), symptom)


def sizes(size, layers, both=2, first=1, dilate=True, jumps="after"):
    field, jump = 1, 1
    for kernel, stride, padding, dilation in layers:
        reach = dilation * (kernel - 1) + 1 if dilate else kernel
        size = (size + both * padding - reach) // stride + first
        if jumps == "before":
            jump *= stride
        field += dilation * (kernel - 1) * jump
        if jumps == "after":
            jump *= stride
    return size, field


def from_the_end(size, layers):
    field = 1
    for kernel, stride, _, dilation in reversed(layers):
        field = (field - 1) * stride + dilation * (kernel - 1) + 1
    return sizes(size, layers)[0], field


@pytest.mark.parametrize("answer", [sizes, from_the_end])
def test_right_sizes(answer):
    accepted(check.size_and_field(answer))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda n, layers: sizes(n, layers, both=1), "one_side"),
        (lambda n, layers: sizes(n, layers, first=0), "no_first"),
        (lambda n, layers: sizes(n, layers, dilate=False), "no_dilation"),
        (lambda n, layers: sizes(n, layers, jumps="never"), "no_jump"),
        (lambda n, layers: sizes(n, layers, jumps="before"), "jump_too_early"),
        (lambda n, layers: sizes(n, layers)[::-1], "swapped"),
        (lambda n, layers: sizes(n, layers)[0], "wrong_type"),
        (lambda n, layers: tuple(map(float, sizes(n, layers))), "no_int"),
    ],
)
def test_wrong_sizes(answer, symptom):
    refused(check.size_and_field(answer), symptom)


def tries(model, x, follows=lambda out, shifted, places: torch.allclose(shifted, out.roll(places, 3), atol=1e-5)):
    with torch.no_grad():
        out = model(x)
        for pixels in range(1, x.shape[3] + 1):
            if follows(out, model(x.roll(pixels, 3)), pixels * out.shape[3] // x.shape[3]):
                return pixels


def with_the_package(model, x):
    with torch.no_grad():
        return next(pixels for pixels in range(1, x.shape[3] + 1) if shift_error(model, x, pixels) < 1e-4)


@pytest.mark.parametrize("answer", [tries, with_the_package])
def test_right_shifts(answer):
    accepted(check.pool_shift(answer))


def by_pixels(model, x):
    out = model(x)
    return next(p for p in range(1, 25) if p == 24 or torch.allclose(model(x.roll(p, 3)), out.roll(p, 3), atol=1e-5))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda model, x: 1, "always_one"),
        (lambda model, x: 2 * tries(model, x), "not_smallest"),
        (lambda model, x: 0, "zero"),
        (lambda model, x: tries(model, x) + (tries(model, x) > 2), "wrong_value"),
        (lambda model, x: 24 if tries(model, x) > 1 else 1, "never"),
    ],
)
def test_wrong_shifts(answer, symptom):
    refused(check.pool_shift(answer), symptom)


def test_a_shift_of_the_output_by_pixels_is_refused():
    assert check.pool_shift(by_pixels).state == "wrong"


def full(image, kernel):
    rows, columns = kernel.shape
    return F.conv2d(image[None, None], kernel.flip(0, 1)[None, None], padding=(rows - 1, columns - 1))[0, 0]


def by_transposed(image, kernel):
    return F.conv_transpose2d(image[None, None], kernel[None, None])[0, 0]


def by_fourier(image, kernel):
    shape = [a + b - 1 for a, b in zip(image.shape, kernel.shape, strict=True)]
    return torch.fft.irfft2(torch.fft.rfft2(image, shape) * torch.fft.rfft2(kernel, shape), shape)


@pytest.mark.parametrize("answer", [full, by_transposed, by_fourier])
def test_right_flips(answer):
    accepted(check.flipped(answer))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda image, kernel: full(image, kernel.flip(0, 1)), "not_flipped"),
        (lambda image, kernel: full(image, kernel.flip(0)), "one_axis"),
        (lambda image, kernel: full(image, kernel.flip(1)), "one_axis"),
        (lambda image, kernel: full(image.flip(0, 1), kernel), "picture_flipped"),
        (lambda image, kernel: full(image, kernel)[1:-1, 1:-1], "shape"),
        (lambda image, kernel: 2 * full(image, kernel), "wrong_value"),
    ],
)
def test_wrong_flips(answer, symptom):
    refused(check.flipped(answer), symptom)
