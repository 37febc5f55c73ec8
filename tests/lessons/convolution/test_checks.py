"""The checks of lesson 08 accept right answers built in different ways and name wrong ones' symptoms."""

import copy

import pytest
import torch
import torch.nn.functional as F

from torchcourse.lessons.convolution import checks as check
from torchcourse.lessons.convolution.by_hand import conv2d_im2col
from torchcourse.lessons.convolution.equivariance import shift_error
from torchcourse.lessons.convolution.fourier import conv2d_fft
from verdicts import accepted, refused, todo


@pytest.mark.parametrize("name", ["convolve", "size_and_field", "pool_shift", "flipped"])
def test_a_stub_is_not_done(name):
    assert getattr(check, name)(todo).state == "not done"


def by_columns(x, weight, stride, padding):
    return conv2d_im2col(x[None], weight, None, stride, padding)[0]


def by_places(x, weight, stride, padding):
    x = F.pad(x, (padding,) * 4)
    rows, columns = ((x.shape[d] - weight.shape[d + 1]) // stride + 1 for d in (1, 2))
    out = x.new_zeros(len(weight), rows, columns)
    for i in range(rows):
        for j in range(columns):
            patch = x[:, i * stride :, j * stride :][:, : weight.shape[2], : weight.shape[3]]
            out[:, i, j] = (patch * weight).sum(dim=(1, 2, 3))
    return out


def by_spectrum(x, weight, stride, padding):
    x = F.pad(x, (padding,) * 4)
    size = [x.shape[d] + weight.shape[d + 1] - 1 for d in (1, 2)]
    product = torch.fft.rfft2(x, size)[None] * torch.fft.rfft2(weight.flip(2, 3), size)
    full = torch.fft.irfft2(product.sum(dim=1), size)
    return full[:, weight.shape[2] - 1 : x.shape[1] : stride, weight.shape[3] - 1 : x.shape[2] : stride]


def by_windows(x, weight, stride, padding):
    windows = F.pad(x, (padding,) * 4).unfold(1, weight.shape[2], stride).unfold(2, weight.shape[3], stride)
    return torch.einsum("chwij,ocij->ohw", windows, weight)


@pytest.mark.parametrize("answer", [by_places, by_windows, by_spectrum])
def test_right_convolutions(answer):
    accepted(check.convolve(answer))


def by_layer(x, weight, stride, padding):
    layer = torch.nn.Conv2d(x.shape[0], len(weight), weight.shape[2:], stride, padding, bias=False)
    layer.weight = torch.nn.Parameter(weight)
    return layer(x).detach()


def by_unfold(x, weight, stride, padding):
    columns = torch.nn.Unfold(weight.shape[2:], padding=padding, stride=stride)(x[None])[0]
    rows = (x.shape[1] + 2 * padding - weight.shape[2]) // stride + 1
    return (weight.flatten(1) @ columns).view(len(weight), rows, -1)


@pytest.mark.parametrize(
    "answer",
    [
        lambda x, w, s, p: F.conv2d(x, w, stride=s, padding=p),
        lambda x, w, s, p: torch.conv2d(x[None], w, None, s, p)[0],
        lambda x, w, s, p: torch.ops.aten.convolution(x[None], w, None, [s, s], [p, p], [1, 1], False, [0, 0], 1)[0],
        lambda x, w, s, p: F.conv3d(x[None], w[:, None], stride=(1, s, s), padding=(0, p, p))[:, 0],
        by_layer,
        lambda x, w, s, p: torch.nn.Conv2d(len(x), len(w), w.shape[2:], s, p, bias=False)(x),  # raises: float32
        by_unfold,
        by_columns,
        lambda x, w, s, p: conv2d_fft(F.pad(x[None], (p,) * 4), w)[0, :, ::s, ::s],
    ],
)
def test_a_convolution_of_a_library_is_not_the_learners_own(answer):
    refused(check.convolve(answer), "library_call")


def unstrided(x, weight, stride, padding):
    right = by_windows(x, weight, stride, padding)
    return by_windows(x, weight, 1, padding)[:, : right.shape[1], : right.shape[2]]


def in_place(x, weight, stride, padding):
    return by_windows(x, weight.mul_(2), stride, padding) / 2


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda x, w, s, p: by_windows(x, w.flip(2, 3), s, p), "kernel_flipped"),
        (lambda x, w, s, p: by_windows(x[:1], w[:, :1], s, p), "one_channel"),
        (lambda x, w, s, p: by_windows(x, w, s, p) / w[0].numel(), "mean"),
        (lambda x, w, s, p: x.new_zeros(w.shape[0], *x.shape[1:]), "same_size"),
        (lambda x, w, s, p: by_windows(x, w, s, 0), "shape"),
        (lambda x, w, s, p: by_windows(x, w, s, p)[:, : (x.shape[1] + p - w.shape[2]) // s + 1], "shape"),
        (unstrided, "stride_ignored"),
        (lambda x, w, s, p: by_windows(x.float(), w.float(), s, p), "dtype"),
        (lambda x, w, s, p: by_windows(x.float(), w.float(), s, p).double(), "wrong_value"),
        (lambda x, w, s, p: by_windows(x, w.transpose(2, 3), s, p), "transposed"),
        (in_place, "inputs_changed"),
        (lambda x, w, s, p: by_windows(x, w, s, p) + 1, "wrong_value"),
        (lambda x, w, s, p: by_windows(x, w, s, min(p, 1)), "shape"),
        (lambda x, w, s, p: by_windows(x, w, min(s, 2), p), "shape"),
    ],
)
def test_wrong_convolutions(answer, symptom):
    refused(check.convolve(answer), symptom)


