"""The picture of a receptive field shows what was computed."""

from torch import nn

from torchcourse.data import photo
from torchcourse.lessons.convolution.receptive_field_picture import draw_field


def test_the_field_is_bright_and_the_rest_is_dimmed():
    grey = photo().mean(dim=0)
    field = draw_field(nn.Conv2d(1, 1, 9), grey, "nine").axes[0].images[0].get_array()
    assert (abs(field - grey.numpy()) < 1e-6).sum() >= 81
    assert (abs(field - grey.numpy() / 4) < 1e-6).sum() == grey.numel() - 81
