"""A stream over ranks and workers: every record exactly once, for any number of each."""

import itertools
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from torchcourse.lessons.datasets import sharding
from torchcourse.lessons.datasets.sharding import ShardedStream, in_step, mixed, share
from torchcourse.ranks import run_ranks

shard_sizes = st.lists(st.integers(0, 9), min_size=1, max_size=9)


def read(shard):
    number, size = shard
    return ((number, record) for record in range(size))


def records_of(sizes):
    return [(number, record) for number, size in enumerate(sizes) for record in range(size)]


def as_reader(stream, rank, world_size, worker, workers):
    """Read the stream as this worker of this rank does."""
    stream.rank, stream.world_size = rank, world_size
    with pytest.MonkeyPatch.context() as patch:
        info = SimpleNamespace(id=worker, num_workers=workers) if workers else None
        patch.setattr(sharding, "get_worker_info", lambda: info)
        return list(stream)


@pytest.mark.slow
@settings(deadline=None, derandomize=True, max_examples=150)
@given(
    sizes=shard_sizes,
    world_size=st.integers(1, 5),
    workers=st.integers(0, 4),
    by=st.sampled_from(["record", "shard"]),
    shuffle=st.booleans(),
    buffer=st.integers(0, 12),
)
def test_every_record_comes_exactly_once(sizes, world_size, workers, by, shuffle, buffer):
    stream = ShardedStream(list(enumerate(sizes)), read, by=by, shuffle=shuffle, buffer=buffer, seed=3)
    readers = itertools.product(range(world_size), range(max(workers, 1)))
    shares = [as_reader(stream, rank, world_size, worker, workers) for rank, worker in readers]
    assert sorted(itertools.chain(*shares)) == records_of(sizes)
    if by == "record":
        counts = list(map(len, shares))
        assert max(counts) - min(counts) <= 1


@settings(deadline=None, derandomize=True)
@given(st.integers(0, 40), st.integers(0, 50), st.integers(0, 9))
def test_mixing_loses_nothing(count, size, seed):
    assert sorted(mixed(range(count), size, sharding.random.Random(seed))) == list(range(count))


def test_a_share_of_an_endless_stream():
    assert list(itertools.islice(share(itertools.count(), 1, 3), 4)) == [1, 4, 7, 10]
    with pytest.raises(ValueError, match="counted from 0"):
        share([1], 2, 2)


def test_seed_and_epoch_choose_the_order():
    def order(epoch, seed=0):
        stream = ShardedStream([(0, 20), (1, 20)], read, shuffle=True, seed=seed)
        stream.set_epoch(epoch)
        return list(stream)

    assert order(1) == order(1)
    assert order(0) != order(1) != order(1, seed=2)
    assert order(1) != records_of([20, 20])


def test_an_own_shard_is_read_by_one_reader_only():
    opened = Counter()

    def opens(shard):
        opened[shard] += 1
        return read((shard, 2))

    stream = ShardedStream(range(7), opens, by="shard")
    for rank in range(3):
        as_reader(stream, rank, 3, 0, 0)
    assert opened == Counter(range(7))


def test_bad_shards_are_refused():
    with pytest.raises(ValueError, match="no shards"):
        ShardedStream([], read)
    with pytest.raises(ValueError, match=r"for a single one: \['data.csv'\]"):
        ShardedStream("data.csv", read)
    assert len(ShardedStream((shard for shard in [(0, 1), (1, 2)]), read).shards) == 2
    with pytest.raises(ValueError, match="'row'"):
        ShardedStream([(0, 1)], read, by="row")


def numbers(shard):
    return iter(range(10 * shard, 10 * shard + 10))


def on_a_rank():
    """Real workers, kept over two epochs; then steps in which all ranks take part, over uneven shards."""
    stream = ShardedStream(range(3), numbers, shuffle=True)
    loader = DataLoader(stream, 4, num_workers=2, persistent_workers=True)
    epochs = []
    for epoch in range(2):
        stream.set_epoch(epoch)
        epochs.append(torch.cat(list(loader)).tolist())
    steps = 0
    for batch in in_step(DataLoader(ShardedStream(range(3), numbers, by="shard"), 4)):
        dist.all_reduce(batch.sum())  # what a step of data parallelism does
        steps += 1
    with pytest.raises(ValueError) as error:
        list(in_step(DataLoader(ShardedStream(range(1), numbers, by="shard"), 4)))
    return epochs, steps, str(error.value)


@pytest.mark.slow
def test_ranks_with_workers_read_each_record_once_and_step_together():
    (first, second), (steps, others), errors = zip(*run_ranks(on_a_rank, world_size=2), strict=True)
    for ours, theirs in zip(first, second, strict=True):
        assert sorted(ours + theirs) == list(range(30))
    assert first[0] != first[1]
    assert steps == others == 3  # rank 0 has 20 records, rank 1 has 10
    assert all("rank 1 got no batch at all" in error for error in errors)  # the one shard is rank 0's


def test_one_process_uses_all_batches():
    assert list(in_step([1, 2, 3])) == [1, 2, 3]
