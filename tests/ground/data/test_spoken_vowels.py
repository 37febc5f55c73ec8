"""Spoken vowels are what the file says, and sequences that cannot be are refused."""

from typing import Any

import numpy as np
import pytest
import torch

from torchcourse.data.spoken_vowels import Sequences, vowels
from torchcourse.tools.make_data import vowels as vowels_file
from torchcourse.tools.make_data.provenance import content_digest


def test_the_file_holds_the_known_frames():
    with np.load(vowels_file.TARGET) as archive:
        digest = content_digest(archive["frames"], archive["lengths"], archive["labels"])
    assert digest == "dc0cb343f45fe414b24ceec8fec2a20db2da5a450a74ef6170ec3e623cdf19d8"
    assert vowels_file.TARGET.with_suffix(".LICENSE.md").is_file()


def test_counts_are_those_of_the_authors():
    train, test = vowels("train"), vowels("test")
    assert train.labels.bincount().tolist() == [30] * 9
    assert test.labels.bincount().tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]
    both = torch.cat([train.lengths, test.lengths])
    assert (both.min(), both.max()) == (7, 29)
    assert train.steps.mean(0).abs().max() < 1e-5
    assert (train.steps.std(0) - 1).abs().max() < 1e-5


def test_a_sequence_is_its_own_steps():
    steps = torch.arange(12.0).reshape(6, 2)
    sequences = Sequences(steps, torch.tensor([1, 3, 2]), torch.tensor([5, 6, 7]))
    assert [(x.tolist(), label) for x, label in map(sequences.__getitem__, range(3))] == [
        ([[0, 1]], 5),
        ([[2, 3], [4, 5], [6, 7]], 6),
        ([[8, 9], [10, 11]], 7),
    ]
    assert sequences[-1][1] == 7


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="no steps: number 1"):
        Sequences(torch.zeros(4, 2), torch.tensor([2, 0, 2]), torch.zeros(3))
    with pytest.raises(ValueError, match="do not fit"):
        Sequences(torch.zeros(4, 2), torch.tensor([2, 3]), torch.zeros(2))
    split: Any = "validation"
    with pytest.raises(ValueError, match="'validation'"):
        vowels(split)
