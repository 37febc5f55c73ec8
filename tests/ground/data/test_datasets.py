"""The data that travels with the package is what it says it is."""

import numpy as np
import pytest
import torch

from torchcourse.data import digits, mnist, photo
from torchcourse.tools.make_data import digits as digits_file
from torchcourse.tools.make_data import mnist as mnist_file
from torchcourse.tools.make_data.provenance import content_digest


@pytest.mark.parametrize(
    ("file", "known"),
    [
        (mnist_file.TARGET, "50396bf9220b6d2a5285ba2cc2ab1be31dadc216ea504b0b63293f6830fc5426"),
        (digits_file.TARGET, "428ad214e900fe9343f94d9fedc8a16d461db8cd1bc0f61eecf448b8c5f16b35"),
    ],
    ids=["mnist", "digits"],
)
def test_the_file_holds_the_known_images(file, known):
    with np.load(file) as archive:
        assert content_digest(archive["images"], archive["labels"]) == known
    assert file.with_suffix(".LICENSE.md").is_file()


@pytest.mark.parametrize(("split", "count"), [("train", 1297), ("test", 500)])
def test_small_digits_have_their_shapes_types_and_scale(split, count):
    images, labels = digits(split).tensors
    assert images.shape == (count, 1, 8, 8)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert labels.bincount(minlength=10).min() > 0.075 * count
    assert abs(images.mean()) < 0.05
    assert abs(images.std() - 1) < 0.05


@pytest.mark.parametrize(("split", "count"), [("train", 4000), ("test", 1000)])
def test_shapes_types_and_balance(split, count):
    images, labels = mnist(split).tensors
    assert images.shape == (count, 1, 28, 28)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert labels.bincount().tolist() == [count // 10] * 10
    assert abs(images.mean()) < 0.05
    assert abs(images.std() - 1) < 0.05


@pytest.mark.parametrize("data", [mnist, digits])
def test_the_splits_share_no_image(data):
    train, test = (data(split).tensors[0].flatten(1) for split in ("train", "test"))
    assert torch.cdist(test, train).min() > 0


@pytest.mark.parametrize("data", [mnist, digits])
def test_an_unknown_split_is_named(data):
    with pytest.raises(ValueError, match="'validation'"):
        data("validation")


def test_the_photo_is_in_colour_from_0_to_1():
    picture = photo()
    assert picture.shape == (3, 144, 216)
    assert picture.min() < 0.1
    assert 0.7 < picture.max() <= 1
    assert picture[0].mean() > picture[2].mean()  # a ginger cat
