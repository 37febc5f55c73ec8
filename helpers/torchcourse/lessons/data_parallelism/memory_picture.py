"""What each ZeRO stage leaves on a rank, as a picture."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from torchcourse.figures import COLORS, Explorer, bars, canvas, explorer, headline, legend, values
from torchcourse.lessons.data_parallelism.memory import RECIPES, States, zero_memory

STAGES = {0: "DDP", 1: "stage 1", 2: "stage 2", 3: "stage 3, FSDP"}


def zero_picture() -> Explorer:
    """Return the memory of DDP and of ZeRO stages 1 to 3 as an explorer, for any model and number of ranks."""
    return explorer(
        draw_zero,
        alt=describe_zero,
        billion_parameters=values("billion parameters", (0.1, 0.3, 1, 3, 7.5, 13, 30, 70, 175, 405), start=7.5),
        ranks=values("ranks", [2**power for power in range(11)], start=64),
        GB_a_GPU=values("GB per GPU", (16, 24, 40, 80, 141, 192), start=80),
        recipe=list(RECIPES),
    )


def draw_zero(billion_parameters: float, ranks: int, GB_a_GPU: float, recipe: str) -> Figure:
    """Draw the states (GB per rank) of DDP and of ZeRO stages 1 to 3 as stacked bars, and a GPU's memory as a line.

    Raises:
        ValueError: for a recipe or a number of ranks that does not exist.
    """
    states = _stages(billion_parameters, ranks, recipe)
    figure, axis = canvas(8.0, 3.0, left=1.15, right=0.9, bottom=0.9, top=0.4)
    _draw_bars(axis, dict(zip(STAGES.values(), states, strict=True)), unit=1e9)
    largest = states[0].total / 1e9
    right = 1.05 * largest if GB_a_GPU > 1.25 * largest else 1.05 * max(largest, GB_a_GPU)
    if GB_a_GPU <= right:
        axis.axvline(GB_a_GPU, color=COLORS["black"], linestyle="--", linewidth=1)
        side = "left" if GB_a_GPU < right / 2 else "right"
        axis.text(GB_a_GPU, -0.62, f" a GPU has {GB_a_GPU} GB ", fontsize=9, va="center", ha=side)
    else:
        axis.text(right, -0.62, f"a GPU has {GB_a_GPU} GB →", fontsize=9, va="center", ha="right")
    axis.set(xlim=(0, right), ylim=(3.5, -0.8), xlabel="states (GB per rank)")
    headline(figure, _finding(billion_parameters, ranks, GB_a_GPU, recipe))
    legend(figure, _COLORS)
    return figure


def describe_zero(billion_parameters: float, ranks: int, GB_a_GPU: float, recipe: str) -> str:
    """Say in words what `draw_zero` shows."""
    sizes = [
        f"{name} {_short(states.total / 1e9)} GB"
        for name, states in zip(STAGES.values(), _stages(billion_parameters, ranks, recipe), strict=True)
    ]
    return f"{_finding(billion_parameters, ranks, GB_a_GPU, recipe)}. Each rank holds: {', '.join(sizes)}."


def draw_measured_memory(measured: Mapping[str, States], formula: Mapping[str, States]) -> Figure:
    """Draw measured states of a rank beside the formula, in kB, a pair of bars for each name.

    Args:
        measured: from `measure_memory`.
        formula: from `zero_memory`, with the same names.

    Raises:
        KeyError: if a name is missing from the formula.
    """
    rows: dict[str, States] = {}
    for name, states in measured.items():
        rows[f"{name}, measured"] = states
        rows["formula" + " " * len(rows)] = formula[name]
    figure, axis = canvas(8.0, 1.4 + 0.28 * len(rows), left=2.1, right=0.9, bottom=0.9, top=0.4)
    _draw_bars(axis, rows, unit=1e3)
    largest = max(states.total for states in rows.values()) / 1e3
    axis.set(xlim=(0, 1.02 * largest), ylim=(len(rows) - 0.5, -0.6), xlabel="states (kB per rank)")
    worst = max(abs(states.total / formula[name].total - 1) for name, states in measured.items())
    title = (
        "A rank holds exactly what the formula says"
        if worst == 0
        else f"Measured and formula differ by at most {worst:.1%}"
    )
    headline(figure, title)
    legend(figure, _COLORS)
    return figure


_COLORS = {"parameters": COLORS["blue"], "gradients": COLORS["orange"], "optimizer": COLORS["green"]}


def _stages(billion_parameters: float, ranks: int, recipe: str) -> list[States]:
    return [zero_memory(billion_parameters * 1e9, ranks, stage, recipe) for stage in STAGES]


def _finding(billion_parameters: float, ranks: int, GB_a_GPU: float, recipe: str) -> str:
    what = f"{billion_parameters:g} billion parameters on {ranks} rank{'s' if ranks > 1 else ''}"
    for name, states in zip(STAGES.values(), _stages(billion_parameters, ranks, recipe), strict=True):
        if states.total <= GB_a_GPU * 1e9:
            return f"{what}: {name} fits into {GB_a_GPU} GB, with {_short(states.total / 1e9)} GB per rank"
    return f"{what}: not even stage 3 fits into {GB_a_GPU} GB"


def _draw_bars(axis: Axes, rows: Mapping[str, States], unit: float) -> None:
    rectangles, colors = [], []
    for row, states in enumerate(rows.values()):
        left = 0.0
        for part, color in _COLORS.items():
            size = getattr(states, part) / unit
            rectangles.append((left, row - 0.38, size, 0.76))
            colors.append(color)
            left += size
        axis.text(left, row, " " + _short(left), va="center")
    bars(axis, rectangles, colors)
    axis.set_yticks(range(len(rows)), [name.rstrip() for name in rows])
    axis.tick_params(axis="y", length=0)


def _short(number: float) -> str:
    """Three digits, without an exponent."""
    return f"{float(f'{number:.3g}'):g}"
