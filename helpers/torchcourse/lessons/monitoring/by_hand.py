"""A training run with every piece of its state in plain sight: what `Trainer` and `snapshot` do, small enough to read.

run = Run()
losses = run.train(27)          # stops within the second epoch
state = capture(run)            # … a crash, another process …
again = Run(seed=1)
restore(again, state)
losses += again.train(33)       # the same numbers as Run().train(60)
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from torchcourse.data import mnist

BATCH, BATCHES = 32, 20
"""Samples in a batch, and batches in an epoch."""


class Run:
    """A small network with dropout and BatchNorm on 640 digits, 20 batches per epoch, on the CPU.

    Attributes:
        model, optimizer, scheduler: as usual; the schedule takes a step after each batch.
        epoch, batch: where training is: finished epochs, and batches done of the one under way.
    """

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.images, self.labels = digits()
        self.model = nn.Sequential(
            nn.Flatten(), nn.Linear(784, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 10)
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=100)
        self.epoch, self.batch = 0, 0

    def train(self, steps: int) -> list[float]:
        """Go on for so many steps and return the loss of each."""
        losses = []
        self.model.train()
        for _ in range(steps):
            # The order of an epoch depends on its number alone: there is no state of a sampler but the position.
            order = torch.randperm(BATCH * BATCHES, generator=torch.Generator().manual_seed(self.epoch))
            chosen = order[self.batch * BATCH : (self.batch + 1) * BATCH]
            loss = F.cross_entropy(self.model(self.images[chosen]), self.labels[chosen])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()
            self.epoch, self.batch = (self.epoch, self.batch + 1) if self.batch + 1 < BATCHES else (self.epoch + 1, 0)
            losses.append(loss.item())
        return losses


class NoisyDigits(TensorDataset):
    """The same 640 digits, each with fresh noise from PyTorch's stream of random numbers whenever it is asked for."""

    def __init__(self) -> None:
        super().__init__(*digits())

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return add_noise(super().__getitem__(index))


def add_noise(sample: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return an image [1, 28, 28] with noise of standard deviation 0.5, and its label."""
    image, label = sample
    return image + 0.5 * torch.randn_like(image), label


@functools.cache
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Return 640 digits: images [640, 1, 28, 28] and labels [640]."""
    images, labels = mnist("train").tensors
    return images[: BATCH * BATCHES], labels[: BATCH * BATCHES]


PIECES = ("model", "optimizer", "scheduler", "random", "position")


def capture(run: Run) -> dict[str, Any]:
    """Return all pieces that a run consists of between two steps."""
    return {
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "scheduler": run.scheduler.state_dict(),
        "random": torch.get_rng_state(),
        "position": (run.epoch, run.batch),
    }


def restore(run: Run, state: dict[str, Any]) -> None:
    """Put the pieces back. One that is missing stays as it is in the new run, as in a program that forgot it."""
    for name in ("model", "optimizer", "scheduler"):
        if name in state:
            getattr(run, name).load_state_dict(state[name])
    if "position" in state:
        run.epoch, run.batch = state["position"]
    if "random" in state:
        torch.set_rng_state(state["random"])
