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

import torch
from torch import nn

from torchcourse.lessons.tuning.digits_task import accuracy, digits_cnn, parts, train_epoch

FACTORS = (0.5, 2.0)
"""What a copied learning rate is multiplied by, one of these (the paper takes 0.8 and 1.2, and many more turns)."""


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
            train_epoch(member.model, member.optimizer, *images["train"], order)
            member.scores.append(accuracy(member.model, *images["validation"]))
        if exploit and epoch < epochs - 1:
            _copy_the_best(members, generator)
    return members


def _member(rate: float, width: int) -> Member:
    model = digits_cnn(width)
    return Member(model, torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9))


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
