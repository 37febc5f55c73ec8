"""A layout's bytes and seconds as pictures, and the planner beside published runs."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from torchcourse.figures import COLORS, Explorer, bars, canvas, explorer, headline, new, values
from torchcourse.lessons.model_parallelism.planner import (
    GPT3,
    LLAMA3_8B,
    LLAMA3_70B,
    LLAMA3_405B,
    Layout,
    Plan,
    dgx_a100,
    plan,
)
from torchcourse.lessons.model_parallelism.planner.accuracy import Judgement, by_source, mean_error
from torchcourse.units import format_bytes

MODELS = {model.name: model for model in (GPT3, LLAMA3_8B, LLAMA3_70B, LLAMA3_405B)}

BYTE_COLORS = {
    "parameters": COLORS["blue"],
    "gradients": COLORS["orange"],
    "optimizer": COLORS["green"],
    "gathered": COLORS["sky"],
    "activations": COLORS["vermillion"],
    "working": COLORS["purple"],
    "logits": COLORS["gray"],
    "allocator": COLORS["yellow"],
    "step": COLORS["light gray"],
    "framework": COLORS["black"],
}
SECOND_COLORS = {
    "compute": COLORS["blue"],
    "recomputation": COLORS["sky"],
    "tensor": COLORS["vermillion"],
    "context": COLORS["purple"],
    "bubble": COLORS["gray"],
    "transfer": COLORS["yellow"],
    "data": COLORS["orange"],
    "update": COLORS["black"],
}


def planner_picture() -> Explorer:
    """Return the planner as an explorer: a GPT-3 or a Llama 3 on a cluster of A100, with a slider for each dimension.

    Data parallelism takes the GPUs that the other dimensions leave.
    """
    return explorer(
        lambda **sliders: draw_plan(plan_on_a100(**sliders)),
        alt=lambda **sliders: describe_plan(plan_on_a100(**sliders)),
        tensor=values("tensor", (1, 2, 4, 8, 16), start=8),
        pipeline=values("pipeline", (1, 2, 4, 8, 16, 32), start=8),
        interleaving=values("interleaving", (1, 2, 3, 4, 6, 12), start=1),
        ZeRO_stage=(0, 3, 0),
        micro_batch=values("micro batch", (1, 2, 4, 8), start=1),
        recomputation=["full", "none"],
        GPUs=values("GPUs", (8, 64, 128, 256, 512, 1024, 2048), start=512),
        batch=values("batch", (64, 256, 512, 1024, 1536, 2048), start=1536),
        model=list(MODELS),
    )


def plan_on_a100(
    tensor: int,
    pipeline: int,
    interleaving: int,
    ZeRO_stage: int,
    micro_batch: int,
    recomputation: str,
    GPUs: int,
    batch: int,
    model: str,
) -> Plan:
    """Return the plan that the sliders of `planner_picture` stand for.

    Raises:
        ValueError: in one sentence, if the layout does not fit the model or the cluster.
    """
    layout = Layout(
        batch,
        micro_batch,
        data=max(1, GPUs // (tensor * pipeline)),
        tensor=tensor,
        pipeline=pipeline,
        interleaving=interleaving,
        stage=ZeRO_stage,
        recomputation=recomputation,
    )
    return plan(MODELS[model], dgx_a100(GPUs), layout)


def draw_plan(chosen: Plan) -> Figure:
    """Draw the bytes of the fullest GPU and the seconds of a step, each as one bar of its parts."""
    figure, (above, below) = canvas(8.0, 4.0, left=0.3, right=0.3, bottom=0.85, top=0.6, nrows=2)
    figure.subplots_adjust(hspace=1.45)
    gib = {name: size / 2**30 for name, size in vars(chosen.bytes).items()}
    capacity = chosen.cluster.gpu.memory / 2**30
    _draw_parts(above, gib, BYTE_COLORS, right=1.12 * max(capacity, chosen.bytes.total / 2**30))
    above.axvline(capacity, color=COLORS["black"], linestyle="--", linewidth=1)
    above.text(capacity, 1.06, f"{capacity:.0f} GiB", fontsize=8.5, ha="center")
    above.set_xlabel("memory of the fullest GPU (GiB)")
    _draw_parts(below, vars(chosen.seconds), SECOND_COLORS, right=1.02 * chosen.seconds.total)
    below.set_xlabel("one step (s)")
    headline(figure, _finding(chosen))
    return figure


def describe_plan(chosen: Plan) -> str:
    """Say in words what `draw_plan` shows."""
    sizes = ", ".join(f"{name} {format_bytes(size)}" for name, size in vars(chosen.bytes).items() if size)
    times = ", ".join(f"{name} {s / chosen.seconds.total:.0%}" for name, s in vars(chosen.seconds).items() if s)
    return f"{_finding(chosen)}. Memory: {sizes}. Time: {times}."


def draw_seconds(plans: Mapping[str, Plan]) -> Figure:
    """Draw the seconds of a step of several plans, each as one bar of its parts; the title compares those that fit."""
    figure, axis = new(7.5, 1.5 + 0.38 * len(plans))
    names = [name if each.fits else f"{name}, does not fit" for name, each in plans.items()]
    left, small = [0.0] * len(plans), [0.0] * len(plans)
    limit = 0.01 * max(each.seconds.total for each in plans.values())
    for part, color in SECOND_COLORS.items():
        seconds = [getattr(each.seconds, part) for each in plans.values()]
        if max(seconds) > limit:
            axis.barh(names, seconds, left=left, color=color, height=0.6, label=part)
            left = [start + length for start, length in zip(left, seconds, strict=True)]
        else:
            small = [sum(pair) for pair in zip(small, seconds, strict=True)]
    if any(small):
        axis.barh(names, small, left=left, color=COLORS["light gray"], height=0.6, label="others, each below 1%")
    axis.invert_yaxis()
    axis.set_xlabel("one step (s)")
    figure.legend(frameon=False, fontsize=8.5, ncols=len(SECOND_COLORS), loc="outside lower center")
    fitting = {name: each.seconds.total for name, each in plans.items() if each.fits}
    if fitting:
        best, worst = min(fitting, key=lambda name: fitting[name]), max(fitting, key=lambda name: fitting[name])
        headline(figure, f"{best}: {fitting[best]:.1f} s per step; {worst}: {fitting[worst]:.1f} s")
    else:
        headline(figure, "None of these layouts fits into the memory")
    return figure


def describe_seconds(plans: Mapping[str, Plan]) -> str:
    """Say in words what `draw_seconds` shows."""
    return " ".join(
        f"{name}: {each.seconds.total:.1f} s, of which "
        + ", ".join(f"{part} {s:.1f}" for part, s in vars(each.seconds).items() if s >= 0.05)
        + ("." if each.fits else "; does not fit.")
        for name, each in plans.items()
    )


def draw_accuracy(judgements: Sequence[Judgement]) -> Figure:
    """Draw planned over published FLOP/s per GPU; runs that set constants are hollow."""
    figure, axis = new(5.6, 4.6)
    highest = 1.1 * max(max(each.run.flops, each.flops) for each in judgements) / 1e12
    lowest = 0.9 * min(min(each.run.flops, each.flops) for each in judgements) / 1e12
    line = (lowest, highest)
    axis.plot(line, line, color=COLORS["black"], linewidth=1, label="planned as published")
    axis.fill_between(
        line, [0.85 * x for x in line], [1.15 * x for x in line], color=COLORS["light gray"], label="within 15%"
    )
    judged = [each for each in judgements if not each.run.calibrates]
    for setting, face, label in ((True, "white", "sets constants"), (False, COLORS["blue"], "judged")):
        shown = [each for each in judgements if each.run.calibrates == setting]
        axis.plot(
            [each.run.flops / 1e12 for each in shown],
            [each.flops / 1e12 for each in shown],
            "o",
            color=COLORS["blue"],
            markerfacecolor=face,
            markersize=5,
            label=label,
        )
    axis.set(xscale="log", yscale="log", xlim=line, ylim=line)
    ticks = [tick for tick in (50, 100, 200, 400) if lowest < tick < highest]
    axis.set_xticks(ticks, ticks)
    axis.set_yticks(ticks, ticks)
    axis.minorticks_off()
    axis.set(xlabel="published (TFLOP/s per GPU)", ylabel="planned (TFLOP/s per GPU)")
    axis.legend(frameon=False, fontsize=8.5)
    headline(
        figure,
        f"{len(judged)} runs of sources that set nothing: {mean_error(judged):.0%} off on average",
    )
    return figure


def describe_accuracy(judgements: Sequence[Judgement]) -> str:
    """Say in words what `draw_accuracy` shows."""
    errors = ", ".join(f"{row.key} {row.error:.0%}" for row in by_source(judgements))
    return f"Planned over published TFLOP/s per GPU for all sources: {errors}"


def _finding(chosen: Plan) -> str:
    layout, needed = chosen.layout, format_bytes(chosen.bytes.total, decimals=0)
    fits = f"fits with {needed}" if chosen.fits else f"does not fit: {needed}"
    spread = f"{layout.tensor} tensor × {layout.pipeline} pipeline × {layout.data} data"
    return f"{chosen.model.name} on {spread}: {fits}, MFU {chosen.mfu:.0%}"


def _draw_parts(axis: Axes, parts: dict[str, float], colors: dict[str, str], right: float) -> None:
    """Draw one bar of parts, and below it the name and the size of each that is not nothing."""
    left, rectangles, handles = 0.0, [], []
    for name, size in parts.items():
        rectangles.append((left, 0.0, size, 1.0))
        left += size
        if size > 0:
            handles.append(Patch(color=colors[name], label=f"{name} {_short(size)}"))
    bars(axis, rectangles, [colors[name] for name in parts])
    axis.set(xlim=(0, right), ylim=(-0.1, 1.0), yticks=[])
    axis.spines["left"].set_visible(False)
    look = {"frameon": False, "fontsize": 8, "handlelength": 0.8, "columnspacing": 0.9, "handletextpad": 0.4}
    axis.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.62), ncols=len(handles), **look)


def _short(number: float) -> str:
    """Two digits, without an exponent."""
    return f"{float(f'{number:.2g}'):g}"
