"""DataParallel and DistributedDataParallel measured side by side on this machine's GPUs: time and memory of each.

What a machine with fewer than two GPUs can show is the cost model in `torchcourse.lessons.data_parallelism.timeline`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from torchcourse.ranks.run import run_ranks
from torchcourse.ranks.who import device


@dataclass(frozen=True)
class Measured:
    """Milliseconds of a step, and the peak memory of each GPU in MB, as PyTorch's allocator counts it."""

    way: str
    step_ms: float
    peak_mb: tuple[float, ...]

    def __str__(self) -> str:
        peaks = ", ".join(f"GPU {index} {peak:.0f} MB" for index, peak in enumerate(self.peak_mb))
        return f"{self.way}: {self.step_ms:.1f} ms per step; at most {peaks}"


def measure(
    make_model: Callable[[], nn.Module], inputs: torch.Tensor, targets: torch.Tensor, steps: int = 20
) -> list[Measured]:
    """Train a new classifier for some steps both ways, on one batch of shapes [batch, …] and [batch].

    Raises:
        RuntimeError: with fewer than two GPUs.
    """
    gpus = torch.cuda.device_count()
    if gpus < 2:
        raise RuntimeError(f"Comparing DataParallel and DDP needs two GPUs, and this machine has {gpus}.")

    def on_a_rank() -> tuple[float, float]:
        rank = dist.get_rank()
        x, y = (tensor.tensor_split(gpus)[rank].to(device()) for tensor in (inputs, targets))
        model = DistributedDataParallel(make_model().to(device()), device_ids=[device().index])
        return _train(model, x, y, steps), _peak_mb(device().index)

    ranks = run_ranks(on_a_rank, world_size=gpus)
    ddp = Measured("DistributedDataParallel", max(ms for ms, _ in ranks), tuple(peak for _, peak in ranks))

    for index in range(gpus):
        torch.cuda.reset_peak_memory_stats(index)
    model = nn.DataParallel(make_model().to("cuda:0"))
    milliseconds = _train(model, inputs.to("cuda:0"), targets.to("cuda:0"), steps)
    return [Measured("DataParallel", milliseconds, tuple(_peak_mb(index) for index in range(gpus))), ddp]


def _train(model: nn.Module, x: torch.Tensor, y: torch.Tensor, steps: int) -> float:
    """Return the mean milliseconds of a step, after three to warm up."""
    optimizer = torch.optim.Adam(model.parameters())
    for step in range(3 + steps):
        if step == 3:
            torch.cuda.synchronize()
            start = time.perf_counter()
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - start) / steps


def _peak_mb(index: int) -> float:
    return torch.cuda.max_memory_allocated(index) / 1e6
