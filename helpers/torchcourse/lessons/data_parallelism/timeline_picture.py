"""DataParallel beside DistributedDataParallel, and what the size of a bucket does: time lines from the cost model."""

from functools import cache

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from torchcourse.figures import COLORS, Explorer, bars, canvas, explorer, headline, legend, values
from torchcourse.lessons.data_parallelism.timeline import (
    Timeline,
    Workload,
    dataparallel_timeline,
    ddp_rank,
    ddp_timeline,
    hidden_communication,
)

OUTPUTS_MB = {"classes of an image (4 kB)": 0.004, "a class for each pixel (20 MB)": 20.0}
"""What a model may put out for one sample: 1000 scores, or 20 scores for each of 512 × 512 pixels, in float32."""

KINDS = {
    "forward": "forward",
    "backward": "backward",
    "loss": "loss, optimizer",
    "optimizer": "loss, optimizer",
    "copy": "communication",
}
"""What each kind of `Span` is called in a legend."""

TIME_COLORS = {
    "forward": COLORS["sky"],
    "backward": COLORS["blue"],
    "loss, optimizer": COLORS["black"],
    "communication": COLORS["vermillion"],
}


def dataparallel_picture() -> Explorer:
    """Return DataParallel against DDP as an explorer, with sliders for devices, model, batch and bandwidth."""
    return explorer(
        draw_dataparallel,
        alt=describe_dataparallel,
        devices=(2, 8, 4),
        model_MB=(25, 1000, 100, 25),
        batch=(32, 512, 128, 32),
        GB_per_second=(2, 100, 10, 2),
        output_of_a_sample=list(OUTPUTS_MB),
    )


def draw_dataparallel(
    devices: int, model_MB: float, batch: int, GB_per_second: float, output_of_a_sample: str
) -> Figure:
    """Draw one modeled step both ways: time for each device on the left, memory for each device on the right.

    Raises:
        ValueError: if the batch cannot be shared by the devices.
    """
    both = _both(devices, model_MB, batch, GB_per_second, output_of_a_sample)
    figure, (time, memory) = canvas(
        9.0,
        1.9 + 0.38 * devices,
        left=0.75,
        right=0.3,
        bottom=0.9,
        top=0.4,
        ncols=2,
        width_ratios=(2.2, 1),
        gridspec_kw={"wspace": 0.06},
    )
    headline(figure, _finding(*both))
    first_row = 0.0
    for line, name in zip(both, ("DataParallel", "DDP"), strict=True):
        _draw_time(time, line, first_row)
        _draw_memory(memory, line, first_row)
        time.text(0, first_row - 0.65, f"{name}: {line.step_ms:.0f} ms per step", fontweight="bold")
        memory.text(0, first_row - 0.65, f"at most {_largest(line):.1f} GB", fontweight="bold")
        first_row += devices + 1.2

    time.set(xlim=(0, max(line.step_ms for line in both) * 1.02), xlabel="time in the step (ms), modeled")
    memory.set(xlim=(0, max(_largest(line) for line in both) * 1.05), xlabel="memory (GB), modeled")
    for axis in (time, memory):
        axis.set_ylim(first_row - 1.6, -1.3)
        axis.tick_params(axis="y", length=0)
        axis.spines["left"].set_visible(False)
    # Each label takes time to draw: of many rows, the first and the last have one.
    named = range(devices) if devices <= 4 else (0, devices - 1)
    rows = [first + device for first in (0, devices + 1.2) for device in named]
    time.set_yticks(rows, [f"GPU {device}" for device in named] * 2, fontsize=8.5)
    memory.set_yticks([])
    legend(figure, {**TIME_COLORS, **_MEMORY_COLORS})
    return figure


def describe_dataparallel(
    devices: int, model_MB: float, batch: int, GB_per_second: float, output_of_a_sample: str
) -> str:
    """Say in words what `draw_dataparallel` shows."""
    old, new = _both(devices, model_MB, batch, GB_per_second, output_of_a_sample)
    return (
        f"{_finding(old, new)}. DataParallel: {old.step_ms:.0f} ms per step, GPU 1 computes for {old.busy(1):.0%}; "
        f"{old.memory[0].total / 1000:.1f} GB on GPU 0, {old.memory[1].total / 1000:.1f} GB on each of the others. "
        f"DDP: {new.step_ms:.0f} ms per step, all compute for {new.busy(1):.0%} of it; {_largest(new):.1f} GB on each."
    )


def bucket_picture() -> Explorer:
    """Return the overlap of communication and computation as an explorer, with a slider for the bucket size."""
    return explorer(
        draw_buckets,
        alt=describe_buckets,
        bucket_MB=values("bucket MB", _BUCKETS, start=25),
        devices=(2, 64, 8),
        model_MB=(25, 1000, 200, 25),
        GB_per_second=(2, 100, 10, 2),
    )


