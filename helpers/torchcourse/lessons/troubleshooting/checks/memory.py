"""Checks of lesson 05, notebook 1: bytes, an evaluation, batch size. Each names the symptom.

In the notebook's order: `mlp_bytes`, `evaluate`, `find_batch_size`; the rest is in `activations`.
"""

import gc
import math
import weakref
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import copies, number, numbers, refuse_known, same, whole
from torchcourse.lessons.troubleshooting.clinic.comparisons import evaluate_for_others
from torchcourse.lessons.troubleshooting.formula import step_bytes
from torchcourse.lessons.troubleshooting.simulated_device import SimulatedDevice
from torchcourse.lessons.troubleshooting.training_step import TrainingRecorder
from torchcourse.models import mlp, small_cnn
from torchcourse.units import format_bytes, times

NAMES = ("parameters", "gradients", "optimizer numbers", "activations")


@check
def mlp_bytes(learner: Callable[[list[int], int], Any]) -> str:
    """Compare the four figures with the formula that the tracker confirms."""
    for widths, batch in (([784, 64, 10], 32), ([20, 30, 40, 5], 7), ([8, 3], 100)):
        right = step_bytes(mlp(*widths), (batch, widths[0]))
        handed = list(widths)
        given = learner(handed, batch)
        if handed != widths:
            raise Wrong("inputs_changed", f"`widths` were {widths}, and your function leaves them as {handed}.")
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
    tracker, handed, types = SimulatedDevice("24 MiB"), list(batches), set[torch.dtype]()
    hook = model.register_forward_hook(lambda _model, _given, output: types.add(output.dtype))
    room = format_bytes(tracker.capacity)
    try:
        with TrainingRecorder() as record, tracker:
            tracker.watch(model, *[tensor for batch in batches for tensor in batch])
            given = learner(model, handed)
    except torch.OutOfMemoryError:
        raise Wrong("still_out_of_memory", _say_what_is_alive(tracker, len(batches))) from None
    finally:
        hook.remove()
        grad_on = torch.is_grad_enabled()
        torch.set_grad_enabled(True)
    _refuse_short_cuts(len(batches) - len(handed), types)
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
    _judge_accuracy(accuracy, right, sum(len(y) for _, y in batches))
    if record.trained:
        raise Wrong(
            "graph_recorded",
            f"The accuracy is right, and it fits. But {len(record.trained)} of {len(record.passes)} forward passes "
            "still keep their activations for a backward pass that never comes: a model as large as the memory allows "
            "has no room for that, with a single batch either. What keeps them from being recorded?",
        )
    _judge_what_is_put_back(learner, model, batches[:1])
    return f"{len(batches)} batches on {room}, a peak of {format_bytes(tracker.peak)}, and the right accuracy."


@check
def find_batch_size(learner: Callable[[Callable[[int], Any], int], int]) -> str:
    """Let it search on devices with room for various sizes, and count tries and bytes."""
    for most, limit in ((100, 1024), (1, 64), (256, 256), (0, 16)):
        room = _Room(most, limit)
        with room.device:
            try:
                given = learner(room.attempt, limit)
            except torch.OutOfMemoryError:
                raise Wrong(
                    "escaped",
                    f"Where {most} of at most {limit} fit: the out-of-memory error came out of your function. Catch "
                    "it, and go on.",
                ) from None
            if room.device.current:  # a cycle may hold it
                gc.collect()
            left = room.device.current
        _judge_search(given, most, limit, room.tries, left)
        if room.held:
            raise Wrong(
                "held_while_searching",
                f"Where {most} of at most {limit} fit: when the next size was tried, {format_bytes(room.held)} of "
                "earlier tries were still taken. What is kept takes room from the next try: results in a list, say, or "
                "an error whose `except` block has not ended.",
            )
    if _swallows(learner):
        raise Wrong(
            "swallowed",
            "A try that fails with a RuntimeError about shapes counts as out of memory for you. A mistake in the "
            "step would then look like a batch that is too large. Catch torch.OutOfMemoryError alone.",
        )
    return "The largest size, in at most 2·log2(limit) + 1 tries, with memory as it was before: four devices."


# Evaluation


def _refuse_short_cuts(taken_off: int, types: set[torch.dtype]) -> None:
    if taken_off:
        raise Wrong(
            "inputs_changed",
            f"Your function takes {taken_off} batches off the caller's list. An evaluation only reads.",
        )
    if others := types - {torch.float32}:
        raise Wrong(
            "other_precision",
            f"The outputs are of {others.pop()}, and those of the model as it is are of torch.float32: some answers "
            "may differ. The accuracy of this model is asked for.",
        )


