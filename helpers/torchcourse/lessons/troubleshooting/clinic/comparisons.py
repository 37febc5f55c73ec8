"""What several judges do: call a part, train a copy of a model, and refuse what a repair was to leave as it was."""

import contextlib
import copy
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import DataLoader

from torchcourse.checks import NotDone, Wrong
from torchcourse.checks.kit import number, same
from torchcourse.data import mnist
from torchcourse.lessons.troubleshooting.clinic.observed_loader import ObservedLoader
from torchcourse.lessons.troubleshooting.training_step import Step, TrainingRecorder
from torchcourse.models import mlp
from torchcourse.units import counted


@contextlib.contextmanager
def called_with(data: str) -> Iterator[None]:
    """Inside, an error that is no verdict gets a note of what the part was given: sizes that are not the program's.

    Args:
        data: in a few words, such as "5 batches of 8 samples". `judging.examine` shows it below the learner's line.
    """
    try:
        yield
    except (NotDone, Wrong):
        raise
    except (Exception, SystemExit) as error:
        error.add_note(f"The check called it with {data}.")
        raise


# Training


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
        made = counted(len(given.steps), "optimizer step")
        raise Wrong(
            "steps", f"For {len(expected.steps)} batches your code makes {made}. One step per batch, as it was before."
        )
    expect_own_optimizer(given)


def expect_own_optimizer(given: Trained) -> None:
    """Refuse an epoch whose steps are not all made by the optimizer that it was given."""
    if given.own < len(given.steps):
        raise Wrong(
            "other_optimizer",
            f"{len(given.steps) - given.own} of {len(given.steps)} steps are made by an optimizer that your function "
            "builds. The caller's own is left behind, and so are its momentum, its schedule and its checkpoint.",
        )


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


def expect_training_mode(given: Trained) -> None:
    """Refuse an epoch that trains a model which came in evaluation mode and was left there."""
    if given.evaluating:
        raise Wrong(
            "evaluation_mode",
            f"{given.evaluating} forward passes of the training find the model in evaluation mode: the evaluation "
            "before it left it there. Your function was the one to change that.",
        )


def expect_mode(model: nn.Module, training: bool) -> None:
    """Refuse a model that a part has left, or a layer of which it has left, in a different mode than before."""
    if any(layer.training != training for layer in model.modules()):
        left, wanted = ("evaluation", "training") if training else ("training", "evaluation")
        then = " Where the training loop calls model.train() once, at its start, all that follows is trained so."
        raise Wrong(
            "mode_left_changed",
            f"Your code leaves the model, or a layer, in {left} mode. The broken program left it in {wanted} mode."
            f"{then if training else ' In which mode did it come?'}",
        )


def expect_same_training(given: Trained, expected: Trained) -> None:
    """Refuse an epoch with other steps, one that ends with other weights, or one that leaves evaluation mode."""
    expect_steps(given, expected)
    if not same(list(given.model.parameters()), list(expected.model.parameters()), tolerance=1e-5):
        raise Wrong("training_changed", "The model ends with other weights: the repair has changed the training.")
    expect_mode(given.model, training=True)


def expect_no_graph(loss: Any) -> None:
    """Refuse a loss for the log that still remembers how it came about."""
    if isinstance(loss, torch.Tensor) and loss.requires_grad:
        raise Wrong("graph_returned", "The loss that you return still has a graph: the log would keep it alive.")


def expect_number(given: Any, right: float, what: str) -> None:
    """Refuse what is not this number, to five decimals; `what` it is stands first in the hint."""
    found = number(given)
    if found is None or abs(found - right) > 1e-5:
        raise Wrong("wrong_value", f"{what} is {right:.5f}; you returned {given if found is None else f'{found:.5f}'}.")


def expect_loss(given: Any) -> torch.Tensor:
    """Return what was given if it is one number with a graph; else refuse it."""
    if not isinstance(given, torch.Tensor) or given.dim() or not given.requires_grad:
        raise Wrong("no_loss", f"A loss is one number with a graph behind it; this is {given!r}.")
    return given


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
    plain = {"momentum": 0.9, "dampening": 0, "weight_decay": 0, "nesterov": False, "maximize": False}
    is_sgd = type(optimizer) is torch.optim.SGD
    groups = optimizer.param_groups if is_sgd else []  # others have other settings
    changed = [f"{name}={group[name]}" for group in groups for name in plain if group[name] != plain[name]]
    if not is_sgd or changed:
        raise Wrong(
            "other_optimizer",
            "The optimizer was SGD with momentum 0.9, and it was not at fault. Yours is "
            f"{' with '.join([type(optimizer).__name__, *changed[:1]])}.",
        )


