"""Checks of lesson 05, notebook 1: bytes, an evaluation, batch size, accumulation, checkpoints. Each names the symptom.

In the notebook's order: `mlp_bytes`, `evaluate`, `find_batch_size`, `accumulate`, `checkpointed`.
"""

import gc
import math
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import copies, number, numbers, refuse_known, same
from torchcourse.lessons.troubleshooting.formula import step_bytes
from torchcourse.lessons.troubleshooting.simulated_device import SimulatedDevice
from torchcourse.lessons.troubleshooting.tracking import MemoryTracker
from torchcourse.lessons.troubleshooting.training_step import TrainingRecorder
from torchcourse.models import mlp, small_cnn
from torchcourse.units import format_bytes

NAMES = ("parameters", "gradients", "optimizer numbers", "activations")


@check
def mlp_bytes(learner: Callable[[list[int], int], Any]) -> str:
    """Compare the four figures with the formula that the tracker confirms."""
    for widths, batch in (([784, 64, 10], 32), ([20, 30, 40, 5], 7), ([8, 3], 100)):
        right = step_bytes(mlp(*widths), (batch, widths[0]))
        given = learner(widths, batch)
        found = numbers(given)
        if found is None or len(found) != 4:
            raise Wrong("count", f"Return four numbers: {', '.join(NAMES)}. You returned {given!r}.")
        expected = (right.parameters, right.gradients, right.optimizer, right.activations)
        _judge_bytes(found, expected, widths, batch)
    return "Right to the byte for three networks, as the tracker measures them."


@check
def evaluate(learner: Callable[[nn.Module, list], float]) -> str:
    """Evaluate on a device that has room for one batch, not for the graphs of all; then train on."""
    batches = _evaluation_batches()
    model = small_cnn()
    # The right accuracy depends on the model's mode; BatchNorm's averages must come through unchanged.
    right = _accuracy(model.eval(), batches)
    model.train()
    averages = copies(model.buffers())
    tracker = SimulatedDevice("24 MiB")
    room = format_bytes(tracker.capacity)
    try:
        with TrainingRecorder() as record, tracker:
            tracker.watch(model, *[tensor for batch in batches for tensor in batch])
            given = learner(model, batches)
    except torch.OutOfMemoryError:
        raise Wrong("still_out_of_memory", _say_what_is_alive(tracker, len(batches))) from None
    finally:
        grad_on = torch.is_grad_enabled()
        torch.set_grad_enabled(True)
    if not grad_on or not all(parameter.requires_grad for parameter in model.parameters()):
        raise Wrong(
            "gradients_off",
            "After your evaluation no training is possible: gradients are still switched off. What you switch off for "
            "the evaluation should come back by itself.",
        )
    if not same(list(model.buffers()), averages):
        raise Wrong(
            "training_mode", "Your evaluation changed BatchNorm's averages. In which mode does a model evaluate?"
        )
    accuracy = number(given)
    if accuracy is None:
        raise Wrong("no_number", f"Return the accuracy, a number from 0 to 1. You returned {given!r}.")
    if not math.isclose(accuracy, right, abs_tol=1e-6):
        raise Wrong(
            "wrong_value",
            f"It fits, but the accuracy over all batches is {right:.4f}, and you return {accuracy:.4f}. Does every "
            "sample count, and each alike?",
        )
    if record.trained:
        raise Wrong(
            "graph_recorded",
            f"The accuracy is right, and it fits. But {len(record.trained)} of {len(record.passes)} forward passes "
            "still keep their activations for a backward pass that never comes: a model as large as the memory allows "
            "has no room for that, with a single batch either. What keeps them from being recorded?",
        )
    return f"{len(batches)} batches on {room}, a peak of {format_bytes(tracker.peak)}, and the right accuracy."


