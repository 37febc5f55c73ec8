"""The memory of a training step beside that of the plain step, with every remedy on a slider."""

from matplotlib.figure import Figure

from torchcourse.figures import Explorer, explorer, new
from torchcourse.lessons.troubleshooting.step_study import OPTIMIZERS, PRECISIONS, Step, study_step
from torchcourse.lessons.troubleshooting.tracking import KINDS, Timeline
from torchcourse.lessons.troubleshooting.tracking_picture import KIND_COLORS, MIB, kind_handles
from torchcourse.units import format_bytes


def step_explorer() -> Explorer:
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
    figure.legend(handles=kind_handles(), ncols=len(KINDS), fontsize=8, loc="outside lower center", frameon=False)
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


def _from_mark(timeline: Timeline) -> tuple[list[int], list[int]]:
    """The operations since the last mark, counted from 1, and the bytes after them."""
    start = timeline.marks[-1][0]
    kept = [(op - start, total) for op, total in zip(timeline.ops, timeline.total, strict=True) if op > start]
    return [op for op, _ in kept], [total for _, total in kept]