# Ranks


def model_of_ranks(seed: int) -> nn.Module:
    """Return a small network for digits, the same on each rank."""
    torch.manual_seed(seed)
    return mlp(784, 8, 10)


def step_of_ranks(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]
) -> None:
    """Take the step that ranks with averaged gradients take, each with its images and labels, in one process."""
    optimizer.zero_grad()
    torch.stack([F.cross_entropy(model(images), labels) for images, labels in batches]).mean().backward()
    optimizer.step()


# Evaluation


def expect_untouched(model: nn.Module, weights: list[torch.Tensor], training: bool) -> None:
    """Refuse an evaluation that has changed the model's weights, frozen them, or left the model in a different mode.

    Args:
        model: after the evaluation.
        weights: copies of its parameters, as they were before.
        training: whether the model was in training mode before.
    """
    if not same(list(model.parameters()), weights, tolerance=0.0):
        raise Wrong("weights_changed", "After the evaluation the model has other weights.")
    if not all(parameter.requires_grad for parameter in model.parameters()):
        raise Wrong("frozen", "After the evaluation the parameters are frozen: the next epoch trains nothing.")
    expect_mode(model, training)


def evaluate_for_others(evaluate: Callable[[], Any], model: nn.Module) -> Any:
    """Evaluate a model with a frozen parameter, for a caller who has autograd off, and return what comes of it.

    Raises:
        Wrong: if the parameter learns, or autograd is on, after it.
    """
    frozen = next(iter(model.parameters())).requires_grad_(False)
    with torch.no_grad():
        given = evaluate()
        recording = torch.is_grad_enabled()
    if frozen.requires_grad:
        raise Wrong(
            "thawed",
            "A parameter that was frozen before your evaluation can learn after it. Does autograd have to be told of "
            "each parameter, or is there a block in which it records nothing?",
        )
    if recording:
        raise Wrong(
            "grad_on",
            "A caller who had switched autograd off finds it switched on after your evaluation. Which block leaves "
            "that as it was?",
        )
    return given


# Data


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


def expect_workers(count: int, without: str) -> None:
    """Refuse a loader with fewer than two workers; `without` is the hint for one that has none."""
    if count == 0:
        raise Wrong("no_workers", without)
    if count == 1:
        raise Wrong("fewer_workers", "There were two workers, because loading is slow. Now there is one.")


def numbers_of_images(images: Iterable[torch.Tensor], count: int, left_out: Collection[int], unknown: str) -> list[int]:
    """Return for each image which of the first `count` of MNIST it is.

    Args:
        images: 784 values each, scaled to 0–1.
        count: how many images were written to the file or folder.
        left_out: the numbers of those that cannot be read.
        unknown: what is said of other images, such as "are no scan of the folder".

    Raises:
        Wrong: unless each image that can be read is there once, and no other.
    """
    pixels, _ = mnist()[:count]
    pixels = ((pixels - pixels.min()) / (pixels.max() - pixels.min()) * 255).byte()
    known = {pixels[number].numpy().tobytes(): number for number in set(range(count)).difference(left_out)}
    found = [known.get((image * 255).round().byte().numpy().tobytes()) for image in images]
    order = [number for number in found if number is not None]
    case = f"Of {count}, {len(known)} can be read:"
    if not found:
        raise Wrong("samples_lost", f"{case} none arrives.")
    if not order:
        raise Wrong("pixels_changed", f"{case} all of your images {unknown}. Are they still scaled to 0–1?")
    if len(order) < len(found):
        raise Wrong(
            "invented_image",
            f"{case} {len(found) - len(order)} of your images {unknown}. What does the model learn from an image "
            "that stands in for a bad one, under its label?",
        )
    if len(order) > len(set(order)):
        raise Wrong("sample_twice", f"{case} {len(order) - len(set(order))} come twice.")
    if len(order) < len(known):
        raise Wrong("samples_lost", f"{case} you return {len(order)}. One that is bad should cost one.")
    return order
