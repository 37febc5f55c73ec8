"""Which rank sees which sample: the sampler of data parallelism, by hand."""

import math
from collections.abc import Iterator, Sized
from typing import Literal, get_args

import torch
from torch.utils.data import Sampler

from torchcourse.ranks.who import rank_and_world_size

Rest = Literal["repeat some samples", "drop some samples", "leave shares uneven"]
"""What to do with samples that do not divide by the number of ranks."""


class DistributedSampler(Sampler[int]):
    """Deal the indices of a data set to the ranks like cards, so that all ranks get equally many.

    All ranks shuffle alike, from `seed + epoch`, and rank r takes every N-th index from r on. When N does not divide
    the length, indices from the front are dealt once more (or, with `drop_last`, the rest is left out).

    Call `set_epoch(epoch)` before each epoch: without it, every epoch has the same order.

    Index for index the same as `torch.utils.data.DistributedSampler`, https://docs.pytorch.org/docs/stable/data.html

    Args:
        dataset: anything with a length.
        num_replicas: the number of ranks N; in a rank, by default the real one.
        rank: whose share this is; in a rank, by default its own.
        shuffle: whether to mix the indices.
        seed: the same number on all ranks.
        drop_last: leave out the rest instead of repeating indices.

    Raises:
        ValueError: if there is no such rank, or nothing to deal.
        RuntimeError: outside a rank, without `num_replicas` and `rank`.
    """

    def __init__(
        self,
        dataset: Sized,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        if num_replicas is None or rank is None:
            own_rank, world_size = rank_and_world_size()
            num_replicas = world_size if num_replicas is None else num_replicas
            rank = own_rank if rank is None else rank
        if not 0 <= rank < num_replicas:
            raise ValueError(f"There is no rank {rank} among {num_replicas} ranks: they count from 0.")
        if len(dataset) == 0:
            raise ValueError("The dataset is empty: there is no sample to deal to the ranks.")
        self.length = len(dataset)
        self.num_replicas, self.rank = num_replicas, rank
        self.shuffle, self.seed, self.drop_last = shuffle, seed, drop_last
        self.epoch = 0

    def __len__(self) -> int:
        share = self.length / self.num_replicas
        return math.floor(share) if self.drop_last else math.ceil(share)

    def __iter__(self) -> Iterator[int]:
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed + self.epoch)
            indices = torch.randperm(self.length, generator=generator).tolist()
        else:
            indices = list(range(self.length))
        dealt = len(self) * self.num_replicas
        rounds = math.ceil(dealt / self.length)
        return iter((indices * rounds)[:dealt][self.rank :: self.num_replicas])

    def set_epoch(self, epoch: int) -> None:
        """Choose the order for an epoch, before the loader starts it."""
        self.epoch = epoch


def shares(samples: int, ranks: int, rest: Rest) -> list[list[int]]:
    """Return the samples of each rank, in the order in which it sees them, without shuffling.

    Repeating and dropping are what torch's sampler does: https://docs.pytorch.org/docs/stable/data.html
    (`DistributedSampler`, with `drop_last=False` and `True`).
    """
    if rest not in get_args(Rest):
        raise ValueError(f"The rest can be dealt with by {', '.join(map(repr, get_args(Rest)))}, but not by {rest!r}.")
    if rest == "leave shares uneven":
        return [list(range(rank, samples, ranks)) for rank in range(ranks)]
    drop = rest == "drop some samples"
    every = range(samples)
    return [list(DistributedSampler(every, ranks, rank, shuffle=False, drop_last=drop)) for rank in range(ranks)]
