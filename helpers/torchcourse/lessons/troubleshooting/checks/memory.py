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
from torchcourse.lessons.troubleshooting.formula import step_bytes
from torchcourse.lessons.troubleshooting.simulated_device import SimulatedDevice
from torchcourse.lessons.troubleshooting.tracking import MemoryTracker
from torchcourse.models import mlp, small_cnn
from torchcourse.units import format_bytes

NAMES = ("parameters", "gradients", "optimizer numbers", "activations")


@check
def mlp_bytes(learner: Callable[[list[int], int], Any]) -> str:
    """Compare the four figures with the formula that the tracker confirms."""
    for widths, batch in (([784, 64, 10], 32), ([20, 30, 40, 5], 7), ([8, 3], 100)):
        right = step_bytes(mlp(*widths), (batch, widths[0]))
        given = learner(widths, batch)
        if not isinstance(given, tuple | list) or len(given) != 4:
            raise Wrong("shape", f"Return four numbers: {', '.join(NAMES)}. You returned {given!r}.")
        expected = (right.parameters, right.gradients, right.optimizer, right.activations)
        _judge_bytes([float(number) for number in given], expected, widths, batch)
    return "Right to the byte for three networks, as the tracker measures them."


@check
def evaluate(learner: Callable[[nn.Module, list], float]) -> str:
    """Evaluate on a device that has room for one batch, not for the graphs of all; then train on."""
    batches = _evaluation_batches()
    model = small_cnn()
    # The right accuracy depends on the model's mode; BatchNorm's averages must come through unchanged.
    right = _accuracy(model.eval(), batches)
    model.train()
    averages = [buffer.clone() for buffer in model.buffers()]
    tracker = SimulatedDevice("24 MiB")
    try:
        with tracker:
            tracker.watch(model, *[tensor for batch in batches for tensor in batch])
            given = learner(model, batches)
    except torch.OutOfMemoryError:
        raise Wrong(
            "still_out_of_memory",
            f"Still out of memory: {len(batches)} batches do not go through a device of {format_bytes(tracker.capacity)}, where "
            f"one does. {format_bytes(tracker.by_kind()['activations'])} of activations are alive when it happens. Who still "
            "needs the activations of the first batch?",
        ) from None
    finally:
        grad_on = torch.is_grad_enabled()
        torch.set_grad_enabled(True)
    if not grad_on or not all(parameter.requires_grad for parameter in model.parameters()):
        raise Wrong(
            "gradients_off",
            "After your evaluation no training is possible: gradients are still switched off. What you switch off for "
            "the evaluation should come back by itself.",
        )
    if any(not torch.equal(old, new) for old, new in zip(averages, model.buffers(), strict=True)):
        raise Wrong("train_mode", "Your evaluation changed BatchNorm's averages. In which mode does a model evaluate?")
    if not isinstance(given, int | float | torch.Tensor):
        raise Wrong("no_number", f"Return the accuracy, a number from 0 to 1. You returned {given!r}.")
    if not math.isclose(float(given), right, abs_tol=1e-6):
        raise Wrong(
            "other_accuracy",
            f"It fits, but the accuracy over all batches is {right:.4f}, and you return {float(given):.4f}. Does every "
            "sample count, and each alike?",
        )
    return f"{len(batches)} batches on {format_bytes(tracker.capacity)}, a peak of {format_bytes(tracker.peak)}, and the right accuracy."


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
                given = "escaped"
            gc.collect()
            left = room.device.current - before
        _judge_search(given, most, limit, room.tries, left)
    if _swallows(learner):
        raise Wrong(
            "swallowed",
            "A try that fails with a RuntimeError about shapes counts as out of memory for you. A mistake in the "
            "step would then look like a batch that is too large. Catch torch.OutOfMemoryError alone.",
        )
    return "The largest size, in at most 2·log2(limit) tries, with memory as it was before: four devices."


@check
def accumulate(learner: Callable[..., Any]) -> str:
    """Compare gradients with those of the whole batch, and the peak with that of one part."""
    for samples, parts in ((64, 4), (60, 8), (50, 1), (7, 7)):
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
    if not torch.allclose(output, plain_output, atol=1e-5):
        raise Wrong("other_output", "The output is not that of the blocks, one after the other.")
    without = [name for name, parameter in blocks.named_parameters() if parameter.grad is None]
    if without:
        raise Wrong(
            "no_gradient",
            f"{len(without)} of {len(right)} parameters get no gradient, {without[0]} first. With the old "
            "`use_reentrant=True` a block whose input needs no gradient gets none; under no_grad or behind a detach "
            "nothing does.",
        )
    if not all(torch.allclose(a, b, atol=1e-5) for a, b in zip(_gradients(blocks), right, strict=True)):
        raise Wrong("other_gradients", "The output is right, but the gradients are not those of the plain pass.")
    if peak > 0.95 * plain_peak:
        raise Wrong(
            "nothing_saved",
            f"Your pass needs {format_bytes(peak)} of activations at its peak, and the plain one {format_bytes(plain_peak)}. If all "
            "blocks are one checkpoint, the backward pass computes all of them again, and keeps all at once.",
        )
    if peak > 0.5 * plain_peak:
        raise Wrong(
            "too_little",
            f"It saves something: {format_bytes(peak)} of activations instead of {format_bytes(plain_peak)}. Less than half is possible. "
            "Which activations are kept that could be computed again?",
        )
    return f"The same outputs and gradients, with {format_bytes(peak)} of activations instead of {format_bytes(plain_peak)}."


# Bytes


