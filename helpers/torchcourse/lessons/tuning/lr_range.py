"""The learning-rate range test: one short run whose rate grows at each step shows which rates work.

    model = digits_cnn(16)
    curve = range_test(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), batches, F.cross_entropy)
    print(curve.suggestion)

Sources: Smith, "Cyclical Learning Rates for Training Neural Networks", 2017, https://arxiv.org/abs/1506.01186, who
raises the rate by equal steps and watches the accuracy; equal factors and a tenth of the rate at the lowest loss are
fast.ai's, https://sgugger.github.io/how-do-you-find-a-good-learning-rate.html.
"""

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from torchcourse.units import is_whole_number

SMOOTHING = 0.8
"""Weight of the past in the smoothed loss."""

DIVERGED = 4.0
"""The test ends where the smoothed loss is so many times its lowest value, or as far above one below zero."""


@dataclass(frozen=True)
class RangeTest:
    """Learning rates [steps], the loss of each step before its update [steps], and that loss smoothed [steps]."""

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray

    @property
    def lowest(self) -> float:
        """The rate at the lowest smoothed loss: on the edge, too large to train with."""
        return float(self.rates[self.smoothed.argmin()])

    @property
    def suggestion(self) -> float:
        """A tenth of `lowest`: there the loss falls fast, and there is a margin to the edge."""
        return self.lowest / 10


def range_test(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    low: float = 1e-5,
    high: float = 1.0,
    steps: int = 100,
) -> RangeTest:
    """Train for at most `steps` steps while the rate grows from `low` to `high` by equal factors; stop on divergence.

    All groups of the optimizer get the same rate. Model and optimizer are put back as they were, with the mode of each
    part of the model, and its gradients.

    Raises:
        ValueError: for rates that do not grow, fewer than 10 steps or batches, or a first loss that is not finite.
    """
    if not (0 < low < high < math.inf and is_whole_number(steps) and steps >= 10):
        raise ValueError(f"A range test needs 0 < low < high and 10 steps or more; got {low:g}, {high:g}, {steps}.")
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    modes = [(module, module.training) for module in model.modules()]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in gradients:
        parameter.grad = None  # the steps have gradients of their own
    rates: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    model.train()
    try:
        # Not strict: batches may go on without end.
        for rate, (x, y) in zip(np.geomspace(low, high, steps), batches, strict=False):
            for group in optimizer.param_groups:
                group["lr"] = float(rate)
            value = loss(model(x), y)
            if not math.isfinite(value.item()):
                break
            past = smoothed[-1] if smoothed else value.item()
            rates.append(rate)
            losses.append(value.item())
            smoothed.append(SMOOTHING * past + (1 - SMOOTHING) * value.item())
            if smoothed[-1] - min(smoothed) > (DIVERGED - 1) * abs(min(smoothed)):
                break
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    finally:
        model.load_state_dict(before[0])
        optimizer.load_state_dict(before[1])
        for module, mode in modes:
            module.train(mode)  # the parts of a part come after it
        for parameter, gradient in gradients:
            parameter.grad = gradient
    if len(rates) < 10:
        raise ValueError(
            f"The range test ended after {len(rates)} steps: the loss is not finite from the start, `low` is too "
            "large, or there are too few batches."
        )
    return RangeTest(np.array(rates), np.array(losses), np.array(smoothed))
