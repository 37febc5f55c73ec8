"""The keys of lesson 08's bank, computed again or tried out: what a question says happens is what happens."""

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from keys import Keys
from torchcourse.lessons.convolution.equivariance import shift_error
from torchcourse.lessons.convolution.receptive_field import by_formula, by_gradient, influence
from torchcourse.lessons.convolution.sizes import conv_cost, dense_cost

LESSON = "08_convolution"
keys = Keys(LESSON)
asked, key, mistakes = keys.asked, keys.key, keys.mistakes


def test_multiplications_and_columns():
    layer = nn.Conv2d(12, 20, 5)
    assert key("multiplications-of-a-value") == layer.weight[0].numel()
    assert mistakes("multiplications-of-a-value") == sorted([layer.weight[0, 0].numel(), layer.weight.numel()])
    picture = torch.zeros(1, 16, 56, 56)
    columns = F.unfold(picture, 3, padding=1, stride=2)
    assert key("numbers-in-the-columns") == columns.numel()
    every_pixel = F.unfold(picture, 3, padding=1).numel()
    assert mistakes("numbers-in-the-columns") == sorted([every_pixel, columns.numel() // 16, picture.numel()])


def test_the_steps_of_im2col_in_the_order_of_the_key():
    def reshape(x):
        return x.reshape(6, 7, 8)

    torch.manual_seed(0)
    picture, weight = torch.randn(1, 4, 7, 8), torch.randn(6, 4, 3, 3)
    steps = {
        "A": reshape,
        "B": lambda x: F.unfold(x, 3)[0],
        "C": lambda x: F.pad(x, (1, 1, 1, 1)),
        "D": lambda x: weight.flatten(1) @ x,
    }
    out = picture
    for letter in key("steps-of-im2col"):
        out = steps[letter](out)
    torch.testing.assert_close(out, F.conv2d(picture, weight, padding=1)[0])


def convolution_of_mathematics(picture: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    size = [a + b - 1 for a, b in zip(picture.shape, kernel.shape, strict=True)]
    return torch.fft.irfft2(torch.fft.rfft2(picture, size) * torch.fft.rfft2(kernel, size), size)


def correlation(picture: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    padding = [side - 1 for side in kernel.shape]
    return F.conv2d(picture[None, None], kernel[None, None], padding=padding)[0, 0]


def test_which_weight_makes_it_a_convolution():
    torch.manual_seed(0)
    picture, kernel = torch.randn(9, 9), torch.randn(3, 3)
    should = convolution_of_mathematics(picture, kernel)
    for letter, choice in zip("ABCD", asked("a-filter-from-scipy").choices, strict=True):
        weight = eval(choice.text.en.split("`")[1], {"kernel": kernel})
        assert torch.allclose(correlation(picture, weight), should, atol=1e-5) == (letter in key("a-filter-from-scipy"))


def test_which_kernels_are_the_same_either_way():
    torch.manual_seed(0)
    picture = torch.randn(8, 8)
    for letter, choice in zip("ABCD", asked("same-either-way").choices, strict=True):
        kernel = torch.tensor(eval(choice.text.en.strip("`")), dtype=torch.float32)
        same = torch.allclose(correlation(picture, kernel), convolution_of_mathematics(picture, kernel), atol=1e-4)
        assert same == (letter in key("same-either-way"))


def test_output_size():
    layer, picture = (
        eval(re.search(r"`(nn\.Conv2d\(.*?\))`", asked("size-with-dilation").text.en)[1]),
        torch.zeros(1, 3, 50, 50),
    )
    right = key("size-with-dilation")
    assert right == layer(picture).shape[2]
    layer.padding = (0, 0)
    not_padded = layer(picture).shape[2]
    not_dilated = nn.Conv2d(3, 8, 5, stride=2, padding=2)(picture).shape[2]
    assert mistakes("size-with-dilation") == [not_padded, right - 1, right + 1, not_dilated]


def test_a_transposed_convolution_is_the_gradient_and_no_inverse():
    torch.manual_seed(0)
    x, weight = torch.randn(4, 8, 32, 32, requires_grad=True), torch.randn(16, 8, 3, 3)
    names: dict[str, Any] = {"F": F, "x": x, "weight": weight}
    exec(keys.program("there-and-back"), names)
    y, z = names["y"], names["z"]
    assert z.shape == x.shape
    assert not torch.allclose(z, x, atol=1e-2)
    torch.testing.assert_close(z, torch.autograd.grad(y, x, y.detach())[0], rtol=1e-3, atol=1e-3)
    assert key("there-and-back") == "B"


def test_the_rows_of_a_halo_make_strips_agree_with_the_whole():
    torch.manual_seed(0)
    weights = [torch.randn(1, 1, 5, 5, dtype=torch.float64) for _ in range(3)]
    whole = torch.randn(1, 1, 48, 6, dtype=torch.float64)
    first, last, received, strip = 16, 32, 0, whole[:, :, 16:32]
    for weight in weights:
        rows = whole[:, :, first - 2 : last + 2]  # its own, and two of each neighbor
        received += rows.shape[2] - strip.shape[2]
        whole = F.conv2d(whole, weight, padding=2)
        strip = F.conv2d(F.pad(rows, (2, 2)), weight)
        torch.testing.assert_close(strip, whole[:, :, first:last])
    assert key("rows-of-a-halo") == received
    assert mistakes("rows-of-a-halo") == [received // 3, received // 2, 2 * 5 * 3, 3 * 4096 // 8]


def test_receptive_fields():
    code = keys.program("field-of-five-layers")
    layers = [eval(line) for line in code.strip().splitlines()]
    field = by_formula(nn.Sequential(*layers))[0].size
    assert key("field-of-five-layers") == field
    seen = by_gradient(nn.Sequential(*layers), (1, 60, 60))
    assert int(seen.any(dim=1).sum()) <= field
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            layer.dilation = (1, 1)
    assert by_formula(nn.Sequential(*layers))[0].size in mistakes("field-of-five-layers")
    assert 1 + 4 + 4 + 1 + 2 in mistakes("field-of-five-layers")  # without strides
    assert 1 + 4 * 2 + 4 * 2 + 1 * 4 + 2 * 4 in mistakes("field-of-five-layers")  # each with its own stride


def test_the_network_that_cannot_see():
    def field(*layers: nn.Module) -> int:
        return by_formula(nn.Sequential(*layers))[0].size

    def conv() -> nn.Module:
        return nn.Conv2d(1, 1, 3, padding=1)

    text = asked("a-network-that-cannot-see").model_answer.en
    assert f"= {field(*(conv() for _ in range(4)))} pixels" in text
    pooled = [layer for _ in range(3) for layer in (conv(), nn.MaxPool2d(2))]
    assert f"= {field(*pooled, conv())}\npixels" in text
    assert field(*pooled, conv(), conv()) >= 40


def test_parameters():
    layer = nn.Conv2d(64, 128, 3, groups=64)
    assert key("parameters-of-a-grouped-layer") == sum(p.numel() for p in layer.parameters())
    ungrouped = sum(p.numel() for p in nn.Conv2d(64, 128, 3).parameters())
    one_kernel_each = sum(p.numel() for p in nn.Conv2d(64, 64, 3, groups=64).parameters())
    assert mistakes("parameters-of-a-grouped-layer") == [one_kernel_each, layer.weight.numel(), ungrouped]
    small, large = conv_cost(8, 8, 3, 32), conv_cost(8, 8, 3, 64)
    assert small.parameters == large.parameters
    assert large.multiply_adds == 4 * small.multiply_adds
    conv, dense = conv_cost(1, 1, 3, 28), dense_cost(28 * 28, 28 * 28)
    assert dense.parameters / conv.parameters != pytest.approx(dense.multiply_adds / conv.multiply_adds, rel=0.5)


def test_what_follows_a_shift():
    torch.manual_seed(0)
    x = torch.randn(1, 1, 12, 12)

    class Windows(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.max_pool2d(F.pad(x, (1, 1, 1, 1), mode="circular"), 3, stride=1)

    layers = [nn.Conv2d(1, 2, 5, padding=2, padding_mode="circular"), nn.ReLU(), Windows(), nn.MaxPool2d(2)]
    with torch.no_grad():
        follows = [shift_error(layer, x, 1) < 1e-5 for layer in layers]
    assert "".join(letter for letter, yes in zip("ABCD", follows, strict=True) if yes) == key("what-follows-a-shift")


def test_the_smallest_shift():
    torch.manual_seed(0)
    around: Any = {"padding": 1, "padding_mode": "circular"}
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, stride=2, **around), nn.Conv2d(2, 2, 3, **around), nn.MaxPool2d(3, stride=3)
    )
    x = torch.randn(1, 1, 24, 24)
    with torch.no_grad():
        out = model(x)
        followed = [
            pixels
            for pixels in range(1, 24)
            if pixels * out.shape[3] % 24 == 0
            and torch.allclose(model(x.roll(pixels, 3)), out.roll(pixels * out.shape[3] // 24, 3), atol=1e-5)
        ]
    assert followed[0] == key("smallest-shift")


def kernel_of(name: str) -> torch.Tensor:
    rows = keys.program(name).strip().splitlines()
    return torch.tensor([[float(word) for word in row.split()] for row in rows])


def test_what_the_kernels_do():
    picture = torch.zeros(10, 10)
    picture[5:] = 1
    out = F.conv2d(picture[None, None], kernel_of("what-the-kernel-shows")[None, None])[0, 0]
    assert key("what-the-kernel-shows") == "A"
    assert (out[3:5] > 0).all()
    assert not out[:3].any()
    assert not out[5:].any()
    kernel = kernel_of("an-even-area")
    assert 0.3 * kernel.sum().item() == pytest.approx(key("an-even-area"))
    assert mistakes("an-even-area") == pytest.approx([0, 0.3, 0.3 * kernel[1, 1].item()])


def test_far_pixels_hardly_count():
    torch.manual_seed(0)
    layers = [nn.Conv2d(4 if number else 1, 4, 3, padding=1, bias=False) for number in range(20)]
    model = nn.Sequential(*layers)
    assert by_formula(model)[0].size == 41
    assert by_gradient(model, (1, 47, 47)).any(dim=0).nonzero().flatten().tolist() == list(range(3, 44))
    columns = influence(model, (1, 47, 47)).sum(dim=0)
    assert columns[23 - 18] + columns[23 + 18] < 0.01**2  # squared, as the influence is
    assert key("far-pixels-hardly-count") == "B"
