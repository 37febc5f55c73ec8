"""A schedule as time × rank × memory: what each rank does when, and below it how much it holds meanwhile."""

import itertools
from functools import cache

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from torchcourse.figures import COLORS, Explorer, bars, canvas, explorer, headline, ink, legend, steps, values
from torchcourse.lessons.model_parallelism.pipeline.schedules import SCHEDULES
from torchcourse.lessons.model_parallelism.pipeline.simulation import Costs, Span, Timeline, simulate

KINDS = {"F": "forward", "B": "backward", "I": "backward, inputs", "W": "backward, weights"}
"""What each kind of action is called in a legend."""

TIME_COLORS = {"F": COLORS["sky"], "B": COLORS["blue"], "I": COLORS["blue"], "W": COLORS["green"]}
_SECOND_HALF = {"F": COLORS["orange"], "B": COLORS["vermillion"]}  # of the model, where a rank holds two stages
_MEMORY = COLORS["yellow"]


def schedule_picture() -> Explorer:
    """Return the four schedules as an explorer, with sliders for ranks, micro-batches and the backward pass."""
    return explorer(
        draw_schedule,
        alt=describe_schedule,
        schedule=list(SCHEDULES),
        micro_batches=steps("micro-batches", 1, 24, 4),
        ranks=steps("ranks (p)", 1, 8, 4),
        backward=values("backward ÷ forward", (0.5, 1, 1.5, 2, 2.5, 3), start=2),
    )


def draw_schedule(schedule: str, micro_batches: int, ranks: int, backward: float) -> Figure:
    """Draw one ideal step of a schedule.

    Raises:
        ValueError: for what the schedule cannot do, such as interleaving with a group of micro-batches left unfilled.
    """
    line = _simulated(schedule, micro_batches, ranks, backward)
    figure, axis = canvas(9.0, 1.35 + 0.52 * ranks, left=0.7, right=0.85, bottom=0.85, top=0.4)
    headline(figure, _finding(line))
    draw_timeline(axis, line, float(line.length))
    axis.set_xlabel("time (forward passes of one micro-batch on one rank)")
    _legend(figure, [line])
    return figure


def describe_schedule(schedule: str, micro_batches: int, ranks: int, backward: float) -> str:
    """Say in words what `draw_schedule` shows."""
    line = _simulated(schedule, micro_batches, ranks, backward)
    held = ", ".join(f"{float(line.peak(rank)):g}" for rank in range(ranks))
    return (
        f"{_finding(line)}. It takes {float(line.length):.3g} forward passes. Peaks of rank 0 to {ranks - 1}: {held}."
    )


def draw_both(ideal: Timeline, measured: Timeline) -> Figure:
    """Draw a simulated step above a measured one, both in seconds, on one scale."""
    ranks = ideal.schedule.ranks
    figure, axes = canvas(
        9.0, 1.9 + 0.9 * ranks, left=0.7, right=0.85, bottom=0.85, top=0.7, nrows=2, gridspec_kw={"hspace": 0.32}
    )
    headline(
        figure,
        f"{ideal.schedule.name}: {ideal.bubble:.0%} of the time lost by the rules, {measured.bubble:.0%} measured",
    )
    longest = max(float(line.length) for line in (ideal, measured))
    for axis, line, name in zip(axes, (ideal, measured), ("simulated", "measured"), strict=True):
        draw_timeline(axis, line, longest)
        axis.set_ylabel(name)
    axes[1].set_xlabel("time (s)")
    _legend(figure, [ideal])
    return figure


def draw_timeline(axis: Axes, line: Timeline, length: float) -> None:
    """Draw two lanes per rank: its actions, and below them what it holds, on one scale for all ranks."""
    ranks = line.schedule.ranks
    peaks = [float(line.peak(rank)) for rank in range(ranks)]
    bars(
        axis,
        [(float(s.start), s.rank - 0.45, float(s.end - s.start), 0.5) for s in line.spans],
        [_color(line, span) for span in line.spans],
        edgecolors="white",
        linewidths=0.5,
    )
    memory = []
    for rank in range(ranks):
        curve = [(float(time), float(amount)) for time, amount in line.held(rank)]
        for (start, amount), (end, _) in itertools.pairwise(curve):
            height = 0.36 * amount / max(peaks)
            memory.append((start, rank + 0.45 - height, end - start, height))
        axis.text(length * 1.01, rank, f"holds ≤ {peaks[rank]:g}", va="center", fontsize=8)
    bars(axis, memory, [_MEMORY] * len(memory))
    _number(axis, line, length)
    axis.set(xlim=(0, length), ylim=(ranks - 0.45, -0.55))
    axis.set_yticks(range(ranks), [f"rank {rank}" for rank in range(ranks)], fontsize=8.5)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)


def _number(axis: Axes, line: Timeline, length: float) -> None:
    """Write the micro-batch into each action, unless they are so many or so narrow that nobody could read it."""
    if len(line.spans) > 100 or min(float(s.end - s.start) for s in line.spans) < length / 60:
        return
    for span in line.spans:
        middle = float(span.start + span.end) / 2
        axis.text(
            middle,
            span.rank - 0.2,
            str(span.action.micro_batch),
            ha="center",
            va="center",
            fontsize=7,
            color=ink(_color(line, span)),
        )


def _color(line: Timeline, span: Span) -> str:
    kind = span.action.kind
    return _SECOND_HALF[kind] if span.action.stage >= line.schedule.ranks else TIME_COLORS[kind]


def _legend(figure: Figure, lines: list[Timeline]) -> None:
    (line,) = lines
    kinds = [kind for kind in KINDS if any(span.action.kind == kind for span in line.spans)]
    if line.schedule.stages_per_rank > 1:
        colors = {f"{KINDS[kind]}, first piece": TIME_COLORS[kind] for kind in kinds}
        colors |= {f"{KINDS[kind]}, second piece": _SECOND_HALF[kind] for kind in kinds}
    else:
        colors = {KINDS[kind]: TIME_COLORS[kind] for kind in kinds}
    legend(figure, colors | {"micro-batches held": _MEMORY})


@cache
def _simulated(schedule: str, micro_batches: int, ranks: int, backward: float) -> Timeline:
    return simulate(SCHEDULES[schedule](ranks, micro_batches), Costs(backward=backward))


def _finding(line: Timeline) -> str:
    peak = max(line.peak(rank) for rank in range(line.schedule.ranks))
    return (
        f"{line.schedule.name}: the ranks wait {float(line.bubble):.1%} of the time, "
        f"and hold up to {float(peak):g} micro-batch{'es' * (peak != 1)}"
    )