def _judge_what_is_put_back(learner: Callable, model: nn.Module, batches: list) -> None:
    given = number(evaluate_for_others(lambda: learner(model, batches), model))
    right = _accuracy(model.eval(), batches)
    if given is None or not math.isclose(given, right, abs_tol=1e-6):
        raise Wrong(
            "remembered",
            f"Called a second time, with one batch, you return {given}, and right is {right:.4f}. What is left from "
            "the first call?",
        )


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
                f"{where}your {name} take {value:g} bytes, {times(value / expected)} what they should. How many "
                "numbers of this kind does each weight and each bias bring along, and how many bytes is each?",
            )
    hidden, last, first = sum(widths[1:-1]), widths[-1], widths[0]
    known = {
        "input": (
            4 * batch * (hidden + last + first),
            "the batch itself is among your activations. It is there anyway: leave it out.",
        ),
        "no_loss": (4 * batch * hidden, "the loss keeps something too: the logarithm of each probability."),
        "twice": (
            4 * batch * (2 * hidden + last),
            "you count each hidden layer twice. What a ReLU puts out is what the next layer takes in: one tensor.",
        ),
        "one_sample": (right[3] / batch, "your activations are those of one sample. How many are in the batch?"),
    }
    refuse_known(given[3], known, where=where)
    raise Wrong(
        "activations",
        f"{where}your activations take {given[3]:g} bytes, {times(given[3] / right[3])} what they should. Which "
        "tensors does the backward pass need: of each linear layer, of each ReLU, of the loss?",
    )


# The evaluation


def _evaluation_batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    sizes = [64] * 7 + [16]  # the last one is smaller, so the mean of the batches' means is wrong
    images = [torch.randn(size, 1, 28, 28, generator=generator) for size in sizes]
    return [(x, (x.mean((1, 2, 3)) * 200).long().remainder(10)) for x in images]


def _judge_accuracy(given: float, right: float, samples: int) -> None:
    if math.isclose(given, right, abs_tol=1e-6):
        return
    what = f"It fits, but the accuracy over all batches is {right:.4f}, and you return {given:.4f}"
    refuse_known(
        given,
        {
            "percent": (100 * right, f"{what}, which is in percent. It goes from 0 to 1 here."),
            "count": (right * samples, f"{what}, the number of right answers. Out of how many?"),
            "errors_counted": (1 - right, f"{what}: the share of wrong answers."),
        },
        1e-5,
    )
    raise Wrong("wrong_value", f"{what}. Does every sample count, and each alike?")


def _say_what_is_alive(device: SimulatedDevice, batches: int) -> str:
    alive = device.by_kind()["activations"]
    text = f"Still out of memory: {batches} batches do not go through a device of {format_bytes(device.capacity)}, "
    if not alive:
        return f"{text}though no activation is kept for a backward pass. How many samples go through the model at once?"
    return (
        f"{text}where one does. {format_bytes(alive)} of activations are alive when it happens. Who still needs the "
        "activations of the first batch?"
    )


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
        self.held = 0  # bytes of earlier tries that were taken when a next one began: of two results, or of an error
        self._made: list[weakref.ref[torch.Tensor]] = []  # not what else the search makes
        self._last_result = 0  # bytes; a variable may still hold these until it gets the next

    def attempt(self, size: int) -> torch.Tensor:
        self.tries.append(size)
        if len(self.tries) > 200:
            raise Wrong(
                "too_many_tries", f"200 tries for a limit of {self.limit}, and no end. Each try could halve it."
            )
        if whole(size) is None or not 1 <= size <= self.limit:  # 16.0 is none for torch, either
            raise Wrong(
                "outside",
                f"You tried a batch of {size}. Sizes are whole numbers from 1 to the limit, here {self.limit}.",
            )
        if (alive := _bytes_alive(self._made)) > self._last_result:
            self.held = max(self.held, alive)
        result = torch.zeros(size, 256)
        self._made.append(weakref.ref(result))
        if size > self.most:
            raise torch.OutOfMemoryError(f"The device is out of memory: {size} samples do not fit.")
        self._last_result = result.nbytes
        return result


def _bytes_alive(made: list["weakref.ref[torch.Tensor]"]) -> int:
    return sum(tensor.nbytes for ref in made if (tensor := ref()) is not None)


def _judge_search(given: Any, most: int, limit: int, tries: list[int], left: int) -> None:
    where = f"Where {most} of at most {limit} fit"
    if not isinstance(given, int) or isinstance(given, bool):
        raise Wrong("no_number", f"{where}: return one whole number. You returned {given!r}.")
    if given > most:
        raise Wrong("does_not_fit", f"{where}: you return {given}, which does not fit.")
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
    tried = []

    def broken(size: int) -> None:
        tried.append(size)
        raise RuntimeError(f"mat1 and mat2 shapes cannot be multiplied ({size}x784 and 256x10)")

    try:
        learner(broken, 64)
    except RuntimeError:
        return False
    if not tried:
        raise Wrong("remembered", "With a limit of 64, which it had before, your function tries nothing any more.")
    return True
