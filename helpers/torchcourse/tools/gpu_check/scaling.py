"""DDP and FSDP2 over 1, 2, 4 and 8 GPUs: samples per second, and the states that each rank holds.

The batch per rank is the same for every number of ranks (weak scaling): twice as many ranks should do twice as many
samples per second. Without a GPU a small model runs on CPU ranks, which share the cores.
"""

import statistics
import time
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from torchcourse.lessons.data_parallelism.memory import measure_memory, zero_memory
from torchcourse.models import TransformerBlock
from torchcourse.ranks.run import run_ranks
from torchcourse.ranks.who import device
from torchcourse.tools.gpu_check.parts import Case, Finding, Part, require_close
from torchcourse.tools.gpu_check.ranks import WORLD_SIZES, needs_gpus, synchronize
from torchcourse.tools.gpu_check.wrapped import WAYS, wrap
from torchcourse.units import format_bytes


@dataclass(frozen=True)
class Size:
    """How large the model and the measurement are."""

    layers: int
    width: int
    tokens: int
    samples: int
    """Per rank and step."""
    steps: int
    """Per window of time; the median of the windows is reported."""
    windows: int = 5

    @property
    def parameters(self) -> int:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in build(self).parameters())


ON_GPU = Size(layers=12, width=1024, tokens=512, samples=8, steps=10)
ON_CPU = Size(layers=2, width=64, tokens=16, samples=8, steps=5)


@dataclass(frozen=True)
class Measured:
    """What one rank saw."""

    seconds: list[float]
    """Per step, for each window."""
    states: float
    """Bytes of parameters, gradients and the optimizer's numbers."""
    peak: int
    """The most bytes of GPU memory at once; 0 on a CPU."""


def part() -> Part:
    gpus = torch.cuda.device_count()
    size = ON_GPU if gpus else ON_CPU
    counts = WORLD_SIZES if gpus else (1, 2)
    alone: dict[str, float] = {}
    cases = [
        Case(f"{way}, {count} rank{'s' * (count > 1)}", partial(measured_case, size, way, count, alone))
        for way in WAYS
        for count in counts
    ]
    if not gpus:
        cases += [Case(f"{way}, {count} GPUs", partial(_only_on_gpus, count)) for way in WAYS for count in (2, 4, 8)]
    where = "bfloat16 on GPUs" if gpus else "float32 on CPU ranks, which share the cores: nothing follows for GPUs"
    return Part(
        "Scaling of DDP and FSDP2",
        f"{size.layers} transformer blocks of width {size.width}, {size.parameters / 1e6:.1f} million parameters, "
        f"{size.samples} samples of {size.tokens} tokens per rank and step, AdamW, {where}. Median of {size.windows} "
        f"windows of {size.steps} steps (range). The states per rank must be those of lesson 01's formula within 5%.",
        cases,
    )


def build(size: Size) -> nn.Sequential:
    return nn.Sequential(*[TransformerBlock(size.width, heads=max(1, size.width // 64)) for _ in range(size.layers)])


def measured_case(size: Size, way: str, count: int, alone: dict[str, float]) -> Finding:
    """Measure one way on so many ranks. `alone` keeps the speed of one rank for the cases that follow."""
    if torch.cuda.is_available():
        needs_gpus(count)
    ranks = run_ranks(_train, size, way, world_size=count, timeout=400)
    expected = zero_memory(size.parameters, count, 3 if way == "FSDP2" else 0, "float32, Adam").total
    states = max(rank.states for rank in ranks)
    require_close(states, expected, 0.05, f"What each rank holds of {way}'s states, in bytes,")
    slowest = [max(window) for window in zip(*[rank.seconds for rank in ranks], strict=True)]
    rates = sorted(count * size.samples / seconds for seconds in slowest)
    rate = statistics.median(rates)
    if count == 1:
        alone[way] = rate
    peak = max(rank.peak for rank in ranks)
    told = [f"{rate:,.0f} samples/s ({rates[0]:,.0f}–{rates[-1]:,.0f})"]
    if count > 1 and way in alone:
        told.append(f"{rate / (count * alone[way]):.0%} of {count} times one rank")
    told.append(f"states {format_bytes(states)} per rank (formula {format_bytes(expected)})")
    if peak:
        told.append(f"peak {format_bytes(peak)}")
    numbers = {"ranks": count, "rate": rate, "states": states, "expected": expected, "peak": peak}
    return Finding("; ".join(told), numbers)


def _only_on_gpus(count: int) -> Finding:
    needs_gpus(count)
    raise AssertionError("A machine with GPUs measures this with the others.")


def _train(size: Size, way: str) -> Measured:
    place = device()
    torch.manual_seed(0)
    dtype = torch.bfloat16 if place.type == "cuda" else None
    model = wrap(build(size).to(place), way, dtype)
    optimizer = torch.optim.AdamW(model.parameters())
    x = torch.randn(size.samples, size.tokens, size.width, device=place)
    autocast = torch.autocast(place.type, torch.bfloat16, enabled=way == "DDP" and dtype is not None)

    def step() -> None:
        optimizer.zero_grad()
        with autocast:
            loss = F.mse_loss(model(x).float(), x)
        loss.backward()
        optimizer.step()

    for _ in range(max(3, size.steps)):  # the first steps make buckets, choose kernels, allocate, and wake a GPU up
        step()
    states = measure_memory(model, optimizer).total
    if place.type == "cuda":
        torch.cuda.reset_peak_memory_stats(place)
    seconds = []
    for _ in range(size.windows):
        dist.barrier()
        synchronize(place)
        start = time.perf_counter()
        for _ in range(size.steps):
            step()
        synchronize(place)
        seconds.append((time.perf_counter() - start) / size.steps)
    return Measured(seconds, states, torch.cuda.max_memory_allocated(place) if place.type == "cuda" else 0)
