"""The ring all-reduce as a picture: who has added up whose numbers after each step."""

from typing import Any

from matplotlib.figure import Figure

from torchcourse.figures import COLORS, Explorer, bars, canvas, explorer, headline, legend, steps
from torchcourse.lessons.data_parallelism.collectives import RingStep, ring_steps


def ring_picture() -> Explorer:
    """Return the ring as an explorer: choose the number of ranks, then walk through the steps (arrow keys)."""
    ranks = steps("ranks", 2, 8, start=4)
    return explorer(draw_ring, alt=describe_ring, ranks=ranks, step=steps("step", 0, _last_step, start=0))


def draw_ring(ranks: int, step: int) -> Figure:
    """Draw a ring of `ranks` after `step` steps (0: the start; 2(ranks − 1): the end; beyond it, the end).

    A column is a rank, a row a chunk. A cell has one box for each rank: a filled box says that this rank's numbers are
    in the sum. Arrows show the chunks that moved in this step.

    Raises:
        ValueError: for fewer than 1 rank or a step below 0.
    """
    step, state = _state(ranks, step)
    figure, axis = canvas(8.0, 1.4 + 0.45 * ranks, left=0.7, right=0.1, bottom=0.85, top=0.4)
    boxes, colors = [], []
    for rank in range(ranks):
        for chunk in range(ranks):
            summed = state.summed[rank][chunk]
            full = COLORS["green"] if len(summed) == ranks else COLORS["blue"]
            for box in range(ranks):
                boxes.append((rank - 0.4 + 0.8 * box / ranks, chunk - 0.3, 0.8 / ranks, 0.6))
                colors.append(full if box in summed else COLORS["light gray"])
    bars(axis, boxes, colors, edgecolors="white", linewidths=0.8)

    tails = [(message.source, message.chunk) for message in state.messages]
    tails += [(message.target - 1, message.chunk) for message in state.messages if message.target == 0]
    if tails:
        x, y = zip(*((rank + 0.3, chunk) for rank, chunk in tails), strict=True)
        length = [0.4] * len(tails)
        axis.quiver(x, y, length, [0] * len(tails), angles="xy", scale_units="xy", scale=1, **_ARROW)
    axis.set(xlim=(-0.75, ranks - 0.25), ylim=(ranks - 0.5, -0.5))
    headline(figure, _title(ranks, step, state))
    axis.set_xticks(range(ranks), [f"rank {rank}" for rank in range(ranks)])
    axis.set_yticks(range(ranks))
    axis.set_xlabel("In a cell, one box for each rank, in order: filled when its numbers are in the sum.", fontsize=9)
    axis.set_ylabel(f"chunk (1/{ranks} each)")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    names = {"partial sum": "blue", "sum of all ranks": "green", "moved in this step": "vermillion"}
    legend(figure, {name: COLORS[color] for name, color in names.items()})
    return figure


def describe_ring(ranks: int, step: int) -> str:
    """Say in words what `draw_ring` shows."""
    step, state = _state(ranks, step)
    moves = [f"chunk {m.chunk} from rank {m.source} to rank {m.target}" for m in state.messages]
    return f"{_title(ranks, step, state)}. " + (f"Moved: {', '.join(moves)}." if moves else "Nothing has moved yet.")


_ARROW: dict[str, Any] = {"color": COLORS["vermillion"], "width": 0.006, "zorder": 3}


def _title(ranks: int, step: int, state: RingStep) -> str:
    complete = {sum(len(summed) == ranks for summed in row) for row in state.summed}
    if step == 0:
        return f"Start: each of the {ranks} ranks has only its own numbers"
    sent = f"each rank has sent {step / ranks:.2f} tensors and has {min(complete)} of {ranks} sums"
    return f"Step {step} of {_last_step(ranks)}, {state.phase}: {sent}"


def _state(ranks: int, step: int) -> tuple[int, RingStep]:
    if step < 0:
        raise ValueError(f"A step is a number from 0, but is {step}.")
    states = ring_steps(ranks)
    step = min(step, len(states) - 1)
    return step, states[step]


def _last_step(ranks: int) -> int:
    return 2 * (ranks - 1)
