"""What a loss divides by, so that many small batches make the gradient and the mean of one big batch.

A mean over 3 valid targets and a mean over 300 do not count alike in the mean over all 303. So a step adds up sums and
counts, over its batches and over the ranks, and divides once. Where the count comes from:

* a loss of torch, as a module, a function or a `functools.partial` of one: what torch divides by, which is the class
  weights of all targets that are not ignored, the samples, or the numbers;
* a loss that returns one value per sample, or per token: the values;
* a loss that returns `(sum, count)`: this count;
* a loss that returns one number: the samples, since the Trainer takes it for their mean. `Loss.watch` notices where it
  is not.
"""

import functools
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from torchcourse.training.containers import detached, has_number, joined, numbers_in, rows
from torchcourse.training.explanations import about_loss
from torchcourse.training.loss_buffers import LossBuffers

Count = torch.Tensor | float
"""What a sum was made of: a number, or a tensor of one, which need not be read from the device."""


LabelsToCount = tuple[torch.Tensor, torch.Tensor | None, int]
"""Targets, class weights, and the label that counts for nothing: from these, `numbers` computes what a loss divided by.

For many small batches at once that is much faster. A plain tuple, since one is made in every step."""


def numbers(values: "Sequence[Count | LabelsToCount]") -> list[float]:
    """Return counts, and tensors of one number, as numbers; waits for the device once per kind."""
    labels = [value for value in values if isinstance(value, tuple)]
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    counted, read = _count_together(labels), torch.stack(tensors).tolist() if tensors else []
    # Nearly always they are of one kind.
    if len(values) in (len(labels), len(tensors)):
        return counted or read
    counts, others = iter(counted), iter(read)
    return [
        next(others) if isinstance(value, torch.Tensor) else next(counts) if isinstance(value, tuple) else value
        for value in values
    ]


def _count_together(batches: list[LabelsToCount]) -> list[float]:
    if not batches:
        return []
    _, weight, ignored = batches[0]
    try:
        together = torch.stack([targets for targets, _, _ in batches])
    except RuntimeError:  # of unequal shapes
        together = None
    if together is None or any(own is not weight for _, own, _ in batches):
        return [_weight_of_labels(*batch).sum().item() for batch in batches]
    return _weight_of_labels(together, weight, ignored).flatten(1).sum(dim=1).tolist()


PAIR = "return (sum, count): the sum of the losses that count, and how many they are (or the sum of their weights)"


