"""One training step of a small decoder on fake tensors, under every remedy: what does each save?

The decoder is heavy in activations: 3.7 million parameters, 256 tokens per sample.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F

from torchcourse.lessons.troubleshooting.large_models import Decoder
from torchcourse.lessons.troubleshooting.simulated_device import fake_tensors
from torchcourse.lessons.troubleshooting.tracking import MemoryTracker, Timeline

PRECISIONS = ("float32", "mixed (bfloat16)", "all bfloat16")
OPTIMIZERS = ("Adam", "SGD with momentum", "SGD")
LENGTH, VOCABULARY = 256, 1000


@dataclass(frozen=True)
class Step:
    """What a step needed at its peak, in bytes by kind, and how memory went up and down."""

    peak: int
    by_kind: dict[str, int]
    timeline: Timeline


@lru_cache(maxsize=256)
def study_step(
    batch_size: int,
    precision: str = "float32",
    optimizer: str = "Adam",
    checkpointing: bool = False,
    accumulation: int = 1,
    training: bool = True,
) -> Step:
    """Simulate a step of training, the second one, when the optimizer has all its numbers.

    Args:
        batch_size: samples of `LENGTH` tokens.
        precision: one of `PRECISIONS`. Mixed precision (혼합 정밀도) keeps float32 parameters, and computes in bfloat16
            where that is safe (`torch.autocast`).
        optimizer: one of `OPTIMIZERS`.
        checkpointing: keep only the input of each block, and compute the rest again.
        accumulation: cut the batch into so many parts, one after the other.
        training: False for a forward pass under `no_grad`.

    Raises:
        ValueError: if the batch cannot be cut into so many parts.
    """
    if accumulation > batch_size:
        raise ValueError(f"A batch of {batch_size} samples cannot be cut into {accumulation} parts.")
    dtype = torch.bfloat16 if precision == "all bfloat16" else torch.float32
    with fake_tensors(dtype), MemoryTracker() as tracker:
        model = Decoder(256, 8, 704, 4, VOCABULARY, checkpointed=checkpointing)
        tracker.watch(model)
        if training:
            steps = _make_optimizer(optimizer, model)
            tracker.watch(steps)
            _step(model, steps, precision, [1])  # small, so that the peak is that of the second step
            tracker.mark("step")
            _step(model, steps, precision, [len(part) for part in torch.arange(batch_size).tensor_split(accumulation)])
        else:
            tracker.mark("step")
            with torch.no_grad():
                _loss(model, batch_size, precision)
    return Step(tracker.peak, tracker.peak_by_kind(), tracker.timeline())


def _make_optimizer(name: str, model: torch.nn.Module) -> torch.optim.Optimizer:
    # foreach=False: one parameter after the other. All at once, it would need room for one more number a parameter.
    if name == "Adam":
        return torch.optim.Adam(model.parameters(), foreach=False)
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9 if "momentum" in name else 0.0, foreach=False)


def _step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, precision: str, sizes: list[int]) -> None:
    for size in sizes:
        _loss(model, size, precision).mul(size / sum(sizes)).backward()
    optimizer.step()
    optimizer.zero_grad()


def _loss(model: torch.nn.Module, batch_size: int, precision: str) -> torch.Tensor:
    tokens = torch.zeros(batch_size, LENGTH, dtype=torch.long)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision.startswith("mixed")):
        return F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
