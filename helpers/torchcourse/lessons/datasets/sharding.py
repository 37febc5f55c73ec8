"""A stream that several ranks, each with several workers, read together: every record comes exactly once an epoch."""

import os
import random
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, count, islice
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch.utils.data import IterableDataset, get_worker_info

from torchcourse.data.loaders import shared_number
from torchcourse.ranks import who

Record = TypeVar("Record")


def share(records: Iterable[Record], reader: int, readers: int) -> Iterator[Record]:
    """Yield every `readers`-th record, beginning with number `reader`: all readers together yield each exactly once.

    Nothing is kept, and nothing is read ahead: the stream may be endless.

    Raises:
        ValueError: if there is no such reader.
    """
    if not 0 <= reader < readers:
        raise ValueError(f"Reader {reader} of {readers} does not exist: they are counted from 0.")
    return islice(iter(records), reader, None, readers)


class ShardedStream(IterableDataset):
    """An iterable dataset over shards (샤드: files, or other parts of the data), shared among ranks × workers.

    A DataLoader copies an iterable dataset into each of its workers, and each rank has workers of its own. So a stream
    has to ask who is reading. `ShardedStream` asks torch for the worker at the moment of reading, and for the rank when
    it is made (a worker does not belong to the process group).

    * `by="record"`: each reader goes through all shards and keeps every n-th record. The shares differ by one record
      at most. For records that are cheap to pass over.
    * `by="shard"`: each reader opens only its own shards. Nothing is read twice; the shares are as uneven as the
      shards, and with fewer shards than readers some readers have nothing.

    With `shuffle`, the shards come in an order of seed and epoch, and the records of a reader are mixed in a buffer:
    near ones change places, far ones do not. The same seed, epoch and number of readers give the same stream.

    Args:
        shards: what `read` is called with, such as paths.
        read: opens a shard and yields its records.
        by: what is dealt out.
        shuffle: whether to mix; `set_epoch` gives a different order to each epoch.
        buffer: records that a reader keeps to mix.
        seed: chooses the order.

    Raises:
        ValueError: if there are no shards, or a path instead of a list of them, or for an unknown `by`.
    """

    def __init__(
        self,
        shards: Iterable[Any],
        read: Callable[[Any], Iterable[Any]],
        *,
        by: Literal["record", "shard"] = "record",
        shuffle: bool = False,
        buffer: int = 256,
        seed: int = 0,
    ) -> None:
        if isinstance(shards, str | bytes | os.PathLike):
            raise ValueError(f"shards is a list of what to read; for a single one: [{shards!r}].")
        shards = list(shards)
        if len(shards) == 0:
            raise ValueError("There are no shards to read. Does the pattern that lists the files match any?")
        if by not in ("record", "shard"):
            raise ValueError(f"A stream is dealt out by 'record' or by 'shard', but not by {by!r}.")
        self.shards, self.read, self.by = shards, read, by
        self.shuffle, self.buffer, self.seed = shuffle, buffer, seed
        self.rank, self.world_size = who.rank(), who.world_size()
        self._epoch = shared_number()

    def set_epoch(self, epoch: int) -> None:
        """Let the next epoch have a different order. The Trainer calls it."""
        self._epoch.fill_(epoch)

    def reader(self) -> tuple[int, int]:
        """Return the number of the process that asks among all that read this stream, and how many these are."""
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return self.rank * workers + number, self.world_size * workers

    def __iter__(self) -> Iterator[Any]:
        return self.part(*self.reader())

    def part(self, reader: int, readers: int) -> Iterator[Any]:
        """Return what this one of so many readers reads in this epoch."""
        shards, key = self.shards, f"{self.seed} {int(self._epoch)}"
        if self.shuffle:
            shards = random.Random(key).sample(shards, len(shards))  # all readers: the same order
        records: Iterator[Any]
        if self.by == "shard":
            records = chain.from_iterable(map(self.read, share(shards, reader, readers)))
        else:
            records = share(chain.from_iterable(map(self.read, shards)), reader, readers)
        return mixed(records, self.buffer, random.Random(f"{key} {reader}")) if self.shuffle else records


def mixed(records: Iterable[Record], size: int, generator: random.Random) -> Iterator[Record]:
    """Yield all records in an order that a buffer of so many records can make."""
    buffer: list[Record] = []
    for record in records:
        if len(buffer) < max(size, 1):
            buffer.append(record)
            continue
        other = generator.randrange(len(buffer))
        record, buffer[other] = buffer[other], record
        yield record
    generator.shuffle(buffer)
    yield from buffer


def in_step(batches: Iterable[Record]) -> Iterator[Record]:
    """Yield batches until the first rank has none left, so that all ranks take equally many steps.

    A stream has no length, so no rank knows that it has one batch less than another; the other would wait in its next
    collective for ever. Here the ranks agree before each batch, at the price of a small all-reduce. What the longer
    ranks still have is not used in this epoch: under `by="record"` about a batch a worker, with `shuffle` other records
    in each epoch. For evaluation, where each record counts, iterate over the loader itself and add up at the end.

    Raises:
        ValueError: on all ranks, if one of them has no batch at all: training would end without a step.
    """
    if not who.initialized():
        yield from batches
        return
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    iterator: Iterator[Any] = iter(batches)
    none = object()
    for step in count():
        batch: Any = next(iterator, none)
        has_one = torch.tensor(int(batch is not none), device=device)
        everyone = has_one.clone()
        dist.all_reduce(everyone, op=dist.ReduceOp.MIN)
        if not everyone:
            if step == 0:
                _say_who_has_nothing(has_one)
            return
        yield batch


def _say_who_has_nothing(has_one: torch.Tensor) -> None:
    gathered = [torch.empty_like(has_one) for _ in range(who.world_size())]
    dist.all_gather(gathered, has_one)
    empty = [str(rank) for rank, one in enumerate(gathered) if not one]
    raise ValueError(
        f"No step could be taken: of {who.world_size()} ranks, rank {', '.join(empty)} got no batch at all from the "
        'stream. Make at least as many shards as there are ranks × workers, or deal out single records: by="record".'
    )
