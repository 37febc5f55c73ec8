"""A convolution over strips on ranks is that of the whole picture."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from torchcourse.lessons.convolution.strips import conv2d_strip
from torchcourse.ranks import RankError, run_ranks


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
