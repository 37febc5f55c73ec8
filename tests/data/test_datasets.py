"""The data that travels with the package is what it says it is."""

import numpy as np
import pytest
import torch

from torchcourse.authoring.mnist import TARGET, content_digest
from torchcourse.data import mnist


def test_the_file_holds_the_known_images():
    with np.load(TARGET) as archive:
        digest = content_digest(archive["images"], archive["labels"])
    assert digest == "50396bf9220b6d2a5285ba2cc2ab1be31dadc216ea504b0b63293f6830fc5426"


@pytest.mark.parametrize(("split", "count"), [("train", 4000), ("test", 1000)])
def test_shapes_types_and_balance(split, count):
    images, labels = mnist(split).tensors
    assert images.shape == (count, 1, 28, 28)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert labels.bincount().tolist() == [count // 10] * 10
    assert abs(images.mean()) < 0.05
    assert abs(images.std() - 1) < 0.05


def test_the_splits_share_no_image():
    train, test = (mnist(split).tensors[0].flatten(1) for split in ("train", "test"))
    assert torch.cdist(test, train).min() > 0


def test_an_unknown_split_is_named():
    with pytest.raises(ValueError, match="'validation'"):
        mnist("validation")
