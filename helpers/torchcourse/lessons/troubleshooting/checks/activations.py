"""Checks of lesson 05, notebook 1, on activations: `accumulate` and `checkpointed`. Each names the symptom."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import copies, same
from torchcourse.lessons.troubleshooting.tracking import peak_of_activations
from torchcourse.models import mlp
from torchcourse.units import format_bytes


@check
def accumulate(learner: Callable[..., Any]) -> str:
    """Compare gradients with those of the whole batch, and the peak with that of one part."""
    for samples, parts, loss_fn in (
        (1024, 4, F.cross_entropy),
        (60, 8, F.cross_entropy),
        (50, 1, F.cross_entropy),
        (7, 7, F.cross_entropy),
        (30, 5, F.multi_margin_loss),
    ):
        _judge_accumulation(learner, samples, parts, loss_fn)
    return "The gradients of the whole batch, in parts of equal and unequal size, at the memory of one part."


@check
def checkpointed(learner: Callable[[nn.Sequential, torch.Tensor], torch.Tensor]) -> str:
    """Compare outputs and gradients with the plain forward pass, and ask for less than half of its activations."""
    said = _judge_checkpoints(learner, 12)
    _judge_checkpoints(learner, 15)
    return said


def residual_blocks(count: int) -> nn.Sequential:
    """Blocks that keep far more inside than they pass on: [N, 32] → [N, 32]."""
    return nn.Sequential(*[nn.Sequential(nn.Linear(32, 256), nn.GELU(), nn.Linear(256, 32)) for _ in range(count)])


def _gradients(model: nn.Module) -> list[torch.Tensor]:
    return copies(parameter.grad for parameter in model.parameters() if parameter.grad is not None)


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
    peak = peak_of_activations(blocks, work)
    return kept[0], peak


def _judge_checkpoints(learner: Callable[[nn.Sequential, torch.Tensor], torch.Tensor], count: int) -> str:
    torch.manual_seed(0)
    blocks, x = residual_blocks(count), torch.randn(64, 32)
    plain_output, plain_peak = _run(blocks, lambda: blocks(x))
    right = _gradients(blocks)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        output, peak = _run(blocks, lambda: learner(blocks, x))
    if x.requires_grad or x.grad is not None:
        raise Wrong(
            "inputs_changed",
            "The input asks for gradients afterwards, and did not before: its owner did not ask for it.",
        )
    if not all(module.training for module in blocks.modules()):
        raise Wrong("mode_left_changed", "The blocks are in evaluation mode afterwards, and they were in training.")
    if not same(output, plain_output, 1e-4):
        raise Wrong("wrong_value", f"The output is not that of the {count} blocks, one after the other.")
    without = [name for name, parameter in blocks.named_parameters() if parameter.grad is None]
    if without:
        raise Wrong(
            "no_gradient",
            f"{len(without)} of {len(right)} parameters get no gradient, {without[0]} first. With the old "
            "`use_reentrant=True` a block whose input needs no gradient gets none; under no_grad or after a detach "
            "nothing does.",
        )
    if not same(_gradients(blocks), right, 1e-4):
        raise Wrong(
            "wrong_gradient",
            "The output is right, but the gradients are not those of the plain pass. In the backward pass the function "
            "runs again: are the names that it uses then still those of the same block?",
        )
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


def _judge_accumulation(learner: Callable[..., Any], samples: int, parts: int, loss_fn: Callable) -> None:
    torch.manual_seed(samples)
    # Few weights, so that what is alive at once are activations, and not gradients that somebody sums up.
    model, x, y = mlp(20, 16, 16, 3).double(), torch.randn(samples, 20).double(), torch.randint(3, (samples,))
    weights = copies(model.parameters())
    of_cross_entropy, _ = _whole_batch(model, F.cross_entropy, x, y)
    right, plain = _whole_batch(model, loss_fn, x, y)
    model.zero_grad()
    sizes: list[int] = []
    training: set[bool] = set()
    autocast: set[bool] = set()

    def note(layer: nn.Module, given: tuple[torch.Tensor]) -> None:
        sizes.append(len(given[0]))
        training.add(layer.training)
        autocast.add(torch.is_autocast_enabled("cpu"))

    hook = next(layer for layer in model if isinstance(layer, nn.Linear)).register_forward_pre_hook(note)
    peak = peak_of_activations(model, lambda: learner(model, loss_fn, x, y, parts))
    hook.remove()
    where = f"{samples} samples in {parts} parts"
    if not same(copies(model.parameters()), weights):
        raise Wrong(
            "weights_changed", f"{where}: the weights are different afterwards. No optimizer step was asked for."
        )
    if not model.training:
        raise Wrong(
            "mode_left_changed", f"{where}: the model is in evaluation mode afterwards, and it was in training."
        )
    if False in training:
        raise Wrong(
            "evaluation_mode",
            f"{where}: the model is in evaluation mode while it computes the gradients, and it came in training mode: "
            "with dropout or BatchNorm they would be those of a different network.",
        )
    if True in autocast:
        raise Wrong(
            "other_precision",
            f"{where}: the parts go forward under autocast. With 32 bits that computes in 16: the gradients would not "
            "be those of the whole batch up to rounding.",
        )
    if loss_fn is not F.cross_entropy and same(_gradients(model), of_cross_entropy, 1e-7):
        raise Wrong("other_loss", "Given a different `loss_fn`, your gradients are still those of cross-entropy.")
    _judge_gradients(model, right, samples, parts)
    if parts == 4 and peak > 0.6 * plain:
        raise Wrong(
            "no_memory_saved",
            f"The gradients are right, but 4 parts need {format_bytes(peak)} of activations, and the whole batch at "
            f"once needs {format_bytes(plain)}. When are the activations of the first part released?",
        )
    # Who also checkpoints computes each part twice.
    if sizes and (max(sizes) > -(-samples // parts) or len(sizes) > 2 * parts):
        raise Wrong(
            "parts",
            f"{where}: the gradients are right, and the model got {len(sizes)} parts, the largest of {max(sizes)} "
            "samples.",
        )
    learner(model, loss_fn, x, y, parts)
    _judge_second_call(_gradients(model), right)


def _whole_batch(
    model: nn.Module, loss_fn: Callable, x: torch.Tensor, y: torch.Tensor
) -> tuple[list[torch.Tensor], int]:
    """The gradients of the whole batch, and the peak of its activations."""
    model.zero_grad()
    peak = peak_of_activations(model, lambda: loss_fn(model(x), y).backward())
    return _gradients(model), peak


def _judge_second_call(given: list[torch.Tensor], right: list[torch.Tensor]) -> None:
    if same(given, [2 * gradient for gradient in right], 1e-6):
        return
    if same(given, right, 1e-7):
        raise Wrong(
            "gradient_cleared",
            "The gradients are right, and what was in .grad before is gone: called a second time, your function leaves "
            "the same again. It is to add to .grad; who calls it clears.",
        )
    raise Wrong(
        "gradient_rescaled",
        "Where .grad is empty before, the gradients are right. Called a second time, your function also changes what "
        "was in .grad already. Weigh each part's loss, not the sum in .grad.",
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
