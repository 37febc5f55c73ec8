"""Metrics, and means that stay right when batches are uneven or spread over ranks."""

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch

from torchcourse.ranks import who
from torchcourse.training import losses
from torchcourse.training.containers import joined, mapped, rows, tensors
from torchcourse.training.explanations import shapes
from torchcourse.training.losses import Count, LabelsToCount, numbers

Metric = Callable[[Any, torch.Tensor], torch.Tensor | float | tuple[torch.Tensor | float, Count]]
"""`metric(outputs, targets)`: one value per sample (a tensor of shape [N] or [N, ...]), their mean as one number, or
`(sum, count)`.

It may be given several batches at once. Values of the targets' shape are left out where the loss ignores the target.
What is no mean over samples (F1, AUC) is computed by `OverAll`."""


def accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return whether each sample's highest score is at its label: bool, of the shape of `targets`.

    Args:
        outputs: scores [N, classes], or [N, classes, ...] with a label at each place.
        targets: labels [N] or [N, ...], integers.

    Raises:
        ValueError: for targets that are not labels, or not one for each place.
    """
    if targets.is_floating_point():
        raise ValueError(
            f"accuracy() compares with whole-number labels, but the targets are {targets.dtype}. Give the Trainer "
            "metrics={}, or a metric of your own."
        )
    if outputs.dim() < 2 or outputs.size(1) < 2:
        raise ValueError(
            f"accuracy() looks for the highest of several scores, but each sample has one: {shapes(outputs)}. Give the "
            "Trainer a metric of your own, such as (outputs.flatten() > 0) == targets."
        )
    best = outputs.argmax(dim=1)
    if best.shape != targets.shape:
        raise ValueError(
            f"accuracy() takes scores [N, classes, …] and labels [N, …], not {shapes(outputs)} and {shapes(targets)}. "
            "Classes in the last place go to the second by outputs.movedim(-1, 1): give the Trainer a metric that does."
        )
    return best == targets


class OverAll:
    """A metric that is no mean over samples, such as F1 or AUC: computed once, over all outputs of an evaluation.

        Trainer(…, metrics={"f1": OverAll(macro_f1)}, monitor="val_f1", mode="max")

    Every evaluation keeps all its outputs and targets on the CPU, and on several ranks gathers them on each. While
    training nothing is computed, since the model changes in between.

    Args:
        metric: `metric(outputs, targets)` of all samples, as one number.
    """

    def __init__(self, metric: Callable[[Any, torch.Tensor], torch.Tensor | float]) -> None:
        self.metric = metric

    def of(self, batches: list[tuple[Any, torch.Tensor]]) -> float:
        """Return the metric of all batches, of all ranks together; every rank has to call it."""
        batches = [batch for share in who.gather(batches) for batch in share]
        try:
            outputs = joined([batch[0] for batch in batches])
            targets = torch.cat([batch[1] for batch in batches])
        except (RuntimeError, TypeError) as error:
            error.add_note(
                "OverAll puts all batches together: outputs and targets have to be tensors of one shape per sample."
            )
            raise
        value = self.metric(outputs, targets)
        try:
            return float(value)
        except (RuntimeError, TypeError, ValueError):
            raise ValueError(
                f"A metric in OverAll returned {shapes(value)}, and has to return one number. Of one value per class, "
                "make a metric for each class, or return their mean."
            ) from None


class Averages:
    """Means of the loss and of metrics over many batches.

    The mean of batch means is wrong when batches differ in size, and the last is often small. So this keeps sums and
    counts. The mean of a batch counts as often as the batch has samples; of values for each sample, every one counts.
    Sums and counts are added up over the ranks before they are divided.

    `add` is quick, and never waits for the device. `flush` does the work for all batches since the last one.

    Args:
        metrics: by name.
        device: of the batches.
        ignored: the label at which nothing counts.
        evaluation: whether `OverAll` metrics are computed.
    """

    def __init__(
        self,
        metrics: Mapping[str, Metric | OverAll],
        device: torch.device,
        ignored: int | None = None,
        evaluation: bool = False,
    ) -> None:
        self.metrics: dict[str, Metric] = {
            n: metric for n, metric in metrics.items() if not isinstance(metric, OverAll)
        }
        self.device, self.ignored = device, ignored
        self._over_all = {n: metric for n, metric in metrics.items() if isinstance(metric, OverAll) and evaluation}
        self._all: list[tuple[Any, torch.Tensor]] = []  # outputs and targets for these
        self.names = ["loss", *self.metrics]
        self.losses: list[
            tuple[Count | LabelsToCount, torch.Tensor]
        ] = []  # count and mean loss of each batch since the last flush
        self._batches: list[tuple[Any, torch.Tensor]] = []  # outputs and targets that no metric has seen yet
        self._held: float = 0  # numbers in these outputs
        self._had_batches = False  # at the last flush
        self._looked = False  # whether metrics of one number were seen to be means
        self._all_count = bool(self.metrics)  # whether the metrics have seen no ignored label since the last flush
        # For each metric, sums and counts since the last flush; for each name, those of all flushes, over all ranks.
        self._parts: list[list[tuple[torch.Tensor, Count]]] = [[] for _ in self.metrics]
        self._totals = [[0.0, 0.0] for _ in self.names]

    def add(
        self, outputs: Any, targets: torch.Tensor, loss: torch.Tensor, count: Count | LabelsToCount | None = None
    ) -> None:
        """Take in a batch: outputs [N, ...], targets [N, ...], the mean loss, and what it counts (None: N)."""
        self.losses.append((targets.size(0) if count is None else count, loss.detach()))
        if self._over_all:
            self._all.append((mapped(_on_cpu, outputs), targets.cpu()))
        if not self.metrics:
            return
        if isinstance(outputs, torch.Tensor):
            self._batches.append((outputs.detach(), targets))
            self._held += outputs.numel()
        else:
            self._batches.append((outputs, targets))
            self._held = math.inf
        if self._held > _HOLD:
            self.apply_metrics()

    def flush(self) -> dict[str, float]:
        """Return the means since the last flush, over all ranks; every rank has to call it. Waits for the device."""
        self.apply_metrics()
        sums = [_sum_and_count(parts) for parts in self._parts]
        counts = self._counts()
        losses = numbers([loss for _, loss in self.losses])
        sums.insert(0, [sum(count * loss for count, loss in zip(counts, losses, strict=True)), sum(counts)])
        sums = who.sum_over_ranks(sums, self.device)
        for total, fresh in zip(self._totals, sums, strict=True):
            total[0] += fresh[0]
            total[1] += fresh[1]
        self._had_batches = self._had_batches or bool(self.losses)
        self.losses, self._parts = [], [[] for _ in self.metrics]
        self._all_count = bool(self.metrics)
        return self._means(sums)

    def means(self) -> dict[str, float]:
        """Return the means of all batches so far, over all ranks; every rank has to call it.

        Raises:
            ValueError: if no rank has had a batch, or nothing in them counts.
        """
        self.flush()
        if self._totals[0][1] == 0:
            raise ValueError(_NOTHING_COUNTS if self._had_batches else _NO_BATCH)
        return self._means(self._totals) | {name: metric.of(self._all) for name, metric in self._over_all.items()}

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, to go on within an epoch."""
        counts = self._counts()
        return {
            "names": self.names,
            "losses": [(count, loss) for count, (_, loss) in zip(counts, self.losses, strict=True)],
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
            self.losses += [(count, loss.to(self.device)) for count, loss in state["losses"]]
            self._batches += [
                (outputs.to(self.device), targets.to(self.device)) for outputs, targets in state["batches"]
            ]
            self._parts = [own + saved for own, saved in zip(self._parts, state["parts"], strict=True)]
        self._held = sum(outputs.numel() for outputs, _ in self._batches)

    @torch.no_grad()
    def apply_metrics(self) -> None:
        """Compute the metrics of the batches that none has seen yet."""
        for outputs, targets in _joined(self._batches):
            # Nearly always no label is ignored: one look costs less than to count for each metric and for the loss.
            whole = self._nothing_ignored(targets)
            self._all_count = self._all_count and whole
            for parts, (name, metric) in zip(self._parts, self.metrics.items(), strict=True):
                values = applied(name, metric, outputs, targets)
                if not self._looked:
                    check_value(name, metric, values, outputs, targets)
                parts.append(self._sum(metric, values, targets, whole))
            self._looked = True
        self._batches, self._held = [], 0

    def _nothing_ignored(self, targets: torch.Tensor) -> bool:
        """Return whether it is known that every target counts; a GPU is not waited for to learn it."""
        if targets.device.type != "cpu" or targets.is_floating_point():
            return False
        return not (targets == (_USUAL if self.ignored is None else self.ignored)).any().item()

    def _counts(self) -> list[float]:
        """Return what each batch's loss counts. Metrics that saw no ignored label have counted the labels already."""
        counts: list[Count | LabelsToCount] = [count for count, _ in self.losses]
        if self._all_count and not self._batches:
            counts = [count[0].numel() if isinstance(count, tuple) and count[1] is None else count for count in counts]
        return numbers(counts)

    def _sum(self, metric: Metric, values: Any, targets: torch.Tensor, whole: bool) -> tuple[torch.Tensor, Count]:
        """Return the sum of a metric's values, and how many count; `whole`: no target is to be ignored."""
        if isinstance(values, tuple):
            return _wide(values[0]), values[1]
        if not isinstance(values, torch.Tensor) or values.dim() == 0:
            return _wide(values) * len(targets), len(targets)
        if whole and values.dtype == torch.bool:
            return values.sum(), values.numel()  # whole numbers, which is quicker
        dtype = losses.widest(values.device)
        ignored = _USUAL if self.ignored is None and metric is accuracy else self.ignored
        if whole or ignored is None or values.shape != targets.shape or targets.is_floating_point():
            return values.sum(dtype=dtype), values.numel()
        counts = (targets != ignored).to(values.device)
        return values.where(counts, 0).sum(dtype=dtype), counts.sum()

    def _means(self, sums: list[list[float]]) -> dict[str, float]:
        means = [total / count if count else math.nan for total, count in sums]
        return dict(zip(self.names, means, strict=True))


def applied(name: str, metric: Metric, outputs: Any, targets: torch.Tensor) -> Any:
    """Return a metric's value, NumPy's as tensors.

    Raises:
        ValueError: for outputs in a container that the metric does not take apart.
    """
    try:
        return mapped(_as_tensor, metric(outputs, targets))
    except (AttributeError, TypeError) as error:
        if isinstance(outputs, torch.Tensor):
            raise
        raise ValueError(
            f"The metric {name!r} cannot take the model's outputs, {shapes(outputs)}: {error}. Give the Trainer "
            "metrics={}, or a metric that takes them apart."
        ) from error


def _as_tensor(value: Any) -> Any:
    return torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray | np.generic) else value


