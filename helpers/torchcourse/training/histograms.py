"""Histograms (히스토그램) of tensors, counted where the tensors are: only the counts travel to the CPU.

The bins are the same for every tensor, so nothing has to be known about its values beforehand, and nothing waits for
the device to find their range. A float32 is a sign, an exponent and a fraction; its first eleven bits (sign, exponent,
two bits of fraction) are the number of its bin. That makes four bins for each doubling of the size, from 1e-38 to 3e38.

    histograms = measure({"weights/0": layer.weight, "gradients/0": layer.weight.grad})
    histograms["gradients/0"].norm, histograms["gradients/0"].quantile(0.5)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

_SHIFT = 21  # the bits of a float32 that do not count
_HALF = 1024  # bins of one sign
_INFINITE = 255 << 2  # from this bin of each half on: inf and nan


@dataclass(frozen=True)
class Histogram:
    """How the values of a tensor are spread, in plain arrays.

    `counts[i]` of the finite values lie between `edges[i]` and `edges[i + 1]`. The moments are of the finite values.
    """

    edges: np.ndarray  # float64 [bins + 1], rising
    counts: np.ndarray  # float64 [bins], whole numbers
    low: float
    high: float
    total: float  # sum of the values
    squares: float  # sum of their squares
    not_finite: int = 0  # how many are inf or nan; TensorBoard's files do not keep it

    @property
    def number(self) -> int:
        """How many finite values there are."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        return self.total / max(self.number, 1)

    @property
    def std(self) -> float:
        """The standard deviation of the values."""
        return float(np.sqrt(max(self.squares / max(self.number, 1) - self.mean**2, 0)))

    @property
    def norm(self) -> float:
        """The length of the tensor as one vector."""
        return float(np.sqrt(self.squares))

    @cached_property
    def zeros(self) -> float:
        """The share of values that are exactly 0 (or smaller than float32 can tell from 0)."""
        here = (self.edges[:-1] >= -_TINY) & (self.edges[1:] <= _TINY)
        return float(self.counts[here].sum() / max(self.number, 1))

    def quantile(self, share: float) -> float:
        """Return the value below which this share of the values lies, as exactly as the bins allow."""
        reached = np.concatenate([[0.0], np.cumsum(self.counts)]) / max(self.number, 1)
        value = np.interp(share, reached, np.clip(self.edges, self.low, self.high))
        return float(value)


@torch.no_grad()
def measure(tensors: Mapping[str, torch.Tensor]) -> dict[str, Histogram]:
    """Return a histogram of each tensor. The device is waited for once, however many tensors there are.

    Args:
        tensors: any shapes, dense or sparse. Tensors that are empty are left out.
    """
    flat = {name: _real_numbers(tensor) for name, tensor in tensors.items() if tensor.numel()}
    if not flat:
        return {}
    counts = [_count(values) for values, _ in flat.values()]
    moments = [_moments(values) for values, _ in flat.values()]
    if len({values.device for values, _ in flat.values()}) > 1:  # a model over several devices
        counts, moments = ([each.cpu() for each in several] for several in (counts, moments))
    rows = zip(flat, torch.stack(counts).cpu().long().numpy(), torch.stack(moments).cpu().tolist(), strict=True)
    histograms = {}
    for name, row, (low, high, *sums) in rows:
        if zeros := flat[name][1]:
            row[_HALF] += zeros
            low, high = min(low, 0.0), max(high, 0.0)
        histograms[name] = _histogram(row, low, high, *sums)
    return histograms


