"""Invariants of the mechanics: gradients, the optimizer, modes, rates, losses. Each rule yields alarms."""

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from torchcourse.lessons.troubleshooting.training_step import LOGISTIC, MEASURING
from torchcourse.lessons.troubleshooting.watched_run import Alarm, WatchedRun

LOSS_ABOVE_START = 1.5  # nats that the first loss may lie above log(classes)
LOSS_GROWTH = 2.0  # times the first loss
SMALLEST_WAY = 1e-6  # of the weights' length, over all steps
RATE_LEFT = 0.05  # of the highest learning rate


def order_of_calls(run: WatchedRun) -> Iterator[Alarm]:
    """zero_grad, backward and step: each once, in this order."""
    record = run.record
    if record.trained and not record.steps:
        yield Alarm("no_step", "The model was trained, but the optimizer's step() was never called.")
        return
    stale = sum(step.stale for step in record.steps)
    if stale >= 2:
        yield Alarm(
            "gradients_kept",
            f"In {stale} of {len(record.steps)} steps the last step's gradients were still there when backward() "
            "added the new ones. Is zero_grad() missing, or does it belong to another optimizer?",
        )
    empty = [step for step in record.steps if not any(step.norms.values())]
    if len(empty) >= 2:
        yield Alarm(
            "gradients_empty",
            f"In {len(empty)} of {len(record.steps)} steps the optimizer found no gradient. Does zero_grad() come "
            "after backward(), or is backward() missing?",
        )


def reached_parameters(run: WatchedRun) -> Iterator[Alarm]:
    """Each trainable parameter is in the optimizer, and gets a gradient."""
    owned = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    trainable = {name: p for name, p in run.model.named_parameters() if p.requires_grad}
    missing = [name for name, p in trainable.items() if id(p) not in owned]
    if missing:
        yield Alarm(
            "not_in_optimizer",
            f"The optimizer does not have {_listed(missing)}. Was it made from a part of the model, or before a layer "
            "was replaced?",
        )
    steps = run.record.steps
    never = [name for name in trainable if len(steps) >= 3 and not any(step.norms.get(name) for step in steps)]
    if never and len(never) < len(trainable):
        yield Alarm(
            "never_changes",
            f"{_listed(never)} got no gradient in {len(steps)} steps. Is there a detach(), a no_grad(), a layer that "
            "is not called, or a layer whose units are all dead?",
        )
    unmeant = [
        name
        for name, p in run.model.named_parameters()
        if not p.requires_grad and not name.startswith(run.frozen or ("\0",))
    ]
    if unmeant:
        yield Alarm(
            "frozen",
            f"{_listed(unmeant)} cannot learn (requires_grad is False). If that is meant, name them in frozen=.",
        )


def modes(run: WatchedRun) -> Iterator[Alarm]:
    """Training in training mode, evaluation in evaluation mode, and nothing random in it."""
    layers, record = _mode_dependent(run.model), run.record
    if layers and record.trained and not any(forward.training for forward in record.trained[1:]):
        yield Alarm(
            "eval_in_training",
            f"The model was trained in evaluation mode, so {_listed(layers)} did not do their work. Is there a "
            "model.eval() without a model.train() after it?",
        )
    wrong = [forward for forward in record.evaluated if forward.training]
    if layers and wrong:
        yield Alarm(
            "train_in_evaluation",
            f"{len(wrong)} batches were evaluated in training mode: {_listed(layers)} saw them as training data. "
            "model.eval() before, model.train() after.",
        )


def losses(run: WatchedRun) -> Iterator[Alarm]:
    """The first loss is that of guessing; later ones are numbers and do not run away."""
    record = run.record
    values = [loss.value for loss in record.losses]
    if any(not math.isfinite(value) for value in values):
        step = next(number for number, value in enumerate(values) if not math.isfinite(value))
        yield Alarm("not_finite", f"Loss number {step} is {values[step]}. A NanProbe says which layer made it.")
        return
    if record.classified:
        first, classes = record.classified[0].value, record.classified[0].scores.size(1)
        if first > math.log(classes) + LOSS_ABOVE_START:
            yield Alarm(
                "first_loss",
                f"The first loss is {first:.2f}; who knows nothing about {classes} classes has log({classes}) = "
                f"{math.log(classes):.2f}. The model starts sure and wrong: look at its weights and its inputs.",
            )
    medians = [sorted(values[i : i + 3])[1] for i in range(len(values) - 2)]
    if medians and max(medians) > LOSS_GROWTH * values[0] + 0.1:
        yield Alarm(
            "diverges", f"The loss went from {values[0]:.3g} up to {max(medians):.3g}. Is the learning rate too high?"
        )


