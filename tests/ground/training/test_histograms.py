"""Histograms counted on the device agree with numpy's, whatever the values are."""

import warnings

import numpy as np
import pytest
import torch

from torchcourse.training.histograms import measure

CASES = {
    "weights": torch.randn(5000, generator=torch.Generator().manual_seed(0)) * 0.05,
    "tiny gradients": torch.randn(5000, generator=torch.Generator().manual_seed(1)) * 1e-11,
    "very different sizes": torch.logspace(-30, 30, 301) * torch.tensor([1.0, -1.0, 1.0] * 101)[:301],
    "far from zero": 5 + torch.rand(1000, generator=torch.Generator().manual_seed(2)),
    "half of them zero": torch.relu(torch.randn(1000, generator=torch.Generator().manual_seed(3))),
    "half precision": torch.randn(100, generator=torch.Generator().manual_seed(4)).bfloat16(),
    "the largest there are": torch.tensor([3.4e38, -3.4e38, 1.0]),
}


@pytest.mark.parametrize("name", CASES)
def test_counts_and_moments_are_numpys(name):
    values = CASES[name].double().numpy()
    histogram = measure({"x": CASES[name]})["x"]
    counts, _ = np.histogram(values, histogram.edges)
    assert abs(counts - histogram.counts).max() <= 1  # a negative number on an edge counts to the other side
    assert histogram.number == len(values)
    assert histogram.low == pytest.approx(values.min())
    assert histogram.high == pytest.approx(values.max())
    if name not in ("the largest there are", "very different sizes"):  # whose squares are no float32
        assert histogram.mean == pytest.approx(values.mean(), rel=1e-4, abs=1e-6 * values.std())
        assert histogram.std == pytest.approx(values.std(), rel=1e-4)
        assert histogram.norm == pytest.approx(np.linalg.norm(values), rel=1e-4)
    assert histogram.zeros == pytest.approx((values == 0).mean())


def test_it_stays_small():
    assert max(len(histogram.counts) for histogram in measure(CASES).values()) < 220
    assert len(measure(CASES)["weights"].counts) < 110


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_quantiles_are_within_a_bin(share):
    values = CASES["weights"]
    expected = torch.quantile(values, share).item()
    assert measure({"x": values})["x"].quantile(share) == pytest.approx(expected, rel=0.25, abs=0.001)


def test_infinite_values_are_counted_apart_and_spoil_nothing():
    values = torch.tensor([1.0, -2.0, float("inf"), float("nan"), 0.0, -float("inf")])
    histogram = measure({"x": values})["x"]
    assert (histogram.number, histogram.not_finite) == (3, 3)
    assert histogram.low <= -2.0 < 1.0 <= histogram.high
    assert histogram.norm == pytest.approx(5**0.5, rel=0.2)
    assert measure({"x": torch.full((4,), float("nan"))})["x"].number == 0


def test_empty_tensors_are_left_out():
    assert measure({"x": torch.empty(0)}) == {}
    assert measure({"x": torch.empty(0), "y": torch.ones(2)}).keys() == {"y"}


@pytest.mark.gpu
def test_a_gpu_counts_as_the_cpu_does():
    for name, values in CASES.items():
        here, there = measure({"x": values})["x"], measure({"x": values.cuda()})["x"]
        assert (here.counts == there.counts).all(), name
        assert here.edges.tolist() == there.edges.tolist()


@pytest.mark.gpu
def test_a_gpu_is_waited_for_at_the_end_only():
    tensors = {name: values.cuda() for name, values in CASES.items()}
    measure(tensors)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            measure(tensors)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(waits) <= 2  # one for the counts, one for the moments


def dense_and_sparse():
    table = torch.nn.Embedding(50, 4, sparse=True)
    table(torch.tensor([1, 7, 1])).square().sum().backward()
    gradient = table.weight.grad
    assert gradient is not None
    return gradient.to_dense(), gradient


def test_a_sparse_gradient_counts_as_the_dense_one():
    dense, sparse = (measure({"x": gradient})["x"] for gradient in dense_and_sparse())
    assert sparse.counts.tolist() == dense.counts.tolist()
    assert (sparse.low, sparse.high, sparse.number) == (dense.low, dense.high, 200)
    assert sparse.norm == pytest.approx(dense.norm)
    assert sparse.zeros == dense.zeros > 0.9
    empty = torch.zeros(3, 3).to_sparse()
    assert measure({"x": empty})["x"].zeros == 1
    assert measure({"x": empty})["x"].number == 9


def test_complex_numbers_keep_both_their_parts():
    numbers = torch.tensor([3 + 4j, -1j])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        histogram = measure({"x": numbers.conj()})["x"]
    assert (histogram.number, histogram.low, histogram.high) == (4, -4, 3)
    assert histogram.norm == pytest.approx(numbers.norm().item())


def test_large_numbers_of_double_precision_are_not_called_infinite():
    histogram = measure({"x": torch.tensor([1e300, 1.0, -1e200], dtype=torch.float64)})["x"]
    assert (histogram.number, histogram.not_finite) == (3, 0)
    assert measure({"x": torch.tensor([float("inf"), 1.0], dtype=torch.float64)})["x"].not_finite == 1
