"""Invariants of what the model makes of its inputs. Each rule yields alarms."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from torchcourse.lessons.troubleshooting.torch_calls import TorchCall, transforming
from torchcourse.lessons.troubleshooting.training_records import Call, Loss, Pass
from torchcourse.lessons.troubleshooting.watched_run import Alarm, WatchedRun, listed

MIXES_AT_LEAST = 1e-3  # of the outputs' size, in float32; half a percent of rounding is normal in bfloat16
SHORT_MIXES_AT_LEAST = 5e-2
SHOWN, MASKED = 0.6, 0.7  # of the targets that the input shows; of the others, those that one token stands for
SHIFTED = 0.95  # of the positions whose target is the next input, where the next one is to be foretold


def different_outputs(run: WatchedRun) -> Iterator[Alarm]:
    """Different samples have different outputs, and different units different weights."""
    last = [seen for seen in run.trained[-3:] if seen.output is not None and seen.output.dim() > 1]
    same = [seen.output for seen in last if _constant(seen.output, 1e-6) and not _constant(seen.inputs, 0.0)]
    if last and len(same) == len(last):
        yield Alarm("same_output", "The model puts out the same numbers for every sample: nothing gets through.")
    reached = run.reached
    alike = [
        name
        for name, p in run.model.named_parameters()
        if p.requires_grad and p.dim() == 2 and min(p.shape) > 1 and name in reached
        if (p - p[:1]).abs().max() <= 1e-6 * p.abs().max()
    ]
    if alike and len(run.steps) >= 3:
        yield Alarm(
            "units_alike",
            f"All units of {listed(alike)} have the same weights, so they learn the same. Start with random ones.",
        )


def _constant(batch: torch.Tensor | None, share: float) -> bool:
    if batch is None or len(batch) < 3:
        return False
    numbers = batch.float()
    return bool((numbers - numbers[:1]).abs().max() <= share * (1 + numbers.abs().max()))


class _DropoutCalls(TorchFunctionMode):
    """Counts the calls of dropout functions that drop."""

    count = 0

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        call = TorchCall(func, args, kwargs or {})
        attends = func is torch.nn.functional.scaled_dot_product_attention
        self.count += call.drops or (attends and call.get(4, "dropout_p", 0.0) > 0)
        return func(*args, **call.kwargs)


def independent_outputs(run: WatchedRun) -> Iterator[Alarm]:
    """In evaluation, a sample's output is its own: it depends on the sample, on no other one, and drops nothing."""
    seen, batch = _last_batch(run)
    if seen is None or batch is None:
        return
    with _DropoutCalls() as drop:
        found = in_evaluation(run.model, seen.call, batch, batch)
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
    if run.sequences.begun >= 3 and not torch.equal(whole, again):
        yield Alarm(
            "random_first_state",
            "A recurrence begins with a state of random numbers: the same batch gives other outputs the second time, "
            "in evaluation mode too. Begin with zeros, or learn the first state.",
        )
        return
    ends = [slice(2), slice(-2, None)]  # what looks only backward along the batch leaves its beginning as it is
    found = in_evaluation(run.model, seen.call, *((batch[rows], rows) for rows in ends))
    least = MIXES_AT_LEAST if _full_precision(run.model) else SHORT_MIXES_AT_LEAST
    if found is None or not torch.equal(whole, again) or not _along_samples(run, batch, whole):
        return
    pairs = [(part, whole[rows]) for part, rows in zip(found, ends, strict=True)]
    size = whole.abs().max() + 1e-12
    if any(part.shape == same.shape and (part - same).abs().max() > least * size for part, same in pairs):
        yield Alarm(
            "samples_mixed",
            "A sample's output changes with the other samples of its batch, in evaluation mode too. Is a softmax, norm "
            "or view over the wrong dimension, batch_first wrong, or a BatchNorm without running statistics?",
        )