def sizes(size, layers, both=2, first=1, dilate=True, jumps="after", up=False):
    field, jump = 1, 1
    for kernel, stride, padding, dilation in layers:
        reach = dilation * (kernel - 1) + 1 if dilate else kernel
        size = (size + both * padding - reach + up * (stride - 1)) // stride + first
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


@pytest.mark.parametrize("answer", [sizes, from_the_end, lambda n, layers: list(sizes(n, layers))])
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
        (lambda n, layers: None, "wrong_type"),
        (lambda n, layers: sizes(n, layers, both=0), "no_padding"),
        (lambda n, layers: sizes(n, layers, up=True), "rounded_up"),
        (lambda n, layers: (sizes(n, layers)[0], sizes(n, [(k, s, p, 1) for k, s, p, _ in layers])[1]), "no_dilation"),
        (lambda n, layers: (sizes(n, layers)[0], sizes(n, layers[::-1])[1]), "from_the_end"),
        (lambda n, layers: (sizes(n, layers)[0], min(n, sizes(n, layers)[1])), "cut_off"),
        (lambda n, layers: (sizes(n, layers)[0], sizes(n, layers)[1] - 1), "no_pixel"),
        (lambda n, layers: (sizes(n, layers)[0], sizes(n, layers[:1])[1]), "field"),
        (lambda n, layers: sizes(n, layers[:1]), "size"),
        (lambda n, layers: sizes(n, [layers.pop(0) for _ in range(len(layers))]), "inputs_changed"),
    ],
)
def test_wrong_sizes(answer, symptom):
    refused(check.size_and_field(answer), symptom)


def tries(model, x, follows=lambda out, shifted, places: torch.allclose(shifted, out.roll(places, 3), atol=1e-5)):
    with torch.no_grad():
        out = model(x)
        for pixels in range(1, x.shape[3] + 1):
            places, rest = divmod(pixels * out.shape[3], x.shape[3])
            if not rest and follows(out, model(x.roll(pixels, 3)), places):
                return pixels


def with_the_package(model, x):
    with torch.no_grad():
        each = x.shape[3] // model(x).shape[3]
        return next(pixels for pixels in range(each, x.shape[3] + 1, each) if shift_error(model, x, pixels) < 1e-4)


