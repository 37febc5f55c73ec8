"""A loader deals the same batches to one process and to several ranks together."""

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from torchcourse.training import _ranks, loaders, make_loader


def dataset(samples):
    return TensorDataset(torch.arange(samples), torch.zeros(samples))


def as_rank(monkeypatch, rank, world_size):
    monkeypatch.setattr(_ranks, "rank", lambda: rank)
    monkeypatch.setattr(_ranks, "world_size", lambda: world_size)


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


def test_what_cannot_be_dealt_gets_one_sentence(monkeypatch):
    with pytest.raises(ValueError, match="data set is empty"):
        make_loader(dataset(0), 4)
    with pytest.raises(ValueError, match=r"batch_size=0 cannot be dealt out to 1 rank"):
        make_loader(dataset(4), 0)
    with pytest.raises(ValueError, match="a Stream has no length"):
        make_loader(Stream(), 4)
    as_rank(monkeypatch, 0, 4)
    with pytest.raises(ValueError, match=r"batch_size=6 cannot be dealt out to 4 rank.*multiple of 4"):
        make_loader(dataset(20), 6)


def test_length_of_a_loader_that_does_not_know():
    assert loaders.length(batch for batch in range(3)) is None
    assert loaders.length(DataLoader(dataset(10), 4)) == 3


def test_windows_end_with_what_is_left():
    assert list(loaders.windows(iter(range(7)), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
