"""The roofline of this machine, and where each layer of a model stands under it.

A layer that does F operations on B bytes cannot be done sooner than F / peak, nor sooner than B / bandwidth: the later
of the two is its bound. F / B is its **arithmetic intensity**; where it equals peak / bandwidth, the roof bends.

Source: Williams, Waterman and Patterson 2009, https://doi.org/10.1145/1498765.1498785
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from torchcourse.timing import seconds_of
from torchcourse.training.modes import evaluating


@dataclass(frozen=True)
class Machine:
    """What was measured to be possible.

    Attributes:
        peak: operations per second of a large matrix product.
        bandwidth: bytes per second of a large copy, read and written bytes both counted.
    """

    peak: float
    bandwidth: float

    @property
    def ridge(self) -> float:
        """Operations per byte at which the roof bends."""
        return self.peak / self.bandwidth

    def roof(self, intensity: float) -> float:
        """Return the operations per second that are possible at this intensity (operations per byte)."""
        return min(self.peak, self.bandwidth * intensity)


@dataclass(frozen=True)
class Point:
    """One layer's forward pass: its name, operations, bytes that it has to move, and seconds."""

    name: str
    flop: float
    moved: float
    seconds: float

    @property
    def intensity(self) -> float:
        return self.flop / self.moved

    @property
    def speed(self) -> float:
        """Operations per second."""
        return self.flop / self.seconds

    def bound(self, machine: Machine) -> Literal["compute", "memory"]:
        """Return what limits this layer at best."""
        return "compute" if self.intensity >= machine.ridge else "memory"

    def reached(self, machine: Machine) -> float:
        """Return which share of its roof the layer reaches."""
        return self.speed / machine.roof(self.intensity)


def measure_machine(
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, size: int | None = None
) -> Machine:
    """Measure the peak with a product of [size, size] matrices, and the bandwidth with a copy.

    Both are larger on a GPU, which does small ones in less time than the call takes.
    Of ten calls the fastest counts, because other programs only ever make a call slower.

    Args:
        device: to measure.
        dtype: of the matrices.
        size: of the matrices; by default 1,024 on a CPU and 4,096 on a GPU.
    """
    on_gpu = torch.device(device).type == "cuda"
    size, megabytes = size or (4096 if on_gpu else 1024), 512 if on_gpu else 64
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    source = torch.zeros(megabytes * 2**20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product = best_seconds(lambda: left @ right, device, rounds=10)
    copied = best_seconds(lambda: target.copy_(source), device, rounds=10)
    return Machine(2 * size**3 / product, 2 * source.nbytes / copied)


@torch.no_grad()
def measure_layers(model: nn.Module, inputs: torch.Tensor, rounds: int = 5) -> list[Point]:
    """Return a point for each layer of a model that has no layers of its own, in the order of its first call.

    Layers that compute nothing (Flatten, Dropout in evaluation) are left out.

    Args:
        model: set to evaluation mode while it is measured.
        inputs: one batch.
        rounds: of which the fastest counts.
    """
    seen: dict[str, tuple[nn.Module, torch.Tensor, torch.Tensor]] = {}

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, given: Any, output: Any) -> None:
            seen.setdefault(name, (module, given[0], output))

        return hook

    hooks = [
        module.register_forward_hook(note(name))
        for name, module in model.named_modules()
        if not list(module.children())
    ]
    with evaluating(model):
        try:
            model(inputs)
        finally:
            for hook in hooks:
                hook.remove()
        points = []
        for name, (module, given, output) in seen.items():
            flop = flop_of(module, given, output)
            if flop:
                moved = given.nbytes + output.nbytes + sum(weight.nbytes for weight in module.parameters())
                seconds = best_seconds(functools.partial(module, given), inputs.device, rounds)
                points.append(Point(f"{name} {type(module).__name__}", flop, moved, seconds))
        return points


def flop_of(module: nn.Module, given: torch.Tensor, output: torch.Tensor) -> float:
    """Return the operations of a layer's forward pass: 2 per multiplication with a weight, else 1 to 4 per number."""
    if isinstance(module, nn.Linear):
        return 2.0 * output.numel() * module.in_features
    if isinstance(module, nn.Conv2d):
        return 2.0 * output.numel() * module.weight[0].numel()
    if isinstance(module, nn.MaxPool2d | nn.AvgPool2d | nn.ReLU | nn.GELU):
        return float(given.numel())
    if isinstance(module, nn.BatchNorm2d):
        return 2.0 * given.numel()  # times a scale, plus a shift
    return 4.0 * given.numel() if isinstance(module, nn.LayerNorm) else 0.0


def best_seconds(call: Callable[[], object], device: torch.device | str = "cpu", rounds: int = 5) -> float:
    """Return the fastest of some calls, after one that is not counted: other programs only ever make a call slower."""

    def done() -> None:
        call()
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize(device)

    done()
    return min(seconds_of(done) for _ in range(rounds))
