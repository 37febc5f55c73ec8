"""Buckets and weights: every sample as often as promised, in one process and on ranks."""

import itertools
import random

import pytest
import torch
import torch.distributed as dist

from torchcourse.data.loaders import set_epoch
from torchcourse.data.spoken_vowels import vowels
from torchcourse.lessons.datasets.samplers import BucketBatches, WeightedSamples, balanced, class_weights, padding_share
from torchcourse.ranks import run_ranks


def test_every_sample_comes_once_whatever_the_sizes():
    draw = random.Random(0)
    for _ in range(60):
        count, size, pool = draw.randint(1, 90), draw.randint(1, 20), draw.randint(1, 9)
        lengths = [draw.randint(1, 30) for _ in range(count)]
        for shuffle in (True, False):
            sampler = BucketBatches(lengths, size, pool, shuffle=shuffle, seed=draw.randint(0, 99))
            batches = list(sampler)
            assert sorted(itertools.chain(*batches)) == list(range(count))
            assert len(sampler) == len(batches)
            assert max(map(len, batches)) <= size


def test_larger_pools_pad_less():
    lengths = vowels().lengths
    shares = [padding_share(lengths, BucketBatches(lengths, 16, pool, seed=1)) for pool in (1, 4, 17)]
    assert shares[0] > 1.5 * shares[1] > 1.5 * shares[2]
    in_order = padding_share(lengths, BucketBatches(lengths, 16, shuffle=False))
    assert in_order <= shares[2] + 0.01


def test_epochs_differ_and_come_again():
    sampler = BucketBatches(list(range(1, 50)), 4, 3, seed=5)
    first = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first


def test_the_batches_are_not_sorted_by_length():
    lengths = torch.arange(400)
    means = [lengths[batch].float().mean() for batch in BucketBatches(lengths, 4, pool=100)]
    assert abs(torch.corrcoef(torch.stack([torch.arange(100.0), torch.stack(means)]))[0, 1]) < 0.4


def test_padding_is_counted():
    assert padding_share([1, 3, 2, 2], [[0, 1], [2, 3]]) == pytest.approx(0.2)
    for lengths, batches in (([1, 2], []), ([0, 0], [[0, 1]])):
        with pytest.raises(ValueError, match="no batch with a step"):
            padding_share(lengths, batches)


def test_classes_are_drawn_equally_often():
    labels = torch.tensor([0] * 900 + [1] * 90 + [2] * 10)
    drawn = labels[list(WeightedSamples(balanced(labels), samples=6000, seed=3))]
    assert (drawn.bincount() / 6000 - 1 / 3).abs().max() < 0.05
    weights = class_weights(labels)
    assert weights[labels].mean() == pytest.approx(1)
    torch.testing.assert_close(weights / weights[0], torch.tensor([1.0, 10.0, 90.0]))


def test_draws_depend_on_the_epoch_alone():
    sampler = WeightedSamples(torch.ones(50), seed=2)
    first = list(sampler)
    assert list(sampler) == first
    loader = torch.utils.data.DataLoader(range(50), 10, sampler=sampler)
    set_epoch(loader, 1)
    assert torch.cat(list(loader)).tolist() != first


def on_a_rank(lengths):
    buckets, weighted = BucketBatches(lengths, 8, seed=4), WeightedSamples(torch.ones(30), seed=4)
    try:
        BucketBatches(lengths, 7)
        refusal = ""
    except ValueError as error:
        refusal = str(error)
    return list(buckets), list(weighted), refusal, dist.get_world_size()


def test_ranks_together_take_the_batches_of_one_process():
    lengths = torch.arange(1, 46)
    shares = run_ranks(on_a_rank, lengths, world_size=2)
    alone = BucketBatches(lengths, 8, seed=4)
    for batch, left, right in zip(alone, shares[0][0], shares[1][0], strict=True):
        assert len(left) == len(right)
        assert set(left) | set(right) == set(batch)
        assert len(left) + len(right) == len(batch) + len(batch) % 2
    weighted = [sample for pair in zip(shares[0][1], shares[1][1], strict=True) for sample in pair]
    assert weighted == list(WeightedSamples(torch.ones(30), seed=4))
    assert all("dealt out to 2 rank(s)" in share[2] for share in shares)


def test_what_makes_no_sense_is_refused():
    for options in ({"lengths": [], "batch_size": 2}, {"lengths": [1], "batch_size": 0}, {"lengths": [1], "pool": 0}):
        with pytest.raises(ValueError, match=r"empty|multiple|at least 1"):
            BucketBatches(**{"batch_size": 2} | options)
    with pytest.raises(ValueError, match="Weights are 0 or more"):
        WeightedSamples(torch.zeros(3))
    with pytest.raises(ValueError, match="that of sample 4 is nan"):
        WeightedSamples([1.0, 1.0, 1.0, 1.0, float("nan")])
    with pytest.raises(ValueError, match="Class 1 has no samples"):
        class_weights(torch.tensor([0, 2]))


@pytest.mark.slow
def test_many_weights_and_plain_numbers_are_drawn_from():
    weights = torch.zeros(2**24 + 5, dtype=torch.float64)
    weights[3], weights[-2] = 1, 3
    drawn = list(WeightedSamples(weights, samples=4000, seed=1))
    assert set(drawn) == {3, 2**24 + 3}
    assert drawn.count(3) / 4000 == pytest.approx(0.25, abs=0.04)
    assert set(WeightedSamples([0, 2.5, 0])) == {1}


@pytest.mark.parametrize("weights", [[1, float("nan")], [1, float("inf")], [-1, 2], [[1.0, 2.0]], [], ["a"], None])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(ValueError, match="Weights are"):
        WeightedSamples(weights)


@pytest.mark.parametrize("labels", [[0, 0, 0, 1], torch.tensor([False, False, False, True])])
def test_labels_of_other_types_count_by_value(labels):
    torch.testing.assert_close(class_weights(labels), torch.tensor([2 / 3, 2.0]))
    torch.testing.assert_close(balanced(labels), torch.tensor([2 / 3, 2 / 3, 2 / 3, 2.0]))
    small = torch.as_tensor(labels).to(torch.uint8)
    torch.testing.assert_close(balanced(small), torch.tensor([2 / 3, 2 / 3, 2 / 3, 2.0]))


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ([0, 1, -100], r"Label -100 .*labels\[labels >= 0\]"),
        ([0.0, 1.0], "whole numbers"),
        ([[0, 1]], r"\[N\]"),
        ([], r"\[N\]"),
        (["cat"], "one number per sample"),
        (None, "one number per sample"),
        ([10**12, 1], "Class 0 has no samples"),  # nobody counts up to there
        ([0, 1, 10**12], "Class 2 has no samples"),
    ],
)
def test_labels_that_are_none_are_refused(labels, sentence):
    for count in (class_weights, balanced):
        with pytest.raises(ValueError, match=sentence):
            count(labels)


@pytest.mark.parametrize("lengths", [[[1, 2]], [1, float("nan")], ["ab", "c"], None, [3, -1]])
def test_lengths_that_are_none_are_refused(lengths):
    with pytest.raises(ValueError, match=r"Lengths are|Length -1 is"):
        BucketBatches(lengths, 2)


def test_what_is_no_number_of_batches_or_samples_is_said() -> None:
    with pytest.raises(ValueError, match=r"pool=1\.5 is a number of batches"):
        BucketBatches([1, 2], 2, pool=1.5)
    with pytest.raises(ValueError, match=r"samples=2\.5 is no whole number"):
        WeightedSamples([1.0, 1.0], samples=2.5)
