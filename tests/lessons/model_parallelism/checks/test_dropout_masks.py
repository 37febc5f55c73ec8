"""Seeds that keep the right masks alike and apart are accepted; each other rule has its symptom."""

import random

import numpy as np
import pytest
import torch

from torchcourse.lessons.model_parallelism.checks import dropout_masks as check
from torchcourse.lessons.model_parallelism.tensor_parallel import Dropouts
from verdicts import accepted, refused, todo


def seeds(step, rank, ranks, tensor):
    start = 2 * ranks * step
    return start + rank, start + ranks + rank // tensor


def seeds_far_apart(step, rank, ranks, tensor):
    return 10**9 * step + rank, 10**15 + 10**9 * step + rank // tensor


def seeds_by_hash(step, rank, ranks, tensor):
    return hash((step, rank, 1)), hash((step, rank - rank % tensor, 2))


def seeds_of_64_bits(step, rank, ranks, tensor):
    return 2**63 + 2 * (ranks * step + rank), 2**63 + 2 * (ranks * step + rank // tensor) + 1


@pytest.mark.slow
@pytest.mark.parametrize("answer", [seeds, seeds_far_apart, seeds_by_hash, seeds_of_64_bits])
def test_dropout_seeds_accepts(answer):
    accepted(check.dropout_seeds(answer))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda s, r, n, t: (10**6 * s + r, 10**9 + 10**6 * s + r), "outer_by_rank"),
        (lambda s, r, n, t: (10**6 * s, 10**9 + 10**6 * s), "inner_alike"),
        (lambda s, r, n, t: (10**6 * s + r // t, 10**9 + 10**6 * s + r // t), "inner_alike"),
        (lambda s, r, n, t: (10**6 * s + r, 10**9 + 10**6 * s), "data_alike"),
        (lambda s, r, n, t: (r, 10**9 + r // t), "every_step"),
        (lambda s, r, n, t: (s + r, 10**9 + n * s + r // t), "repeats"),
        (lambda s, r, n, t: (n * s + r, n * s + r // t), "repeats"),
        (lambda s, r, n, t: (100 * s + r, 100 * s + 50 + r // t), "repeats"),
        (lambda s, r, n, t: (10**6 * s + r % t, 10**9 + 10**6 * s + r // t), "repeats"),
        (lambda s, r, n, t: (random.randrange(10**9), random.randrange(10**9)), "not_repeatable"),
        (lambda s, r, n, t: (int(f"1{s}{r}"), int(f"2{s}{r // t}")), "repeats"),  # from 11 ranks and steps on
        (lambda s, r, n, t: (hash(f"in {s} {r}"), hash(f"out {s} {r // t}")), "other_process"),
        (lambda s, r, n, t: (10**4 * s + r, 10**6 + 10**4 * s + r // t), "repeats"),  # from step 100 on
        (lambda s, r, n, t: (10**9 + n * s + r, 10**4 * s + r // t), "repeats"),  # from step 100,000 on
        (lambda s, r, n, t: (2**64 + n * s + r, n * s + r // t), "too_large"),
        (lambda s, r, n, t: s + r, "wrong_type"),
        (lambda s, r, n, t: (s / 2, r), "wrong_type"),
    ],
)
def test_dropout_seeds_refuses(answer, symptom):
    refused(check.dropout_seeds(answer), symptom)


def test_seeds_may_be_whole_numbers_of_numpy_and_pytorch():
    seeds = np.int64(7), torch.tensor(8)
    assert check._pair(seeds, "") == (7, 8)
    Dropouts(torch.nn.Linear(1, 1), 0.1).seed(*seeds)


@pytest.mark.slow
def test_the_last_word_has_a_training(monkeypatch):
    """What the rules above would overlook shows when the ranks train."""
    monkeypatch.setattr(check, "_judge_seeds", lambda *_: None)
    refused(check.dropout_seeds(lambda s, r, n, t: (r, r)), "drift")


def test_a_stub_is_not_done_yet():
    assert check.dropout_seeds(todo).state == "not done"