def check_value(name: str, metric: Callable[..., Any], value: Any, outputs: Any, targets: torch.Tensor) -> None:
    """Raise ValueError for a value of which no mean can be made: `applied` returned it for these samples."""
    pair = isinstance(value, tuple) and len(value) == 2
    total, *count = value if pair else (value,)
    if pair and isinstance(total, torch.Tensor):
        total = total.squeeze()  # a sum over outputs [N, 1] has the shape [1]
    numbers = [_is_number(one) for one in (total, *count)]
    if not all(numbers) and (pair or not isinstance(value, torch.Tensor) or len(value) != len(targets)):
        raise ValueError(
            f"The metric {name!r} returned {shapes(value)} for {len(targets)} samples. It has to return one row per "
            "sample, as a tensor or an array of NumPy, the batch's mean as one number, or (sum, count)."
        )
    check_mean(name, metric, value, outputs, targets)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) or (isinstance(value, torch.Tensor) and value.dim() == 0)


@torch.no_grad()
def check_mean(name: str, metric: Callable[..., Any], whole: Any, outputs: Any, targets: torch.Tensor) -> None:
    """Raise ValueError if a metric of one number is no mean over samples: then means of it are not its value.

    `whole`, its value for these samples, has to be the mean of what it is for two parts of them.
    """
    if len(targets) < 2 or isinstance(whole, tuple) or (isinstance(whole, torch.Tensor) and whole.dim()):
        return
    cut = (len(targets) + 2) // 3
    try:
        left, right = (float(metric(rows(outputs, part), targets[part])) for part in (slice(cut), slice(cut, None)))
    except torch.OutOfMemoryError:
        return
    except Exception as error:
        raise ValueError(f"The metric {name!r} fails on a part of a batch, so {_OVER_ALL}") from error
    value, mean = float(whole), (left * cut + right * (len(targets) - cut)) / len(targets)
    exact = not isinstance(whole, torch.Tensor) or whole.dtype in (torch.float32, torch.float64)
    if abs(value - mean) > (1e-4 if exact else 3e-2) * max(abs(value), abs(mean)):
        raise ValueError(
            f"The metric {name!r} is {value:.4g} for {len(targets)} samples, but its mean over two parts of them is "
            f"{mean:.4g}, so {_OVER_ALL}"
        )


