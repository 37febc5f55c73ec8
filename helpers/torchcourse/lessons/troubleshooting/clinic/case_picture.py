"""What a second softmax does to the loss and to its gradient, with sliders."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from torchcourse import figures


def floor(classes: int) -> float:
    """Return the smallest loss that the cross entropy of *probabilities* can reach: log(1 + (classes - 1) / e)."""
    return math.log(1 + (classes - 1) / math.e)


def losses(classes: int, margins: torch.Tensor, twice: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return loss and steepness for logits in which the right class leads by each of `margins`; all others are 0.

    Args:
        classes: the number of classes.
        margins: the lead of the right class's logit, of shape [N]; negative where another class leads.
        twice: whether a softmax comes before the cross entropy, which makes one of its own.

    Returns:
        Two tensors of shape [N]: the loss, and the absolute value of its derivative by the margin.
    """
    lead = margins.detach().clone().requires_grad_(True)
    logits = torch.cat([lead[:, None], torch.zeros(len(margins), classes - 1)], dim=1)
    target = torch.zeros(len(margins), dtype=torch.long)
    loss = F.cross_entropy(logits.softmax(1) if twice else logits, target, reduction="none")
    (slope,) = torch.autograd.grad(loss.sum(), lead)
    return loss.detach(), slope.abs()


def draw_floor(classes: int, lead: float) -> Figure:
    """Draw both losses and their steepness over the lead of the right class, with a mark at `lead`."""
    margins = torch.linspace(-10, 10, 201)
    figure, (left, right) = figures.new(8.4, 3.2, ncols=2)
    steepness = []
    for twice, name in ((False, "softmax once"), (True, "softmax twice")):
        loss, slope = losses(classes, margins, twice)
        here, slope_here = losses(classes, torch.tensor([lead]), twice)
        steepness.append(slope_here.item())
        (line,) = left.plot(margins, loss, label=name)
        left.plot(lead, here, "o", color=line.get_color())
        right.plot(margins, slope)
        right.plot(lead, slope_here, "o", color=line.get_color())
    left.axhline(floor(classes), color=figures.COLORS["grey"], linestyle=":")
    left.set(xlabel="lead of the right class's logit", ylabel="cross entropy (nats)")
    left.set_title(f"{classes} classes: twice stays above {floor(classes):.2f}")
    left.legend()
    right.set(xlabel="lead of the right class's logit", ylabel="steepness (nats per unit of lead)")
    right.set_title(f"At {lead:+.1f}: {steepness[0]:.3f} once, {steepness[1]:.3f} twice")
    return figure


def explore_floor() -> Any:
    """Return the picture with sliders for the number of classes and the lead of the right class."""
    return figures.explorer(
        draw_floor,
        alt=lambda classes, lead: (
            f"Loss and steepness over the lead of the right class, for {classes} classes. With a second softmax the "
            f"loss stays above {floor(classes):.2f}. Marked at a lead of {lead:.1f}."
        ),
        classes=(2, 100, 10),
        lead=(-10.0, 10.0, -5.0, 0.5),
    )