def draw_buckets(bucket_MB: float, devices: int, model_MB: float, GB_per_second: float) -> Figure:
    """Draw a modeled step of one DDP rank: above, computing and communication; below, the step for other buckets."""
    work = _bucket_work(bucket_MB, devices, model_MB, GB_per_second)
    spans = ddp_rank(work)
    figure, (above, below) = canvas(
        8.0,
        4.2,
        left=1.2,
        right=0.15,
        bottom=0.85,
        top=0.4,
        nrows=2,
        height_ratios=(1, 1.3),
        gridspec_kw={"hspace": 0.75},
    )
    rectangles = [(s.start, 0.6 if s.kind == "copy" else -0.4, s.end - s.start, 0.8) for s in spans]
    bars(above, rectangles, [TIME_COLORS[KINDS[s.kind]] for s in spans], edgecolors="white", linewidths=0.3)
    above.set(
        xlim=(0, spans[-1].end * 1.02),
        ylim=(1.6, -0.6),
        xlabel="time in the step (ms), modeled",
    )
    headline(figure, _bucket_finding(work))
    above.set_yticks([0, 1], ["compute", "communicate"])

    steps = _steps_by_bucket(devices, model_MB, GB_per_second)
    below.plot(range(len(_BUCKETS)), steps, color=COLORS["gray"], zorder=1)
    here = _BUCKETS.index(bucket_MB)
    below.plot([here], [steps[here]], "o", color=COLORS["vermillion"], markersize=9)
    below.set(xlabel="size of a bucket (MB)", ylabel="step (ms), modeled", ylim=(0, max(steps) * 1.1))
    below.set_xticks(range(len(_BUCKETS)), [f"{size:g}" for size in _BUCKETS])
    legend(figure, TIME_COLORS)
    return figure


def describe_buckets(bucket_MB: float, devices: int, model_MB: float, GB_per_second: float) -> str:
    """Say in words what `draw_buckets` shows."""
    steps = _steps_by_bucket(devices, model_MB, GB_per_second)
    best = _BUCKETS[steps.index(min(steps))]
    finding = _bucket_finding(_bucket_work(bucket_MB, devices, model_MB, GB_per_second))
    return f"{finding}. The shortest step, {min(steps):.0f} ms, has buckets of {best:g} MB."


_MEMORY_COLORS = {
    "states": COLORS["green"],
    "activations": COLORS["yellow"],
    "inputs, outputs": COLORS["purple"],
}
_BUCKETS = (0.5, 1, 2, 5, 10, 25, 50, 100, 250, 500, 1000)


def _both(devices: int, model_MB: float, batch: int, GB_per_second: float, output: str) -> tuple[Timeline, Timeline]:
    work = Workload(
        devices=devices, model_mb=model_MB, batch=batch, bandwidth=GB_per_second, output_mb=OUTPUTS_MB[output]
    )
    return dataparallel_timeline(work), ddp_timeline(work)


def _finding(old: Timeline, new: Timeline) -> str:
    share = old.memory[0].total / old.memory[1].total
    memory = f"{share - 1:.0%} more than" if share < 2 else f"{share:.1f} times as much as"
    return f"DDP is {old.step_ms / new.step_ms:.1f}× as fast; in DataParallel GPU 0 holds {memory} the others"


def _largest(line: Timeline) -> float:
    return max(memory.total for memory in line.memory) / 1000


def _draw_time(axis: Axes, line: Timeline, first_row: float) -> None:
    """Draw a row for each device: computing in its upper half, communication in its lower half."""
    rectangles = [
        (span.start, first_row + span.device + (0.0 if span.kind == "copy" else -0.4), span.end - span.start, 0.38)
        for span in line.spans
    ]
    colors = [TIME_COLORS[KINDS[span.kind]] for span in line.spans]
    bars(axis, rectangles, colors, edgecolors="white", linewidths=0.3)


def _draw_memory(axis: Axes, line: Timeline, first_row: float) -> None:
    rectangles, colors = [], []
    for device, held in enumerate(line.memory):
        left = 0.0
        for size, color in zip((held.states, held.activations, held.batch), _MEMORY_COLORS.values(), strict=True):
            rectangles.append((left / 1000, first_row + device - 0.4, size / 1000, 0.78))
            colors.append(color)
            left += size
    bars(axis, rectangles, colors)


def _bucket_work(bucket_MB: float, devices: int, model_MB: float, GB_per_second: float) -> Workload:
    """As many samples for each device as the default, so that only communication changes with the devices."""
    batch = 32 * devices
    return Workload(devices=devices, model_mb=model_MB, batch=batch, bandwidth=GB_per_second, bucket_mb=bucket_MB)


@cache
def _steps_by_bucket(devices: int, model_MB: float, GB_per_second: float) -> tuple[float, ...]:
    return tuple(ddp_rank(_bucket_work(size, devices, model_MB, GB_per_second))[-1].end for size in _BUCKETS)


def _bucket_finding(work: Workload) -> str:
    row = ddp_rank(work)
    hidden = hidden_communication(row)
    return f"Buckets of {work.bucket_mb:g} MB hide {hidden:.0%} of the communication: {row[-1].end:.0f} ms per step"
