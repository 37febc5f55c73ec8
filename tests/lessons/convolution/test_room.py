"""Equivariance, strips over ranks, and the pictures of the room."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from torchcourse.data import photo
from torchcourse.lessons.convolution.equivariance import shift_error
from torchcourse.lessons.convolution.kernels import KERNELS, named_kernel
from torchcourse.lessons.convolution.kernels_picture import describe_kernel, draw_filters, draw_kernel
from torchcourse.lessons.convolution.receptive_field_picture import draw_field
from torchcourse.lessons.convolution.strips import conv2d_strip
from torchcourse.ranks import RankError, run_ranks


def circular(**options):
    torch.manual_seed(0)
    return nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular", **options)


@torch.no_grad()
def test_a_convolution_follows_a_shift_and_a_stride_only_whole_places():
    x = torch.randn(1, 1, 12, 12)
    assert shift_error(circular(), x, 1) < 1e-6
    assert shift_error(circular(stride=2), x, 2) < 1e-6
    assert shift_error(circular(stride=2), x, 1) > 0.1


@torch.no_grad()
def test_padding_breaks_it_at_the_edge_only():
    x, layer = torch.randn(1, 1, 12, 12), nn.Conv2d(1, 2, 3, padding=1)
    assert shift_error(layer, x, 1) > 0.01
    assert shift_error(layer, x, 1, margin=2) < 1e-6


def test_what_cannot_be_followed_is_one_sentence():
    x = torch.zeros(1, 1, 12, 12)
    with pytest.raises(ValueError, match="10 columns of 12"):
        shift_error(nn.Conv2d(1, 1, 3), x, 1)
    with pytest.raises(ValueError, match="margin of 6 leaves nothing"):
        shift_error(nn.Identity(), x, 1, margin=6)


def strip_of(picture, weight):
    return conv2d_strip(picture.chunk(dist.get_world_size(), dim=2)[dist.get_rank()], weight)


@pytest.mark.parametrize(("ranks", "kernel_size"), [(1, (3, 5)), (2, (1, 3)), (3, (5, 3))])
def test_strips_together_are_the_whole(ranks, kernel_size):
    picture, weight = torch.randn(2, 3, 11, 7), torch.randn(4, 3, *kernel_size)
    picture = picture.contiguous(memory_format=torch.channels_last)  # whose strips are in pieces all the same
    strips = run_ranks(strip_of, picture, weight, world_size=ranks)
    torch.testing.assert_close(torch.cat(strips, dim=2), F.conv2d(picture, weight, padding="same"))


@pytest.mark.parametrize(
    ("size", "sentence"), [(7, "has 2 rows, but its neighbors need 3"), (4, "has no middle pixel")]
)
def test_a_kernel_that_does_not_fit_the_strips_is_one_sentence(size, sentence):
    with pytest.raises(RankError, match=sentence):
        run_ranks(strip_of, torch.zeros(1, 1, 4, 8), torch.zeros(1, 1, size, size), world_size=2)


def test_kernels_do_what_they_are_called():
    for kind in KERNELS:
        assert named_kernel(kind, 5).sum().item() == pytest.approx(0 if kind == "edges" else 1, abs=1e-5)
    ramp = torch.arange(9.0).repeat(9, 1)[None, None]  # brighter to the right
    right, down = (F.conv2d(ramp, named_kernel("edges", 3, angle)[None, None]) for angle in (0, 90))
    assert right.min() > 0
    assert down.abs().max() < 1e-5
    with pytest.raises(ValueError, match="no kernel 'wave'"):
        named_kernel("wave")
    with pytest.raises(ValueError, match="no middle pixel"):
        named_kernel("blur", 4)


def test_pictures_show_what_was_computed():
    grey = photo().mean(dim=0)
    figure = draw_kernel("blur", 5, 0, 2, 1, grey)
    assert figure.get_suptitle() == describe_kernel("blur", 5, 0, 2, 1, grey)
    assert "72×108 pixels" in figure.get_suptitle()
    assert figure.axes[2].images[0].get_array().shape == (72, 108)
    field = draw_field(nn.Conv2d(1, 1, 9), grey, "nine").axes[0].images[0].get_array()
    assert (abs(field - grey.numpy()) < 1e-6).sum() >= 81
    assert (abs(field - grey.numpy() / 4) < 1e-6).sum() == grey.numel() - 81
    assert len(draw_filters({"a": torch.ones(3, 1, 3, 3), "b": torch.ones(3, 1, 3, 3)}, "t").axes) == 6
