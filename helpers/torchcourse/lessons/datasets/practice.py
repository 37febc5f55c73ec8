"""Datasets that the lesson on loading plays with. Here, not in a cell, every kind of worker finds them.

(Where workers are started again, on macOS and Windows, they import what they run; a class from a cell cannot be
imported.)
"""

import io
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

from torchcourse.data.datasets import MNIST_MEAN, MNIST_STD, mnist
from torchcourse.lessons.datasets.loader_profile import stage


def pixels(split: Literal["train", "test"] = "train", count: int = 1000) -> tuple[torch.Tensor, torch.Tensor]:
    """Return MNIST images as uint8 [N, 28, 28], as they would lie on a disk, and their labels [N]."""
    images, labels = mnist(split)[:count]
    return images.mul(MNIST_STD).add(MNIST_MEAN).mul(255).round().byte()[:, 0], labels


class RemoteScans(Dataset):
    """PNG images on a slow drive: each read takes `delay` seconds without any core, then comes the decoding."""

    def __init__(self, count: int = 1000, delay: float = 0.0004) -> None:
        images, self.labels = pixels(count=count)
        self.files, self.delay = [_png(image.numpy()) for image in images], delay

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        with stage("read"):
            time.sleep(self.delay)
            file = self.files[index]
        with stage("decode"):
            image = torch.from_numpy(np.array(Image.open(io.BytesIO(file))))[None].float().div_(255)
        return image, self.labels[index]


class Noise(Dataset):
    """Each sample is a random number, drawn from a generator that is made together with the dataset."""

    def __init__(self, count: int = 8) -> None:
        self.count, self.generator = count, np.random.default_rng(0)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> float:
        return float(self.generator.random())


def own_generator(worker: int) -> None:
    """Give a worker's copy of `Noise` a generator of its own: a `worker_init_fn`."""
    info: Any = get_worker_info()  # in a worker it is never None
    info.dataset.generator = np.random.default_rng(info.seed)


class GlobalNoise(Noise):
    """As `Noise`, but drawn from torch's own stream, which each worker seeds."""

    def __getitem__(self, index: int) -> float:
        return float(torch.rand(()))


class Names(Dataset):
    """Names that are read one by one; a sample is the bytes of memory that belong to the reading process alone.

    They are asked of Linux at the first and the last name; the samples between are 0.
    """

    def __init__(self, names: Sequence[str] | np.ndarray) -> None:
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> int:
        str(self.names[index])
        return private_bytes() if index in (0, len(self) - 1) else 0


def private_bytes() -> int:
    """Return the bytes of memory that this process has written to and shares with no other, as Linux counts them.

    Raises:
        FileNotFoundError: on other systems.
    """
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:"))


class OpenFile(Dataset):
    """The lines of a file that is opened together with the dataset, so that the open file goes wherever that goes."""

    def __init__(self, path: str) -> None:
        self.file = Path(path).open("a+", encoding="utf-8")  # noqa: SIM115 - this is the fault that the lesson shows


class OpensLater(Dataset):
    """The lines of a file that each process opens for itself, when it asks for the first sample."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._lines: list[str] | None = None

    def __getitem__(self, index: int) -> str:
        if self._lines is None:
            self._lines = Path(self.path).read_text(encoding="utf-8").splitlines()
        return self._lines[index]


class NaiveStream(IterableDataset):
    """The records 0 to `count` - 1, from the first to the last, whoever reads."""

    def __init__(self, count: int = 12) -> None:
        self.count = count

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.count))


class CountingSampler(Sampler[int]):
    """The numbers in order; `drawn` says how many were asked for so far."""

    def __init__(self, count: int) -> None:
        self.count, self.drawn = count, 0

    def __iter__(self) -> Iterator[int]:
        for number in range(self.count):
            self.drawn += 1
            yield number

    def __len__(self) -> int:
        return self.count


def digit_shard(shard: range) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the MNIST training images whose numbers the shard has, with their labels: a reader for `ShardedStream`."""
    data = mnist()
    return (data[number] for number in shard)


def noisy(sample: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the image with a little noise, and its label."""
    image, label = sample
    return image + 0.1 * torch.randn(image.shape), label


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png")
    return buffer.getvalue()
