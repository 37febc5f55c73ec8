"""Drawn: how large the numbers of a training step are in each layer, and what a small format makes of them."""

import math
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import nn

from torchcourse import figures

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
    exact = _gradients(model.double(), inputs.double(), 1.0)[1]
    (forward, backward), gradients = _gradients(model.to(dtype), inputs.to(dtype), loss_scale)
    model.float()
    lost = ((gradients == 0) & (exact != 0)).sum() / (exact != 0).sum()
    return Magnitudes(forward, backward, lost.item())


def _gradients(model: nn.Sequential, inputs: torch.Tensor, scale: float) -> tuple[tuple, torch.Tensor]:
    outputs, x = [], inputs
    for layer in model:
        x = layer(x)
        if isinstance(layer, nn.Linear):
            x.retain_grad()
            outputs.append(x)
    model.zero_grad()
    (x.square().mean() * scale).backward()
    sizes = [out.detach().abs().max().item() for out in outputs], [out.grad.abs().max().item() for out in outputs]
    gradients = torch.cat([p.grad.double().flatten() for p in model.parameters()])
    model.zero_grad(set_to_none=True)
    return sizes, gradients


def draw(found: Magnitudes, name: str) -> Figure:
    """Draw magnitudes over layers, with the limits of the format."""
    limits = torch.finfo(FORMATS[name])
    figure, axes = figures.new(height=3.4)
    top = 1e8
    layers = range(1, len(found.forward) + 1)
    for values, style, label in (
        (found.forward, "o-", "outputs"),
        (found.backward, "s--", "gradients of the outputs"),
    ):
        axes.semilogy(layers, [v if math.isfinite(v) else math.nan for v in values], style, label=label)
    for values, height in ((found.forward, top), (found.backward, top / 30)):
        lost = [layer for layer, v in zip(layers, values, strict=True) if not math.isfinite(v)]
        axes.plot(lost, [height] * len(lost), "x", color=figures.COLORS["vermillion"], markersize=9, mew=2)
    if not all(map(math.isfinite, found.forward + found.backward)):
        axes.plot([], [], "x", color=figures.COLORS["vermillion"], mew=2, label="nan or inf (outputs above gradients)")
    for value, text in ((limits.max, "largest in"), (limits.smallest_normal, "smallest of full precision in")):
        if 1e-12 < value < 10 * top:
            axes.axhline(value, color=figures.COLORS["grey"], linestyle=":")
            axes.text(
                1,
                value * 1.8,
                f"{text} {name}: {value:,.0f}" if 1 < value < 1e6 else f"{text} {name}: {value:.0e}",
                fontsize=8,
                color=figures.COLORS["grey"],
            )
    axes.set(xlabel="layer", ylabel="largest magnitude", ylim=(1e-12, top * 30), xticks=list(layers), title=say(found))
    axes.legend(frameon=False, loc="lower left")
    return figure


def say(found: Magnitudes) -> str:
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