def bent_outputs(run: WatchedRun) -> Iterator[Alarm]:
    """Several layers do more than one could: something between them is not linear."""
    layers = [m for m in run.model.modules() if isinstance(m, nn.Linear) and m.weight.requires_grad]
    seen, one = _last_batch(run, measured=True)
    if seen is None or one is None or len(layers) < 2:
        return
    ends = min(layers[0].in_features, layers[-1].out_features)
    if any(layer.out_features < ends or layer.bias is None for layer in layers[:-1]):
        return  # a product is meant, mostly of a lower rank than one layer
    other, met = one.roll(1, dims=0), list[torch.Tensor]()
    handles = [
        layer.register_forward_hook(lambda _, args, out: None if transforming() else met.extend((args[0], out)))
        for layer in layers
    ]
    found = in_evaluation(run.model, seen.call, one, other, 3 * one - 2 * other, one)
    for handle in handles:
        handle.remove()
    once = met[1 : len(met) // 4 - 1]  # of the first of four passes: what came out of a layer, into the next, out …
    if found is None or len(met) != 8 * len(layers) or not all(map(_equal, once[::2], once[1::2])):
        return
    straight, moved = 3 * found[0] - 2 * found[1], (found[0] - found[1]).abs().max()
    if (found[2] - straight).abs().max() < 1e-4 * moved and torch.equal(found[0], found[3]):
        yield Alarm(
            "nothing_nonlinear",
            f"What the model puts out is a linear function of what it gets, and {len(layers)} layers make it: one "
            "could do the same. Are the activations missing between them?",
        )


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return not one.is_nested and not other.is_nested and torch.equal(one.flatten(), other.flatten())


def places_in_batch(run: WatchedRun) -> Iterator[Alarm]:
    """What a sequence becomes does not depend on its place in the batch."""
    seen, batch = _last_batch(run)
    if seen is None or batch is None or batch.dim() < 2 or batch.size(1) < 3 or not _full_precision(run.model):
        return
    sizes = {len(inputs) for inputs in run.learned_from if len(inputs) >= 4 and inputs.shape[1:] == batch.shape[1:]}
    if batch.is_floating_point() and len(sizes) < 2:
        return  # always so many: they may be the nodes of a graph, each with a vector of its own
    other, later = batch.clone(), batch.clone()
    other[0], later[:, 0] = batch[1], batch[:, 1]
    found = in_evaluation(run.model, seen.call, batch, batch, other, later, (batch[-2:], slice(-2, None)))
    if found is None or any(out.shape[1:2] != batch.shape[1:2] for out in found):
        return
    whole, again, with_other, with_later, end = found
    least = MIXES_AT_LEAST * whole.abs().max()
    # Along dimension 1 the model looks elsewhere, along dimension 0 it does not: so there lie samples, not times.
    samples = torch.equal(whole, again) and len(whole) == len(batch) and (whole - with_other)[1:].abs().max() <= least
    if samples and (whole - with_later)[:, 1:].abs().max() > least and (end - whole[-2:]).abs().max() > least:
        yield Alarm(
            "place_in_batch",
            "What becomes of a sequence depends on its place in the batch, not on the other sequences there. Are "
            "positions taken along the first dimension, with samples there? Take size(1) of them.",
        )


def _full_precision(model: nn.Module) -> bool:
    return all(p.dtype not in (torch.float16, torch.bfloat16) for p in model.parameters())


def _along_samples(run: WatchedRun, inputs: torch.Tensor, whole: torch.Tensor) -> bool:
    """Whether samples lie along the first dimension: there are as many outputs and targets as inputs."""
    if not whole.dim() or len(whole) != len(inputs):
        return False
    if max(inputs.dim(), whole.dim()) < 3 or whole.shape[:2] != inputs.shape[:2]:
        return inputs.dim() < 3 or len(inputs) != inputs.size(1)
    # Outputs for each place may be [time, samples, …], which has as many targets as its second dimension, or as both.
    told = next((loss for loss in reversed(run.losses) if loss.target.dim()), None)
    if told is None or (told.scores.dim() == told.target.dim() and told.target.shape[:2] == inputs.shape[:2]):
        return False  # numbers for each place, in the order of the inputs, say nothing either
    return len(told.target) == len(inputs) != inputs.size(1)


def foretelling(run: WatchedRun) -> Iterator[Alarm]:
    """A model that foretells tokens does not see them, and it is the next ones that it foretells."""
    found = [given for loss in run.losses[-3:] for given in _given_tokens(run, loss)]
    for given in found[-2:]:
        alarm = _told(run, given)
        if alarm is not None:
            yield alarm
            return


@dataclass(frozen=True)
class _Given:
    """Tokens that a model got, and targets [samples, time] for the same places."""

    call: Call
    """With these tokens as its first tensor."""
    tokens: torch.Tensor
    target: torch.Tensor
    counted: torch.Tensor
    first: bool
    """Whether they are the first tensor that the model gets."""

    def share(self, equal: torch.Tensor, first: int = 0, last: int | None = None) -> float:
        """Return for which share of the targets that count this holds."""
        counted = self.counted[:, first:last]
        return equal[counted].float().mean().item() if counted.any() else 0.0

    def way(self, model: nn.Module, place: int) -> torch.Tensor | None:
        """Return how far the output at each place [time] moves with the token at one, as a share of its size."""
        changed = self.tokens.clone()
        changed[:, place] = self.tokens[:, 0 if place else -1]
        found = in_evaluation(model, self.call, self.tokens, self.tokens, changed)
        if found is None or found[0].dim() < 3 or found[0].shape[:2] != self.tokens.shape:
            return None
        if not torch.equal(found.pop(0), found[0]):
            return None  # it keeps a state from one call to the next
        return (found[0] - found[1]).abs().amax(dim=(0, *range(2, found[0].dim()))) / (found[0].abs().max() + 1e-12)


def _told(run: WatchedRun, given: _Given) -> Alarm | None:
    tokens, target = given.tokens, given.target
    next_one = given.share(target[:, :-1] == tokens[:, 1:], last=-1)
    this_one = given.share(target == tokens)
    last_one = given.share(target[:, 1:] == tokens[:, :-1], first=1)
    if max(next_one, last_one) < SHIFTED and this_one < SHOWN:
        return None
    end, middle = given.way(run.model, -1), given.way(run.model, tokens.size(1) // 2)
    if end is None or middle is None or (not given.first and middle[tokens.size(1) // 2] < MIXES_AT_LEAST):
        return None  # labels that the model computes its loss with change no output
    sees_later = end[:-1].max() > MIXES_AT_LEAST
    if next_one >= SHIFTED and sees_later:
        return Alarm(
            "future_seen",
            f"{next_one:.0%} of the targets are the next input, and an output changes with inputs after it: the model "
            "can look up what it is to foretell. Is a causal mask missing?",
        )
    if this_one >= SHIFTED > next_one and not sees_later:
        return Alarm(
            "target_is_input",
            f"{this_one:.0%} of the targets are the input at the same place. Are the targets to be shifted by one?",
        )
    if last_one >= SHIFTED > max(next_one, this_one) and _in_order(run):
        return Alarm(
            "target_is_input",
            f"{last_one:.0%} of the targets are the input one place before. Are the targets shifted the wrong way?",
        )
    hidden = tokens[given.counted & (target != tokens)]
    if SHOWN <= this_one < SHIFTED and sees_later and len(hidden):
        mask, often = hidden.mode().values, (hidden == hidden.mode().values).float().mean()
        if often > MASKED and not (target == mask).any():
            return Alarm(
                "shown_tokens_count",
                f"{this_one:.0%} of the targets are the input at the same place, which the model sees; the others are "
                f"hidden by token {int(mask)}. Are only those to count (ignore_index for the rest)?",
            )
    return None


def _in_order(run: WatchedRun) -> bool:
    """Whether a token says something about the next one, as in a language; not in tokens drawn to be remembered."""
    tables = [inputs for inputs in run.learned_from if inputs.dim() == 2]
    pairs = torch.cat([torch.stack([t[:, :-1].flatten(), t[:, 1:].flatten()]) for t in tables], dim=1)[:, :20000].long()
    if pairs.size(1) < 300 or pairs.min() < 0 or pairs.max() > 2000:
        return False
    half = pairs.size(1) // 2
    counts = torch.zeros(2 * [int(pairs.max()) + 1])
    counts.index_put_((pairs[0, :half], pairs[1, :half]), torch.ones(half), accumulate=True)
    told = (counts.argmax(dim=1)[pairs[0, half:]] == pairs[1, half:]).float().mean().item()
    guessed = (counts.sum(dim=0).argmax() == pairs[1, half:]).float().mean().item()
    return told > guessed + max(0.3 * guessed, 4 * math.sqrt(max(guessed, 1 / half) / half))


def _given_tokens(run: WatchedRun, loss: Loss) -> Iterator[_Given]:
    """Yield the tensors of tokens that the model got, where the loss has a target for each of their places."""
    for seen in run.trained:
        if seen.step != loss.step or seen.call is None or loss.target.is_floating_point():
            continue
        for place, leaf in enumerate(seen.call.leaves):
            tokens = isinstance(leaf, torch.Tensor) and leaf.dim() == 2 and not leaf.is_floating_point()
            if tokens and leaf.size(1) >= 3 and loss.target.numel() == leaf.numel():
                leaf, target = leaf.cpu(), loss.target.reshape(leaf.shape)
                call = replace(seen.call, first=place)
                yield _Given(call, leaf, target, target != loss.ignored, place == seen.call.first)


def _last_batch(run: WatchedRun, measured: bool = False) -> tuple[Pass | None, torch.Tensor | None]:
    """Return the last pass with 4 samples or more (of measured numbers) that was learned from, and what it got."""
    given = ((seen, seen.inputs) for seen in reversed(run.trained) if seen.inputs is not None)
    large = ((seen, batch) for seen, batch in given if len(batch) >= 4)
    return next((one for one in large if one[1].is_floating_point() or not measured), (None, None))


@torch.no_grad()
def in_evaluation(
    model: nn.Module, call: Call | None, *batches: torch.Tensor | tuple[torch.Tensor, slice]
) -> list[torch.Tensor] | None:
    """Return the model's outputs in evaluation mode, computed with a copy where the model can be copied.

    None if they are not tensors, or if the model cannot take these batches.

    Args:
        model: it stays as it is.
        call: what came with the batch in training; None: the batches alone are tried.
        *batches: each in the place of that batch; of a part of it, with the rows that it is.
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
            for given in batches:
                batch, rows = given if isinstance(given, tuple) else (given, slice(None))
                args, kwargs = call.again(batch.to(device), rows) if call is not None else ((batch.to(device),), {})
                results.append(judged(*args, **kwargs))
    except Exception:  # whatever somebody's model raises for a part of a batch: nothing is known then
        return None
    finally:
        for module, mode in before.items():
            module.training = mode
    return [out.float().cpu() for out in results] if all(isinstance(o, torch.Tensor) for o in results) else None
