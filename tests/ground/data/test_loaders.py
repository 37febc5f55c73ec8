"""A loader deals the same batches to one process and to several ranks together."""

import random
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    ChainDataset,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    StackDataset,
    Subset,
    TensorDataset,
)

from torchcourse.data import SeededSamples, loaders, make_loader
from torchcourse.lessons.datasets.samplers import BucketBatches, WeightedSamples
from torchcourse.lessons.datasets.sharding import ShardedStream
from torchcourse.ranks import who


def dataset(samples):
    return TensorDataset(torch.arange(samples), torch.zeros(samples))


def as_rank(monkeypatch, rank, world_size):
    monkeypatch.setattr(who, "rank", lambda: rank)
    monkeypatch.setattr(who, "world_size", lambda: world_size)


def epoch(loader, number=0):
    loaders.set_epoch(loader, number)
    return [inputs.tolist() for inputs, _ in loader]


def dealt(monkeypatch, world_size, samples, batch_size, number=0, **options):
    """For each rank, its batches."""
    hands = []
    for rank in range(world_size):
        as_rank(monkeypatch, rank, world_size)
        hands.append(epoch(make_loader(dataset(samples), batch_size, **options), number))
    return hands


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_ranks_shares_make_up_the_batches_of_one_process(monkeypatch, world_size):
    (alone,) = dealt(monkeypatch, 1, 40, 8, number=3, seed=5)
    shares = dealt(monkeypatch, world_size, 40, 8, number=3, seed=5)
    for batch, *parts in zip(alone, *shares, strict=True):
        assert sorted(batch) == sorted(index for part in parts for index in part)


def test_order_depends_on_seed_and_epoch_only():
    loader = make_loader(dataset(30), 10, seed=1)
    first, second = epoch(loader, 0), epoch(loader, 1)
    assert first != second
    assert epoch(loader, 0) == first == epoch(make_loader(dataset(30), 10, seed=1), 0)
    assert epoch(make_loader(dataset(30), 10, seed=2), 0) != first


def test_training_gives_all_ranks_equally_many_and_evaluation_each_sample_once(monkeypatch):
    training = dealt(monkeypatch, 4, 10, 8)
    assert [sum(map(len, hand)) for hand in training] == [3, 3, 3, 3]
    assert {index for hand in training for batch in hand for index in batch} == set(range(10))
    evaluation = dealt(monkeypatch, 4, 10, 8, shuffle=False)
    assert sorted(index for hand in evaluation for batch in hand for index in batch) == list(range(10))


@pytest.mark.parametrize(("samples", "world_size"), [(10, 1), (10, 4), (12, 4), (1, 3)])
def test_shares_are_those_of_torch_index_for_index(monkeypatch, samples, world_size):
    for rank in range(world_size):
        as_rank(monkeypatch, rank, world_size)
        ours = loaders.Shares(samples, seed=5)
        theirs: DistributedSampler = DistributedSampler(dataset(samples), world_size, rank, seed=5)
        for number in (0, 3):
            ours.set_epoch(number)
            theirs.set_epoch(number)
            assert list(ours) == list(theirs)
            assert len(ours) == len(theirs)


def test_evaluation_in_one_process_is_in_order():
    assert epoch(make_loader(dataset(5), 2, shuffle=False)) == [[0, 1], [2, 3], [4]]


def test_making_an_iterator_draws_no_random_number_from_training():
    loader = make_loader(dataset(8), 4)
    before = torch.get_rng_state()
    epoch(loader)
    assert torch.equal(torch.get_rng_state(), before)


def test_workers_of_two_ranks_get_different_seeds(monkeypatch):
    seeds = []
    for rank in range(2):
        as_rank(monkeypatch, rank, 2)
        seeds.append(make_loader(dataset(8), 4).generator.initial_seed())
    assert seeds[0] != seeds[1]


def test_options_reach_the_data_loader():
    assert [len(batch) for batch in epoch(make_loader(dataset(10), 4, drop_last=True))] == [4, 4]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(())


class LongStream(Stream):
    def __len__(self):
        return 8


