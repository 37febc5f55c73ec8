"""The simulated device beside other ways to know the peak of a training step: the formula, MemTracker, a real GPU."""

import contextlib
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.lessons.troubleshooting.formula import step_bytes
from torchcourse.lessons.troubleshooting.gpu_device import GpuDevice
from torchcourse.lessons.troubleshooting.large_models import Decoder, resnet50
from torchcourse.lessons.troubleshooting.simulated_device import SimulatedDevice, fake_tensors
from torchcourse.models import mlp, small_cnn
from torchcourse.tools.bench.report import Table
from torchcourse.units import format_bytes

Case = tuple[str, Callable[[], nn.Module], tuple[int, ...], torch.dtype]
CASES: list[Case] = [
    ("dense 784-2048-2048-10, batch 1024", lambda: mlp(784, 2048, 2048, 10), (1024, 784), torch.float32),
    ("small CNN, batch 512", small_cnn, (512, 1, 28, 28), torch.float32),
    ("ResNet-50, batch 64", resnet50, (64, 3, 224, 224), torch.float32),
    ("7B decoder, 2048 tokens, bfloat16", Decoder, (1, 2048), torch.bfloat16),
]


def table() -> Table:
    gpu = torch.cuda.is_available()
    rows = []
    for name, build, shape, dtype in CASES:
        simulated, seconds = _timed(simulated_peak, build, shape, dtype)
        tracked, tracker_seconds = _timed(_mem_tracker, build, shape, dtype)
        ways = [_formula(build, shape), tracked] + ([gpu_peak(build, shape, dtype)] if gpu else [])
        cells = ["–" if other is None else f"{simulated / other - 1:+.1%}" for other in ways]
        rows.append([name, format_bytes(simulated), f"{seconds:.1f} s", *cells, f"{tracker_seconds:.1f} s"])
        if gpu:
            rows[-1][-2:] = [rows[-1][-1], rows[-1][-2]]
    columns = ["step with AdamW", "simulated peak", "took", "against the formula", "against MemTracker", "which took"]
    return Table(
        "The peak of a training step, without running it",
        columns + (["against the GPU's max_memory_allocated"] if gpu else []),
        rows,
        "Two steps on fake CPU tensors; on a GPU real ones, where they fit. MemTracker is PyTorch's own "
        "(torch.distributed._tools). The formula knows layers only, and so not the decoder.",
    )


def _timed(way: Callable[..., int], *arguments: object) -> tuple[int, float]:
    start = time.perf_counter()
    return way(*arguments), time.perf_counter() - start


def _two_steps(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: torch.Tensor,
    y: torch.Tensor,
    between: Callable[[], object] = lambda: None,
) -> None:
    for _ in range(2):
        F.cross_entropy(model(x).flatten(0, -2), y.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
        between()


def _parts(
    build: Callable[[], nn.Module], shape: tuple[int, ...], where: str = "cpu"
) -> tuple[nn.Module, torch.optim.Optimizer, torch.Tensor, torch.Tensor]:
    """Model, optimizer and a batch; a shape of two small numbers is one of tokens."""
    with torch.device(where) if where != "cpu" else contextlib.nullcontext():  # at once where it will lie
        model = build()
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    if isinstance(model, Decoder):
        x = y = torch.zeros(shape, dtype=torch.long, device=where)
    else:
        x, y = torch.randn(shape, device=where), torch.zeros(shape[0], dtype=torch.long, device=where)
    return model, optimizer, x, y


def simulated_peak(build: Callable[[], nn.Module], shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Return the peak of two steps in bytes, as the simulated device counts it."""
    with fake_tensors(dtype), SimulatedDevice("1000 GiB") as device:
        parts = _parts(build, shape)
        device.watch(*parts)
        _two_steps(*parts)
    return device.peak


def _mem_tracker(build: Callable[[], nn.Module], shape: tuple[int, ...], dtype: torch.dtype) -> int:
    from torch.distributed._tools.mem_tracker import MemTracker

    with fake_tensors(dtype):
        parts = _parts(build, shape)
        tracker = MemTracker()
        tracker.track_external(*parts)
        with tracker:
            _two_steps(*parts, between=tracker.reset_mod_stats)
        snapshot = tracker.get_tracker_snapshot("peak")
    return max(kinds["Total"] for kinds in snapshot.values())


def _formula(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> int | None:
    if build is Decoder:
        return None
    return step_bytes(build(), shape).peak


def gpu_peak(build: Callable[[], nn.Module], shape: tuple[int, ...], dtype: torch.dtype) -> int | None:
    """Return the peak of two steps in bytes, as the current GPU's allocator counts it; None where they do not fit."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with contextlib.suppress(torch.OutOfMemoryError), GpuDevice(0.95 * torch.cuda.mem_get_info()[0]) as device:
            _two_steps(*_parts(build, shape, "cuda"))
            return device.peak
    finally:
        torch.set_default_dtype(before)
    return None
