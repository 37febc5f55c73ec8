"""The picture of samples dealt to ranks: who sees which sample in which step."""

from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from torchcourse.figures import COLORS, new
from torchcourse.lessons.data_parallelism.sampling import Rest, shares


def finding(samples: int, ranks: int, rest: Rest) -> str:
    """Say in one line who sees what: the title of the picture."""
    given = shares(samples, ranks, rest)
    seen = [sample for share in given for sample in share]
    head = f"{_count(samples, 'sample')} over {_count(ranks, 'rank')}: "
    twice = sorted({sample for sample in seen if seen.count(sample) > 1})
    lost = sorted(set(range(samples)) - set(seen))
    early = [rank for rank, share in enumerate(given) if len(share) < len(given[0])]
    if twice:
        return head + f"{_names('sample', twice)} {'is' if len(twice) == 1 else 'are'} seen more than once"
    if lost:
        return head + f"nobody sees {_names('sample', lost)}"
    if early:
        return head + f"{_names('rank', early)} must wait one step"
    return head + "each sample is seen exactly once"


def draw_shares(samples: int, ranks: int, rest: Rest) -> Figure:
    """Draw who sees which sample, step by step: a row for each rank, and one for samples that nobody sees."""
    given = shares(samples, ranks, rest)
    steps = max(len(share) for share in given)
    lost = sorted(set(range(samples)) - {sample for share in given for sample in share})
    figure, axis = new(7.5, 3.2)
    seen: set[int] = set()
    for step in range(steps):
        for rank, share in enumerate(given):
            if step >= len(share):
                _box(axis, step, rank, "waits", face="white", edge=COLORS["gray"], dashed=True)
                continue
            again = share[step] in seen
            name = f"{share[step]} again" if again else f"{share[step]}"
            _box(axis, step, rank, name, face=COLORS["orange" if again else "sky"])
            seen.add(share[step])
    for column, sample in enumerate(lost):
        _box(axis, column, ranks, f"{sample}", face="white", edge=COLORS["vermillion"])
    rows = [f"rank {rank}" for rank in range(ranks)] + ["nobody"] * bool(lost)
    axis.set(xlim=(0, max(steps, len(lost), 6)), ylim=(max(len(rows), 3), 0), title=finding(samples, ranks, rest))
    axis.set_yticks([row + 0.5 for row in range(len(rows))], rows)
    axis.set_xticks([step + 0.5 for step in range(steps)], [str(step + 1) for step in range(steps)])
    axis.set_xlabel("step (one sample per rank)")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    return figure


def describe_shares(samples: int, ranks: int, rest: Rest) -> str:
    """Say the whole picture in words, for those who do not see it."""
    rows = [f"rank {rank} sees {share or 'nothing'}" for rank, share in enumerate(shares(samples, ranks, rest))]
    return f"{finding(samples, ranks, rest)}. Step by step, {'; '.join(rows)}."


def _box(axis: Any, column: int, row: int, text: str, *, face: str, edge: str = "black", dashed: bool = False) -> None:
    corner = (column + 0.06, row + 0.1)
    style = "--" if dashed else "-"
    axis.add_patch(Rectangle(corner, 0.88, 0.8, facecolor=face, edgecolor=edge, linestyle=style, linewidth=1))
    axis.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=9)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _names(noun: str, numbers: list[int]) -> str:
    if len(numbers) == 1:
        return f"{noun} {numbers[0]}"
    return f"{noun}s {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