def test_what_cannot_be_dealt_gets_one_sentence(monkeypatch):
    with pytest.raises(ValueError, match="dataset is empty"):
        make_loader(dataset(0), 4)
    with pytest.raises(ValueError, match=r"batch_size=0 cannot be dealt out to 1 rank"):
        make_loader(dataset(4), 0)
    with pytest.raises(ValueError, match="a Stream has no length"):
        make_loader(Stream(), 4)
    with pytest.raises(ValueError, match="a length, but no numbers"):
        make_loader(LongStream(), 4)
    for option in ("sampler", "batch_sampler", "generator"):
        own: dict[str, Any] = {option: [0]}
        with pytest.raises(ValueError, match=f"chooses {option} itself"):
            make_loader(dataset(4), 4, **own)
    sizes: list[Any] = [4.0, "4", None]
    for size in sizes:
        with pytest.raises(ValueError, match="no whole number of samples"):
            make_loader(dataset(4), size)
    assert len(make_loader(dataset(4), cast(int, np.int64(2)), seed=2**62)) == 2
    as_rank(monkeypatch, 0, 4)
    with pytest.raises(ValueError, match=r"batch_size=6 cannot be dealt out to 4 rank.*multiple of 4"):
        make_loader(dataset(20), 6)


def test_length_of_a_loader_that_does_not_know():
    assert loaders.length(batch for batch in range(3)) is None
    assert loaders.length(DataLoader(dataset(10), 4)) == 3


