"""Check of lesson 01 on a whole training run that ranks do together: it ends where one process ends."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import AnyOf, copies, on_ranks, refuse_known, same
from torchcourse.lessons.data_parallelism.checks.reference import (
    EVALUATING,
    TWO_RANKS_ONLY,
    Batches,
    Tensors,
    classifier,
    on_device,
    one_process,
    refuse_shortened,
    samples,
)
from torchcourse.ranks.who import device

TIME_LIMIT = 20.0  # seconds for one call; healthy ranks need a fraction of one

_COUNTS = (0, 1, 3)
_BATCH = 12
_RATE = 0.5


@check
def train_together(learner: Callable) -> str:
    """Compare the weights after 0, 1 and 3 batches with one process that starts as rank 0 does."""
    for world_size in (2, 3):
        by_rank = on_ranks(_train, learner, world_size=world_size, seconds=TIME_LIMIT, left_alone=None)
        for count, runs in zip(_COUNTS, zip(*by_rank, strict=True), strict=True):
            expected = _trained_by_one(runs[0].start, count)
            if same([one.end for one in runs], [expected] * world_size) and _shared_out(runs, count):
                refuse_shortened(count, runs[0].left)
                if any(one.evaluating for one in runs):
                    raise Wrong("mode_left_changed", f"After {count} batch{'es' * (count > 1)} {EVALUATING}")
                continue
            if world_size > 2:
                raise Wrong("two_ranks_only", TWO_RANKS_ONLY)
            _judge_training(runs, count, expected)
    return "After 0, 1 and 3 batches all ranks hold exactly the weights of one process: checked on 2 and on 3 ranks."


@dataclass
class Training:
    """What one rank's training started from and ended with, the samples it trained on, and the optimizer's steps.

    A sample is its number, counted through all batches. `left`: the length of the list of batches afterwards.
    `evaluating`: a batch went through the model in evaluation mode, with its gradients.
    """

    start: Tensors
    end: Tensors
    seen: list[int]
    steps: int = 0
    left: int = 0
    evaluating: bool = False


Runs = tuple[Training, ...]


def _train(learner: Callable) -> list[Training]:
    """Train on 0, 1 and 3 batches, each time from weights that differ from rank to rank."""
    return [_train_once(learner, count) for count in _COUNTS]


def _train_once(learner: Callable, count: int) -> Training:
    torch.manual_seed(dist.get_rank())
    model = classifier().to(device())
    run = Training(copies(model.parameters()), [], [])

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if torch.is_grad_enabled():  # whoever only looks at a loss does not train on it
            run.seen += _numbers_of(inputs[0])
            run.evaluating |= not module.training

    def note_step(*_: Any) -> None:
        run.steps += 1

    model.register_forward_pre_hook(note)
    stepping = register_optimizer_step_post_hook(note_step)
    batches = on_device(_batches(count))
    learner(model, batches, _RATE)
    stepping.remove()
    run.left = len(batches)
    run.end = copies(model.parameters())
    return run


def _batches(count: int) -> Batches:
    """Return batches whose first two features are the numbers of sample and batch, by which the check knows them."""
    batches = samples(count, _BATCH, seed=1)
    for number, (images, _) in enumerate(batches):
        images[:, 0] = torch.arange(_BATCH) / _BATCH
        images[:, 1] = number / 4
    return batches


def _numbers_of(images: torch.Tensor) -> list[int]:
    return ((images[:, 0] + images[:, 1] * 4) * _BATCH).round().int().tolist()


Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From outputs and labels."""


