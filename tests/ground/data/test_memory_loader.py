"""The fast loader gives the batches of make_loader, on one process and on ranks."""

import pytest
import torch
from torch.utils.data import TensorDataset

from torchcourse.data.loaders import make_loader, set_epoch
from torchcourse.data.memory_loader import MemoryLoader
from torchcourse.ranks import run_ranks

DATA = TensorDataset(torch.arange(58.0).reshape(29, 2), torch.arange(29))


def assert_same_batches(epochs=3, **options):
    ordinary = make_loader(DATA, 8, **options)
    for reuse in (False, True):
        fast = MemoryLoader(DATA, 8, reuse=reuse, **options)
        for epoch in range(epochs):
            set_epoch(ordinary, epoch)
            set_epoch(fast, epoch)
            assert len(fast) == len(ordinary)
            for ours, theirs in zip(fast, ordinary, strict=True):
                assert len(ours) == len(theirs) == 2
                assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_batches_are_those_of_the_ordinary_loader(shuffle):
    assert_same_batches(shuffle=shuffle, seed=4)


def on_ranks():
    for shuffle in (True, False):
        assert_same_batches(shuffle=shuffle, seed=4)
    tiny = MemoryLoader([torch.arange(1)], 2)  # fewer samples than ranks
    assert [batch[0].tolist() for batch in tiny] == [[0]]
    with pytest.raises(ValueError, match="cannot be dealt out to 2 rank"):
        MemoryLoader(DATA, 7)
    return True


def test_the_ranks_shares_are_those_of_the_ordinary_loader():
    assert run_ranks(on_ranks, world_size=2) == [True, True]


def test_memory_is_reused_only_when_asked():
    kept = [batch[1] for batch in MemoryLoader(DATA, 8, shuffle=False)]
    assert torch.equal(torch.cat(kept), DATA.tensors[1])
    reused = [batch[1].data_ptr() for batch in MemoryLoader(DATA, 8, shuffle=False, reuse=True)]
    assert len(set(reused[:3])) == 1


def test_what_cannot_be_loaded_is_refused():
    with pytest.raises(ValueError, match="default_collate"):
        MemoryLoader([(torch.zeros(2), 1), (torch.zeros(2), 0)], 1)  # type: ignore[list-item]  # the mistake
    with pytest.raises(ValueError, match=r"\[2, 3\] samples"):
        MemoryLoader([torch.zeros(2), torch.zeros(3)], 1)
    with pytest.raises(ValueError, match="at least one"):
        MemoryLoader([torch.zeros(0, 4)], 1)
    with pytest.raises(ValueError, match="at least one"):
        MemoryLoader([torch.tensor(1.0)], 1)
    with pytest.raises(ValueError, match="batch_size=0"):
        MemoryLoader(DATA, 0)


@pytest.mark.gpu
def test_on_a_gpu_the_batches_stay_there():
    data = [tensor.cuda() for tensor in DATA.tensors]
    for ours, theirs in zip(MemoryLoader(data, 8, reuse=True), MemoryLoader(DATA, 8), strict=True):
        assert ours[0].is_cuda
        assert all(torch.equal(a.cpu(), b) for a, b in zip(ours, theirs, strict=True))
