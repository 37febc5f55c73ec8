"""The same questions put to a real GPU, answered by its allocator's own history.

    with memory_device("2 GiB") as device:      # a GPU if there is one, else a simulated device
        device.watch(model, optimizer)
        ...
    device.peak, device.live()[:5]

On a GPU, bytes come from PyTorch's caching allocator, and lines from its recorded history. Operations, shapes and kinds
come from the tracker, matched by address. What was there before is not counted. Neither are the **workspaces** of
cuBLAS: PyTorch takes some for each thread that multiplies matrices, 32 MiB on a Hopper GPU, and keeps them to the end.
A small model would seem to need them. They are made before the counting begins, and are in `before`.

Source: https://docs.pytorch.org/docs/stable/torch_cuda_memory.html,
https://docs.pytorch.org/docs/stable/notes/cuda.html#cublas-workspaces
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from torchcourse.lessons.troubleshooting.simulated_device import BLOCK, SimulatedDevice, parse_size
from torchcourse.lessons.troubleshooting.tracking import Allocation, MemoryTracker, list_largest
from torchcourse.source_lines import Line, hide, is_users

hide(__file__)

UNSEEN = "unseen"
"""The operation of a block that no tensor shows."""


def memory_device(capacity: int | float | str) -> "SimulatedDevice | GpuDevice":
    """Return a device with `capacity` bytes: on the current GPU if there is one, else simulated.

    Raises:
        ValueError: if the capacity is no size, not more than nothing, or more than the GPU has.
    """
    return GpuDevice(capacity) if torch.cuda.is_available() else SimulatedDevice(capacity)


class GpuDevice(MemoryTracker):
    """The current GPU, limited while the device is active to `capacity` bytes beside what was there before.

    `before` is what was there: bytes in blocks, the workspaces of matrix products among them.

    Raises:
        ValueError: if the capacity is no size, not more than nothing, or more than the GPU has.
    """

    def __init__(self, capacity: int | float | str) -> None:
        super().__init__()
        self.capacity, self.before = parse_size(capacity), 0
        self._blocks_before: set[int] = set()
        self._index = torch.cuda.current_device()
        self._total = torch.cuda.get_device_properties(self._index).total_memory
        if self.capacity > self._total:
            raise ValueError(f"This GPU has {self._total:,} bytes, less than a capacity of {self.capacity:,}.")

    @property
    def current(self) -> int:
        """Bytes in blocks of live tensors, as the allocator counts them, without those from before."""
        return torch.cuda.memory_allocated(self._index) - self.before

    @property
    def peak(self) -> int:
        """The most bytes in such blocks at once since the device was entered."""
        return torch.cuda.max_memory_allocated(self._index) - self.before

    @property
    def reserved(self) -> int:
        """Bytes that PyTorch has asked the driver for: live tensors and its cache."""
        return torch.cuda.memory_reserved(self._index)

    def live(self) -> list[Allocation]:
        """Return the allocator's blocks in use, the largest first, without those from before."""
        known = {}
        for key, reference in self._references.items():
            if (storage := reference()) is not None:
                known[storage.data_ptr()] = self._alive[key]
        blocks = live_blocks(torch.cuda.memory._snapshot(), self._index, known)
        return [block for block in blocks if block.op != UNSEEN or block.key not in self._blocks_before]

    def __enter__(self) -> "GpuDevice":
        _make_workspaces(self._index)
        torch.cuda.empty_cache()  # what is cached counts as taken
        self.before = torch.cuda.memory_allocated(self._index)
        self._blocks_before = {block.key for block in live_blocks(torch.cuda.memory._snapshot(), self._index, {})}
        limit = min(1.0, (self.capacity + self.reserved) / self._total)
        torch.cuda.set_per_process_memory_fraction(limit, self._index)
        torch.cuda.memory._record_memory_history(stacks="python")
        torch.cuda.reset_peak_memory_stats(self._index)
        return super().__enter__()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, torch.OutOfMemoryError):
            error.add_note(list_largest(self.live()))
        super().__exit__(kind, error, trace)
        torch.cuda.memory._record_memory_history(enabled=None)
        torch.cuda.set_per_process_memory_fraction(1.0, self._index)

    def _counts(self, tensor: torch.Tensor) -> bool:
        return tensor.is_cuda

    def _size(self, nbytes: int) -> int:
        return -(-nbytes // BLOCK) * BLOCK


def _make_workspaces(index: int) -> None:
    """Let this thread and that of the backward pass multiply matrices once, with and without a bias."""
    with torch.enable_grad(), torch.autocast("cuda", enabled=False):
        x = torch.ones(16, 16, device=f"cuda:{index}", requires_grad=True)
        torch.addmm(x[0], x, x @ x).sum().backward()


def live_blocks(snapshot: Mapping[str, Any], device: int, known: Mapping[int, Allocation]) -> list[Allocation]:
    """Return the blocks in use of an allocator's snapshot, the largest first.

    Args:
        snapshot: from `torch.cuda.memory._snapshot()`.
        device: the number of the GPU.
        known: what the tracker knows of storages, by address. A block that it does not know is an `unseen` one.
    """
    blocks = []
    for segment in snapshot["segments"]:
        address = segment["address"]
        for block in segment["blocks"]:
            if segment["device"] == device and block["state"] == "active_allocated":
                blocks.append(_as_allocation(block, address, known.get(address)))
            address += block["size"]
    return sorted(blocks, key=lambda allocation: -allocation.bytes)


def _as_allocation(block: Mapping[str, Any], address: int, known: Allocation | None) -> Allocation:
    if known is not None:
        return replace(known, bytes=block["size"])
    lines = (Line(frame["filename"], frame["line"], frame["name"]) for frame in block.get("frames", []))
    return Allocation(
        address,
        block["size"],
        UNSEEN,
        (block["size"],),
        torch.uint8,
        "others",
        layer="",
        lines=tuple(line for line in lines if is_users(line.file))[:1],
        step=0,
        born=0,
    )