def _judge_bytes(given: list[float], right: tuple[int, ...], widths: list[int], batch: int) -> None:
    where = f"Widths {widths}, batch {batch}"
    if given == list(right):
        return
    if all(math.isclose(value, expected / 4) for value, expected in zip(given, right, strict=True)):
        raise Wrong("numbers", f"{where}: you count numbers. How many bytes has a float32?")
    if given[0] == 4 * sum(a * b for a, b in pairwise(widths)):
        raise Wrong(
            "no_biases", f"{where}: {given[0]:g} bytes of parameters. A linear layer has something besides weights."
        )
    for place in range(3):
        if given[place] != right[place]:
            raise Wrong(
                "states",
                f"{where}: your {NAMES[place]} take {given[place]:g} bytes, {given[place] / right[place]:.3g} times "
                "what they should. How many numbers does each parameter bring along, of this kind?",
            )
    hidden, last, first = sum(widths[1:-1]), widths[-1], widths[0]
    kept = given[3] / 4 / batch
    reasons = {
        hidden + last + first: (
            "input",
            "the batch itself is among your activations. It is there anyway: leave it out.",
        ),
        hidden: ("no_loss", "the loss keeps something too: the logarithm of each probability."),
        2 * hidden + last: (
            "twice",
            "you count each hidden layer twice. What a ReLU puts out is what the next layer takes in: one tensor.",
        ),
    }
    if len(widths) > 2 and kept in reasons:
        symptom, hint = reasons[kept]
        raise Wrong(symptom, f"{where}: {hint}")
    if given[3] == right[3] / batch:
        raise Wrong("one_sample", f"{where}: your activations are those of one sample. How many are in the batch?")
    raise Wrong(
        "activations",
        f"{where}: your activations take {given[3]:g} bytes, {given[3] / right[3]:.3g} times what they should. Which "
        "tensors does the backward pass need: of each linear layer, of each ReLU, of the loss?",
    )


# The evaluation


def _evaluation_batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    sizes = [64] * 7 + [16]  # the last one is smaller, so the mean of the batches' means is wrong
    images = [torch.randn(size, 1, 28, 28, generator=generator) for size in sizes]
    return [(x, (x.mean((1, 2, 3)) * 200).long().remainder(10)) for x in images]


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
    if given == "escaped":
        raise Wrong("escaped", f"{where}: the out-of-memory error came out of your function. Catch it, and go on.")
    if not isinstance(given, int):
        raise Wrong("no_number", f"{where}: return one whole number. You returned {given!r}.")
    if given == most + 1:
        raise Wrong("one_too_many", f"{where}: you return {given}, which does not fit.")
    if given > most:
        raise Wrong("does_not_fit", f"{where}: you return {given}, which does not fit.")
    if given < most:
        raise Wrong("not_the_largest", f"{where}: you return {given}, which fits, but is not the largest.")
    if len(tries) > 2 * math.log2(limit):
        raise Wrong(
            "too_many_tries",
            f"{where}: {len(tries)} tries, and 2·log2({limit}) = {2 * math.log2(limit):.0f} are enough. Each try "
            "should halve what is left, or double what is known.",
        )
    if left > 0:
        raise Wrong(
            "memory_left",
            f"{where}: afterwards {format_bytes(left)} are still taken that were free before. What did a try leave behind: its "
            "result, or its error? An error keeps the frames in which it happened, and their tensors.",
        )


def _swallows(learner: Callable) -> bool:
    def broken(size: int) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

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
    return [parameter.grad.clone() for parameter in model.parameters()]


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
        kept.append(output.detach().clone())
        if output.requires_grad:
            output.square().sum().backward()

    blocks.zero_grad()
    peak = _peak(blocks, work)
    return kept[0], peak


def _judge_accumulation(learner: Callable[..., Any], samples: int, parts: int) -> None:
    torch.manual_seed(samples)
    model, x, y = mlp(20, 256, 256, 3).double(), torch.randn(samples, 20).double(), torch.randint(3, (samples,))
    plain = _peak(model, lambda: F.cross_entropy(model(x), y).backward())
    right = _gradients(model)
    model.zero_grad()
    peak = _peak(model, lambda: learner(model, F.cross_entropy, x, y, parts))
    _judge_gradients(model, right, samples, parts)
    if parts == 4 and peak > 0.6 * plain:
        raise Wrong(
            "no_memory_saved",
            f"The gradients are right, but 4 parts need {format_bytes(peak)} of activations, and the whole batch at once needs "
            f"{format_bytes(plain)}. When are the activations of the first part released?",
        )


def _judge_gradients(model: nn.Module, right: list[torch.Tensor], samples: int, parts: int) -> None:
    where = f"{samples} samples in {parts} parts"
    if any(parameter.grad is None for parameter in model.parameters()):
        raise Wrong("no_gradient", f"{where}: the parameters have no gradient afterwards. Who calls backward()?")
    given = _gradients(model)
    if all(torch.allclose(a, b) for a, b in zip(given, right, strict=True)):
        return
    ratios = torch.cat([a.flatten() / b.flatten() for a, b in zip(given, right, strict=True) if b.abs().min() > 1e-12])
    ratio = ratios.median().item() if len(ratios) else 0.0
    if abs(ratio - parts) < 1e-6 * parts and ratios.std() < 1e-3:
        raise Wrong(
            "times_parts",
            f"{where}: your gradients are {parts} times too large. backward() adds up; each part's loss is a mean.",
        )
    if ratio > 1.5 or samples % parts == 0:
        raise Wrong(
            "other_gradients",
            f"{where}: your gradients are not those of the whole batch. backward() adds to .grad: does something clear "
            "it between the parts, or is a part used twice, or left out?",
        )
    raise Wrong(
        "uneven",
        f"{where}: right where the parts are equal, wrong here. A part of fewer samples must count for less: what is "
        "its share of the batch?",
    )
