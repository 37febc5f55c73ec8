"""Loaders that give the same batches to one process and to several ranks together."""

import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from torchcourse.training import _ranks


def make_loader(dataset: Dataset, batch_size: int, shuffle: bool = True, seed: int = 0, **options: Any) -> DataLoader:
    """Return a loader that deals the samples to the ranks; in one process it is an ordinary loader.

    `batch_size` counts the samples of all ranks together. So a program takes the same steps on 1 and on N ranks: the
    ranks' shares of a batch make up exactly the batch that one process would get.

    * `shuffle=True` is for training. The order comes from `seed` and the epoch alone. If the ranks cannot get equally
      many samples, a few come twice, since a rank that runs out early would let the others wait for ever.
    * `shuffle=False` is for evaluation: every sample comes exactly once, in order.

    Args:
        dataset: any data set with a length.
        batch_size: samples a step, over all ranks; a multiple of the number of ranks.
        shuffle: whether to mix the samples, differently in each epoch.
        seed: chooses the order.
        **options: more for `torch.utils.data.DataLoader`, such as `num_workers`.

    Raises:
        ValueError: if the data set is empty or has no length, or the batch cannot be dealt out evenly.
    """
    rank, world_size = _ranks.rank(), _ranks.world_size()
    if not hasattr(dataset, "__len__"):
        raise ValueError(
            f"make_loader() deals out samples by number, but a {type(dataset).__name__} has no length. Give an "
            "iterable data set to a DataLoader, and let each rank iterate over samples of its own."
        )
    if len(dataset) == 0:
        raise ValueError("The data set is empty: there is nothing to load.")
    if batch_size < 1 or batch_size % world_size:
        raise ValueError(
            f"batch_size={batch_size} cannot be dealt out to {world_size} rank(s): it counts the samples of all ranks "
            f"together, so it has to be a multiple of {world_size}."
        )
    if shuffle:
        sampler = DistributedSampler(dataset, num_replicas=world_size, rank=rank, shuffle=True, seed=seed)
    else:
        sampler = range(rank, len(dataset), world_size)
    # A generator of its own: making an iterator then takes no number from the one that dropout uses. It seeds the
    # workers, and workers of different ranks must not draw the same numbers.
    generator = torch.Generator().manual_seed(seed * 1_000_003 + rank)
    return DataLoader(dataset, batch_size // world_size, sampler=sampler, generator=generator, **options)


def set_epoch(loader: Iterable, epoch: int) -> None:
    """Tell a loader's sampler which epoch comes, so that each has an order of its own."""
    for sampler in (getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)):
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)


def length(loader: Iterable) -> int | None:
    """Return the number of batches, or None for a loader that does not know."""
    try:
        return len(loader)
    except TypeError:
        return None


def windows(batches: Iterator, size: int) -> Iterator[list]:
    """Group batches for gradient accumulation; the last window of an epoch may be smaller."""
    while window := list(islice(batches, size)):
        yield window


def steps_left(loader: Iterable, accumulate: int, epochs: int, done: int) -> int | None:
    """Return the optimizer steps of so many epochs, less `done` batches; None if the loader has no length."""
    batches = length(loader)
    return None if batches is None else epochs * math.ceil(batches / accumulate) - math.ceil(done / accumulate)
