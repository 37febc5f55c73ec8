"""A model of the cache that PyTorch keeps between tensors and a GPU: what `del` and `empty_cache` do, and do not do.

Asking the driver for memory is slow, so PyTorch asks for large segments (세그먼트), cuts tensors' blocks (블록) out of
them, and keeps what is freed. Hence two figures: *allocated*, the blocks of live tensors, and *reserved*, the segments.

This follows the rules of one stream with the default settings: sizes, two pools, best fit, splitting, merging. It is a
model to reason with: the real one has more (streams, expandable segments, garbage collection).

Source: c10/cuda/CUDACachingAllocator.cpp, https://github.com/pytorch/pytorch/blob/main/c10/cuda/CUDACachingAllocator.cpp
"""

from dataclasses import dataclass, field

import torch

from torchcourse.units import format_bytes

MIB = 2**20
SMALL = MIB
"""Blocks of up to so many bytes come from small segments."""
SMALL_SEGMENT, LARGE_SEGMENT = 2 * MIB, 20 * MIB
"""Segments for small blocks, and for blocks of less than `HUGE` bytes."""
HUGE = 10 * MIB
"""A block of so many bytes or more gets a segment of its own, rounded up to 2 MiB."""
ROUND_BLOCK, ROUND_SEGMENT = 512, 2 * MIB


@dataclass(eq=False)
class Block:
    """A part of a segment: of a live tensor, or free."""

    start: int
    size: int
    used: bool = False
    name: str = ""


@dataclass(eq=False)
class Segment:
    """Memory that the driver gave in one piece, as blocks in order."""

    size: int
    blocks: list[Block] = field(default_factory=list)

    @property
    def small(self) -> bool:
        return self.size == SMALL_SEGMENT


class CachingAllocator:
    """Hands out blocks, and keeps what is freed.

    Args:
        capacity: bytes of the device; None for as many as are wanted.
    """

    def __init__(self, capacity: int | None = None) -> None:
        self.capacity = capacity
        self.segments: list[Segment] = []

    @property
    def allocated(self) -> int:
        """Bytes in blocks of live tensors: `torch.cuda.memory_allocated()`."""
        return sum(block.size for segment in self.segments for block in segment.blocks if block.used)

    @property
    def reserved(self) -> int:
        """Bytes in segments: `torch.cuda.memory_reserved()`. `nvidia-smi` shows this, and the context on top."""
        return sum(segment.size for segment in self.segments)

    def allocate(self, size: int, name: str = "") -> Block:
        """Return a block of at least `size` bytes.

        Raises:
            torch.OutOfMemoryError: if neither the cache nor the device has room in one piece.
        """
        size = max(1, -(-size // ROUND_BLOCK)) * ROUND_BLOCK
        segment, block = self._best_fit(size) or self._new_segment(size)
        rest = block.size - size
        if rest >= ROUND_BLOCK if segment.small else rest > SMALL:
            place = segment.blocks.index(block)
            segment.blocks.insert(place + 1, Block(block.start + size, rest))
            block.size = size
        block.used, block.name = True, name
        return block

    def free(self, block: Block) -> None:
        """Take a block back into the cache, and join it with free neighbors. `reserved` stays as it is."""
        segment = next(segment for segment in self.segments if block in segment.blocks)
        block.used, block.name = False, ""
        joined: list[Block] = []
        for part in segment.blocks:
            if joined and not part.used and not joined[-1].used:
                joined[-1].size += part.size
            else:
                joined.append(part)
        segment.blocks = joined

    def empty_cache(self) -> int:
        """Give the driver all segments that hold no live tensor, and return their bytes. Live tensors keep theirs."""
        before = self.reserved
        self.segments = [segment for segment in self.segments if any(block.used for block in segment.blocks)]
        return before - self.reserved

    def _best_fit(self, size: int) -> tuple[Segment, Block] | None:
        found = [
            (block.size, number, block.start, segment, block)
            for number, segment in enumerate(self.segments)
            if segment.small == (size <= SMALL)
            for block in segment.blocks
            if not block.used and block.size >= size
        ]
        return min(found, key=lambda candidate: candidate[:3])[3:] if found else None

    def _new_segment(self, size: int) -> tuple[Segment, Block]:
        if size <= SMALL:
            wanted = SMALL_SEGMENT
        elif size < HUGE:
            wanted = LARGE_SEGMENT
        else:
            wanted = -(-size // ROUND_SEGMENT) * ROUND_SEGMENT
        if self.capacity is not None and self.reserved + wanted > self.capacity:
            self.empty_cache()  # what PyTorch does by itself, before it gives up
        if self.capacity is not None and self.reserved + wanted > self.capacity:
            raise torch.OutOfMemoryError(
                f"Out of memory: {format_bytes(size)} wanted. Of {format_bytes(self.capacity)}, "
                f"{format_bytes(self.allocated)} are in tensors and {format_bytes(self.reserved - self.allocated)} are "
                "reserved but unallocated, in pieces that are too small."
            )
        block = Block(0, wanted)
        self.segments.append(Segment(wanted, [block]))
        return self.segments[-1], block
