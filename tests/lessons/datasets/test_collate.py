"""Padding, masks and packing keep the real steps and nothing else."""

import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pad_packed_sequence
from torch.utils.data import DataLoader

from torchcourse.data.spoken_vowels import vowels
from torchcourse.lessons.datasets.collate import Padded, pad


@pytest.fixture
def samples():
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(length, 3, generator=generator), label) for length, label in ((2, 4), (5, 0), (1, 9))]


def test_real_steps_stay_and_the_rest_is_zero(samples):
    batch, labels = pad(samples)
    assert batch.x.shape == (3, 5, 3)
    assert labels.tolist() == [4, 0, 9]
    assert batch.mask.sum(1).tolist() == batch.lengths.tolist() == [2, 5, 1]
    for row, (x, _) in enumerate(samples):
        assert torch.equal(batch.x[row, : len(x)], x)
        assert not batch.x[row, len(x) :].any()


def test_packing_keeps_the_order_of_the_samples(samples):
    batch, _ = pad(samples)
    back, lengths = pad_packed_sequence(batch.pack(), batch_first=True)
    assert torch.equal(back, batch.x)
    assert lengths.tolist() == [2, 5, 1]


def test_mean_and_packed_gru_do_not_depend_on_the_company(samples):
    torch.manual_seed(0)
    gru = nn.GRU(3, 4, batch_first=True)
    together, _ = pad(samples)
    for row, sample in enumerate(samples):
        alone, _ = pad([sample])
        torch.testing.assert_close(together.mean()[row], alone.mean()[0])
        torch.testing.assert_close(gru(together.pack())[1][:, row], gru(alone.x)[1][:, 0])
    assert not torch.allclose(gru(together.x)[1][:, 2], gru(pad(samples[2:])[0].x)[1][:, 0])


def test_a_loader_and_its_pickling_keep_the_type():
    batch, labels = next(iter(DataLoader(vowels(), 4, collate_fn=pad)))
    assert isinstance(batch, Padded)
    assert labels.dtype == torch.int64
    assert isinstance(pickle.loads(pickle.dumps(batch)), Padded)


def test_a_batch_moves_to_a_device_whole(samples):
    moved = pad(samples)[0].to("meta", non_blocking=True)
    assert isinstance(moved, Padded)
    assert {part.device.type for part in (*moved, moved.mask)} == {"meta"}


@pytest.mark.gpu
def test_packing_works_on_a_gpu(samples):
    torch.manual_seed(0)
    gru, (batch, _) = nn.GRU(3, 4, batch_first=True), pad(samples)
    there = gru.cuda()(batch.to("cuda").pack())[1].cpu()
    torch.testing.assert_close(there, gru.cpu()(batch.pack())[1], atol=1e-3, rtol=1e-2)


def test_what_makes_no_batch_is_named():
    with pytest.raises(ValueError, match="no samples"):
        pad([])
    with pytest.raises(ValueError, match=r"Sample 1 of the batch has the shape \[0, 3\]"):
        pad([(torch.zeros(2, 3), 0), (torch.zeros(0, 3), 1)])
    with pytest.raises(ValueError, match=r"Sample 1 .* \[2, 4\].* 3 channels"):
        pad([(torch.zeros(2, 3), 0), (torch.zeros(2, 4), 1)])
    with pytest.raises(ValueError, match=r"Sample 0 .* \[\]: .* one step or more\."):
        pad([(torch.tensor(1.0), 0)])
    with pytest.raises(ValueError, match="Sample 0 of the batch has a list"):
        pad([([[1.0]], 0)])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="Labels are one number"):
        pad([(torch.zeros(2, 3), "cat")])  # type: ignore[list-item]


def test_a_batch_has_a_type_that_holds_all_of_its_sequences() -> None:
    whole, halves = torch.ones(2, 1, dtype=torch.int64), torch.full((3, 1), 0.5)
    for samples in ([(whole, 0), (halves, 1)], [(halves, 1), (whole, 0)]):
        padded, _ = pad(samples)
        assert padded.x.dtype == torch.float32
        assert {0.5, 1.0} <= set(padded.x.flatten().tolist())


def test_the_mean_of_many_steps_in_16_bits_is_that_of_its_values() -> None:
    padded, _ = pad([(torch.full((5000, 1), 20.0, dtype=torch.float16), 0)])
    assert padded.mean().tolist() == [[20.0]]
    assert padded.mean().dtype == torch.float16
