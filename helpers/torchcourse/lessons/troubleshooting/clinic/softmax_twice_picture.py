"""The loss and its steepness with one softmax and with two, drawn, with sliders."""

from typing import Any

import torch
from matplotlib.figure import Figure

from torchcourse import figures
from torchcourse.lessons.troubleshooting.clinic.softmax_twice import floor, losses


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
    left.axhline(floor(classes), color=figures.COLORS["gray"], linestyle=":")
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
