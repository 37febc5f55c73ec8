"""Patient: a logarithm of a probability that is rounded to 0 or to 1, and a NaN out of 0 times infinity."""

import contextlib
import io
from collections.abc import Callable

import torch
import torch.nn.functional as F

from torchcourse import figures
from torchcourse.checks import Wrong
from torchcourse.lessons.troubleshooting.clinic.comparisons import called_with, expect_loss
from torchcourse.lessons.troubleshooting.clinic.program import Program
from torchcourse.lessons.troubleshooting.training_step import TrainingRecorder
from torchcourse.models import mlp

RATE = 0.05  # the learning rate in `train`


def evidence(program: Program) -> None:
    torch.manual_seed(0)
    model, largest = mlp(784, 32, 1), []
    model.register_forward_hook(lambda _model, _inputs, logits: largest.append(logits.max().item()))
    with contextlib.redirect_stdout(io.StringIO()):
        losses = program.train(model, *program.scans_of_two(640, 5.0), epochs=2)
    first = next(step for step, loss in enumerate(losses) if loss != loss)
    one = torch.sigmoid(torch.tensor(largest[first])).item()
    figure, (top, bottom) = figures.new(7, 4, nrows=2, sharex=True)
    top.plot(range(first), losses[:first])
    top.set(ylabel="loss")
    top.set_title(f"The first NaN is the loss of step {first}")
    bottom.plot(range(first + 1), largest[: first + 1], marker="o", markersize=3)
    bottom.set(xlabel="step", ylabel="largest logit")
    bottom.set_title(f"In that step a logit reaches {largest[first]:.1f}: sigmoid gives {one:.9g}")
    figures.show(
        figure,
        f"Above, the loss up to step {first - 1}; the next one is NaN. Below, the largest logit of each step, "
        f"{largest[first]:.1f} in step {first}.",
    )


def judge(program: Program, seed: int) -> str:
    """Compare value and gradient with the exact ones, for logits from small to huge; then train on bright scans."""
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.rand(24, generator=generator) > 0.5).float()
    small = 3 * torch.randn(24, generator=generator)
    _compare_small(program, small, targets)
    for size in (20.0, 60.0, 120.0 + 10 * seed, 5000.0):
        _compare_huge(program, torch.where(small > 0, size, -size), targets, size)
    torch.manual_seed(seed)
    model = mlp(784, 32, 1)
    scans, zeros = program.scans_of_two(640, 5.0 + seed % 4)
    with TrainingRecorder() as record, called_with("the batches of a training run"):
        losses = program.train(model, scans, zeros)
    if any(loss != loss for loss in losses) or any(step.rates != (RATE,) for step in record.steps):
        raise Wrong(
            "training_changed", "The loss is right on single batches, but the training run still fails or differs."
        )
    return (
        "Healed: value and gradient are exact for logits up to 5000, and the training with the new scanner is finite."
    )


def _value_and_gradient(loss_of: Callable, logits: torch.Tensor, targets: torch.Tensor) -> tuple[float, torch.Tensor]:
    logits = logits.clone().requires_grad_()
    with called_with(f"24 targets and logits of up to {logits.abs().max():.3g}"):
        loss = expect_loss(loss_of(logits, targets))
        (gradient,) = torch.autograd.grad(loss, logits, allow_unused=True, materialize_grads=True)
    return loss.item(), gradient.float()


def _compare_small(program: Program, logits: torch.Tensor, targets: torch.Tensor) -> None:
    value, gradient = _value_and_gradient(program.detection_loss, logits, targets)
    right, slope = _value_and_gradient(F.binary_cross_entropy_with_logits, logits, targets)
    changed = ""
    if not torch.allclose(gradient, slope, rtol=1e-2, atol=1e-5):
        changed = f"is {right:.4f} as before, and its gradient has changed: does all of the loss depend on the logits?"
    if not abs(value - right) <= 1e-3 * right:  # a NaN is not either
        changed = f"was {right:.4f}, and is now {value:.4f}."
    if changed:
        raise Wrong(
            "other_loss",
            "The repair should leave the healthy cases alone. For ordinary logits, where nothing was wrong, the loss "
            f"{changed}",
        )


def _compare_huge(program: Program, logits: torch.Tensor, targets: torch.Tensor, size: float) -> None:
    value, gradient = _value_and_gradient(program.detection_loss, logits, targets)
    right, slope = _value_and_gradient(F.binary_cross_entropy_with_logits, logits, targets)
    case = f"For logits of ±{size:g}"
    if gradient.isnan().any():
        raise Wrong(
            "nan_gradient" if value == value else "still_there",
            f"{case} the loss is {value:.4g}, and {int(gradient.isnan().sum())} of {len(gradient)} gradients are NaN. "
            "One step with them, and every weight is NaN.",
        )
    if not abs(value) < float("inf"):
        raise Wrong("still_there", f"{case} the loss is {value}.")
    wrong = slope.abs() > 0.5 / len(slope)  # where the network is certain and mistaken
    if wrong.any() and gradient[wrong].abs().min() < 0.5 * slope[wrong].abs().min():
        raise Wrong(
            "gradient_lost",
            f"{case} the loss is finite, {value:.4g}. But for scans on which the network is certain and wrong the "
            f"gradient is {gradient[wrong].abs().min():.2g} where it should be {slope[wrong].abs().min():.2g}: "
            "it will never learn them. The symptom is muted, the information is lost before the logarithm.",
        )
    if abs(value - right) > 1e-3 * right + 1e-6 or not torch.allclose(gradient, slope, rtol=1e-2, atol=1e-5):
        raise Wrong("inexact", f"{case} the loss should be {right:.5g}, and it is {value:.5g}.")