@check
def find_batch_size(learner: Callable[[Callable[[int], Any], int], int]) -> str:
    """Let it search on devices with room for various sizes, and count tries and bytes."""
    for most, limit in ((100, 1024), (1, 64), (256, 256), (0, 16)):
        room = _Room(most, limit)
        with room.device:
            before = room.device.current
            try:
                given = learner(room.attempt, limit)
            except torch.OutOfMemoryError:
                raise Wrong(
                    "escaped",
                    f"Where {most} of at most {limit} fit: the out-of-memory error came out of your function. Catch "
                    "it, and go on.",
                ) from None
            gc.collect()
            left = room.device.current - before
        _judge_search(given, most, limit, room.tries, left)
    if _swallows(learner):
        raise Wrong(
            "swallowed",
            "A try that fails with a RuntimeError about shapes counts as out of memory for you. A mistake in the "
            "step would then look like a batch that is too large. Catch torch.OutOfMemoryError alone.",
        )
    return "The largest size, in at most 2·log2(limit) + 1 tries, with memory as it was before: four devices."


@check
def accumulate(learner: Callable[..., Any]) -> str:
    """Compare gradients with those of the whole batch, and the peak with that of one part."""
    for samples, parts in ((1024, 4), (60, 8), (50, 1), (7, 7)):
        _judge_accumulation(learner, samples, parts)
    return "The gradients of the whole batch, in parts of equal and unequal size, at the memory of one part."


@check
def checkpointed(learner: Callable[[nn.Sequential, torch.Tensor], torch.Tensor]) -> str:
    """Compare outputs and gradients with the plain forward pass, and ask for less than half of its activations."""
    torch.manual_seed(0)
    blocks, x = residual_blocks(12), torch.randn(64, 32)
    plain_output, plain_peak = _run(blocks, lambda: blocks(x))
    right = _gradients(blocks)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        output, peak = _run(blocks, lambda: learner(blocks, x))
    if not same(output, plain_output, 1e-4):
        raise Wrong("wrong_value", "The output is not that of the blocks, one after the other.")
    without = [name for name, parameter in blocks.named_parameters() if parameter.grad is None]
    if without:
        raise Wrong(
            "no_gradient",
            f"{len(without)} of {len(right)} parameters get no gradient, {without[0]} first. With the old "
            "`use_reentrant=True` a block whose input needs no gradient gets none; under no_grad or after a detach "
            "nothing does.",
        )
    if not same(_gradients(blocks), right, 1e-4):
        raise Wrong("wrong_gradient", "The output is right, but the gradients are not those of the plain pass.")
    mine, plain = format_bytes(peak), format_bytes(plain_peak)
    if peak > 0.95 * plain_peak:
        raise Wrong(
            "nothing_saved",
            f"Your pass needs {mine} of activations at its peak, and the plain one {plain}. If all blocks are one "
            "checkpoint, the backward pass computes all of them again, and keeps all at once.",
        )
    if peak > 0.5 * plain_peak:
        raise Wrong(
            "too_little",
            f"It saves something: {mine} of activations instead of {plain}. Less than half is possible. Which "
            "activations are kept that could be computed again?",
        )
    return f"The same outputs and gradients, with {mine} of activations instead of {plain}."


# Bytes


def _judge_bytes(given: list[float], right: tuple[int, ...], widths: list[int], batch: int) -> None:
    if given == list(right):
        return
    where = f"Widths {widths}, batch {batch}: "
    counted = [number / 4 for number in right]
    refuse_known(given, {"not_bytes": (counted, "you count numbers. How many bytes is a float32?")}, where=where)
    if given[0] == 4 * sum(a * b for a, b in pairwise(widths)):
        hint = f"{given[0]:g} bytes of parameters. A linear layer has something besides weights."
        raise Wrong("no_biases", where + hint)
    for name, value, expected in zip(NAMES[:3], given, right, strict=False):
        if value != expected:
            raise Wrong(
                "states",
                f"{where}your {name} take {value:g} bytes, {value / expected:.3g} times what they should. How many "
                "numbers does each parameter bring along, of this kind?",
            )
    hidden, last, first = sum(widths[1:-1]), widths[-1], widths[0]
    known = {
        "input": (
            hidden + last + first,
            "the batch itself is among your activations. It is there anyway: leave it out.",
        ),
        "no_loss": (hidden, "the loss keeps something too: the logarithm of each probability."),
        "twice": (
            2 * hidden + last,
            "you count each hidden layer twice. What a ReLU puts out is what the next layer takes in: one tensor.",
        ),
    }
    if hidden:
        refuse_known(given[3] / 4 / batch, known, where=where)
    if given[3] == right[3] / batch:
        raise Wrong("one_sample", f"{where}your activations are those of one sample. How many are in the batch?")
    raise Wrong(
        "activations",
        f"{where}your activations take {given[3]:g} bytes, {given[3] / right[3]:.3g} times what they should. Which "
        "tensors does the backward pass need: of each linear layer, of each ReLU, of the loss?",
    )


