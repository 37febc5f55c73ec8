"""Population-based training: networks train side by side; the worst copy the best, and change their learning rate.

    members = train_population(rates=[1e-4, 1e-3, 1e-2, 0.1], epochs=9, seed=0)
    print(max(member.scores[-1] for member in members))

So it finds a *schedule* of the learning rate in one go, and not one rate.
Source: Jaderberg et al. 2017, https://arxiv.org/abs/1711.09846.
"""

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import nn

from torchcourse import figures
from torchcourse.figures import COLORS
from torchcourse.lessons.tuning.digits_task import digits_cnn, parts

FACTORS = (0.5, 2.0)
"""What a copied learning rate is multiplied by, one of these (the paper takes 0.8 and 1.2, and many more turns)."""

BATCH = 32


@dataclass
class Member:
    """A network of the population, with the learning rate, the validation accuracy and the source of each epoch."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    rates: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    copied_from: list[int | None] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return self.optimizer.param_groups[0]["lr"]


def train_population(
    rates: Sequence[float], epochs: int, seed: int = 0, exploit: bool = True, width: int = 16
) -> list[Member]:
    """Train a network for each rate; after each epoch but the last the worst quarter copies the best quarter.

    Args:
        rates: the learning rates at the start, of SGD with momentum.
        epochs: how many each member trains; the budget is `len(rates) * epochs`.
        seed: of weights, of the order of the images, and of who copies whom.
        exploit: False trains each member by itself, which is a search over constant rates.
        width: of `digits_task.digits_cnn`.

    Raises:
        ValueError: for fewer than two members.
    """
    if len(rates) < 2:
        raise ValueError(f"A population has two members or more, but there are {len(rates)} rates.")
    images, generator = parts(), random.Random(seed)
    order = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        members = [_member(rate, width) for rate in rates]
    for epoch in range(epochs):
        for member in members:
            member.rates.append(member.rate)
            member.copied_from.append(None)
            member.scores.append(_train_epoch(member, images, order))
        if exploit and epoch < epochs - 1:
            _copy_the_best(members, generator)
    return members


def draw_population(members: Sequence[Member], finding: str) -> Figure:
    """Draw each member's learning rate and validation accuracy over the epochs; a ring marks who had copied."""
    figure, axes = figures.new(9.0, 3.2, ncols=2)
    epochs = np.arange(1, len(members[0].scores) + 1)
    best = max(members, key=lambda member: member.scores[-1])
    for member in members:
        color = COLORS["vermillion"] if member is best else COLORS["grey"]
        look = {"color": color, "linewidth": 2 if member is best else 0.8, "zorder": 2 + (member is best)}
        for axis, values in zip(axes, (member.rates, 100 * np.array(member.scores)), strict=True):
            axis.plot(epochs, values, **look)
        copied = [place for place, source in enumerate(member.copied_from) if source is not None]
        axes[0].plot(epochs[copied], np.array(member.rates)[copied], "o", color=color, fillstyle="none", ms=6)
    axes[0].set(yscale="log", xlabel="epoch", ylabel="learning rate (ring: just copied)")
    axes[1].set(xlabel="epoch", ylabel="validation accuracy (%)", ylim=(0, 100))
    figure.suptitle(finding)
    return figure


def _member(rate: float, width: int) -> Member:
    model = digits_cnn(width)
    return Member(model, torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9))


def _train_epoch(member: Member, images: dict, order: torch.Generator) -> float:
    x, y = images["train"]
    member.model.train()
    for batch in torch.randperm(len(x), generator=order).split(BATCH):
        member.optimizer.zero_grad()
        F.cross_entropy(member.model(x[batch]), y[batch]).backward()
        member.optimizer.step()
    member.model.eval()
    x, y = images["validation"]
    with torch.no_grad():
        return (member.model(x).argmax(dim=1) == y).float().mean().item()


def _copy_the_best(members: Sequence[Member], generator: random.Random) -> None:
    ranked = sorted(range(len(members)), key=lambda number: members[number].scores[-1])
    quarter = max(1, len(ranked) // 4)
    for weak in ranked[:quarter]:
        strong = generator.choice(ranked[-quarter:])
        member, source = members[weak], members[strong]
        member.model.load_state_dict(source.model.state_dict())
        # A deep copy: an optimizer keeps the very tensors of a state that it loads.
        member.optimizer.load_state_dict(copy.deepcopy(source.optimizer.state_dict()))
        member.optimizer.param_groups[0]["lr"] = source.rate * generator.choice(FACTORS)
        member.copied_from[-1] = strong
