"""The same questions put to a real GPU, answered by its allocator's own history.

    with memory_device("2 GiB") as device:      # a GPU if there is one, else a simulated device
        device.watch(model, optimizer)
        ...
    device.peak, device.live()[:5]

On a GPU, bytes come from PyTorch's caching allocator, which also counts what no tensor shows (workspaces), and lines
come from its recorded history. Operations, shapes and kinds come from the tracker, matched by address.

Source: https://docs.pytorch.org/docs/stable/torch_cuda_memory.html
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from torchcourse.lessons.troubleshooting.simulated_device import BLOCK, SimulatedDevice, parse_size
from torchcourse.lessons.troubleshooting.tracking import Allocation, MemoryTracker, list_largest
from torchcourse.source_lines import Line, hide, is_users

hide(__file__)


def memory_device(capacity: int | float | str) -> "SimulatedDevice | GpuDevice":
    """Return a device with `capacity` bytes: on the current GPU if there is one, else simulated.

    Raises:
        ValueError: if the capacity is no size, not more than nothing, or more than the GPU has.
    """
    return GpuDevice(capacity) if torch.cuda.is_available() else SimulatedDevice(capacity)


class GpuDevice(MemoryTracker):
    """The current GPU, limited to `capacity` bytes for this process while the device is active.

    Raises:
        ValueError: if the capacity is no size, not more than nothing, or more than the GPU has.
    """

    def __init__(self, capacity: int | float | str) -> None:
        super().__init__()
        self.capacity = parse_size(capacity)
        self._index = torch.cuda.current_device()
        self._total = torch.cuda.get_device_properties(self._index).total_memory
        if self.capacity > self._total:
            raise ValueError(f"This GPU has {self._total:,} bytes, less than a capacity of {self.capacity:,}.")

    @property
    def current(self) -> int:
        """Bytes in blocks of live tensors, as the allocator counts them."""
        return torch.cuda.memory_allocated(self._index)

    @property
    def peak(self) -> int:
        """The most bytes in such blocks at once since the device was entered."""
        return torch.cuda.max_memory_allocated(self._index)

    @property
    def reserved(self) -> int:
        """Bytes that PyTorch has asked the driver for: live tensors and its cache."""
        return torch.cuda.memory_reserved(self._index)

    def live(self) -> list[Allocation]:
        """Return the allocator's blocks in use, the largest first."""
        known = {}
        for key, reference in self._references.items():
            if (storage := reference()) is not None:
                known[storage.data_ptr()] = self._alive[key]
        return live_blocks(torch.cuda.memory._snapshot(), self._index, known)

    def __enter__(self) -> "GpuDevice":
        torch.cuda.empty_cache()  # what is cached counts as taken
        torch.cuda.set_per_process_memory_fraction(self.capacity / self._total, self._index)
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
        "unseen",
        (block["size"],),
        torch.uint8,
        "others",
        layer="",
        lines=tuple(line for line in lines if is_users(line.file))[:1],
        step=0,
        born=0,
    )
