"""Metrics, and means that stay right when batches are uneven or spread over ranks."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from torchcourse.ranks import who

Metric = Callable[[Any, torch.Tensor], torch.Tensor | float]
"""`metric(outputs, targets)`: one value per sample (a tensor of shape [N] or [N, ...]), or their mean as one number.

It may be given several batches at once."""


def accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return whether each sample's highest score is at its label: bool, of the shape of `targets`.

    Args:
        outputs: scores [N, classes], or [N, classes, ...] with a label at each place.
        targets: labels [N] or [N, ...], integers.

    Raises:
        ValueError: for targets that are not labels.
    """
    if targets.is_floating_point():
        raise ValueError(
            f"accuracy() compares with whole-number labels, but the targets are {targets.dtype}. Give the Trainer "
            "metrics={}, or a metric of your own."
        )
    return outputs.argmax(dim=1) == targets


class Averages:
    """Means of the loss and of metrics over many batches.

    The mean of batch means is wrong when batches differ in size, and the last is often small. So this keeps sums and
    counts. The mean of a batch counts as often as the batch has samples; of values for each sample, every one counts.
    Sums and counts are added up over the ranks before they are divided.

    `add` is quick, and never waits for the device. `flush` does the work for all batches since the last one.
    """

    def __init__(self, metrics: Mapping[str, Metric], device: torch.device) -> None:
        self.metrics, self.device = metrics, device
        self.names = ["loss", *metrics]
        self.losses: list[tuple[int, torch.Tensor]] = []  # samples and mean loss of each batch since the last flush
        self._batches: list[tuple[Any, torch.Tensor]] = []  # outputs and targets that no metric has seen yet
        self._held: float = 0  # numbers in these outputs
        # For each metric, sums and counts since the last flush; for each name, those of all flushes, over all ranks.
        self._parts: list[list[tuple[torch.Tensor, int]]] = [[] for _ in metrics]
        self._totals = [[0.0, 0.0] for _ in self.names]

    def add(self, outputs: Any, targets: torch.Tensor, loss: torch.Tensor) -> None:
        """Take in a batch: outputs [N, ...], targets [N, ...] and the mean loss."""
        self.losses.append((targets.size(0), loss.detach()))
        if not self.metrics:
            return
        if isinstance(outputs, torch.Tensor):
            self._batches.append((outputs.detach(), targets))
            self._held += outputs.numel()
        else:
            self._batches.append((outputs, targets))
            self._held = math.inf
        if self._held > _HOLD:
            self._apply_metrics()

    def flush(self) -> dict[str, float]:
        """Return the means since the last flush, over all ranks; every rank has to call it. Waits for the device."""
        self._apply_metrics()
        sums = [_sum_and_count(parts) for parts in self._parts]
        samples = [count for count, _ in self.losses]
        losses = torch.stack([loss for _, loss in self.losses]).tolist() if samples else []
        sums.insert(0, [sum(count * loss for count, loss in zip(samples, losses, strict=True)), sum(samples)])
        sums = who.sum_over_ranks(sums, self.device)
        for total, fresh in zip(self._totals, sums, strict=True):
            total[0] += fresh[0]
            total[1] += fresh[1]
        self.losses, self._parts = [], [[] for _ in self.metrics]
        return self._means(sums)

    def means(self) -> dict[str, float]:
        """Return the means of all batches so far, over all ranks; every rank has to call it.

        Raises:
            ValueError: if no rank has had a batch.
        """
        self.flush()
        if self._totals[0][1] == 0:
            raise ValueError("The loader did not yield a single batch: there is nothing to average.")
        return self._means(self._totals)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, to go on within an epoch."""
        return {
            "names": self.names,
            "losses": self.losses,
            "batches": self._batches,
            "parts": self._parts,
            "totals": self._totals,
        }

    def load_state(self, states: list[dict[str, Any]]) -> None:
        """Take over what `state` returned on each rank, for the same metrics.

        Sums over the ranks are still to be made, so with a different number of ranks the first takes everything.
        """
        self._totals = states[0]["totals"]
        rank, same = who.rank(), len(states) == who.world_size()
        for state in states[rank : rank + 1] if same else states if rank == 0 else []:
            self.losses += [(samples, loss.to(self.device)) for samples, loss in state["losses"]]
            self._batches += [
                (outputs.to(self.device), targets.to(self.device)) for outputs, targets in state["batches"]
            ]
            self._parts = [own + saved for own, saved in zip(self._parts, state["parts"], strict=True)]
        self._held = sum(outputs.numel() for outputs, _ in self._batches)

    @torch.no_grad()
    def _apply_metrics(self) -> None:
        for outputs, targets in _joined(self._batches):
            for parts, metric in zip(self._parts, self.metrics.values(), strict=True):
                values = metric(outputs, targets)
                if isinstance(values, torch.Tensor) and values.dim() > 0:
                    parts.append((values.sum(dtype=torch.float64), values.numel()))
                else:
                    parts.append((torch.as_tensor(values).double() * len(targets), len(targets)))
        self._batches, self._held = [], 0

    def _means(self, sums: list[list[float]]) -> dict[str, float]:
        means = [total / count if count else math.nan for total, count in sums]
        return dict(zip(self.names, means, strict=True))


# A metric on one small batch costs about as much as on fifty: so outputs are kept until there are this many numbers.
_HOLD = 2**16


def _joined(batches: list[tuple[Any, torch.Tensor]]) -> list[tuple[Any, torch.Tensor]]:
    """Make one batch of many, if their samples have the same shape."""
    if len(batches) < 2:
        return batches
    outputs, targets = zip(*batches, strict=True)
    try:
        return [(torch.cat(outputs), torch.cat(targets))]
    except RuntimeError:  # sequences of unequal lengths, for example
        return batches


def _sum_and_count(parts: list[tuple[torch.Tensor, int]]) -> list[float]:
    return [sum(total.item() for total, _ in parts), sum(count for _, count in parts)]
