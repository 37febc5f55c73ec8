"""Invariants of what the model makes of its inputs. Each rule yields alarms."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from torchcourse.lessons.troubleshooting.torch_calls import DROPOUTS, TorchCalls, drops
from torchcourse.lessons.troubleshooting.training_records import Call, Loss, Pass
from torchcourse.lessons.troubleshooting.watched_run import Alarm, WatchedRun, listed

MIXES_AT_LEAST = 1e-3  # of the outputs' size, in float32; half a percent of rounding is normal in bfloat16
SHORT_MIXES_AT_LEAST = 5e-2
ALL = slice(None)
SHIFTED = 0.95  # of the positions whose target is the next input, where the next one is to be foretold


def different_outputs(run: WatchedRun) -> Iterator[Alarm]:
    """Different samples have different outputs, and different units different weights."""
    last = [seen for seen in run.record.trained[-3:] if seen.output is not None and seen.output.dim() > 1]
    same = [seen.output for seen in last if _constant(seen.output, 1e-6) and not _constant(seen.inputs, 0.0)]
    if last and len(same) == len(last):
        yield Alarm("same_output", "The model puts out the same numbers for every sample: nothing gets through.")
    alike = [
        name
        for name, p in run.model.named_parameters()
        if p.requires_grad and p.dim() == 2 and min(p.shape) > 1 and any(step.norms.get(name) for step in _steps(run))
        if (p - p[:1]).abs().max() <= 1e-6 * p.abs().max()
    ]
    if alike and len(_steps(run)) >= 3:
        yield Alarm(
            "units_alike",
            f"All units of {listed(alike)} still have the same weights: they started equal, so they learn the same. "
            "Start with random weights.",
        )


def _steps(run: WatchedRun) -> list:
    return run.record.steps


def _constant(batch: torch.Tensor | None, share: float) -> bool:
    if batch is None or len(batch) < 3:
        return False
    numbers = batch.float()
    return bool((numbers - numbers[:1]).abs().max() <= share * (1 + numbers.abs().max()))


class _Drops:
    """Counts the calls of dropout functions that drop."""

    def __init__(self) -> None:
        self.count = 0

    def on_dropout(self) -> None:
        self.count += 1


class _DropoutCalls(TorchCalls):
    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        attends = func is torch.nn.functional.scaled_dot_product_attention
        share = args[4] if len(args) > 4 else kwargs.get("dropout_p", 0.0)
        if (func in DROPOUTS and drops(args, kwargs)) or (attends and share > 0):
            self._watch.on_dropout()
        return func(*args, **kwargs)


def independent_outputs(run: WatchedRun) -> Iterator[Alarm]:
    """In evaluation, a sample's output is its own: it depends on the sample, on no other one, and drops nothing."""
    kept = [seen for seen in run.record.trained if seen.inputs is not None and len(seen.inputs) >= 4]
    if not kept:
        return
    batch = kept[-1].inputs
    assert batch is not None
    drop = _Drops()
    with _DropoutCalls(drop):
        found = in_evaluation(run.model, [(batch, ALL), (batch, ALL)], kept[-1].call)
    if found is None:
        return
    whole, again = found
    if drop.count:
        yield Alarm(
            "random_in_evaluation",
            "In evaluation mode a dropout function is called, and drops: the same batch gives other outputs the second "
            "time. Is there an F.dropout without training=self.training, or attention with a fixed dropout_p?",
        )
        return
    ends = [slice(2), slice(-2, None)]  # what looks only backward along the batch leaves its beginning as it is
    found = in_evaluation(run.model, [(batch[rows], rows) for rows in ends], kept[-1].call)
    least = MIXES_AT_LEAST if _full_precision(run.model) else SHORT_MIXES_AT_LEAST
    if found is None or not torch.equal(whole, again) or not _along_samples(run, kept[-1], whole):
        return
    pairs = [(part, whole[rows]) for part, rows in zip(found, ends, strict=True)]
    size = whole.abs().max() + 1e-12
    if any(part.shape == same.shape and (part - same).abs().max() > least * size for part, same in pairs):
        yield Alarm(
            "samples_mixed",
            "A sample's output changes with the other samples of its batch, in evaluation mode too. Is there a "
            "softmax, a norm or a view over the wrong dimension, attention with batch_first the wrong way round, or a "
            "BatchNorm without running statistics?",
        )


