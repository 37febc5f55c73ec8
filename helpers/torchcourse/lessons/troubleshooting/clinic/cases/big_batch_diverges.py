"""Patient: gradient accumulation adds up the gradients of several batches and does not divide by their number."""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchcourse import figures
from torchcourse.checks import Wrong
from torchcourse.checks.kit import number
from torchcourse.data import mnist
from torchcourse.lessons.troubleshooting.clinic.comparisons import (
    called_with,
    expect_all_learn,
    expect_mode,
    expect_no_graph,
    expect_own_optimizer,
    expect_training_mode,
    same_direction,
    train_copy,
)
from torchcourse.lessons.troubleshooting.clinic.program import Program
from torchcourse.lessons.troubleshooting.tracking import peak_of_activations
from torchcourse.lessons.troubleshooting.training_step import Step, TrainingRecorder
from torchcourse.models import mlp
from torchcourse.units import format_bytes


def evidence(program: Program) -> None:
    images, labels = mnist("train")[:160]
    norms = {}
    for accumulate in (1, 2, 4, 8, 16):
        torch.manual_seed(0)
        model = mlp(784, 32, 10)
        loader = DataLoader(TensorDataset(images, labels), 160 // accumulate)
        with TrainingRecorder(gradients=True) as record:
            program.accumulated_epoch(model, loader, torch.optim.SGD(model.parameters(), lr=0.1), accumulate)
        norms[f"{accumulate} × {160 // accumulate}"] = record.steps[0].gradient.norm().item()
    values = list(norms.values())
    figure, axis = figures.new(height=2.8)
    axis.bar(list(norms), values)
    axis.set(xlabel="the same 160 samples, as batches × samples", ylabel="norm of the first step's gradient")
    finding = f"The same samples, the same weights: a gradient of {values[0]:.2f} to {values[-1]:.2f}"
    axis.set_title(finding)
    figures.show(figure, f"{finding}, by way of cutting: { {name: round(value, 2) for name, value in norms.items()} }.")


def judge(program: Program, seed: int) -> str:
    """Compare each step's gradient with that of all its samples in one batch, and the memory with that of one batch."""
    size, rate = 4 + seed % 3, 0.1
    generator = torch.Generator().manual_seed(seed)
    for accumulate in (2 + seed % 2, 5, 1):
        inputs = torch.randn(3 * accumulate * size, 7, generator=generator).double()
        labels = torch.randint(0, 3, (len(inputs),), generator=generator)
        loader = DataLoader(TensorDataset(inputs, labels), size)
        torch.manual_seed(seed)
        start = mlp(7, 5, 3).double().eval()
        data = (
            f"{len(loader)} batches of {size} samples, {accumulate} of them per step; each sample has 7 float64 numbers"
        )
        with called_with(data):
            given, right = (
                train_copy(each, start, loader, rate, accumulate) for each in (program.accumulated_epoch, _plain_epoch)
            )
        _compare(given.steps, right.steps, accumulate, rate)
        expect_own_optimizer(given)
        expect_training_mode(given)
        expect_mode(given.model, training=True)
        _judge_report(given.returned, right.returned)
    with called_with("4 batches of 256 samples, 4 of them per step; each sample has 4 numbers"):
        _judge_memory(program.accumulated_epoch)
    loader = DataLoader(TensorDataset(inputs[:size], labels[:size]), size)
    try:
        program.accumulated_epoch(mlp(7, 3).double(), loader, torch.optim.SGD(mlp(7, 3).parameters(), lr=rate), 2)
    except (AssertionError, ValueError, RuntimeError):
        return (
            "Healed: with 1 to 5 batches per step, each gradient is that of one large batch, at the same learning rate."
        )
    raise Wrong("no_assertion", "The assertion is gone. It kept the last step from being made of fewer batches.")


def _plain_epoch(model: nn.Module, loader: DataLoader, optimizer: torch.optim.Optimizer, accumulate: int) -> float:
    """One large batch per step. The mean loss is that of the small batches, each at the weights of its step."""
    batches, losses = list(loader), []
    for start in range(0, len(batches), accumulate):
        group = batches[start : start + accumulate]
        losses += [F.cross_entropy(model(images), labels).item() for images, labels in group]
        images, labels = (torch.cat(parts) for parts in zip(*group, strict=True))
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return sum(losses) / len(losses)


def _judge_report(given: Any, right: float) -> None:
    expect_no_graph(given)
    found = number(given)
    if found is None:
        raise Wrong("no_number", f"The steps are right. Return the mean loss of a batch; you returned {given!r}.")
    if abs(found - right) > 1e-9:
        raise Wrong(
            "wrong_value",
            f"The steps are right. The reported loss of a batch, the mean over the batches, should be {right:.4f}, and "
            f"is {found:.4f}. Is what is divided for the gradient divided in the log too?",
        )


def _judge_memory(epoch: Callable) -> None:
    """Refuse an epoch that has more alive at once than what one small batch needs."""
    accumulate, size = 4, 256  # far more activations than weights
    torch.manual_seed(0)
    start = mlp(4, 16, 16, 3)
    data = TensorDataset(torch.randn(accumulate * size, 4), torch.randint(0, 3, (accumulate * size,)))

    def peak(function: Callable, size: int, batches: int) -> int:
        model = copy.deepcopy(start)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return peak_of_activations(model, lambda: function(model, DataLoader(data, size), optimizer, batches))

    most, small = peak(epoch, size, accumulate), peak(_plain_epoch, size, 1)
    if most > 2 * small:
        raise Wrong(
            "no_memory_saved",
            f"The steps are right. But {accumulate} batches per step need {format_bytes(most)} of activations at once; "
            f"one batch alone needs {format_bytes(small)}. More does not fit on their GPU. When are the activations of "
            "the first batch released?",
        )


def _compare(given: list[Step], right: list[Step], accumulate: int, rate: float) -> None:
    case = f"With {accumulate} batches per step"
    if len(given) != len(right):
        raise Wrong("steps", f"{case}, {3 * accumulate} batches are {len(right)} steps, and you make {len(given)}.")
    for turn, (step, should) in enumerate(zip(given, right, strict=True), start=1):
        ratio = (step.gradient.norm() / should.gradient.norm()).item()
        if any(abs(value - rate) > 1e-12 for value in step.rates):
            why = "It is the caller's, and it was not at fault."
            if abs(step.rates[0] * ratio / rate - 1) < 1e-3:
                why = (
                    "For plain SGD that comes to the same; for Adam, weight decay or clipping it does not. The "
                    "gradient is what is wrong."
                )
            raise Wrong(
                "learning_rate", f"The learning rate at step {turn} is {step.rates[0]:g} instead of {rate:g}. {why}"
            )
        expect_all_learn(turn, step, should)
        if (step.gradient - should.gradient).norm() < 1e-6 * should.gradient.norm():  # 1 / k in float32 is as good
            continue
        if not same_direction(step.gradient, should.gradient):
            raise Wrong(
                "not_all_batches",
                f"{case}, step {turn} does not go along the mean gradient of its batches: some are missing in it, or "
                "do not count equally.",
            )
        if abs(ratio - accumulate) < 1e-6 * accumulate:
            raise Wrong("still_there", f"{case} the gradient is {ratio:.0f} times too long.")
        raise Wrong(
            "scaled",
            f"{case} the gradient has the right direction and {ratio:.2f} times the length. Is something cut off, or "
            "divided by a number that is right for a different setting only?",
        )