def test_windows_end_with_what_is_left():
    assert list(loaders.windows(iter(range(7)), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(map(list, loaders.windows(iter(range(2)), 1))) == [[0], [1]]


def noise(sample):
    inputs, target = sample
    return inputs + torch.rand(()) + random.random() + float(np.random.rand()), target


def seeded_epoch(number, **options):
    return epoch(make_loader(SeededSamples(dataset(24), noise, seed=5), 6, **options), number)


def test_a_seeded_sample_depends_on_seed_epoch_and_index_alone(monkeypatch):
    alone = seeded_epoch(1)
    assert seeded_epoch(1) == alone != seeded_epoch(0)
    assert epoch(make_loader(SeededSamples(dataset(24), noise, seed=6), 6), 1) != alone
    for workers, persistent in ((1, False), (2, True)):
        options: dict[str, Any] = {
            "num_workers": workers,
            "persistent_workers": persistent,
            "multiprocessing_context": "fork",
        }
        loader = make_loader(SeededSamples(dataset(24), noise, seed=5), 6, **options)
        assert [epoch(loader, 0), epoch(loader, 1)] == [seeded_epoch(0), alone]
    shares = []
    for rank in range(2):
        as_rank(monkeypatch, rank, 2)
        shares += [number for batch in seeded_epoch(1) for number in batch]
    assert sorted(shares) == sorted(number for batch in alone for number in batch)


def test_drawing_a_seeded_sample_leaves_the_generators_of_training_alone():
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    expected = torch.rand(()), random.random(), np.random.rand()
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    seeded_epoch(0)
    assert (torch.rand(()), random.random(), np.random.rand()) == expected


def test_the_epoch_reaches_a_data_set_within_a_subset():
    samples = SeededSamples(dataset(8), noise)
    loader = make_loader(Subset(samples, [3]), 1)
    assert epoch(loader, 0) != epoch(loader, 1)


class Around(Dataset):
    """Holds a loader or a dataset under a name of its own, as a progress bar or somebody's class does."""

    def __init__(self, inner):
        self.inner = inner

    def __iter__(self):
        return iter(self.inner)

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, index):
        return self.inner[index]


def test_the_epoch_reaches_what_is_held_under_any_name():
    for loader in (
        Around(make_loader(dataset(8), 4)),
        make_loader(Around(Around(SeededSamples(dataset(8), noise))), 8, shuffle=False),
    ):
        assert epoch(loader, 0) != epoch(loader, 1)


class Counted(TensorDataset):
    read = 0

    def __getitem__(self, index):
        Counted.read += 1
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_begins_at_any_batch(workers):
    options: dict[str, Any] = {"num_workers": workers, "multiprocessing_context": "fork" if workers else None}
    loader = make_loader(SeededSamples(Counted(torch.arange(20.0)), noise_on_one), 4, **options)
    loaders.set_epoch(loader, 3)
    whole = [inputs.tolist() for (inputs,) in loader]
    for batch in (0, 2, 5):
        loaders.set_epoch(loader, 3)
        Counted.read = 0
        assert [inputs.tolist() for (inputs,) in loaders.begin_at(loader, batch)] == whole[batch:]
        assert Counted.read == (0 if workers else 20 - 4 * batch), "batches that are passed over must not be read"
    loaders.set_epoch(loader, 3)
    assert [inputs.tolist() for (inputs,) in loader] == whole


def noise_on_one(sample):
    return (sample[0] + torch.rand(()),)


def test_where_samples_draw_from_a_stream_the_batches_are_drawn_again():
    loader = make_loader(dataset(12), 4)
    whole = epoch(loader)
    loaders.set_epoch(loader, 0)
    assert [inputs.tolist() for inputs, _ in loaders.begin_at(loader, 1)] == whole[1:]


def drawn(loader, number):
    """What an epoch's samples are, in order; a StackDataset gives each in a tuple."""
    loaders.set_epoch(loader, number)
    return [float(value) for batch in loader for value in torch.utils.data.default_collate([batch])[0].flatten()]


class Noise(torch.utils.data.Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        return torch.rand(())


@pytest.mark.parametrize(
    "inside",
    [
        lambda noise: ConcatDataset([noise, Subset(noise, [1, 2])]),
        lambda noise: ConcatDataset([Subset(noise, [1, 2])]),
        lambda noise: StackDataset(noise),
        lambda noise: Subset(ConcatDataset([noise]), [0, 3, 5]),
    ],
)
def test_datasets_inside_others_draw_anew_in_each_epoch(inside):
    loader = make_loader(inside(SeededSamples(Noise())), 4, shuffle=False)
    first, second = drawn(loader, 0), drawn(loader, 1)
    assert not set(first) & set(second)
    assert drawn(loader, 0) == first


def test_samplers_inside_others_deal_anew_in_each_epoch():
    inside: DistributedSampler = DistributedSampler(dataset(40), 1, 0)
    loader: DataLoader = DataLoader(dataset(40), batch_sampler=BatchSampler(inside, 5, drop_last=False))
    assert drawn(loader, 0) != drawn(loader, 1)
    stream = ShardedStream([0, 1, 2], lambda shard: [shard * 10 + place for place in range(10)], shuffle=True)
    chained: DataLoader = DataLoader(ChainDataset([stream]), batch_size=4)
    assert drawn(chained, 0) != drawn(chained, 1)


@pytest.mark.parametrize("seed", [-5, 2**63 - 1, 2**64 - 1, 1_790_000_000_000_000_000, np.int64(3)])
def test_a_seed_may_be_any_whole_number(seed):
    for loader in (
        make_loader(dataset(9), 3, seed=seed),
        DataLoader(dataset(9), batch_sampler=BucketBatches(range(1, 10), 3, seed=seed)),
        DataLoader(dataset(9), 3, sampler=WeightedSamples([1.0] * 9, seed=seed)),
    ):
        assert sum(map(len, epoch(loader, 2))) == 9
    assert SeededSamples(Noise(), seed=seed)[1] == SeededSamples(Noise(), seed=int(seed))[1]


@pytest.mark.parametrize("seed", [None, 0.5, "1", True])
def test_what_is_no_seed_is_said(seed):
    for make in (
        lambda: make_loader(dataset(9), 3, seed=seed),
        lambda: SeededSamples(Noise(), seed=seed),
        lambda: BucketBatches([1, 2], 2, seed=seed),
        lambda: WeightedSamples([1.0], seed=seed),
    ):
        with pytest.raises(ValueError, match="is no whole number"):
            make()


@pytest.mark.parametrize(
    "loader",
    [
        lambda: DataLoader(cast(Any, list(torch.arange(20_000))), 4),
        lambda: DataLoader(dataset(20_000), 4, sampler=range(20_000)),
        lambda: DataLoader(dataset(20_000), 4, sampler=list(range(20_000))),
        lambda: DataLoader(dataset(8), batch_sampler=[[number, 0] for number in range(8)] * 2000),
    ],
)
def test_samples_in_a_list_and_their_numbers_are_not_told_which_epoch_comes(loader):
    assert len(loaders._parts_inside(loader())) < 5


def test_many_files_in_one_dataset_are_told_at_once():
    told = []

    class File(Noise):
        def set_epoch(self, number):
            told.append(number)

    loaders.set_epoch(DataLoader(ConcatDataset([File() for _ in range(300)])), 7)
    assert told == [7] * 300