class Loss:
    """A loss function that also says what it divides by.

    Args:
        fn: `fn(outputs, targets)`: returns the batch's mean, one value per sample, or `(sum, count)`.
    """

    def __init__(self, fn: Callable[[Any, torch.Tensor], Any]) -> None:
        self.fn, self.buffers = fn, LossBuffers(fn)
        self.function, self._options = _known(fn)
        self._worst: torch.Tensor | float = 0.0  # the largest share by which the loss was no mean over samples
        self._before: tuple[Any, torch.Tensor, torch.Tensor] | None = None  # the batch before, and its loss
        self._own = False  # whether it returned one number that torch does not vouch for
        self._pair = False  # whether it returned (sum, count)
        # Where the class weights are now: those of a module may move to a different device.
        self._weighted: Any = fn if isinstance(fn, nn.Module) else SimpleNamespace(weight=self._options.get("weight"))
        # The label that counts for nothing, or None where the loss is not known to have one.
        self.ignored: int | None = self._options.get("ignore_index", -100) if self.function in _OF_LABELS else None

    def check_labels(self, outputs: Any, targets: torch.Tensor) -> None:
        """Raise IndexError for a label without a class, as torch does on the CPU. Waits for the device."""
        if self.function not in _OF_LABELS or not isinstance(outputs, torch.Tensor) or targets.is_floating_point():
            return
        classes = outputs.size(1 if outputs.dim() > 1 else 0)
        wrong = targets[(targets != self.ignored) & ((targets < 0) | (targets >= classes))]
        if len(wrong):
            raise IndexError(f"Target {int(wrong[0])} is out of bounds.")

    def counts_labels(self, targets: torch.Tensor) -> LabelsToCount | None:
        """Return what a loss of torch's for labels divides by, as `numbers` counts it; None for any other loss."""
        if self.ignored is None or targets.is_floating_point():
            return None
        return targets, self._weighted.weight, self.ignored

    def mean(self, outputs: Any, targets: torch.Tensor) -> tuple[torch.Tensor, Count | LabelsToCount]:
        """Return a batch's loss as one number, exactly as `fn` computes it, and what it was divided by."""
        value = self.fn(outputs, targets)
        if self.ignored is not None and targets.numel() <= _FEW and not (value.dim() or targets.is_floating_point()):
            return value, (targets, self._weighted.weight, self.ignored)
        if isinstance(value, tuple):
            self._pair = True
            total, count = _pair(value)
            return mean_of(total, count), count
        value = _tensor(value)
        if value.dim():
            _refuse_pairs_of_samples(value, outputs, targets)
            return value.mean(), value.numel()
        return value, self._count(outputs, targets)

    def total(self, outputs: Any, targets: torch.Tensor) -> tuple[torch.Tensor, Count]:
        """Return the sum of a batch's losses, and the count that belongs to it; a batch may count 0."""
        if self.function in _OF_LABELS and self._options.get("reduction", "mean") == "mean":
            # As a sum from the start: the mean of a batch whose targets are all ignored is not a number.
            options = self._options | {"weight": self._weighted.weight, "reduction": "sum"}
            return self.function(outputs, targets, **options), self._count(outputs, targets)
        value = self.fn(outputs, targets)
        if isinstance(value, tuple):
            self._pair = True
            return _pair(value)
        value = _tensor(value)
        if value.dim():
            _refuse_pairs_of_samples(value, outputs, targets)
            return value.sum(), value.numel()
        count = self._count(outputs, targets)
        return value * count, count

    def _count(self, outputs: Any, targets: torch.Tensor) -> Count:
        self._own = self.function is None
        if self.function in _OF_LABELS:
            return _labels(outputs, targets, self._weighted.weight, self._options.get("ignore_index", -100))
        of_numbers = self.function in _OF_NUMBERS and self._options.get("reduction") != "batchmean"
        return outputs.numel() if of_numbers else len(targets)

    @torch.no_grad()
    def watch_first(self, outputs: Any, targets: torch.Tensor, loss: torch.Tensor, parts: bool) -> None:
        """Look at the first batch of a fit: is the loss of one number a sum, or, with `parts`, no mean over samples?

        Raises:
            ValueError: if so.
        """
        if _one_column(outputs, targets) and not self._pair:
            self._refuse_every_pair(outputs, targets, loss)
        if not (self._own or self._pair) or len(targets) < 2:
            return
        middle = len(targets) // 2
        pieces = [(rows(outputs, part), targets[part]) for part in (slice(middle), slice(middle, None))]
        sizes = [middle, len(targets) - middle]
        try:
            with torch.random.fork_rng(devices=[]), self.buffers.untouched():
                found = [self.fn(*piece) for piece in pieces]
                if self._pair:
                    found.append(self.fn(outputs, targets))
        except torch.OutOfMemoryError:
            return
        except Exception as error:
            if parts and self._own:
                raise ValueError(f"The loss function fails on a part of a batch, so {_UNLIKE}") from error
            return
        if self._pair:
            return _refuse_means_as_sums([_pair(value) for value in found], sizes)
        losses = torch.stack(found)
        mean = (losses * torch.tensor(sizes, device=losses.device)).sum() / len(targets)
        if _gap(loss, mean) > _tolerance(loss) and _gap(loss, losses.sum()) <= _tolerance(loss):
            raise ValueError(
                "The loss function adds up over the batch, so its gradient would grow with the batch and shrink with "
                "the number of ranks. Return the mean over the samples, or one value for each."
            )
        if parts:
            self._note(_gap(loss, mean))
            self.check()

    def _refuse_every_pair(self, outputs: torch.Tensor, targets: torch.Tensor, loss: torch.Tensor) -> None:
        """Raise ValueError if the order of the targets does not count, while their shape does."""
        try:
            with torch.random.fork_rng(devices=[]), self.buffers.untouched():
                turned, fitting = (self.fn(outputs, other) for other in (targets.roll(1, 0), targets.view_as(outputs)))
        except Exception:
            return
        if turned.dim():  # one value per sample, whose shape says it
            return
        # Where all outputs are equal, as those of a last layer that begins at zero, no order counts. To a right loss
        # the other shape is then every pair, whose mean is the same, and whose sum is N times as large.
        same = torch.stack([_gap(fitting, loss), _gap(fitting, loss * len(targets))]).min()
        if _gap(loss, turned) <= _tolerance(loss) / 100 and same > _tolerance(loss):
            raise about_loss(ValueError(_EVERY_PAIR), outputs, targets)

    @torch.no_grad()
    def watch(self, outputs: Any, targets: torch.Tensor, loss: torch.Tensor) -> None:
        """Look at a batch among several that make up a step, without waiting for the device; `check` tells.

        Together with the batch before, a mean over samples has to be the mean of both.

        Raises:
            ValueError: if the two cannot be put together.
        """
        if not self._own:
            return
        before, self._before = self._before, (detached(outputs), targets, loss.detach())
        if before is None:
            return
        few = [max(1, _LOOK // max(1, numbers_in(batch[0]) // len(batch[1]))) for batch in (before, self._before)]
        try:
            with torch.random.fork_rng(devices=[]), self.buffers.untouched():
                pieces = [
                    (rows(batch[0], slice(count)), batch[1][:count])
                    for count, batch in zip(few, (before, self._before), strict=True)
                ]
                losses = [
                    batch[2] if count >= len(batch[1]) else self.fn(*piece)
                    for piece, count, batch in zip(pieces, few, (before, self._before), strict=True)
                ]
                sizes = [len(piece[1]) for piece in pieces]
                of_both = self.fn(joined([piece[0] for piece in pieces]), torch.cat([piece[1] for piece in pieces]))
        except torch.OutOfMemoryError:
            return
        except Exception as error:
            if before[1].shape[1:] == targets.shape[1:]:
                reason = "fails on two batches together"
            else:
                reason = f"gets targets of shapes {list(before[1].shape)} and {list(targets.shape)}"
            raise ValueError(f"The loss function {reason}, so {_UNLIKE}") from error
        mean = (losses[0] * sizes[0] + losses[1] * sizes[1]) / sum(sizes)
        self._note(_gap(of_both, mean) * (1e-3 / _tolerance(loss)))

    def check(self) -> None:
        """Raise ValueError if the loss was seen to be no mean over samples. Waits for the device."""
        if self._worst and float(self._worst) > 1e-3:
            of_batch = _OF_BATCH if self._before is not None and has_number(self._before[0]) else ""
            raise ValueError(
                f"The loss function's value for a batch is not the mean over its samples, so {_UNLIKE}{of_batch}"
            )

    def _note(self, gap: torch.Tensor) -> None:
        worst = torch.as_tensor(self._worst, device=gap.device, dtype=gap.dtype)
        self._worst = torch.maximum(worst, gap.nan_to_num(0.0))


_UNLIKE = (
    "batches that make up a step together (accumulate, or several ranks) would not give the gradient of one big batch. "
    f"Class weights, ignored targets and padding do this. Let the loss function {PAIR}; or use torch's own loss."
)
_OF_BATCH = (
    " Or it is the number that the model returns for a whole batch, which cannot be put together with that of another: "
    "let the model return one for each sample."
)
_LOOK = 2**20  # numbers of outputs that a look compares
_FEW = 2**12  # labels that a batch may have, to be kept until they are counted


_EVERY_PAIR = "it compares each output with each target (broadcasting)."


def _one_column(outputs: Any, targets: torch.Tensor) -> bool:
    """Whether [N, 1] meets [N], which together make N × N numbers."""
    one, many = (len(targets), 1), (len(targets),)
    return isinstance(outputs, torch.Tensor) and {outputs.shape, targets.shape} == {one, many} and one != (1, 1)


def _refuse_pairs_of_samples(values: torch.Tensor, outputs: Any, targets: torch.Tensor) -> None:
    if values.dim() == 2 and _one_column(outputs, targets) and values.shape == (len(targets), len(targets)):
        raise ValueError(_EVERY_PAIR)


def _refuse_means_as_sums(pairs: list[tuple[torch.Tensor, Count]], sizes: list[int]) -> None:
    """Raise ValueError if the first of (sum, count) is no sum, as those of two parts and of the whole batch tell."""
    whole, of_whole = pairs[-1]
    if of_whole == 1:  # the batch counts as one, and its mean is divided by nothing
        return
    sums = torch.stack([total for total, _ in pairs[:-1]])
    counts = torch.stack([torch.as_tensor(count, device=sums.device) for _, count in pairs[:-1]])
    weights = (counts, torch.tensor(sizes, device=sums.device))
    is_mean = any(_gap(whole, (sums * weight).sum() / weight.sum()) <= _tolerance(whole) for weight in weights)
    if is_mean and _gap(whole, sums.sum()) > _tolerance(whole):
        raise ValueError(
            "The loss function returns two numbers, which the Trainer takes for (sum, count), but the first is the "
            "mean of the batch, so its gradient would be divided again. Return the mean alone, or the sum "
            "(reduction='sum') and its count. Add a second loss to the first: loss + 0.1 * other."
        )


_OF_LABELS = {F.cross_entropy, F.nll_loss}
_OF_NUMBERS = {
    *(F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, F.kl_div, F.poisson_nll_loss, F.soft_margin_loss),
    *(F.binary_cross_entropy, F.binary_cross_entropy_with_logits),
}
_OF_SAMPLES = {F.multi_margin_loss, F.multilabel_margin_loss, F.multilabel_soft_margin_loss}
_MODULES: dict[type, Callable] = {
    nn.CrossEntropyLoss: F.cross_entropy,
    nn.NLLLoss: F.nll_loss,
    nn.MSELoss: F.mse_loss,
    nn.L1Loss: F.l1_loss,
    nn.SmoothL1Loss: F.smooth_l1_loss,
    nn.HuberLoss: F.huber_loss,
    nn.KLDivLoss: F.kl_div,
    nn.PoissonNLLLoss: F.poisson_nll_loss,
    nn.SoftMarginLoss: F.soft_margin_loss,
    nn.BCELoss: F.binary_cross_entropy,
    nn.BCEWithLogitsLoss: F.binary_cross_entropy_with_logits,
    nn.MultiMarginLoss: F.multi_margin_loss,
    nn.MultiLabelMarginLoss: F.multilabel_margin_loss,
    nn.MultiLabelSoftMarginLoss: F.multilabel_soft_margin_loss,
}
_OPTIONS = ("weight", "ignore_index", "label_smoothing", "reduction")


def _known(fn: Any) -> tuple[Any, dict[str, Any]]:
    """Return the function of torch that computes a loss, and its options; (None, {}) for what torch does not divide."""
    if function := _MODULES.get(type(fn)):  # not for a subclass, which may compute something else
        return function, {name: getattr(fn, name) for name in _OPTIONS if hasattr(fn, name)}
    options: dict[str, Any] = {}
    if isinstance(fn, functools.partial):
        if fn.args:
            return None, {}
        fn, options = fn.func, fn.keywords
    if not any(fn is one for one in _OF_LABELS | _OF_NUMBERS | _OF_SAMPLES) or options.keys() & {
        "size_average",
        "reduce",
    }:
        return None, {}
    weighted = "weight" in options and fn not in _OF_LABELS | _WEIGHTS_DIVIDE_NOTHING
    return (None, {}) if weighted else (fn, options)


_WEIGHTS_DIVIDE_NOTHING = {F.binary_cross_entropy, F.binary_cross_entropy_with_logits, *_OF_SAMPLES}


def _labels(outputs: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor | None, ignored: int) -> Count:
    """Return what cross entropy divides by: the weights of all labels that are not ignored."""
    if targets.is_floating_point():  # probabilities of the classes, at each place
        return outputs.numel() // outputs.size(1)
    return _weight_of_labels(targets, weight, ignored).sum()


def _weight_of_labels(targets: torch.Tensor, weight: torch.Tensor | None, ignored: int) -> torch.Tensor:
    """Return what each label counts: of the shape of `targets`; bool without weights."""
    counts = targets != ignored
    return counts if weight is None else weight[targets.where(counts, 0)].where(counts, 0)


def reduction(fn: Any) -> str:
    """Return how a loss of torch, or a module like one, puts a batch's losses together: "mean", "sum" …"""
    options = fn.keywords if isinstance(fn, functools.partial) else {}
    return str(options.get("reduction") or getattr(fn, "reduction", "mean"))


def mean_of(total: torch.Tensor, count: Count) -> torch.Tensor:
    """Return the mean; 0 of nothing."""
    if isinstance(count, torch.Tensor):
        return total / count.where(count != 0, 1)
    return total / (count or 1)


def _tensor(value: Any) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"it returned a {type(value).__name__} instead of a tensor.")
    return value


def _pair(value: tuple) -> tuple[torch.Tensor, Count]:
    if len(value) != 2 or not isinstance(value[1], torch.Tensor | int | float):
        raise TypeError(f"it returned a tuple of {len(value)} instead of a tensor or (sum, count).")
    total, count = _tensor(value[0]), value[1]
    if total.dim() or (isinstance(count, torch.Tensor) and count.dim()):
        raise TypeError("the sum and the count that it returned have to be one number each.")
    return total, count.detach() if isinstance(count, torch.Tensor) else count


def _gap(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return how far two numbers are apart, as a share of the larger."""
    left, right = (value.to(widest(value.device)) for value in (left, right))
    return (left - right).abs() / torch.maximum(left.abs(), right.abs()).clamp_min(1e-12)


def widest(device: torch.device) -> torch.dtype:
    """Return the type to add up in: float64, but float32 on Apple's MPS, which has none."""
    return torch.float32 if device.type == "mps" else torch.float64


def _tolerance(loss: torch.Tensor) -> float:
    return 1e-3 if loss.dtype in (torch.float32, torch.float64) else 3e-2
