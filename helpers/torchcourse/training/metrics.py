"""Metrics, and means that stay right when batches are uneven or spread over ranks."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from torchcourse.training import _ranks

Metric = Callable[[torch.Tensor, torch.Tensor], torch.Tensor | float]
"""`metric(outputs, targets)`: one value a sample (a tensor of shape [N] or [N, ...]), or their mean as one number."""


def accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return whether each sample's highest score is at its label: bool, of the shape of `targets`.

    Args:
        outputs: scores [N, classes], or [N, classes, ...] with a label at each place.
        targets: labels [N] or [N, ...], integers.
    """
    return outputs.argmax(dim=1) == targets


class Averages:
    """Means of several values over many batches.

    The mean of batch means is wrong when batches differ in size, and the last is often small. So this keeps sums and
    counts. A value given for each sample counts as often as it has elements; a batch mean counts as often as the batch
    has samples. Sums and counts are added up over ranks before they are divided.

    `add` only keeps tensors and never waits for the device. `flush` does the work for all batches since the last one.
    """

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self.names = list(names)
        self.device = device
        self.totals = torch.zeros(len(self.names), 2, dtype=torch.float64)  # a sum and a count for each name
        self.pending: list[tuple] = []

    def add(self, samples: int, *values: torch.Tensor | float) -> None:
        """Keep one batch: how many samples it has, and a value for each name."""
        self.pending.append((samples, *values))

    def flush(self) -> dict[str, float]:
        """Return the means since the last flush, over all ranks; every rank has to call it. Waits for the device."""
        fresh = torch.zeros(len(self.names), 2, dtype=torch.float64, device=self.device)
        if self.pending:
            samples, *columns = zip(*self.pending, strict=True)
            for row, column in enumerate(columns):
                fresh[row, 0], fresh[row, 1] = _sum_and_count(samples, column, self.device)
            self.pending = []
        fresh = _ranks.sum_over_ranks(fresh).cpu()
        self.totals += fresh
        return self._divide(fresh)

    def means(self) -> dict[str, float]:
        """Return the means of all batches so far, over all ranks; every rank has to call it.

        Raises:
            ValueError: if no rank has had a batch.
        """
        self.flush()
        if self.totals[0, 1] == 0:
            raise ValueError("The loader did not yield a single batch: there is nothing to average.")
        return self._divide(self.totals)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, to go on within an epoch."""
        return {"totals": self.totals, "pending": self.pending}

    def load_state(self, state: dict[str, Any]) -> None:
        self.totals, self.pending = state["totals"], state["pending"]

    def _divide(self, sums: torch.Tensor) -> dict[str, float]:
        return dict(zip(self.names, (sums[:, 0] / sums[:, 1]).tolist(), strict=True))


def _sum_and_count(
    samples: Sequence[int], values: Sequence[torch.Tensor | float], device: torch.device
) -> tuple[torch.Tensor, int]:
    tensors = [torch.as_tensor(value, device=device) for value in values]
    if tensors[0].dim() > 0:
        every = torch.cat([tensor.reshape(-1) for tensor in tensors])
        return every.sum(dtype=torch.float64), every.numel()
    weights = torch.tensor(samples, dtype=torch.float64, device=device)
    return torch.stack(tensors).double() @ weights, sum(samples)
