"""The formulas of communication and scaling, the fit of their constants, and one measurement on real ranks."""

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from torchcourse.lessons.data_parallelism import cost
from torchcourse.lessons.data_parallelism.collectives import ring_all_reduce
from torchcourse.lessons.data_parallelism.cost import (
    AlphaBeta,
    Scaling,
    alike,
    amdahl_speedup,
    fit_alpha_beta,
    measure_alpha_beta,
    measure_scaling,
    predict_step,
    ring_bytes,
    ring_seconds,
    serial_fraction,
)
from torchcourse.ranks import run_ranks
from torchcourse.ranks.who import ON_CPU

SIZES = (1 << 10, 1 << 16, 1 << 20, 1 << 23)


@pytest.mark.parametrize(("world_size", "tensors"), [(1, 0), (2, 1), (4, 1.5), (100, 1.98)])
def test_ring_bytes(world_size: int, tensors: float) -> None:
    assert ring_bytes(1000, world_size) == pytest.approx(1000 * tensors)


def test_ring_bytes_is_what_the_ring_sends() -> None:
    sent = run_ranks(lambda: ring_all_reduce(torch.ones(600)), world_size=3)
    assert sent == [ring_bytes(600 * 4, 3)] * 3


def test_ring_seconds_by_hand() -> None:
    assert ring_seconds(1e6, 4, alpha=1e-3, beta=1e-9) == pytest.approx(6 * 1e-3 + 1.5e6 * 1e-9)
    assert ring_seconds(1e6, 1, alpha=1e-3, beta=1e-9) == 0


@given(st.floats(1e-7, 1e-2), st.floats(1e-12, 1e-7), st.integers(2, 64))
def test_fit_finds_the_constants_behind_exact_times(alpha: float, beta: float, world_size: int) -> None:
    seconds = [ring_seconds(size, world_size, alpha, beta) for size in SIZES]
    found = AlphaBeta(*fit_alpha_beta(SIZES, seconds, world_size), world_size)
    for size, expected in zip(SIZES, seconds, strict=True):
        assert found.all_reduce(size) == pytest.approx(expected, rel=1e-4)


def test_fit_weighs_relative_errors() -> None:
    """Ten percent more on the largest tensor may not turn a latency of 1 ms into something else."""
    seconds = [ring_seconds(size, 2, 1e-3, 1e-9) for size in SIZES]
    seconds[-1] *= 1.1
    alpha, _ = fit_alpha_beta(SIZES, seconds, 2)
    assert alpha == pytest.approx(1e-3, rel=0.02)


def test_fit_never_gives_a_negative_cost() -> None:
    alpha, beta = fit_alpha_beta((1000, 2000), (1e-3, 3e-3), 2)
    assert alpha == 0
    assert beta > 0
    alpha, beta = fit_alpha_beta((1000, 2000), (3e-3, 1e-3), 2)
    assert alpha > 0
    assert beta == 0


def test_fit_needs_two_sizes() -> None:
    with pytest.raises(ValueError, match="at least two sizes"):
        fit_alpha_beta((1000, 1000), (1.0, 1.0), 2)


def test_predictions_use_the_constants() -> None:
    network = AlphaBeta(1e-3, 1e-9, world_size=2)
    assert network.bandwidth == pytest.approx(1e9)
    assert network.all_reduce(1e6) == pytest.approx(ring_seconds(1e6, 2, 1e-3, 1e-9))
    assert network.all_reduce(1e6, world_size=8) == pytest.approx(ring_seconds(1e6, 8, 1e-3, 1e-9))
    one = Scaling(1, 0.8, batch=64)
    assert predict_step(one, 1, network, 1e6) == 0.8
    assert predict_step(one, 4, network, 1e6) == pytest.approx(0.2 + 6e-3 + 1.5e-3)
    assert predict_step(one, 4, network, 1e6, processors=2) == pytest.approx(0.4 + 6e-3 + 1.5e-3)


def test_amdahl() -> None:
    assert amdahl_speedup(8, 0.0) == pytest.approx(8)
    assert amdahl_speedup(8, 1.0) == pytest.approx(1)
    assert amdahl_speedup(10**9, 0.05) == pytest.approx(20, rel=1e-3)


@given(st.integers(2, 1000), st.floats(0, 1))
def test_serial_fraction_is_the_inverse_of_amdahl(world_size: int, fraction: float) -> None:
    assert serial_fraction(amdahl_speedup(world_size, fraction), world_size) == pytest.approx(fraction, abs=1e-6)


def test_serial_fraction_needs_two_ranks() -> None:
    with pytest.raises(ValueError, match="two or more ranks"):
        serial_fraction(1.0, 1)


def test_measured_constants_are_the_same_on_all_ranks_and_plausible() -> None:
    first, second = run_ranks(lambda: measure_alpha_beta(SIZES, repeats=3), world_size=2)
    assert first == second
    assert first.world_size == 2
    assert first.sizes == SIZES
    assert len(first.seconds) == len(SIZES)
    assert first.alpha + first.beta > 0
    assert 0 < first.all_reduce(1 << 20) < 1


def test_the_slowest_rank_counts() -> None:
    assert run_ranks(lambda: cost._slowest(1.0 + dist.get_rank()), world_size=3) == [3.0, 3.0, 3.0]


def test_constants_cannot_be_measured_by_one_rank() -> None:
    assert "With one rank nothing is sent" in run_ranks(one_rank_alone, world_size=1)[0]


def one_rank_alone() -> str:
    with pytest.raises(ValueError) as error:
        measure_alpha_beta()
    return str(error.value)


@pytest.mark.slow
def test_scaling_is_measured_for_each_number_of_ranks() -> None:
    measured = measure_scaling(lambda: nn.Linear(6, 3), torch.randn(10, 6), torch.zeros(10).long(), (1, 3), steps=2)
    assert [(point.world_size, point.batch) for point in measured] == [(1, 10), (3, 10)]
    assert all(0 < point.step_seconds < 10 for point in measured)


def test_in_weak_scaling_the_batch_grows_with_the_ranks() -> None:
    inputs, targets = torch.randn(12, 6), torch.zeros(12).long()
    measured = measure_scaling(lambda: nn.Linear(6, 3), inputs, targets, (1, 3), steps=2, samples_per_rank=4)
    assert [(point.world_size, point.batch) for point in measured] == [(1, 4), (3, 12)]
    with pytest.raises(ValueError, match="batch of 12 cannot be shared by 4"):
        measure_scaling(lambda: nn.Linear(6, 3), inputs, targets, (1, 4), samples_per_rank=4)


def test_all_numbers_of_ranks_are_measured_on_one_kind_of_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert (alike(2), alike(4)) == ({}, ON_CPU)
    envs = []
    monkeypatch.setattr(cost, "run_ranks", lambda fn, world_size, env: envs.append(env) or [1.0])
    measure_scaling(lambda: nn.Linear(6, 3), torch.randn(10, 6), torch.zeros(10).long(), (1, 2, 4))
    assert envs == [ON_CPU] * 3


def test_a_batch_smaller_than_the_ranks_is_refused() -> None:
    with pytest.raises(ValueError, match="batch of 3 cannot be shared by 4"):
        measure_scaling(lambda: nn.Linear(6, 3), torch.randn(3, 6), torch.zeros(3).long(), (1, 4))
