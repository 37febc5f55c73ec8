"""The bytes and the seconds by different ways are accepted; each wrong formula has its symptom."""

import numpy as np
import pytest
import torch

from torchcourse.lessons.data_parallelism.checks import memory_and_time as check
from verdicts import accepted, refused, todo

# zero_bytes


def bytes_a_rank(parameters, world_size, stage, each=(2, 2, 12), shared_from=(3, 2, 1)):
    sizes = zip(each, shared_from, strict=True)
    return tuple(size * parameters / (world_size if stage >= first else 1) for size, first in sizes)


def bytes_with_ifs(parameters, world_size, stage):
    weights, gradients, optimizer = 2 * parameters, 2 * parameters, 12 * parameters
    if stage > 0:
        optimizer /= world_size
    if stage > 1:
        gradients /= world_size
    if stage > 2:
        weights /= world_size
    return [weights, gradients, optimizer]


@pytest.mark.parametrize("learner", [bytes_a_rank, bytes_with_ifs])
def test_zero_bytes_accepts(learner):
    accepted(check.zero_bytes(learner))


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (lambda p, n, stage: bytes_a_rank(p, n, stage, each=(4, 4, 8)), "bytes_per_parameter"),
        (lambda p, n, stage: bytes_a_rank(p, n, stage, each=(2, 2, 8)), "bytes_per_parameter"),
        (lambda p, n, stage: bytes_a_rank(p, n, stage, shared_from=(1, 2, 3)), "shared_too_early"),
        (lambda p, n, stage: bytes_a_rank(p, n, stage, shared_from=(4, 3, 2)), "not_shared"),
        (lambda p, n, stage: bytes_a_rank(p, n**2, stage), "wrong_share"),
        (lambda p, n, stage: sum(bytes_a_rank(p, n, stage)), "wrong_type"),
        (lambda p, n, stage: [part / 1e9 for part in bytes_a_rank(p, n, stage)], "unit"),
        (lambda p, n, stage: bytes_a_rank(p, n, stage)[::-1], "order"),
        (lambda p, n, stage: torch.empty(int(p), dtype=torch.float16).nbytes, "allocates"),
        (lambda p, n, stage: len(bytes(2 * int(p))), "allocates"),
        (lambda p, n, stage: np.zeros(int(p)).nbytes, "allocates"),
    ],
)
def test_zero_bytes_refuses(learner, symptom):
    refused(check.zero_bytes(learner), symptom)


def test_a_list_of_all_parameters_ends_before_the_memory_does(monkeypatch):
    monkeypatch.setattr(check, "_LOOK", 0.05)
    assert check.zero_bytes(lambda p, n, stage: 2 * len([0 for _ in range(int(p))])).symptom == "endless"


def test_where_nothing_is_shared_out_no_equal_parts_are_spoken_of():
    message = check.zero_bytes(lambda p, n, stage: [part * n for part in bytes_a_rank(p, 1, 0)]).message
    assert "stage 0" in message
    assert "does not share them out" in message
    message = check.zero_bytes(lambda p, n, stage: bytes_a_rank(p, n, stage, each=(2, 2, 12.004))).message
    assert "2 + 2 + 12.004 bytes" in message


# step_seconds


def seconds(compute, size, n, alpha, beta):
    return compute / n + 2 * (n - 1) * alpha + 2 * (n - 1) / n * size * beta


def seconds_by_halves(compute, size, n, alpha, beta):
    chunk = size / n
    reduce_scatter = sum(alpha + chunk * beta for _ in range(n - 1))
    return torch.tensor(compute / n + 2 * reduce_scatter, dtype=torch.float64)


@pytest.mark.parametrize("learner", [seconds, seconds_by_halves])
def test_step_seconds_accepts(learner):
    accepted(check.step_seconds(learner))


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (lambda c, s, n, a, b: seconds(c, s, n, a, b) - c / n + c, "compute_not_shared"),
        (lambda c, s, n, a, b: c / n + 2 * (n - 1) * a + 2 * s * b, "whole_tensor"),
        (lambda c, s, n, a, b: c / n + 2 * (n - 1) * a + (n - 1) * s * b, "plain_way"),
        (lambda c, s, n, a, b: c / n + a + 2 * (n - 1) / n * s * b, "messages"),
        (lambda c, s, n, a, b: max(c / n, 2 * (n - 1) * a + 2 * (n - 1) / n * s * b), "overlapped"),
        (lambda c, s, n, a, b: seconds(c, s, n, a, b) if n > 1 else c + 0.1, "one_rank_talks"),
        (lambda c, s, n, a, b: 2 * seconds(c, s, n, a, b), "wrong_value"),
        (lambda c, s, n, a, b: None, "no_number"),
        (lambda c, s, n, a, b: seconds(0, s, n, a, b), "compute_forgotten"),
        (lambda c, s, n, a, b: c / n, "all_reduce_forgotten"),
        (lambda c, s, n, a, b: seconds(c, s, n, a, b) / 2 + c / n / 2, "half_a_ring"),
        (lambda c, s, n, a, b: (c + seconds(0, s, n, a, b)) / n, "all_reduce_shared"),
        (lambda c, s, n, a, b: c / n + 2 * (n - 1) * (a + s * b), "whole_tensor"),
        (lambda c, s, n, a, b: seconds(c, 0, n, a, b), "bytes_forgotten"),
        (lambda c, s, n, a, b: seconds(c, s, n, 0, b), "messages"),
        (lambda c, s, n, a, b: seconds(c, s, n, b, a), "swapped"),
        (lambda c, s, n, a, b: c // n + seconds(0, s, n, a, b), "whole_numbers"),
        (lambda c, s, n, a, b: c / n + 2 * (n - 1) * a + 2 * (n - 1) // n * s * b, "whole_numbers"),
        (lambda c, s, n, a, b: seconds(c, s, n, a, 1 / b), "bandwidth"),
        (lambda c, s, n, a, b: seconds(c, s / n, n, a, b), "chunk_cut_again"),
        (lambda c, s, n, a, b: c / n + 2 * n * (a + s / n * b), "steps_of_a_ring"),
    ],
)
def test_step_seconds_refuses(learner, symptom):
    refused(check.step_seconds(learner), symptom)


# both


@pytest.mark.parametrize("exercise", [check.zero_bytes, check.step_seconds])
def test_a_stub_is_not_done_yet(exercise):
    assert exercise(todo).state == "not done"
