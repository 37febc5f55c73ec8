"""Pictures of memory: how it goes up and down, which tensors are large, and how long they live."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from torchcourse.figures import COLORS, ink, new
from torchcourse.lessons.troubleshooting.tracking import KINDS, Allocation, MemoryTracker, Timeline, describe_unseen
from torchcourse.units import format_bytes

MIB = 2**20
KIND_COLORS = dict(zip(KINDS, (COLORS[c] for c in ("blue", "orange", "green", "vermillion", "gray")), strict=True))


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
    above.set_ylim(0, 1.25 * max(tracker.peak, capacity or 0, 1) / MIB)
    lives = _longest_largest(tracker, largest)
    for row, life in enumerate(lives):
        died = end if life.died is None else life.died
        width = max(died - life.born, end / 300)
        below.barh(row, width, left=life.born, height=0.7, color=KIND_COLORS[life.kind])
        place: float = life.born
        look: dict[str, Any] = {"ha": "left"}
        if life.born > 0.5 * end:
            look = {"ha": "right"}
        elif life.born + width > 0.6 * end:  # long enough to hold its own name
            look = {"ha": "left", "color": ink(KIND_COLORS[life.kind])}
        else:
            place = life.born + width
        below.text(place, row, f" {_label(life)} ", va="center", fontsize=7, **look)
    below.set(xlabel="operation", yticks=[], ylim=(len(lives) - 0.4, -0.6), xlim=(0, end), ylabel="largest tensors")
    figure.legend(handles=kind_handles(), ncols=len(KINDS), fontsize=8, loc="outside lower center", frameon=False)
    return figure


def describe_memory(tracker: MemoryTracker) -> str:
    """Say in words what `draw_memory` shows."""
    tops = "; ".join(_label(life) for life in _longest_largest(tracker, 3))
    if not tops:
        return f"{_finding(tracker)}.{describe_unseen(tracker)}"
    return f"{_finding(tracker)}. Below it the lives of the largest tensors: {tops}.{describe_unseen(tracker)}"


def _finding(tracker: MemoryTracker) -> str:
    if not tracker.peak:
        return "Nothing was made or watched while the tracker was active"
    kinds = tracker.peak_by_kind()
    kind, most = max(kinds.items(), key=lambda item: item[1])
    return f"Peak {format_bytes(tracker.peak)}, {most / tracker.peak:.0%} of it {kind}"


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


def kind_handles() -> list[Patch]:
    """Return the entries of a legend for the kinds of memory."""
    return [Patch(color=color, label=kind) for kind, color in KIND_COLORS.items()]
