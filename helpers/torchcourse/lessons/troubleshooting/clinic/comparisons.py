"""What several judges do: train a copy of a model; look at steps, weights, optimizer, and the images that arrived."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import DataLoader

from torchcourse.checks import Wrong
from torchcourse.data import mnist
from torchcourse.lessons.troubleshooting.clinic.observed_loader import ObservedLoader
from torchcourse.lessons.troubleshooting.training_step import Step, TrainingRecorder
from torchcourse.units import counted


@dataclass(frozen=True)
class Trained:
    """A model after an epoch, the optimizer steps that it took, and what the epoch returned."""

    model: nn.Module
    steps: list[Step]
    returned: Any
    weights: list[torch.Tensor]
    """Before each step, all weights in one vector; empty unless gradients are kept."""
    evaluating: int
    """How many forward passes with a graph found the model in evaluation mode."""
    own: int
    """How many of the steps were made by the optimizer that the epoch was given."""


def train_copy(
    epoch: Callable,
    start: nn.Module,
    loader: DataLoader | ObservedLoader,
    rate: float,
    *more: Any,
    gradients: bool = True,
    momentum: float = 0.0,
) -> Trained:
    """Call `epoch(model, loader, optimizer, *more)` with a copy of `start` and with SGD, and record its steps.

    Args:
        momentum: of SGD. With some, an optimizer that was made again shows in the weights.
        gradients: whether the steps keep their gradients; without them the record keeps no tensor alive.
    """
    model = copy.deepcopy(start)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum)
    own: list[None] = []
    weights: list[torch.Tensor] = []

    def note(*_: Any) -> None:
        if gradients:
            weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))

    optimizer.register_step_post_hook(lambda *_: own.append(None))
    handle = register_optimizer_step_pre_hook(note)
    try:
        with TrainingRecorder(gradients=gradients) as record:
            returned = epoch(model, loader, optimizer, *more)
    finally:
        handle.remove()
    evaluating = sum(not seen.training for seen in record.trained)
    return Trained(model, record.steps, returned, weights, evaluating, len(own))


def expect_steps(given: Trained, expected: Trained) -> None:
    """Refuse a training epoch that makes a different number of optimizer steps, or makes them with a different one."""
    if len(given.steps) != len(expected.steps):
        raise Wrong(
            "steps",
            f"For {len(expected.steps)} batches your epoch makes "
            f"{counted(len(given.steps), 'optimizer step')}. One step per batch, as it was before.",
        )
    expect_own_optimizer(given)


def expect_all_learn(turn: int, given: Step, expected: Step) -> None:
    """Refuse a step in which some parameters, or all of them, have no gradient."""
    if given.gradient.numel() == 0 or not given.gradient.any():
        raise Wrong(
            "nothing_left",
            f"At step {turn} the gradient is zero or gone: nothing is learned. What was wiped, and when?",
        )
    if given.gradient.numel() < expected.gradient.numel():
        raise Wrong(
            "froze",
            f"At step {turn} only {given.gradient.numel()} of {expected.gradient.numel()} weights have a gradient: the "
            "others learn no more. Before, all of them did.",
        )


def same_direction(given: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether a gradient is another one times a positive number, up to rounding."""
    times = (given @ expected / (expected @ expected)).item()
    precision = 10 * torch.finfo(given.dtype).eps
    return times > 0 and ((given - times * expected).norm() < precision * given.norm()).item()


def expect_own_optimizer(given: Trained) -> None:
    """Refuse an epoch whose steps are not all made by the optimizer that it was given."""
    if given.own < len(given.steps):
        raise Wrong(
            "other_optimizer",
            f"{len(given.steps) - given.own} of {len(given.steps)} steps are made by an optimizer that your function "
            "builds. The caller's own is left behind, and so are its momentum, its schedule and its checkpoint.",
        )


def expect_training_mode(given: Trained) -> None:
    """Refuse an epoch that trains a model which came in evaluation mode and was left there."""
    if given.evaluating:
        raise Wrong(
            "evaluation_mode",
            f"{given.evaluating} forward passes of the training find the model in evaluation mode: the evaluation "
            "before it left it there. Your function was the one to change that.",
        )


