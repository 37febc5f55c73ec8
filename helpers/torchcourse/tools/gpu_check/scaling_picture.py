"""The picture of the report: how speed and memory of DDP and FSDP2 go with the number of ranks."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from torchcourse import figures
from torchcourse.tools.gpu_check.parts import Row
from torchcourse.tools.gpu_check.wrapped import WAYS


def picture(rows: Sequence[Row], where: str) -> Figure:
    """Draw the rows of the scaling part that have numbers.

    Args:
        rows: of the part `scaling`.
        where: on what the ranks computed, for the title.
    """
    figure, (left, right) = figures.new(9.0, 3.6, ncols=2)
    efficiencies = []
    for way, color in zip(WAYS, (figures.COLORS["blue"], figures.COLORS["orange"]), strict=True):
        numbers = [row.numbers for row in rows if row.numbers and row.what.startswith(way)]
        ranks = [each["ranks"] for each in numbers]
        left.plot(ranks, [each["rate"] for each in numbers], "o-", color=color, label=way)
        right.plot(ranks, [each["states"] / 2**20 for each in numbers], "o", color=color, label=f"{way}, measured")
        right.plot(ranks, [each["expected"] / 2**20 for each in numbers], "--", color=color, label=f"{way}, formula")
        if len(numbers) > 1 and ranks[0] == 1:
            ideal = [numbers[0]["rate"] * count for count in ranks]
            left.plot(ranks, ideal, ":", color=color, label=f"{way}, ideal")
            efficiencies.append(f"{way} {numbers[-1]['rate'] / ideal[-1]:.0%} of {ranks[-1]:.0f} times one rank")
    left.set(xlabel="ranks", ylabel="samples per second", title="Speed")
    right.set(xlabel="ranks", ylabel="states per rank (MiB)", title="Memory")
    for axis in (left, right):
        axis.set_ylim(bottom=0)
        axis.xaxis.get_major_locator().set_params(integer=True)
        if axis.lines:
            axis.legend(frameon=False, fontsize=8)
    finding = ", ".join(efficiencies) or "One number of ranks was measured"
    figures.headline(figure, f"{finding} ({where})")
    return figure