def in_one_batch(model, x):
    width, moved = x.shape[3], model(torch.cat([x.roll(pixels, 3) for pixels in range(x.shape[3] + 1)]))
    shifts = [pixels for pixels in range(1, width + 1) if pixels * moved.shape[3] % width == 0]
    return next(p for p in shifts if moved[p].allclose(moved[0].roll(p * moved.shape[3] // width, 2), atol=1e-5))


def in_64_bits(model, x):
    return tries(copy.deepcopy(model).double(), x.double())


@pytest.mark.parametrize("answer", [tries, with_the_package, in_one_batch, in_64_bits])
def test_right_shifts(answer):
    accepted(check.pool_shift(answer))


def by_pixels(model, x):
    out = model(x)
    return next(p for p in range(1, 25) if p == 24 or torch.allclose(model(x.roll(p, 3)), out.roll(p, 3), atol=1e-5))


def rounding_down(model, x):
    out = model(x)
    moved = ((p, model(x.roll(p, 3)), out.roll(p * out.shape[3] // x.shape[3], 3)) for p in range(1, 25))
    return next(pixels for pixels, shifted, rolled in moved if torch.allclose(shifted, rolled, atol=1e-5))


def down_the_rows(model, x):
    return tries(model, x.transpose(2, 3).roll(0)) if isinstance(model, torch.nn.Conv2d) else 2


def with_a_wide_tolerance(model, x):
    return tries(model, x, lambda out, shifted, places: torch.allclose(shifted, out.roll(places, 3), atol=1e-2))


def for_24_pixels(model, x):
    out = model(x)
    shifts = [p for p in range(1, 25) if p * out.shape[3] % 24 == 0]
    moved = ((p, model(x.roll(p, 3)), out.roll(p * out.shape[3] // 24, 3)) for p in shifts)
    return next((pixels for pixels, shifted, rolled in moved if torch.allclose(shifted, rolled, atol=1e-5)), None)


def in_training_mode(model, x):
    return tries(model.train(), x)


def of_one_channel(model, x):
    return tries(lambda picture: model(picture)[:, :1], x)


def in_the_given_tensor(model, x):
    found = tries(model, x)
    x.copy_(x.roll(found, 3))
    return found


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda model, x: tries(model, x, lambda out, moved, n: torch.equal(moved, out.roll(n, 3))), "not_smallest"),
        (lambda model, x: x.shape[3] // model(x).shape[3], "always_one"),
        (rounding_down, "no_whole_place"),
        (down_the_rows, "downward"),
        (with_a_wide_tolerance, "tolerance"),
        (in_the_given_tensor, "inputs_changed"),
        (lambda model, x: tries(model, x, lambda out, moved, n: (moved - out.roll(n, 3)).mean() < 9), "always_one"),
        (lambda model, x: next((p for p in (1, 2, 3, 4) if p == tries(model, x)), None), "nothing_returned"),
        (lambda model, x: tries(model, x, lambda out, moved, n: (moved - out.roll(n, 3)).max() < 1e-5), "signed"),
        (lambda model, x: tries(model, x, lambda out, moved, n: (out.roll(n, 3) - moved).max() < 1e-5), "signed"),
        (
            lambda model, x: tries(model, x, lambda out, moved, n: moved.allclose(out.roll(n, 3), 0.1, 1e-5)),
            "tolerance",
        ),
        (for_24_pixels, "nothing_returned"),
        (in_training_mode, "mode_left_changed"),
        (lambda model, x: tries(model.requires_grad_(False), x), "frozen_for_ever"),
        (of_one_channel, "one_channel"),
        (lambda model, x: tries(model, x) > 0, "wrong_type"),
        (lambda model, x: 1e-7, "wrong_type"),
        (lambda model, x: 1, "always_one"),
        (lambda model, x: 2 * tries(model, x), "not_smallest"),
        (lambda model, x: 576 * 10**6, "not_smallest"),
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
        (lambda image, kernel: F.conv2d(image[None, None], kernel.T[None, None], padding=2)[0, 0], "transposed"),
        (lambda image, kernel: full(image, kernel.rot90()), "transposed"),
        (lambda image, kernel: full(image.flip(0, 1), kernel), "picture_flipped"),
        (lambda image, kernel: full(image.flip(0, 1), kernel.flip(0, 1)), "picture_flipped"),
        (lambda image, kernel: full(image, kernel.flip(0, 1)).flip(0, 1), "picture_flipped"),
        (lambda image, kernel: full(image.float(), kernel.float()), "dtype"),
        (lambda image, kernel: full(image.float(), kernel.float()).double(), "wrong_value"),
        (lambda image, kernel: full(image, kernel.mul_(2)) / 2, "inputs_changed"),
        (lambda image, kernel: full(image, kernel)[1:-1, 1:-1], "shape"),
        (lambda image, kernel: 2 * full(image, kernel), "wrong_value"),
    ],
)
def test_wrong_flips(answer, symptom):
    refused(check.flipped(answer), symptom)