def rates(run: WatchedRun) -> Iterator[Alarm]:
    """The weights move, and the schedule is that of a long training."""
    steps = run.record.steps
    if len(steps) < 3:
        return
    way = run.record.moved()
    if way < SMALLEST_WAY and any(any(step.norms.values()) for step in steps):
        yield Alarm(
            "nothing_moves",
            f"There were gradients, but in {len(steps)} steps the weights moved by {way:.0e} of their length. Is the "
            "learning rate 0, or does the optimizer hold another model's parameters?",
        )
    tops = [max(step.rates) for step in steps]
    if tops[-1] < RATE_LEFT * max(tops):
        yield Alarm(
            "rate_collapses",
            f"Within {len(steps)} steps the learning rate fell from {max(tops):.2g} to {tops[-1]:.2g}. Is a schedule "
            "that counts epochs stepped after each batch?",
        )


def accumulation(run: WatchedRun) -> Iterator[Alarm]:
    """Where k batches make one step, each loss counts by its share."""
    record = run.record
    steps = [step for step in record.steps if len(step.backwards) > 1 and step.passes == len(step.backwards)]
    if len(steps) < 2 or len({loss.function for loss in record.losses}) != 1:
        return
    values = {loss.value for loss in record.losses}
    if all(value in values for step in steps for value in step.backwards):
        times = len(steps[0].backwards)
        yield Alarm(
            "sum_of_batches",
            f"{times} batches are added up for each step, and each counts fully: the gradient is {times} times that of "
            "one big batch. Divide each loss by their number.",
        )


def scores(run: WatchedRun) -> Iterator[Alarm]:
    """Loss functions get what they are made for: logits, log-probabilities, shapes that fit."""
    record = run.record
    softmaxed = [loss for loss in record.classified if loss.function is F.cross_entropy]
    if len(softmaxed) >= 3 and all((loss.scores >= 0).all() for loss in softmaxed):
        yield _one_sided([loss.scores for loss in softmaxed])
    for loss in record.classified:
        if loss.function is F.nll_loss and (loss.scores.float().logsumexp(dim=1).abs() > 0.01).any():
            yield Alarm(
                "no_log_probabilities", "nll_loss got scores that are no log-probabilities: log_softmax is missing."
            )
            break
    logistic = [loss for loss in record.losses if loss.function is F.binary_cross_entropy_with_logits]
    if len(logistic) >= 3 and all(((loss.scores >= 0) & (loss.scores <= 1)).all() for loss in logistic):
        yield Alarm(
            "sigmoid_twice",
            "binary_cross_entropy_with_logits only ever got numbers from 0 to 1: it applies a sigmoid itself, and the "
            "model has done so before.",
        )
    for loss in record.losses:
        if loss.function in MEASURING | LOGISTIC and loss.scores.shape != loss.target.shape:
            yield Alarm(
                "broadcast",
                f"Outputs of shape {list(loss.scores.shape)} were compared with targets of {list(loss.target.shape)}: "
                "broadcasting compares each with every other.",
            )
            break


def _one_sided(tables: list[torch.Tensor]) -> Alarm:
    if all(((table.sum(dim=1) - 1).abs() < 1e-3).all() for table in tables):
        return Alarm(
            "softmax_twice",
            "cross_entropy got probabilities: each row adds up to 1. It applies a softmax itself, so the model should "
            "put out logits.",
        )
    if all(((table.sum(dim=0) - 1).abs() < 1e-3).all() for table in tables):
        return Alarm("softmax_over_batch", "Each column of the scores adds up to 1: a softmax runs over the batch.")
    return Alarm(
        "one_sided_logits",
        "No score that cross_entropy got was ever below 0. Is there a ReLU or a sigmoid after the last layer?",
    )


def _mode_dependent(model: nn.Module) -> list[str]:
    """Return the names of the layers that work differently in training and in evaluation."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        or (isinstance(module, _DropoutNd) and module.p > 0)
        or (isinstance(module, nn.RNNBase | nn.MultiheadAttention) and module.dropout > 0)
    ]


def _listed(names: list[str]) -> str:
    shown = ", ".join(f"`{name}`" if name else "the model" for name in names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")


RULES: list[Callable[[WatchedRun], Iterator[Alarm]]] = [
    order_of_calls,
    reached_parameters,
    modes,
    scores,
    losses,
    rates,
    accumulation,
]
