"""Who holds which part of two dense layers, and what the ranks send for it."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from torchcourse.figures import COLORS, CYCLE, Explorer, bars, canvas, explorer, headline, values
from torchcourse.lessons.data_parallelism.cost import ring_bytes
from torchcourse.lessons.model_parallelism.tensor_parallel.cost import COLUMN_ROW, ORDERS, pair_bytes, weight_bytes


def split_picture() -> Explorer:
    """Return the MLP of a block, split over ranks, as an explorer: order, ranks, width and tokens."""
    return explorer(
        draw_split,
        alt=describe_split,
        ranks=values("ranks", [1, 2, 4, 8], start=2),
        order=ORDERS,
        width=values("width", [2**power for power in range(8, 15)], start=4096),
        tokens=values("tokens in the batch", [2**power for power in range(8, 17)], start=4096),
    )


def draw_split(ranks: int, order: str, width: int, tokens: int) -> Figure:
    """Draw y = GELU(x·A)·B with a color for each rank, and under it the bytes that a rank sends in a step.

    Raises:
        ValueError: for an order that does not exist.
    """
    sent = _sent(ranks, order, width, tokens)
    figure, (top, bottom) = canvas(
        8.0, 4.6, left=1.6, right=0.9, bottom=0.55, top=0.4, nrows=2, gridspec_kw={"height_ratios": [2.6, 1]}
    )
    _draw_matrices(top, ranks, order)
    megabytes = [size / 1e6 for size in sent.values()]
    colors = [COLORS["vermillion"], COLORS["gray"], COLORS["gray"]]
    bars(bottom, [(0, row - 0.36, size, 0.72) for row, size in enumerate(megabytes)], colors)
    largest = max(*megabytes, 1e-9)
    for row, size in enumerate(megabytes):
        bottom.text(size + 0.01 * largest, row, _short(size), va="center")
    bottom.set(xlim=(0, 1.02 * largest), ylim=(len(sent) - 0.5, -0.5), xlabel="sent (MB per rank in a step)")
    bottom.set_yticks(range(len(sent)), list(sent))
    bottom.tick_params(axis="y", length=0)
    headline(figure, _finding(ranks, order, width, tokens))
    return figure


def describe_split(ranks: int, order: str, width: int, tokens: int) -> str:
    """Say in words what `draw_split` shows."""
    sent = [f"{name} {_short(size / 1e6)} MB" for name, size in _sent(ranks, order, width, tokens).items()]
    exchanged = [f"{name}: {text.replace(chr(10), '; ')}" for name, text in _exchanges(order).items()]
    return f"{_finding(ranks, order, width, tokens)}. {'. '.join(exchanged)}. Sent by a rank: {', '.join(sent)}."


def _sent(ranks: int, order: str, width: int, tokens: int) -> dict[str, float]:
    return {
        "tensor parallel": pair_bytes(order, tokens, width, ranks),
        "data parallel": ring_bytes(weight_bytes(width), ranks),
        "pipeline border": 2 * tokens * width * 4 * (ranks > 1),
    }


def _finding(ranks: int, order: str, width: int, tokens: int) -> str:
    if ranks == 1:
        return f"One rank holds all {_short(weight_bytes(width) / 1e6)} MB of weights and sends nothing"
    sent = _short(pair_bytes(order, tokens, width, ranks) / 1e6)
    return f"{order}: each of {ranks} ranks holds 1/{ranks} of the weights, sends {sent} MB per step"


def _exchanges(order: str) -> dict[str, str]:
    """What is exchanged at each of the tensors x, h and y."""
    if order == COLUMN_ROW:
        return {"x": "backward: all-reduce", "y": "forward: all-reduce"}
    return {
        "x": "backward: all-gather",
        "h": "forward: all-reduce\nbackward: all-reduce",
        "y": "forward: all-gather",
    }


# The places of the five matrices: left, bottom, width, height. A has one row of x's width and four of outputs.
_PLACES = {
    "x": (0.0, 1.0, 1.0, 2.0),
    "A": (2.2, 1.5, 4.0, 1.0),
    "h": (7.6, 1.0, 4.0, 2.0),
    "B": (12.8, 0.0, 1.0, 4.0),
    "y": (16.0, 1.0, 1.0, 2.0),
}
_NAMES = {"h": "h = GELU(x·A)", "y": "y = h·B"}


def _draw_matrices(axis: Axes, ranks: int, order: str) -> None:
    # What is cut by columns, and what by rows.
    upright, level = ({"A", "h"}, {"B"}) if order == COLUMN_ROW else ({"x", "B"}, {"A"})
    for name, (left, bottom, wide, high) in _PLACES.items():
        if name in upright:
            parts = [(left + wide * rank / ranks, bottom, wide / ranks, high) for rank in range(ranks)]
        elif name in level:
            parts = [(left, bottom + high * (1 - (rank + 1) / ranks), wide, high / ranks) for rank in range(ranks)]
        else:
            parts = [(left, bottom, wide, high)]
        colors = _RANKS[:ranks] if name in upright | level else [COLORS["light gray"]]
        bars(axis, parts, colors, edgecolors="white", linewidths=0.6)
        axis.text(left + wide / 2, bottom + high + 0.12, _NAMES.get(name, name), ha="center", va="bottom", fontsize=10)
    for name, text in _exchanges(order).items():
        left, bottom, wide, _ = _PLACES[name]
        axis.text(left + wide / 2, bottom - 0.15, text, ha="center", va="top", fontsize=9)
    axis.text(-1.4, 4.62, "a color: one rank · gray: the same on each rank", va="top", fontsize=9)
    axis.set(xlim=(-1.6, 18.2), ylim=(-0.1, 4.7))
    axis.set_axis_off()
    box = axis.get_position()
    axis.set_position((0.02, box.y0, 0.96, box.height))  # no labels at its left: it can have the whole width


_RANKS = [*CYCLE, COLORS["yellow"]]


def _short(number: float) -> str:
    """Three digits, without an exponent."""
    return f"{float(f'{number:.3g}'):,g}"
