"""How many samples per second a loader hands over: the course's, PyTorch's default, and with copying alone."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from torchcourse.data.loaders import make_loader
from torchcourse.data.memory_loader import MemoryLoader
from torchcourse.timing import in_turn, ratio, spread
from torchcourse.tools.bench.report import Table

SAMPLES, BATCH, ROUNDS = 20_000, 64, 5


class InBatches(TensorDataset):
    """Tensors that hand over a batch in one go: PyTorch's fetcher asks for `__getitems__` where there is one."""

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, ...]:
        chosen = torch.tensor(indices)
        return tuple(tensor[chosen] for tensor in self.tensors)


def table() -> Table:
    torch.set_num_threads(1)
    images, labels = torch.randn(SAMPLES, 1, 28, 28), torch.randint(10, (SAMPLES,))
    one_by_one = TensorDataset(images, labels)
    ways: dict[str, Callable[[], object]] = {
        "DataLoader, shuffled": partial(_run, DataLoader(one_by_one, BATCH, shuffle=True)),
        "make_loader": partial(_run, make_loader(one_by_one, BATCH)),
        "DataLoader, 2 workers": partial(_run, _with_workers(one_by_one)),
        "DataLoader, batches by __getitems__": partial(
            _run, DataLoader(InBatches(images, labels), BATCH, shuffle=True, collate_fn=_as_they_are)
        ),
        "MemoryLoader": partial(_run, MemoryLoader(one_by_one, BATCH)),
        "MemoryLoader, memory reused": partial(_run, MemoryLoader(one_by_one, BATCH, reuse=True)),
        "memcpy": partial(_copy, images, labels),
    }
    seconds = in_turn(ways, ROUNDS)
    rates = {way: [SAMPLES / value for value in values] for way, values in seconds.items()}
    rows = [
        [
            way,
            spread(values, "thousand/s", 1e-3),
            ratio(values, rates["DataLoader, shuffled"]),
            ratio(values, rates["memcpy"]),
        ]
        for way, values in rates.items()
    ]
    return Table(
        "Loaders",
        ["way", "samples", "against the default DataLoader", "against memcpy"],
        rows,
        f"An epoch of {SAMPLES:,} images of 28×28 float32 in batches of {BATCH}, {ROUNDS} rounds in turn, one CPU "
        "thread a process. memcpy copies the same batches in order into one buffer: no loader that copies can be "
        "faster. Workers pay only where making a sample takes long.",
    )


def _with_workers(dataset: Dataset) -> DataLoader:
    return DataLoader(dataset, BATCH, shuffle=True, num_workers=2, persistent_workers=True)


def _as_they_are(batch: Any) -> Any:
    return batch


def _run(loader: Iterable) -> None:
    for _ in loader:
        pass


def _copy(images: torch.Tensor, labels: torch.Tensor) -> None:
    image_buffer, label_buffer = images[:BATCH].clone(), labels[:BATCH].clone()
    for first in range(0, len(images), BATCH):
        part = slice(first, first + BATCH)
        count = len(labels[part])
        image_buffer[:count].copy_(images[part])
        label_buffer[:count].copy_(labels[part])
