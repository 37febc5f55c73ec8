"""Pictures of memory: how it goes up and down, which tensors are large and how long they live, what remedies save."""

from collections.abc import Sequence

import ipywidgets as widgets
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from torchcourse.figures import COLORS, explorer, new
from torchcourse.lessons.troubleshooting.allocator import CachingAllocator
from torchcourse.lessons.troubleshooting.step_study import OPTIMIZERS, PRECISIONS, Step, study_step
from torchcourse.lessons.troubleshooting.tracking import KINDS, Allocation, MemoryTracker, Timeline
from torchcourse.units import format_bytes

MIB = 2**20
KIND_COLORS = dict(zip(KINDS, (COLORS[c] for c in ("blue", "orange", "green", "vermillion", "grey")), strict=True))


def draw_memory(tracker: MemoryTracker, largest: int = 8, capacity: int | None = None) -> Figure:
    """Draw the memory of a run by kind, and below it the lives of its largest tensors, over the operations.

    Args:
        tracker: what watched the run.
        largest: of how many tensors to draw the lives.
        capacity: bytes of the device, drawn as a line.
    """
    figure, (above, below) = new(8.0, 3.4 + 0.24 * largest, nrows=2, height_ratios=[2.5, 0.24 * largest], sharex=True)
    timeline = tracker.timeline()
    end = max(timeline.ops, default=0) + 1
    _draw_kinds(above, timeline, capacity)
    above.set_title(_finding(tracker))
    above.set_ylim(0, 1.25 * max(tracker.peak, capacity or 0) / MIB)
    lives = _longest_largest(tracker, largest)
    for row, life in enumerate(lives):
        died = end if life.died is None else life.died
        width = max(died - life.born, end / 300)
        below.barh(row, width, left=life.born, height=0.7, color=KIND_COLORS[life.kind])
        if life.born > 0.5 * end:
            place, look = life.born, {"ha": "right"}
        elif life.born + width > 0.6 * end:  # long enough to hold its own name
            place, look = life.born, {"ha": "left", "color": "white"}
        else:
            place, look = life.born + width, {"ha": "left"}
        below.text(place, row, f" {_label(life)} ", va="center", fontsize=7, **look)
    below.set(xlabel="operation", yticks=[], ylim=(len(lives) - 0.4, -0.6), xlim=(0, end), ylabel="largest tensors")
    figure.legend(handles=_handles(), ncols=len(KINDS), fontsize=8, loc="outside lower center", frameon=False)
    return figure


def describe_memory(tracker: MemoryTracker) -> str:
    """Say in words what `draw_memory` shows."""
    tops = "; ".join(_label(life) for life in _longest_largest(tracker, 3))
    return f"{_finding(tracker)}. Below it the lives of the largest tensors: {tops}."


def draw_segments(allocator: CachingAllocator) -> Figure:
    """Draw the segments of the allocator's model, one a row, with the blocks of live tensors and the free ones."""
    rows = allocator.segments
    figure, axis = new(8.0, 1.1 + 0.42 * max(1, len(rows)))
    for row, segment in enumerate(rows):
        for block in segment.blocks:
            color = COLORS["blue"] if block.used else "#DDDDDD"
            axis.barh(row, block.size / MIB, left=block.start / MIB, height=0.7, color=color, edgecolor="white")
            if block.size > 0.06 * max(segment.size for segment in rows):
                place, text = (block.start + block.size / 2) / MIB, block.name or "free"
                axis.text(place, row, text, ha="center", va="center", fontsize=8, color="white" if block.used else "k")
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


def step_explorer() -> widgets.VBox:
    """Return the memory of a training step as an explorer: batch size, precision, optimizer, checkpointing, parts."""
    return explorer(
        draw_step,
        alt=describe_step,
        batch_size=(2, 32, 16, 2),
        accumulation=[1, 2, 4, 8, 16],
        checkpointing=False,
        precision=list(PRECISIONS),
        optimizer=list(OPTIMIZERS),
    )


