"""A model's outputs and loss for a batch, for an evaluation, and for a try before training begins."""

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from itertools import islice
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from torchcourse.training import explanations, sanity, wrappers
from torchcourse.training.generators import generators_of, random_state, set_random_state
from torchcourse.training.losses import Loss, mean_of
from torchcourse.training.metrics import Averages, Metric, OverAll
from torchcourse.training.modes import evaluating
from torchcourse.training.progress import GentleStop


class Evaluating(Protocol):
    """What is needed of a Trainer to evaluate."""

    model: nn.Module
    loss: Loss
    metrics: dict[str, Metric | OverAll]
    device: torch.device
    autocast: torch.autocast | nullcontext


def forward(
    trainer: Evaluating, model: nn.Module, inputs: Any, targets: torch.Tensor, summed: bool, first: bool = False
) -> tuple[Any, torch.Tensor, Any]:
    """Return the outputs, the mean or summed loss as one number, and what it counts: a Count if `summed`.

    The precision is the one of the `autocast` around this call.

    The labels of a `first` batch are looked at before a GPU meets them, which a label without a class would stop.

    Raises:
        ValueError: if outputs and targets do not fit the loss function, or for known faults of the model's.
    """
    try:
        outputs = model(inputs)
    except Exception as error:
        if known := explanations.about_model(error, model, inputs, targets):
            raise known from error
        error.add_note(explanations.about_inputs(model, inputs))
        raise
    try:
        if first and targets.device.type == "cuda":
            trainer.loss.check_labels(outputs, targets)
        loss, count = (trainer.loss.total if summed else trainer.loss.mean)(outputs, targets)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, IndexError, TypeError, Warning) as error:
        own = not (getattr(trainer.loss.fn, "__module__", None) or "").startswith("torch.")
        raise explanations.about_loss(error, outputs, targets) from (error if own else None)
    return outputs, loss, count


def evaluate(trainer: Evaluating, loader: Iterable, stop: GentleStop) -> dict[str, float]:
    """Return loss and metrics over all samples of the loader, of all ranks together; nothing, if it was stopped.

    Without gradients, and not in inference mode: no training accepts the tensors that a model makes and keeps there,
    such as a mask for the longest sequence so far. What the loss function keeps in its buffers is of training alone.
    """
    averages = Averages(trainer.metrics, trainer.device, trainer.loss.ignored, evaluation=True)
    wrappers.broadcast_buffers(trainer.model)
    with evaluating(trainer.model), trainer.loss.buffers.untouched(), torch.no_grad():
        for batch in stop.until(iter(loader)):
            _add_batch(trainer, batch, averages)
    return {} if stop.requested else averages.means()


def try_one_batch(trainer: Evaluating, loader: Iterable, stop: GentleStop) -> None:
    """Evaluate one batch, as if nothing had happened, so that what cannot be evaluated is known before training."""
    if isinstance(loader, Iterator) or any(is_lazy(parameter) for parameter in trainer.model.parameters()):
        return  # it would lack this batch later; the model has no weights yet
    generators = generators_of(loader, trainer.model, trainer.loss.fn)
    random = random_state(generators)
    averages = Averages(trainer.metrics, trainer.device, trainer.loss.ignored)
    with evaluating(trainer.model), trainer.loss.buffers.untouched():
        with torch.no_grad():
            for batch in islice(stop.until(iter(loader)), 1):
                _add_batch(trainer, batch, averages, first=True)
        averages.apply_metrics()
    set_random_state(random, generators)


def _add_batch(trainer: Evaluating, batch: Any, averages: Averages, first: bool = False) -> None:
    inputs, targets = sanity.receive(batch, trainer.device)
    # The model and not its replica, which would wait for ranks that have had their last batch.
    with trainer.autocast:
        outputs, loss, count = forward(trainer, trainer.model, inputs, targets, summed=True, first=first)
    averages.add(outputs, targets, mean_of(loss, count), count)