def expect_left_in_training_mode(given: Trained) -> None:
    """Refuse an epoch after which the model, or a layer of it, is in evaluation mode."""
    if not all(layer.training for layer in given.model.modules()):
        raise Wrong(
            "mode_left_changed",
            "Your function leaves the model in evaluation mode: what is trained next has no dropout and no new "
            "statistics. Before, it left the model in training mode.",
        )


def expect_weights(given: nn.Module, expected: nn.Module) -> None:
    """Refuse a model that does not end with exactly the expected weights."""
    if any(not torch.equal(a, b) for a, b in zip(given.parameters(), expected.parameters(), strict=True)):
        raise Wrong("training_changed", "The model ends with other weights: the repair has changed the training.")


def expect_no_graph(loss: Any) -> None:
    """Refuse a loss for the log that still remembers how it came about."""
    if isinstance(loss, torch.Tensor) and loss.requires_grad:
        raise Wrong("graph_returned", "The loss that you return still has a graph: the log would keep it alive.")


def expect_optimizer(given: Any) -> None:
    """Refuse what is no optimizer."""
    if not isinstance(given, torch.optim.Optimizer):
        raise Wrong("wrong_type", f"One optimizer was to be returned, and {type(given).__name__} came.")


def expect_pair(given: Any, names: str) -> None:
    """Refuse what is no pair."""
    if not isinstance(given, tuple | list) or len(given) != 2:
        count = f" of {len(given)}" if isinstance(given, tuple | list) else ""
        raise Wrong("wrong_type", f"Return {names}, two things. You return {type(given).__name__}{count}.")


def expect_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Refuse every optimizer but SGD with momentum 0.9 and nothing else."""
    if type(optimizer) is not torch.optim.SGD:
        raise Wrong("other_optimizer", "The optimizer was SGD with momentum 0.9, and it was not at fault.")
    plain = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, momentum=0.9).param_groups[0]
    for group in optimizer.param_groups:
        for name in ("momentum", "dampening", "weight_decay", "nesterov", "maximize"):
            if group[name] != plain[name]:
                raise Wrong(
                    "other_optimizer",
                    f"The optimizer was SGD with {name}={plain[name]}, and now has {name}={group[name]}. It was not at "
                    "fault.",
                )


Order = list[list[int]] | None
"""The indices of each batch of an epoch; None for a loader that has no sampler."""


def orders_by(make_loader: Callable[[int], Any], seed: int) -> list[Order]:
    """Return the orders of loaders made with this seed, with it again, and with another; no sample is fetched."""
    orders: list[Order] = []
    for start, given in enumerate((seed, seed, seed + 1)):
        torch.manual_seed(start)  # what a loader does not draw from its own seed differs
        sampler = getattr(make_loader(given), "batch_sampler", None)
        orders.append(None if sampler is None else [list(batch) for batch in sampler])
    return orders


def expect_orders_by_seed(orders: list[Order]) -> None:
    """Refuse a loader whose order does not follow from the seed that it was given."""
    first, again, other = orders
    if first != again:
        raise Wrong(
            "not_repeatable",
            "Two loaders that are made with the same `seed` bring the samples in different orders. What gave the order "
            "its seed before?",
        )
    if first is not None and first == other:
        raise Wrong("seed_ignored", "Two loaders that are made with different seeds bring the samples in one order.")


def image_numbers(images: Iterable[torch.Tensor], count: int, left_out: Iterable[int]) -> list[int | None]:
    """Return for each image which of the first `count` of MNIST it is; None for one of `left_out` or an unknown one.

    Args:
        images: 784 values each, scaled to 0–1.
        count: how many images were written to the file or folder.
        left_out: the numbers of those that cannot be read.
    """
    pixels, _ = mnist()[:count]
    pixels = ((pixels - pixels.min()) / (pixels.max() - pixels.min()) * 255).byte()
    readable = set(range(count)).difference(left_out)
    known = {pixels[number].numpy().tobytes(): number for number in readable}
    return [known.get((image * 255).round().byte().numpy().tobytes()) for image in images]