def draw_step(batch_size: int, accumulation: int, checkpointing: bool, precision: str, optimizer: str) -> Figure:
    """Draw the memory of a step of `study_step` beside that of the plain step: at the peak, and over the step.

    Raises:
        ValueError: if the batch cannot be cut into so many parts.
    """
    chosen = study_step(batch_size, precision, optimizer, checkpointing, accumulation)
    plain = study_step(batch_size)
    figure, (left, right) = new(8.0, 3.2, ncols=2, width_ratios=[1, 1.6])
    for column, step in enumerate((plain, chosen)):
        bottom = 0.0
        for kind, size in step.by_kind.items():
            left.bar(column, size / MIB, bottom=bottom, width=0.6, color=KIND_COLORS[kind])
            bottom += size / MIB
        left.text(column, bottom, f"{bottom:.0f}", ha="center", va="bottom", fontsize=9)
    left.set_xticks([0, 1], ["plain", "chosen"])
    left.set(ylabel="MiB at the peak", ylim=(0, 1.12 * max(plain.peak, chosen.peak) / MIB))
    for step, style, name in ((plain, {"color": "k", "ls": "--", "lw": 1}, "plain"), (chosen, {}, "chosen")):
        ops, sizes = _from_mark(step.timeline)
        right.plot([op / max(ops) for op in ops], [size / MIB for size in sizes], label=name, **style)
    right.set(xlabel="operations of the step (0 to 1)", ylabel="MiB", ylim=(0, None))
    right.legend(fontsize=8, loc="upper right")
    figure.legend(handles=_handles(), ncols=len(KINDS), fontsize=8, loc="outside lower center", frameon=False)
    figure.suptitle(_step_finding(plain, chosen, batch_size))
    return figure


def describe_step(batch_size: int, accumulation: int, checkpointing: bool, precision: str, optimizer: str) -> str:
    """Say in words what `draw_step` shows."""
    chosen = study_step(batch_size, precision, optimizer, checkpointing, accumulation)
    kinds = ", ".join(f"{kind} {format_bytes(size)}" for kind, size in chosen.by_kind.items())
    return f"{_step_finding(study_step(batch_size), chosen, batch_size)}. At the chosen step's peak: {kinds}."


def _step_finding(plain: Step, chosen: Step, batch_size: int) -> str:
    share = chosen.peak / plain.peak
    change = "as much as" if share == 1 else f"{share:.0%} of"
    return f"{batch_size} samples: {format_bytes(chosen.peak)}, {change} the plain step"


def _finding(tracker: MemoryTracker) -> str:
    kinds = tracker.peak_by_kind()
    kind, most = max(kinds.items(), key=lambda item: item[1])
    return f"Peak {format_bytes(tracker.peak)}, {most / max(1, tracker.peak):.0%} of it {kind}"


def _draw_kinds(axis: Axes, timeline: Timeline, capacity: int | None) -> None:
    most: dict[int, tuple[int, int]] = {}  # the largest total of each operation, and which entry that is
    for entry, (op, total) in enumerate(zip(timeline.ops, timeline.total, strict=True)):
        most[op] = max(most.get(op, (0, 0)), (total, entry))
    layers = [[sizes[entry] / MIB for _, entry in most.values()] for sizes in timeline.by_kind.values()]
    axis.stackplot(list(most), *layers, colors=KIND_COLORS.values(), step="post", linewidth=0)
    axis.set(ylabel="MiB alive")
    for op, name in timeline.marks:
        axis.axvline(op, color="k", linewidth=0.6, linestyle=":")
        axis.text(op, 1.0, name, transform=axis.get_xaxis_transform(), fontsize=7, va="top", rotation=90)
    if capacity is not None:
        axis.axhline(capacity / MIB, color="k", linestyle="--", linewidth=1)
        text, place = f"the device has {format_bytes(capacity)}", axis.get_yaxis_transform()
        axis.text(1, capacity / MIB, text, transform=place, va="bottom", ha="right", size=8)


def _longest_largest(tracker: MemoryTracker, count: int) -> list[Allocation]:
    made = [allocation for allocation, born in tracker.changes() if born]
    largest = sorted(made, key=lambda life: -life.bytes)[:count]
    return sorted(largest, key=lambda life: life.born)


def _label(life: Allocation) -> str:
    shape = "×".join(map(str, life.shape))
    where = f" in layer {life.layer}" if life.layer else "".join(f", line {line.number}" for line in life.lines[:1])
    return f"{life.op.partition(' (')[0]} [{shape}]{where}, {format_bytes(life.bytes)}"


def _from_mark(timeline: Timeline) -> tuple[list[int], list[int]]:
    """The operations since the last mark, counted from 1, and the bytes after them."""
    start = timeline.marks[-1][0]
    kept: Sequence[tuple[int, int]] = [
        (op - start, total) for op, total in zip(timeline.ops, timeline.total, strict=True) if op > start
    ]
    return [op for op, _ in kept], [total for _, total in kept]


def _handles() -> list[Patch]:
    return [Patch(color=color, label=kind) for kind, color in KIND_COLORS.items()]