@torch.no_grad()
def check_rows(name: str, metric: Callable[..., Any], whole: torch.Tensor, outputs: Any, targets: torch.Tensor) -> None:
    """Raise ValueError if a metric has as many rows as there are samples by chance: of a part it has others."""
    if len(targets) < 2 or any(one.dim() and len(one) != len(targets) for one in tensors(outputs)):
        return  # no part can be told, or none can be cut out of outputs that are not one per sample
    few = (len(targets) + 2) // 3
    try:
        part = metric(rows(outputs, slice(few)), targets[:few])
    except Exception:  # of whatever kind: it takes whole batches only
        return
    if getattr(part, "shape", None) != (few, *whole.shape[1:]):
        raise ValueError(
            f"The metric {name!r} returned {shapes(whole)} for {len(targets)} samples, and {shapes(part)} for {few} of "
            "them. It has to return one row per sample: not one per class, nor each output compared with each target."
        )


def _on_cpu(value: Any) -> Any:
    return value.detach().cpu() if isinstance(value, torch.Tensor) else value


_NO_BATCH = (
    "The loader did not yield a single batch: there is nothing to average. An iterator, such as a generator, yields "
    "its batches once: give a DataLoader or a list, which can be gone through again."
)
_NOTHING_COUNTS = (
    "Nothing in the loader's batches counts: there is nothing to average. Is every target the label that the loss "
    "ignores, or every count 0?"
)
_OVER_ALL = (
    "a mean over batches would not be its value. Let it return one value per sample, or (sum, count); or, for what is "
    "no mean, such as F1 or AUC, let OverAll(metric) compute it over the whole validation set."
)

_USUAL = -100  # the label that torch's losses ignore unless told otherwise

# A metric on one small batch costs about as much as on fifty: so outputs are kept until there are this many numbers.
_HOLD = 2**16


def _wide(value: torch.Tensor | float) -> torch.Tensor:
    value = torch.as_tensor(value)
    return value.to(losses.widest(value.device))


def _joined(batches: list[tuple[Any, torch.Tensor]]) -> list[tuple[Any, torch.Tensor]]:
    """Make one batch of many, if their samples have the same shape and are what the outputs' first dimension counts."""
    if len(batches) < 2 or any(outputs.shape[:1] != targets.shape[:1] for outputs, targets in batches):
        return batches
    outputs, targets = zip(*batches, strict=True)
    try:
        return [(torch.cat(outputs), torch.cat(targets))]
    except RuntimeError:  # sequences of unequal lengths, for example
        return batches


def _sum_and_count(parts: list[tuple[torch.Tensor, Count]]) -> list[float]:
    return [sum(total.item() for total, _ in parts), sum(numbers([count for _, count in parts]))]
