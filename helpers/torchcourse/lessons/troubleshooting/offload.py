"""Where the tensors of a step lie when those that autograd saves are moved to the host's memory until they are needed.

    places = step_with(blocks, x, "moved to the host")
    places.device, places.host, places.copied       # bytes

`torch.autograd.graph.save_on_cpu` copies each saved tensor to the host in the forward pass, and back in the backward
pass. Where a CPU computes, device and host are one memory, and it copies nothing. So here both copies are made all the
same, by hooks that do what its hooks do on a GPU, and what they make is counted apart. The time on the link between
the two memories is not simulated.

Source: https://docs.pytorch.org/docs/stable/autograd.html#torch.autograd.graph.save_on_cpu
"""

import contextlib
import weakref
from dataclasses import dataclass

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from torchcourse.lessons.troubleshooting.tracking import MemoryTracker
from torchcourse.source_lines import hide
from torchcourse.units import format_bytes

hide(__file__)

WAYS = ("all kept", "a checkpoint per block", "moved to the host")


@dataclass(frozen=True)
class Places:
    """The most bytes at once on the device and on the host, and the bytes that were copied, there and back together."""

    device: int
    host: int
    copied: int

    def __str__(self) -> str:
        parts = zip(("device", "host", "copied"), (self.device, self.host, self.copied), strict=True)
        return "  ".join(f"{name} {format_bytes(size):>10}" for name, size in parts)


class DeviceBesideHost(MemoryTracker):
    """Tracks a device; what `moving()` copies to the host does not count as its memory, and is counted apart."""

    def __init__(self) -> None:
        super().__init__()
        self.host_peak = self.copied = 0
        self._host = 0
        self._on_the_way = False

    def moving(self) -> saved_tensors_hooks:
        """Return a context whose forward passes move what autograd saves to the host, as `save_on_cpu` does."""
        return saved_tensors_hooks(self._to_host, self._to_device)

    def _counts(self, tensor: torch.Tensor) -> bool:
        return not self._on_the_way

    def _to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        self._on_the_way = True
        try:
            there = tensor.detach().clone()
        finally:
            self._on_the_way = False
        size = there.untyped_storage().nbytes()
        self.copied += size
        self._host += size
        self.host_peak = max(self.host_peak, self._host)
        weakref.finalize(there, self._leave_host, size)
        return there

    def _to_device(self, there: torch.Tensor) -> torch.Tensor:
        self.copied += there.untyped_storage().nbytes()
        return there.clone()

    def _leave_host(self, size: int) -> None:
        self._host -= size


def step_with(blocks: nn.Sequential, x: torch.Tensor, way: str) -> Places:
    """Do a forward and a backward pass, and return where its bytes were.

    Args:
        blocks: one after the other; parameters, gradients and `x` count as the device's.
        x: the input, [N, ...].
        way: one of `WAYS`.

    Raises:
        ValueError: for a way that there is not.
    """
    if way not in WAYS:
        raise ValueError(f"There is no way {way!r}. The ways are {', '.join(WAYS)}.")
    blocks.zero_grad()
    with DeviceBesideHost() as device:
        device.watch(blocks, x)
        with device.moving() if way == "moved to the host" else contextlib.nullcontext():
            for block in blocks:
                x = checkpoint(block, x, use_reentrant=False) if way == "a checkpoint per block" else block(x)
        x.sum().backward()
    return Places(device.peak, device.host_peak, device.copied)