def _real_numbers(tensor: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Return a tensor's values in one row of float32, and how many zeros it has besides, being sparse.

    A complex number is two values, and what float32 cannot hold becomes its largest number.
    """
    tensor = tensor.detach()
    if tensor.layout == torch.sparse_coo:  # the gradient of nn.Embedding(sparse=True): a few rows of a large table
        values = tensor.coalesce().values()
        zeros = tensor.numel() - values.numel()
        if not values.numel():
            values, zeros = values.new_zeros(1), zeros - 1
    else:
        values, zeros = tensor if tensor.layout == torch.strided else tensor.to_dense(), 0
    if values.is_complex():
        values, zeros = torch.view_as_real(values.resolve_conj()), 2 * zeros
    values = values.reshape(-1)
    if values.dtype == torch.float64:
        largest = torch.finfo(torch.float32).max
        values = torch.where(values.isfinite(), values.clamp(-largest, largest), values)
    return values.float(), zeros


def _count(values: torch.Tensor) -> torch.Tensor:
    """Return how many values lie in each of the 2,048 bins; int32, on the values' device, without waiting for it."""
    # The shift keeps the sign bit, so the bins of negative numbers are -1024 to -1: from small to large, as it happens.
    bins = (values.view(torch.int32) >> _SHIFT) + _HALF
    if bins.device.type == "cpu":
        return torch.bincount(bins, minlength=2 * _HALF).int()  # twice as fast, but it makes a GPU wait for its size
    one = torch.ones(1, dtype=torch.int32, device=values.device)
    return torch.zeros(2 * _HALF, dtype=torch.int32, device=values.device).index_add_(0, bins, one.expand(len(bins)))


def _moments(values: torch.Tensor) -> torch.Tensor:
    low, high = torch.aminmax(values)
    return torch.stack([low, high, values.sum(), torch.linalg.vector_norm(values)])


def _histogram(row: np.ndarray, low: float, high: float, total: float, norm: float) -> Histogram:
    below, above = row[:_HALF].astype(float), row[_HALF:].astype(float)
    not_finite = int(below[_INFINITE:].sum() + above[_INFINITE:].sum())
    below, above = below[:_INFINITE], above[:_INFINITE]
    counts = np.concatenate([below[:0:-1], [below[0] + above[0]], above[1:]])
    edges, counts = _thin_out(counts)
    squares = norm**2
    if not_finite or not np.isfinite([total, squares]).all():
        # One inf spoils the sums. What the finite values were is then known as exactly as the bins tell it.
        filled = np.flatnonzero(counts)
        middles = (edges[:-1] + edges[1:]) / 2
        if not_finite:
            low, high = (edges[filled[0]], edges[filled[-1] + 1]) if len(filled) else (0.0, 0.0)
        total, squares = float(counts @ middles), float(counts @ middles**2)
    return Histogram(edges, counts, float(low), float(high), total, squares, not_finite)


def _thin_out(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return edges and counts of the filled range alone, with fewer bins for values far smaller than the largest.

    Four bins per doubling for the upper four doublings, one for the next eight, one for every eight below: some seventy
    numbers instead of two thousand, and the eye sees no difference. What is written is what a look costs most for.
    """
    filled = np.flatnonzero(counts)
    if not len(filled):
        return np.array([-_TINY, _TINY]), np.zeros(1)
    first, last = filled[0], filled[-1] + 1  # of the edges
    largest = max(_QUARTERS[first], _QUARTERS[last])
    # Up to 31 edges further out on either side, so that there is one of the coarsest to begin and to end with.
    start, end = max(first - 31, 0), min(last + 32, len(_EDGES))
    quarters = _QUARTERS[start:end]
    step = np.where(quarters > largest - 16, 1, np.where(quarters > largest - 48, 4, 32))
    places = start + np.flatnonzero((quarters % step == 0) | (quarters == 1))
    places = places[np.searchsorted(places, first, "right") - 1 : np.searchsorted(places, last) + 1]
    reached = np.concatenate([[0.0], np.cumsum(counts[start : end - 1])])
    return _EDGES[places], np.diff(reached[places - start])


def _edges() -> np.ndarray:
    """All edges between the bins of finite values, from -3.4e38 to 3.4e38."""
    sizes = (np.arange(1, _INFINITE + 1, dtype=np.int64) << _SHIFT).astype(np.int32).view(np.float32).astype(float)
    sizes[-1] = np.finfo(np.float32).max
    return np.concatenate([-sizes[::-1], sizes])


_EDGES = _edges()
_QUARTERS = np.concatenate([np.arange(_INFINITE, 0, -1), np.arange(1, _INFINITE + 1)])
"""How many quarters of a doubling each edge is away from the smallest, on either side of 0."""
_TINY = float(_EDGES[_INFINITE])
"""The smallest edge above 0: what is nearer to 0 shares the bin of 0."""
