"""Patient: `zero_grad` is missing, so that each step goes along the sum of all gradients before it."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchcourse import figures
from torchcourse.checks import Wrong
from torchcourse.lessons.troubleshooting.clinic.comparisons import (
    called_with,
    expect_all_learn,
    expect_no_graph,
    expect_number,
    expect_same_training,
    expect_steps,
    expect_training_mode,
    same_direction,
    train_copy,
)
from torchcourse.lessons.troubleshooting.clinic.program import Program
from torchcourse.lessons.troubleshooting.training_step import Step, TrainingRecorder
from torchcourse.models import mlp


def evidence(program: Program) -> dict[str, float]:
    with TrainingRecorder(gradients=True) as record:
        program.quietly(epochs=3)
    norms = [step.gradient.norm().item() for step in record.steps]
    figure, axis = figures.new()
    axis.plot(range(1, len(norms) + 1), norms)
    axis.set(xlabel="optimizer step", ylabel="norm of .grad at the step")
    finding = f"Norm of the gradient: {norms[0]:.1f} at step 1, {norms[9]:.1f} at step 10, at most {max(norms):.0f}"
    axis.set_title(finding)
    figures.show(figure, f"A curve over {len(norms)} optimizer steps. {finding}.")
    return {"first": norms[0], "tenth": norms[9], "largest": max(norms)}


def judge(program: Program, seed: int) -> str:
    """Train two epochs on random data with the learner's loop and with a plain one; compare step by step."""
    batches, size, rate = 5 + seed % 3, 8 + seed % 5, 0.1 + 0.02 * (seed % 4)
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(batches * size - 3, 12, generator=generator)  # the last batch is smaller
    labels = torch.randint(0, 4, (len(inputs),), generator=generator)
    loader = DataLoader(TensorDataset(inputs, labels), size)
    torch.manual_seed(seed)
    start = mlp(12, 6, 4).eval()  # as `accuracy` leaves it
    with called_with(
        f"two epochs of {batches} batches of {size} samples, the last of {size - 3}; each has 12 numbers and "
        "one of 4 labels"
    ):
        right, given = (
            train_copy(_twice(epoch), start, loader, rate, momentum=0.8)
            for epoch in (_plain_epoch, program.train_epoch)
        )
    expect_steps(given, right)
    for turn, (step, expected) in enumerate(zip(given.steps, right.steps, strict=True), start=1):
        if not torch.allclose(given.weights[turn - 1], right.weights[turn - 1], rtol=1e-4, atol=1e-6):
            before = (
                f"The gradient of step {turn - 1} is right, and the weights after it are not those that the caller's "
                "optimizer gives with it. Are its settings or its memory of earlier steps changed?"
            )
            first = "Your code changes the weights before the first step. Only the optimizer's step was to do that."
            raise Wrong("training_changed", before if turn > 1 else first)
        _compare(turn, step, expected, rate)
    expect_training_mode(given)
    expect_same_training(given, right)
    for number, (loss, expected_loss) in enumerate(zip(given.returned, right.returned, strict=True), start=1):
        expect_no_graph(loss)
        expect_number(loss, expected_loss, f"The mean loss over the samples of epoch {number}")
    return (
        f"Healed: in two epochs of {batches} steps each gradient is that of its own batch, at the same learning rate."
    )


def _compare(turn: int, step: Step, expected: Step, rate: float) -> None:
    if any(abs(given - rate) > 1e-12 for given in step.rates):
        raise Wrong(
            "learning_rate",
            f"Step {turn} uses the learning rate {step.rates[0]:g} instead of {rate:g}. It is the caller's, and "
            "was not at fault: with a smaller one the curve looks better, whatever the cause is.",
        )
    expect_all_learn(turn, step, expected)
    if torch.allclose(step.gradient, expected.gradient, rtol=1e-4, atol=1e-7):
        return
    if same_direction(step.gradient, expected.gradient):
        raise Wrong(
            "scaled",
            f"At step {turn} the gradient has the right direction and a different length: it is cut or scaled.",
        )
    if turn == 1:
        raise Wrong("first_step", "The very first gradient is not that of the first batch's mean loss.")
    raise Wrong(
        "still_there",
        f"At step {turn} of the two epochs the gradient is not that of its own batch's mean loss. Perhaps what earlier "
        "batches left is still in it, or it comes from other samples or from a different loss.",
    )


def _twice(epoch: Callable) -> Callable:
    return lambda *given: [epoch(*given) for _ in range(2)]


def _plain_epoch(model: nn.Module, loader: DataLoader, optimizer: torch.optim.Optimizer) -> float:
    total, count = 0.0, 0
    for inputs, labels in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(labels)
        count += len(labels)
    return total / count
