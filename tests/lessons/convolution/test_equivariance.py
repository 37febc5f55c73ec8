"""How far a layer follows a shift of its input."""

import pytest
import torch
from torch import nn

from torchcourse.lessons.convolution.equivariance import shift_error


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
