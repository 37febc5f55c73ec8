"""Dropout in a model that is split over ranks, with random numbers of its own at each of two places.

    dropouts = Dropouts(split(model), p=0.1)
    for step in range(steps):
        dropouts.seed(inner, outer)     # whole numbers: which of them on which rank?
        loss = ...

*Inner* dropout lies within the split region: on hidden units, of which each rank holds others. *Outer* dropout lies
behind it: on a sum that each rank holds whole. `nn.Dropout` draws for both places from one generator per device.

Source: Shoeybi et al. 2019, appendix B.2, https://arxiv.org/abs/1909.08053
"""

from typing import Any

import torch
from torch import nn

from torchcourse.models import TransformerBlock


class Dropouts:
    """Inner and outer dropout in the MLP of every transformer block of a model, while it trains.

    It hooks into the model, so names and parameters stay as they are.

    Args:
        model: split or not.
        p: the probability that a value becomes 0; the others are divided by 1 − p.
    """

    def __init__(self, model: nn.Module, p: float) -> None:
        self._inner, self._outer = _Dropout(p), _Dropout(p)
        for block in model.modules():
            if isinstance(block, TransformerBlock):
                block.dense[1].register_forward_hook(self._inner)
                block.dense.register_forward_hook(self._outer)

    def seed(self, inner: int, outer: int) -> None:
        """Begin new random numbers at both places; the blocks of a model go on with them one after the other."""
        self._inner.seed(inner)
        self._outer.seed(outer)


class _Dropout:
    """A forward hook that zeroes some of a module's outputs, by a generator on the CPU: alike on every machine."""

    def __init__(self, p: float) -> None:
        self.p = p
        self.generator = torch.Generator()

    def seed(self, seed: int) -> None:
        self.generator.manual_seed(int(seed))  # manual_seed refuses the integers of NumPy

    def __call__(self, module: nn.Module, _inputs: Any, y: torch.Tensor) -> torch.Tensor:
        if not module.training:
            return y
        kept = torch.rand(y.shape, generator=self.generator) >= self.p
        return y * kept.to(y.device) / (1 - self.p)