# The evaluation


def _evaluation_batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    sizes = [64] * 7 + [16]  # the last one is smaller, so the mean of the batches' means is wrong
    images = [torch.randn(size, 1, 28, 28, generator=generator) for size in sizes]
    return [(x, (x.mean((1, 2, 3)) * 200).long().remainder(10)) for x in images]


def _say_what_is_alive(device: SimulatedDevice, batches: int) -> str:
    alive = device.by_kind()["activations"]
    text = f"Still out of memory: {batches} batches do not go through a device of {format_bytes(device.capacity)}, "
    if alive:
        return (
            f"{text}where one does. {format_bytes(alive)} of activations are alive when it happens. Who still needs "
            "the activations of the first batch?"
        )
    return f"{text}though no activation is kept for a backward pass. How many samples go through the model at once?"


def _accuracy(model: nn.Module, batches: list) -> float:
    with torch.no_grad():
        right = sum(int((model(x).argmax(1) == y).sum()) for x, y in batches)
    return right / sum(len(y) for _, y in batches)


# The search


class _Room:
    """A step for which `most` samples fit. It holds memory while it runs, in its result, and in its error's frames."""

    def __init__(self, most: int, limit: int) -> None:
        self.most, self.limit = most, limit
        self.tries: list[int] = []
        self.device = SimulatedDevice("1 GiB")

    def attempt(self, size: int) -> torch.Tensor:
        self.tries.append(size)
        if len(self.tries) > 200:
            raise Wrong(
                "too_many_tries", f"200 tries for a limit of {self.limit}, and no end. Each try could halve it."
            )
        if not 1 <= size <= self.limit:
            raise Wrong("outside", f"You tried a batch of {size}. Sizes go from 1 to the limit, here {self.limit}.")
        result = torch.zeros(size, 256)
        if size > self.most:
            raise torch.OutOfMemoryError(f"{size} samples do not fit.")
        return result


def _judge_search(given: Any, most: int, limit: int, tries: list[int], left: int) -> None:
    where = f"Where {most} of at most {limit} fit"
    if not isinstance(given, int) or isinstance(given, bool):
        raise Wrong("no_number", f"{where}: return one whole number. You returned {given!r}.")
    if given > most:
        symptom = "one_too_many" if given == most + 1 else "does_not_fit"
        raise Wrong(symptom, f"{where}: you return {given}, which does not fit.")
    if given < most:
        raise Wrong("not_the_largest", f"{where}: you return {given}, which fits, but is not the largest.")
    if len(tries) > 2 * math.log2(limit) + 1:
        raise Wrong(
            "too_many_tries",
            f"{where}: {len(tries)} tries, and 2·log2({limit}) + 1 = {2 * math.log2(limit) + 1:.0f} are enough. Each "
            "try should halve what is left, or double what is known.",
        )
    if left > 0:
        raise Wrong(
            "memory_left",
            f"{where}: afterwards {format_bytes(left)} are still taken that were free before. What did a try leave "
            "behind: its result, or its error? An error keeps the frames in which it happened, and their tensors.",
        )


def _swallows(learner: Callable) -> bool:
    def broken(size: int) -> None:
        raise RuntimeError(f"mat1 and mat2 shapes cannot be multiplied ({size}x784 and 256x10)")

    try:
        learner(broken, 64)
    except RuntimeError:
        return False
    return True


# Accumulation and checkpoints


