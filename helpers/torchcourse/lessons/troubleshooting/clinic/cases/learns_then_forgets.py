"""Patient: `zero_grad` is missing, so that each step goes along the sum of all gradients before it."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchcourse import figures
from torchcourse.checks import Wrong
from torchcourse.checks.kit import number
from torchcourse.lessons.troubleshooting.clinic.comparisons import (
    Trained,
    expect_all_learn,
    expect_left_in_training_mode,
    expect_no_graph,
    expect_steps,
    expect_training_mode,
    expect_weights,
    same_direction,
    train_copy,
)
from torchcourse.lessons.troubleshooting.clinic.error_notes import called_with
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
    axis.set_title(
        f"Norm of the gradient: {norms[0]:.1f} at step 1, {norms[9]:.1f} at step 10, at most {max(norms):.0f}"
    )
    figures.show(
        figure, f"The gradient's norm over {len(norms)} steps: {norms[0]:.1f} at first, {max(norms):.0f} at most."
    )
    return {"first": norms[0], "tenth": norms[9], "largest": max(norms)}


def judge(program: Program, seed: int) -> str:
    """Train one epoch on random data with the learner's loop and with a plain one; compare step by step."""
    batches, size, rate = 5 + seed % 3, 8 + seed % 5, 0.1 + 0.02 * (seed % 4)
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(batches * size - 3, 12, generator=generator)  # the last batch is smaller
    labels = torch.randint(0, 4, (len(inputs),), generator=generator)
    loader = DataLoader(TensorDataset(inputs, labels), size)
    torch.manual_seed(seed)
    start = mlp(12, 6, 4).eval()  # as `accuracy` leaves it
    data = f"{batches} batches of {size} samples, the last of {size - 3}; each has 12 numbers and one of 4 labels"
    with called_with(data):
        right, given = (
            train_copy(epoch, start, loader, rate, momentum=0.8) for epoch in (_plain_epoch, program.train_epoch)
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
        _compare(turn, step, expected, rate, [before.gradient for before in right.steps[: turn - 1]])
    expect_training_mode(given)
    expect_left_in_training_mode(given)
    expect_weights(given.model, right.model)
    expect_no_graph(given.returned)
    loss = number(given.returned)
    if loss is None or abs(loss - right.returned) > 1e-6:
        raise Wrong(
            "wrong_value",
            f"The epoch's mean loss over the samples is {right.returned:.6f}; your function returned "
            f"{given.returned if loss is None else loss!r}.",
        )
    with called_with(f"{data}; two epochs"):
        right, given = (
            train_copy(_two_of(epoch), start, loader, rate, momentum=0.8)
            for epoch in (_plain_epoch, program.train_epoch)
        )
    _judge_second_epoch(given, right, batches)
    return f"Healed: in {batches} steps of {batches} each gradient is that of its own batch, at the same learning rate."


def _compare(turn: int, step: Step, expected: Step, rate: float, earlier: list[torch.Tensor]) -> None:
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
    if not _is_left_over(step.gradient - expected.gradient, earlier):
        raise Wrong(
            "other_gradient",
            f"At step {turn} the gradient is that of no mean loss of the batch that the loader gives there. From which "
            "images and labels does it come?",
        )
    raise Wrong(
        "still_there",
        f"At step {turn} the gradient is not that of its own batch: what earlier batches left is still in it.",
    )


def _is_left_over(rest: torch.Tensor, earlier: list[torch.Tensor]) -> bool:
    """Whether what is too much in a gradient comes from the batches before it, in all parameters or in some."""
    touched = rest.abs() > 1e-7
    sums = [torch.stack(earlier[start:]).sum(0) for start in range(len(earlier))]
    return any(F.cosine_similarity(rest[touched], each[touched], dim=0) > 0.99 for each in sums)


def _two_of(epoch: Callable) -> Callable:
    return lambda *given: [epoch(*given) for _ in range(2)]


def _judge_second_epoch(given: Trained, right: Trained, batches: int) -> None:
    """Refuse what is right in the first call only."""
    if len(given.steps) != len(right.steps):
        raise Wrong(
            "second_epoch",
            f"The first epoch is right. The next one makes {len(given.steps) - batches} optimizer steps for {batches} "
            "batches. What does your function keep from one call to the next?",
        )
    for turn, (step, expected) in enumerate(zip(given.steps[batches:], right.steps[batches:], strict=True), start=1):
        if step.gradient.shape != expected.gradient.shape or not torch.allclose(
            step.gradient, expected.gradient, rtol=1e-3, atol=1e-6
        ):
            raise Wrong(
                "second_epoch",
                f"The first epoch is right. At step {turn} of the next one the gradient is not that of its own batch. "
                "What does the epoch before leave behind?",
            )
    loss = number(given.returned[1])
    if loss is None or abs(loss - right.returned[1]) > 1e-5:
        raise Wrong(
            "second_call",
            f"The first epoch is right. The mean loss of the next one is {right.returned[1]:.6f}; your function "
            f"returned {given.returned[1]!r}. What does it keep from one call to the next?",
        )


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