def _trained_by_one(start: Tensors, batches: int, loss_of: Loss = F.cross_entropy) -> Tensors:
    def loss(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return loss_of(model(images), labels)

    losses = [partial(loss, images=images, labels=labels) for images, labels in _batches(batches)]
    return one_process(classifier(), start, _RATE, losses)[-1]


def _shared_out(runs: Runs, batches: int) -> bool:
    """Whether every sample of every batch was trained on by exactly one rank, and every rank had some of each batch."""
    if any({number // _BATCH for number in one.seen} != set(range(batches)) for one in runs):
        return False
    return sorted(chain(*(one.seen for one in runs))) == list(range(batches * _BATCH))


def _judge_training(runs: Runs, batches: int, expected: Tensors) -> None:
    """Raise what is wrong with a training run on two ranks."""
    agree = same(runs[1].end, runs[0].end)
    if batches == 0 and agree:
        raise Wrong("other_start", "All ranks start from the same weights, but not from those of rank 0.")
    if batches == 0:
        raise Wrong(
            "different_start",
            "Before the first batch the ranks hold different weights: each was started with its own seed. "
            "Averaged gradients do not bring them together.",
        )
    if not _shared_out(runs, batches):
        _judge_shares(runs[0].seen, runs[1].seen, batches)
    if not agree:
        raise Wrong(
            "not_averaged",
            f"The ranks start equal and are different after {batches} step{'s' * (batches > 1)}: each took a step "
            "along its own gradient. Between backward() and step() something is missing, or it comes too early.",
        )
    if max(one.steps for one in runs) > batches:
        raise Wrong(
            "steps_twice",
            f"The optimizer took {max(one.steps for one in runs)} steps for {batches} "
            f"batch{'es' * (batches > 1)}. The last line of the skeleton is one step already.",
        )
    if batches > 1:
        raise Wrong(
            "later_steps",
            "The first step is right, the later ones are not. What does your code carry over from one step to the "
            "next? What is still in p.grad when the second batch arrives?",
        )
    sizes = [len(one.seen) for one in runs]
    if len(set(sizes)) > 1:
        raise Wrong(
            "uneven",
            f"Rank 0 computed {sizes[0]} samples and rank 1 {sizes[1]}, and the step is not that of the whole batch. "
            "How much does a sample of each rank count in your mean?",
        )
    _judge_first_step(runs, expected)


def _judge_shares(first: list[int], second: list[int], batches: int) -> None:
    """Raise what is wrong with the samples that two ranks trained on."""
    trained = {number // _BATCH for number in first + second}
    if len(trained) < batches:
        raise Wrong(
            "batches_left_out",
            f"Of {batches} batch{'es' * (batches > 1)} only {len(trained)} went through the model.",
        )
    if not first or not second:
        raise Wrong(
            "idle_rank",
            f"Rank {1 if first else 0} computed no sample: rank {0 if first else 1} did all the work. Each rank "
            "computes a part of each batch.",
        )
    if {number // _BATCH for number in first} != {number // _BATCH for number in second}:
        raise Wrong("batch_each", "Each rank takes other batches. Each batch is to be cut up among the ranks.")
    first, second = ([number for number in seen if number < _BATCH] for seen in (first, second))
    if set(first) == set(second) == set(range(_BATCH)):
        raise Wrong(
            "whole_batch",
            f"Each rank computed all {_BATCH} samples of the batch. The weights may be right, but no work was shared.",
        )
    what = f"In the first step rank 0 computed the samples {first} and rank 1 {second}"
    if len(first) + len(second) > len({*first, *second}):
        raise Wrong("same_shard", f"{what}: some of them twice. Each sample belongs to one rank, once.")
    raise Wrong("samples_lost", f"{what}, out of 0 to {_BATCH - 1}.")


def _judge_first_step(runs: Runs, expected: Tensors) -> None:
    """Raise what is wrong with the first step, on which all ranks agree."""
    one = runs[0]
    if same(one.end, one.start):
        raise Wrong(
            "nothing_moved",
            "After one batch the weights are what they were before: step() found no gradient, or only zeros. What "
            "comes between backward() and step(), and does it leave p.grad alone?",
        )
    moved, wanted = _moved(one.end, one.start), _moved(expected, one.start)
    ratio = (moved @ wanted / (wanted @ wanted)).item()
    if torch.allclose(moved, ratio * wanted, atol=1e-9) and not same(ratio, 1.0, tolerance=1e-5):
        _refuse_length(ratio)

    def softmax_before(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(outputs.softmax(dim=1), labels)

    def rank_0_only(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(outputs[one.seen], labels[one.seen])

    known = {
        "softmax_before": (
            _trained_by_one(one.start, 1, softmax_before),
            "That is the step for outputs that went through a softmax. cross_entropy does that by itself: give it the "
            "model's outputs as they are.",
        ),
        "rank_0_only": (
            _trained_by_one(one.start, 1, rank_0_only),
            "All ranks hold what rank 0's samples alone give. The gradients of the other ranks are lost.",
        ),
    }
    refuse_known(one.end, known)
    raise Wrong(
        "wrong_value",
        "After one batch all ranks agree, but on other weights than one process has. Compare one step on paper: which "
        "images and labels does a rank use, which loss, and which learning rate?",
    )


def _refuse_length(ratio: float) -> None:
    """Refuse a first step in the right direction; `ratio` is its length against that of one process."""
    ranks = 2
    if ratio < 0:
        raise Wrong(
            "goes_up",
            f"The first step goes the wrong way, up the loss: it is {ratio:.3g} times that of one process. Which sign "
            "has the gradient in a step downwards?",
        )
    where = f"The first step goes the right way, but it is {ratio:.3g} times as long as that of one process. "
    known = {
        "step_too_long": (
            AnyOf((float(ranks), float(_BATCH // ranks), float(_BATCH))),
            "A sum instead of a mean does that, over ranks or over a rank's samples. So does a larger learning rate.",
        ),
        "step_too_short": (
            AnyOf((1 / ranks, 1 / ranks**2)),
            "Who divides here, and how often? average_gradients divides by the number of ranks already.",
        ),
    }
    refuse_known(ratio, known, tolerance=1e-5, where=where)
    raise Wrong(
        "step_too_long" if ratio > 1 else "step_too_short",
        f"{where}Which numbers multiply your loss, your gradient and your learning rate?",
    )


def _moved(end: Tensors, start: Tensors) -> torch.Tensor:
    return torch.cat([(b - a).flatten() for a, b in zip(start, end, strict=True)])
