"""A split by group leaks nothing, and a split that leaks is found."""

import random
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image

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
    with pytest.raises(ValueError, match="Take a different share"):
        split_by_group(["one"] * 10)
    with pytest.raises(ValueError, match="Take a different share"):
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


KINDS = [torch.tensor, np.array, list, lambda groups: [torch.tensor(group) for group in groups]]


@pytest.mark.parametrize("kind", KINDS)
def test_groups_count_by_value_whatever_holds_them(kind):
    plain = [number % 10 for number in range(200)]
    groups, samples = kind(plain), torch.arange(200.0)[:, None]
    assert split_by_group(groups) == split_by_group(plain)
    for numbers in (range(100), torch.arange(100), np.arange(100)):
        assert leaks(samples, groups, numbers, range(100, 200)) == dict.fromkeys(range(100, 200), "same group")
    assert leaks(samples, range(200), torch.arange(3), torch.tensor([2, 5])) == {2: "same sample"}


def test_names_that_look_the_same_are_one_group():
    """macOS takes names apart into letters and accents; a table from elsewhere has them in one."""
    plain = ["고양이", "Zoë", "été", "dog"]
    groups = [unicodedata.normalize(form, name) for form in ("NFC", "NFD") for name in plain]
    assert leaks(torch.arange(8.0), groups, range(4), range(4, 8)) == dict.fromkeys(range(4, 8), "same group")
    _, test = split_by_group(groups, 0.25)
    assert sorted(test)[1] - sorted(test)[0] == 4
    assert len(leaks(np.arange(8.0), groups, range(4), range(4, 8))) == 4


@pytest.mark.parametrize("missing", [None, float("nan"), np.datetime64("NaT"), " "])
def test_a_missing_group_is_refused_with_its_sample(missing):
    groups = ["a", "b", missing, "c", missing]
    with pytest.raises(ValueError, match="Sample 2 has no group"):
        split_by_group(groups, 0.5)
    with pytest.raises(ValueError, match="Sample 2 has no group"):
        leaks(torch.arange(5.0), groups, [0, 2], [1, 4])


@pytest.mark.parametrize(
    ("groups", "train", "sentence"),
    [
        (torch.zeros(4, 2), [0], "one value per sample"),
        ([torch.zeros(2)] * 4, [0], "one value per sample"),
        (range(3), [0], "4 samples and 3 groups"),
        (range(4), torch.tensor([True, False, False, True]), "not a mask"),
        (range(4), [0.5], "not a mask"),
        (range(4), [4], "no sample 4"),
        (range(4), [-1], "no sample -1"),
    ],
)
def test_what_is_no_group_or_no_number_is_refused(groups, train, sentence):
    with pytest.raises(ValueError, match=sentence):
        leaks(torch.arange(4.0), groups, train, [1])


def test_the_content_of_other_types_is_compared():
    for samples in (
        torch.zeros(2, 3, dtype=torch.bfloat16),
        torch.zeros(2, 3, requires_grad=True),
        torch.zeros(2, 3, dtype=torch.complex64).conj(),
        torch.zeros(2),
        torch.zeros(2, 3).to_sparse(),
        np.zeros((2, 3), ">f4"),
        [Image.new("L", (2, 2))] * 2,
    ):
        assert leaks(samples, ["a", "b"], [0], [1]) == {1: "same content"}


@pytest.mark.parametrize("sample", ["text", {"x": 1}, (torch.zeros(2), 0), None])
def test_samples_without_numbers_are_named(sample):
    with pytest.raises(ValueError, match=f"this {type(sample).__name__} has none"):
        leaks([sample] * 2, ["a", "b"], [0], [1])
