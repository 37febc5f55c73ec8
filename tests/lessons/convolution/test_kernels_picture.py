"""The pictures of kernels show what was computed."""

import torch

from torchcourse.data import photo
from torchcourse.lessons.convolution.kernels_picture import describe_kernel, draw_filters, draw_kernel


def test_a_kernel_is_drawn_with_its_picture():
    grey = photo().mean(dim=0)
    figure = draw_kernel("blur", 5, 0, 2, 1, grey)
    assert figure.get_suptitle() == describe_kernel("blur", 5, 0, 2, 1, grey)
    assert "72×108 pixels" in figure.get_suptitle()
    assert figure.axes[2].images[0].get_array().shape == (72, 108)


def test_each_filter_has_its_axes():
    assert len(draw_filters({"a": torch.ones(3, 1, 3, 3), "b": torch.ones(3, 1, 3, 3)}, "t").axes) == 6
