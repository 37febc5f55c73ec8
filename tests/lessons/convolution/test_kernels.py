"""The named kernels do what they are called."""

import pytest
import torch
import torch.nn.functional as F

from torchcourse.lessons.convolution.kernels import KERNELS, named_kernel


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
