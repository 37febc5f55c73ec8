"""A small device that is not there: it counts like a GPU, and runs out of memory like one.

    with SimulatedDevice("64 MiB") as device:
        device.watch(model, optimizer)
        train()                            # raises torch.OutOfMemoryError when 64 MiB are not enough

Tensors are ordinary CPU tensors. What is simulated is the limit, and the 512-byte blocks in which PyTorch's allocator
for GPUs hands out memory. With `fake_tensors()` the numbers inside the tensors are left out too: a model of 7 billion
parameters then takes seconds and next to no memory.

Not simulated: gaps between blocks, workspaces inside an operation, and the hundreds of MiB of a GPU's own context.
"""

import contextlib
import re
from collections.abc import Iterator

import torch

from torchcourse.lessons.troubleshooting.tracking import (
    Allocation,
    MemoryTracker,
    describe_unseen,
    list_largest,
    sum_by_kind,
)
from torchcourse.source_lines import hide
from torchcourse.units import format_bytes

hide(__file__)

BLOCK = 512
"""Bytes: an allocation is rounded up to a multiple of this (kMinBlockSize in PyTorch's CUDACachingAllocator)."""

_UNITS = {"": 1, "B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


class SimulatedDevice(MemoryTracker):
    """A device with `capacity` bytes. It tracks what is alive, and refuses what does not fit.

    Args:
        capacity: bytes, or a text such as `"64 MiB"` or `"8 GiB"`.

    Raises:
        ValueError: if the capacity is no size, or not more than nothing.
    """

    def __init__(self, capacity: int | float | str) -> None:
        super().__init__()
        self.capacity = parse_size(capacity)
        """Bytes."""

    def _size(self, nbytes: int) -> int:
        return -(-nbytes // BLOCK) * BLOCK

    def _admit(self, allocation: Allocation) -> None:
        if self.current + allocation.bytes > self.capacity:
            raise torch.OutOfMemoryError(self._report(allocation))

    def _report(self, wanted: Allocation) -> str:
        kinds = ", ".join(f"{kind} {format_bytes(size)}" for kind, size in sum_by_kind(self.live()).items() if size)
        return (
            f"Simulated device out of memory. Tried to allocate {format_bytes(wanted.bytes)}, but of "
            f"{format_bytes(self.capacity)} only {format_bytes(self.capacity - self.current)} are free.\n"
            f"Wanted:\n  {wanted}\n"
            f"In use: {format_bytes(self.current)} ({kinds or 'nothing'}).{describe_unseen(self)} "
            f"{list_largest(self.live())}"
        )


def parse_size(size: int | float | str) -> int:
    """Return bytes: `"1.5 GiB"` → 1610612736. KiB, MiB and GiB are powers of 1024, KB, MB and GB of 1000.

    Raises:
        ValueError: if it is no size, or not more than nothing.
    """
    if isinstance(size, str):
        match = re.fullmatch(r"\s*([\d.]+)\s*([A-Za-z]*)\s*", size)
        if not match or match[2].upper() not in _UNITS or match[1].count(".") > 1 or match[1] == ".":
            raise ValueError(f'{size!r} is no size of memory. Write it as a number of bytes, or like "64 MiB".')
        size = float(match[1]) * _UNITS[match[2].upper()]
    if not size >= 1 or size == float("inf"):
        raise ValueError(f'A device needs room for something, but its capacity is {size:g} bytes. Try "64 MiB".')
    return int(size)


@contextlib.contextmanager
def fake_tensors(dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Make tensors without numbers inside: shapes, types and autograd work, and nothing is computed or stored.

    Build the model and the data inside. They are fake CPU tensors: fake tensors of a GPU that is not there end the
    process in a backward pass.

    Args:
        dtype: the type of new floating-point tensors (`model.to(dtype)` does not work on fake parameters).
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with FakeTensorMode():
            yield
    finally:
        torch.set_default_dtype(before)
