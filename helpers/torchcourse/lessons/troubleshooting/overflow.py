"""How large the numbers of a training step are in each layer, and what a small format makes of them."""

import math
from dataclasses import dataclass

import torch
from torch import nn

FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Magnitudes:
    """The largest magnitude of each layer's output and of its gradient, and the share of gradients that became 0."""

    forward: list[float]
    backward: list[float]
    lost: float


def magnitudes(model: nn.Sequential, inputs: torch.Tensor, dtype: torch.dtype, loss_scale: float) -> Magnitudes:
    """Compute a step in `dtype`: the mean square of the outputs, times the loss scale, backwards.

    `lost` counts the weights' gradients that are 0 in this format and not in 64 bits.
    """
    exact = _gradients(model.double(), inputs.double(), 1.0)[-1]
    forward, backward, gradients = _gradients(model.to(dtype), inputs.to(dtype), loss_scale)
    model.float()
    lost = ((gradients == 0) & (exact != 0)).sum() / (exact != 0).sum()
    return Magnitudes(forward, backward, lost.item())


def describe_magnitudes(found: Magnitudes) -> str:
    """Return the finding in one sentence."""
    for number, value in enumerate(found.forward, 1):
        if not math.isfinite(value):
            return f"Layer {number} overflows in the forward pass"
    for number, value in reversed(list(enumerate(found.backward, 1))):
        if not math.isfinite(value):
            return f"The gradient overflows at the output of layer {number}"
    if found.lost > 0.005:
        return f"No overflow, but {found.lost:.0%} of the weights' gradients have become 0"
    return "All numbers fit"


def _gradients(
    model: nn.Sequential, inputs: torch.Tensor, scale: float
) -> tuple[list[float], list[float], torch.Tensor]:
    outputs, x = [], inputs
    for layer in model:
        x = layer(x)
        if isinstance(layer, nn.Linear):
            x.retain_grad()
            outputs.append(x)
    model.zero_grad()
    (x.square().mean() * scale).backward()
    forward = [out.detach().abs().max().item() for out in outputs]
    backward = [out.grad.abs().max().item() for out in outputs if out.grad is not None]
    gradients = torch.cat([p.grad.double().flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad(set_to_none=True)
    return forward, backward, gradients
