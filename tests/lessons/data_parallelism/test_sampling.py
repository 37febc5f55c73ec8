"""The sampler by hand, index for index beside torch's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from torch.utils.data import DistributedSampler as TorchSampler

from torchcourse.lessons.data_parallelism.sampling import DistributedSampler
from torchcourse.ranks import run_ranks


@given(
    length=st.integers(1, 40),
    num_replicas=st.integers(1, 9),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    seed=st.integers(0, 5),
    epochs=st.lists(st.integers(0, 3), max_size=3),
)
def test_index_for_index_like_torch(length, num_replicas, shuffle, drop_last, seed, epochs) -> None:
    for rank in range(num_replicas):
        options = {
            "num_replicas": num_replicas,
            "rank": rank,
            "shuffle": shuffle,
            "seed": seed,
            "drop_last": drop_last,
        }
        ours, theirs = DistributedSampler(range(length), **options), TorchSampler(range(length), **options)
        assert (len(ours), list(ours)) == (len(theirs), list(theirs))
        for epoch in epochs:
            ours.set_epoch(epoch)
            theirs.set_epoch(epoch)
            assert list(ours) == list(theirs)


def test_ten_samples_on_four_ranks_become_twelve() -> None:
    dealt = [index for rank in range(4) for index in DistributedSampler(range(10), 4, rank)]
    assert len(dealt) == 12
    assert set(dealt) == set(range(10))
    dealt = [index for rank in range(4) for index in DistributedSampler(range(10), 4, rank, drop_last=True)]
    assert len(dealt) == len(set(dealt)) == 8


def test_without_set_epoch_every_epoch_has_the_same_order() -> None:
    sampler = DistributedSampler(range(100), 2, 0)
    first = list(sampler)
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first


def test_in_a_rank_it_knows_its_place_and_feeds_a_loader() -> None:
    def seen() -> list[int]:
        data = list(range(7))
        loader = DataLoader(data, 2, sampler=DistributedSampler(data, shuffle=False))
        return [int(index) for batch in loader for index in batch]

    assert run_ranks(seen, world_size=2) == [[0, 2, 4, 6], [1, 3, 5, 0]]


def test_refusals_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="no rank 2 among 2 ranks"):
        DistributedSampler(range(10), 2, 2)
    with pytest.raises(ValueError, match="dataset is empty"):
        DistributedSampler([], 2, 0)
    with pytest.raises(RuntimeError, match="run_ranks"):
        DistributedSampler(range(10))
