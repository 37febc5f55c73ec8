"""A split by group leaks nothing, and a split that leaks is found."""

import random

import pytest
import torch

from torchcourse.lessons.datasets.splits import fingerprint, leaks, split_by_group


def test_groups_stay_together_whatever_their_sizes():
    draw = random.Random(1)
    for seed in range(40):
        groups = [f"writer {draw.randint(0, 15)}" for _ in range(120)]
        train, test = split_by_group(groups, 0.3, seed)
        assert sorted(train + test) == list(range(120))
        assert {groups[n] for n in train}.isdisjoint(groups[n] for n in test)
        assert 0 < len(test) <= 36


def test_the_split_depends_on_the_seed_and_not_on_the_order():
    groups = [n // 4 for n in range(80)]
    chosen = {groups[n] for n in split_by_group(groups, seed=3)[1]}
    assert chosen == {groups[::-1][n] for n in split_by_group(groups[::-1], seed=3)[1]}
    assert chosen != {groups[n] for n in split_by_group(groups, seed=4)[1]}
    assert len(chosen) == 4


def test_a_split_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="Take another share"):
        split_by_group(["one"] * 10)
    with pytest.raises(ValueError, match="Take another share"):
        split_by_group([0, 0, 0, 1, 1, 1], 0.1)


def test_each_kind_of_leak_is_named():
    samples = [torch.full((2, 2), float(n)) for n in range(6)]
    samples[4] = samples[0].clone()
    groups = ["a", "b", "c", "b", "d", "e"]
    assert leaks(samples, groups, train=[0, 1], test=[1, 3, 4, 5]) == {
        1: "same sample",
        3: "same group",
        4: "same content",
    }


def test_the_fingerprint_is_that_of_the_values():
    x = torch.arange(6.0).reshape(2, 3)
    assert fingerprint(x) == fingerprint(x.T.contiguous().T)
    assert len({fingerprint(other) for other in (x, x + 1e-6, x.flatten(), x.double(), x.reshape(3, 2))}) == 5