def _full_precision(model: nn.Module) -> bool:
    return all(p.dtype not in (torch.float16, torch.bfloat16) for p in model.parameters())


def _along_samples(run: WatchedRun, seen: Pass, whole: torch.Tensor) -> bool:
    """Whether samples lie along the first dimension: there are as many outputs and targets as inputs."""
    inputs = seen.inputs
    if inputs is None or not whole.dim() or len(whole) != len(inputs):
        return False
    if inputs.dim() < 2 or whole.dim() < 3 or whole.shape[:2] != inputs.shape[:2]:
        return inputs.dim() < 3 or len(inputs) != inputs.size(1)
    # Outputs for each place may be [time, samples, …], which has as many targets as its second dimension, or as both.
    targets = [loss.target for loss in run.record.losses if loss.target.dim()]
    return bool(targets) and len(targets[-1]) == len(inputs) != inputs.size(1)


def foretelling(run: WatchedRun) -> Iterator[Alarm]:
    """A model that foretells the next input does not see it, and it is the next one that it foretells."""
    pairs = [(seen, target) for loss in run.record.losses[-3:] for seen, target in _sequences(run, loss)]
    if not pairs:
        return
    seen, target = pairs[-1]
    inputs = seen.inputs
    assert inputs is not None
    next_one = (target[:, :-1] == inputs[:, 1:]).float().mean().item()
    this_one = (target == inputs).float().mean().item()
    if max(next_one, this_one) < SHIFTED:
        return
    changed = inputs.clone()
    changed[:, -1] = inputs[:, -1].roll(1, dims=0) if inputs.is_floating_point() else inputs[:, 0]
    found = in_evaluation(run.model, [(inputs, ALL), (changed, ALL)], seen.call)
    if found is None or found[0].dim() < 3 or found[0].shape[:2] != inputs.shape[:2]:
        return
    way = (found[0] - found[1])[:, :-1].abs().max()
    sees_later = bool(way > MIXES_AT_LEAST * (found[0].abs().max() + 1e-12))
    if next_one >= SHIFTED and sees_later:
        yield Alarm(
            "future_seen",
            f"{next_one:.0%} of the targets are the next input, and an output changes with inputs after it: the model "
            "can look up what it is to foretell. Is a causal mask missing?",
        )
    elif this_one >= SHIFTED > next_one and not sees_later:
        yield Alarm(
            "target_is_input",
            f"{this_one:.0%} of the targets are the input at the same place, which the model sees. Are the targets to "
            "be shifted by one?",
        )


def _sequences(run: WatchedRun, loss: Loss) -> Iterator[tuple[Pass, torch.Tensor]]:
    """Yield the pass that a loss belongs to, with the targets in the shape of its inputs [samples, time]."""
    for seen in run.record.trained:
        inputs = seen.inputs
        if seen.step != loss.step or inputs is None or inputs.dim() != 2 or inputs.is_floating_point():
            continue
        if loss.target.numel() == inputs.numel() and inputs.size(1) >= 3 and not loss.target.is_floating_point():
            yield seen, loss.target.reshape(inputs.shape)


@torch.no_grad()
def in_evaluation(
    model: nn.Module, batches: list[tuple[torch.Tensor, slice]], call: Call | None
) -> list[torch.Tensor] | None:
    """Return the model's outputs in evaluation mode, computed with a copy where the model can be copied.

    None if they are not tensors, or if the model cannot take these batches.

    Args:
        batches: each with its rows in the batch that came in training.
        call: what came with that batch; None: the batch alone is tried.
    """
    try:
        judged = copy.deepcopy(model)
    except Exception:  # whatever a part of it that cannot be copied raises
        judged = model
    before = {module: module.training for module in judged.modules()}
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    judged.eval()
    try:
        with torch.random.fork_rng():  # what is random in the model must not change the training that goes on
            results = []
            for batch, rows in batches:
                args, kwargs = call.again(batch.to(device), rows) if call is not None else ((batch.to(device),), {})
                results.append(judged(*args, **kwargs))
    except Exception:  # whatever somebody's model raises for a part of a batch: nothing is known then
        return None
    finally:
        for module, mode in before.items():
            module.training = mode
    return [out.float().cpu() for out in results] if all(isinstance(o, torch.Tensor) for o in results) else None


RULES: list[Callable[[WatchedRun], Iterator[Alarm]]] = [different_outputs, independent_outputs, foretelling]