def residual_blocks(count: int) -> nn.Sequential:
    """Blocks that keep far more inside than they pass on: [N, 32] → [N, 32]."""
    return nn.Sequential(*[nn.Sequential(nn.Linear(32, 256), nn.GELU(), nn.Linear(256, 32)) for _ in range(count)])


def _gradients(model: nn.Module) -> list[torch.Tensor]:
    return copies(parameter.grad for parameter in model.parameters() if parameter.grad is not None)


def _peak(model: nn.Module, work: Callable[[], Any]) -> int:
    """The most bytes of activations that are alive at once."""
    with MemoryTracker() as tracker:
        tracker.watch(model)
        work()
    return max(tracker.timeline().by_kind["activations"], default=0)


def _run(blocks: nn.Module, forward: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, int]:
    kept: list[torch.Tensor] = []

    def work() -> None:
        output = forward()
        if not isinstance(output, torch.Tensor):
            raise Wrong("wrong_type", f"Return the output of the blocks, a tensor. You return {type(output).__name__}.")
        kept.append(output.detach().clone())
        if output.requires_grad:
            output.square().sum().backward()

    blocks.zero_grad()
    peak = _peak(blocks, work)
    return kept[0], peak


def _judge_accumulation(learner: Callable[..., Any], samples: int, parts: int) -> None:
    torch.manual_seed(samples)
    # Few weights, so that what is alive at once are activations, and not gradients that somebody sums up.
    model, x, y = mlp(20, 16, 16, 3).double(), torch.randn(samples, 20).double(), torch.randint(3, (samples,))
    plain = _peak(model, lambda: F.cross_entropy(model(x), y).backward())
    right = _gradients(model)
    model.zero_grad()
    peak = _peak(model, lambda: learner(model, F.cross_entropy, x, y, parts))
    _judge_gradients(model, right, samples, parts)
    if parts == 4 and peak > 0.6 * plain:
        raise Wrong(
            "no_memory_saved",
            f"The gradients are right, but 4 parts need {format_bytes(peak)} of activations, and the whole batch at "
            f"once needs {format_bytes(plain)}. When are the activations of the first part released?",
        )
    learner(model, F.cross_entropy, x, y, parts)
    if same(_gradients(model), right, 1e-7):
        raise Wrong(
            "gradient_cleared",
            "The gradients are right, and what was in .grad before is gone: called a second time, your function leaves "
            "the same again. It is to add to .grad; who calls it clears.",
        )


def _judge_gradients(model: nn.Module, right: list[torch.Tensor], samples: int, parts: int) -> None:
    where = f"{samples} samples in {parts} parts"
    if any(parameter.grad is None for parameter in model.parameters()):
        raise Wrong(
            "no_gradient",
            f"{where}: the parameters have no gradient afterwards. Who calls backward(), and what clears it?",
        )
    given = _gradients(model)
    if same(given, right, 1e-7):
        return
    ratios = torch.cat([a.flatten() / b.flatten() for a, b in zip(given, right, strict=True) if b.abs().min() > 1e-12])
    ratio = ratios.median().item() if len(ratios) else 0.0
    if abs(ratio - parts) < 1e-6 * parts and ratios.std() < 1e-3:
        raise Wrong(
            "times_parts",
            f"{where}: your gradients are {parts} times too large. backward() adds up; each part's loss is a mean.",
        )
    if len(ratios) and ratio > 0 and ratios.std() < 1e-3 * ratio:
        raise Wrong(
            "scaled",
            f"{where}: your gradients have the right direction and {ratio:.3g} times the length. Each part's loss is a "
            "mean over its own samples: which share of the batch's mean is it?",
        )
    if ratio > 1.5 or samples % parts == 0:
        raise Wrong(
            "wrong_gradient",
            f"{where}: your gradients are not those of the whole batch. backward() adds to .grad: does something clear "
            "it between the parts, or is a part used twice, or left out?",
        )
    raise Wrong(
        "uneven",
        f"{where}: right where the parts are equal, wrong here. A part of fewer samples must count for less: what is "
        "its share of the batch?",
    )
