"""What prefetching does to a step of FSDP: two modeled time lines, one above the other."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from torchcourse.figures import COLORS, Explorer, bars, canvas, explorer, headline, ink, legend
from torchcourse.lessons.data_parallelism.prefetch import Step, modeled_step

KIND_COLORS = {
    "forward": COLORS["sky"],
    "backward": COLORS["blue"],
    "all-gather": COLORS["orange"],
    "reduce-scatter": COLORS["vermillion"],
}


def prefetching_picture() -> Explorer:
    """Return the step with and without prefetching as an explorer, with sliders for units and speeds."""
    return explorer(
        draw_prefetch,
        alt=describe_prefetch,
        units=(2, 12, 6),
        compute_ms=(1, 10, 4),
        gather_ms=(1, 20, 3),
        prefetch=(1, 3, 1),
    )


def draw_prefetch(units: int, compute_ms: float, gather_ms: float, prefetch: int) -> Figure:
    """Draw a modeled step without prefetching, and below it the same step with it (ms)."""
    both = _both(units, compute_ms, gather_ms, prefetch)
    figure, axis = canvas(8.0, 3.6, left=1.1, right=0.15, bottom=0.9, top=0.4)
    for step, name, first_row in zip(both, ("no prefetch", f"prefetch {prefetch}"), (0.0, 3.0), strict=True):
        _draw_step(axis, step, first_row)
        text = f"{name}: {step.milliseconds:.0f} ms per step, {_units(step.most_gathered)} gathered at most"
        axis.text(0, first_row - 0.62, text, fontweight="bold")
    axis.set(
        xlim=(0, max(step.milliseconds for step in both) * 1.01),
        ylim=(4.6, -1.1),
        xlabel="time in the step (ms), modeled",
    )
    axis.set_yticks([0, 1, 3, 4], ["computes", "network"] * 2)
    headline(figure, _finding(*both))
    legend(figure, KIND_COLORS)
    return figure


def describe_prefetch(units: int, compute_ms: float, gather_ms: float, prefetch: int) -> str:
    """Say in words what `draw_prefetch` shows."""
    without, ahead = _both(units, compute_ms, gather_ms, prefetch)
    return (
        f"{_finding(without, ahead)}. The rank computes for {without.computing:.0%} of the step without prefetching "
        f"and for {ahead.computing:.0%} with prefetch {prefetch}."
    )


def _both(units: int, compute_ms: float, gather_ms: float, prefetch: int) -> tuple[Step, Step]:
    return modeled_step(units, compute_ms, gather_ms, 0), modeled_step(units, compute_ms, gather_ms, prefetch)


def _finding(without: Step, ahead: Step) -> str:
    saved = 1 - ahead.milliseconds / without.milliseconds
    return (
        f"Prefetching saves {saved:.0%} of the step: {without.milliseconds:.0f} ms become {ahead.milliseconds:.0f} ms"
    )


def _units(count: int) -> str:
    return f"{count} unit{'s' if count > 1 else ''}"


def _draw_step(axis: Axes, step: Step, first_row: float) -> None:
    rows = [first_row + (0 if task.kind in ("forward", "backward") else 1) for task in step.tasks]
    rectangles = [
        (task.start, row - 0.4, task.end - task.start, 0.8) for task, row in zip(step.tasks, rows, strict=True)
    ]
    bars(axis, rectangles, [KIND_COLORS[task.kind] for task in step.tasks], edgecolors="white", linewidths=0.5)
    for task, row in zip(step.tasks, rows, strict=True):
        if task.end - task.start > step.milliseconds / 60:
            color = ink(KIND_COLORS[task.kind])
            middle = (task.start + task.end) / 2
            axis.text(middle, row, str(task.unit), ha="center", va="center", fontsize=8, color=color)
