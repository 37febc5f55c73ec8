"""The segments of the allocator's model, drawn with the blocks in them."""

from matplotlib.figure import Figure

from torchcourse.figures import COLORS, ink, new
from torchcourse.lessons.troubleshooting.allocator import MIB, CachingAllocator
from torchcourse.units import format_bytes


def draw_segments(allocator: CachingAllocator) -> Figure:
    """Draw the segments of the allocator's model, one a row, with the blocks of live tensors and the free ones."""
    rows = allocator.segments
    figure, axis = new(8.0, 1.1 + 0.42 * max(1, len(rows)))
    for row, segment in enumerate(rows):
        for block in segment.blocks:
            color = COLORS["blue" if block.used else "light gray"]
            axis.barh(row, block.size / MIB, left=block.start / MIB, height=0.7, color=color, edgecolor="white")
            if block.size > 0.06 * max(segment.size for segment in rows):
                place, text = (block.start + block.size / 2) / MIB, block.name or "free"
                axis.text(place, row, text, ha="center", va="center", fontsize=8, color=ink(color))
    axis.set_yticks(range(len(rows)), [f"segment {row + 1}" for row in range(len(rows))])
    axis.set(xlabel="MiB from the beginning of the segment", ylim=(max(1, len(rows)) - 0.5, -0.5))
    axis.set_title(f"{format_bytes(allocator.allocated)} allocated, {format_bytes(allocator.reserved)} reserved")
    return figure


def describe_segments(allocator: CachingAllocator) -> str:
    """Say in words what `draw_segments` shows."""
    rows = [
        f"segment {number}: " + ", ".join(f"{block.name or 'free'} {format_bytes(block.size)}" for block in row.blocks)
        for number, row in enumerate(allocator.segments, 1)
    ]
    reserved = f"{format_bytes(allocator.allocated)} allocated, {format_bytes(allocator.reserved)} reserved"
    return f"{reserved}. {'; '.join(rows)}" if rows else f"{reserved}: no segment."
