"""Schedules of a pipeline as data: for each rank, the order of its forward and backward passes.

The layers of a model are cut into **stages**; each rank holds one stage, or several. A batch is cut into micro-batches,
which pass the stages one after the other. A schedule says in which order a rank works through them, and nothing else:
`simulation.py` gives it times, `schedules_picture.py` draws it, `run.py` executes it.

* `gpipe`: all forwards, then all backwards.
* `one_f_one_b`: as few forwards as possible, then one backward for each forward. The same time, less memory.
* `interleaved`: each rank holds several stages, each a smaller piece. Less waiting, more messages.
* `zero_bubble`: the backward pass is split, and the half that nobody waits for fills the gaps.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

Kind = Literal["F", "B", "I", "W"]


@dataclass(frozen=True)
class Action:
    """One thing that a rank does: `Action("F", 0, 3)` is the forward pass of micro-batch 3 through stage 0.

    The kinds are those of `torch.distributed.pipelining`: F forward; B backward, the whole of it; I and W its two
    halves, the gradient of the stage's *input* (the stage before waits for it) and of its *weights* (nobody waits).
    """

    kind: Kind
    stage: int
    micro_batch: int

    def __str__(self) -> str:
        return f"{self.stage}{self.kind}{self.micro_batch}"


@dataclass(frozen=True)
class Schedule:
    """The orders of all ranks. Stage s lives on rank s mod (number of ranks).

    Attributes:
        name: what a picture calls it.
        micro_batches: how many parts a batch has.
        stages_per_rank: how many pieces of the model a rank holds.
        orders: for each rank, its actions from first to last.
    """

    name: str
    micro_batches: int
    stages_per_rank: int
    orders: tuple[tuple[Action, ...], ...]

    @property
    def ranks(self) -> int:
        return len(self.orders)

    @property
    def stages(self) -> int:
        return self.ranks * self.stages_per_rank

    def rank_of(self, stage: int) -> int:
        return stage % self.ranks

    def stages_of(self, rank: int) -> list[int]:
        return list(range(rank, self.stages, self.ranks))

    def needs(self, action: Action) -> Action | None:
        """Return what has to be finished first, on whatever rank: the pass that makes this action's input.

        Where that is a backward pass, "B" stands for "I" too. A backward pass at the last stage needs its own forward
        pass; the first stage's forward pass needs nothing.
        """
        if action.kind == "F":
            return Action("F", action.stage - 1, action.micro_batch) if action.stage else None
        if action.kind == "W":
            return Action("B", action.stage, action.micro_batch)
        if action.stage == self.stages - 1:
            return Action("F", action.stage, action.micro_batch)
        return Action("B", action.stage + 1, action.micro_batch)


def gpipe(ranks: int, micro_batches: int) -> Schedule:
    """Return GPipe: every rank does all forward passes, then all backward passes. It holds all micro-batches at once.

    Raises:
        ValueError: for no ranks or no micro-batches.

    Source: Huang et al. 2019, https://arxiv.org/abs/1811.06965
    """
    _check(ranks, micro_batches)
    orders = [
        [Action(kind, rank, number) for kind in ("F", "B") for number in range(micro_batches)] for rank in range(ranks)
    ]
    return _schedule("GPipe", micro_batches, 1, orders)


def one_f_one_b(ranks: int, micro_batches: int) -> Schedule:
    """Return 1F1B: rank r starts with p−1−r forward passes, then alternates. It holds at most p−r micro-batches.

    Raises:
        ValueError: for no ranks or no micro-batches.

    Source: "PipeDream-Flush" in Narayanan et al. 2020, https://arxiv.org/abs/2006.09503
    """
    _check(ranks, micro_batches)
    orders = []
    for rank in range(ranks):
        forwards = [Action("F", rank, number) for number in range(micro_batches)]
        backwards = [Action("B", rank, number) for number in range(micro_batches)]
        orders.append(_alternate(forwards, backwards, warm_up=ranks - 1 - rank))
    return _schedule("1F1B", micro_batches, 1, orders)


def interleaved(ranks: int, micro_batches: int, stages_per_rank: int = 2) -> Schedule:
    """Return interleaved 1F1B: rank r holds the stages r, r+p, r+2p …; micro-batches go through them p at a time.

    With one stage per rank it is 1F1B with p more micro-batches in the warm-up, as its authors' code has it.

    Raises:
        ValueError: for no ranks, micro-batches or stages; or if the ranks do not divide the micro-batches.

    Source: Narayanan et al. 2021, https://arxiv.org/abs/2104.04473, section 2.2
    """
    _check(ranks, micro_batches)
    if stages_per_rank < 1:
        raise ValueError(f"A rank needs at least 1 stage, but stages_per_rank is {stages_per_rank}.")
    if micro_batches % ranks:
        raise ValueError(
            f"Interleaving sends micro-batches through in groups of {ranks}, one for each rank: "
            f"{micro_batches} micro-batches leave a group unfilled. Take a multiple of {ranks}."
        )
    orders = []
    for rank in range(ranks):
        stages = range(rank, ranks * stages_per_rank, ranks)
        forwards = list(_in_groups("F", stages, ranks, micro_batches))
        backwards = list(_in_groups("B", stages[::-1], ranks, micro_batches))
        orders.append(_alternate(forwards, backwards, warm_up=2 * (ranks - 1 - rank) + (stages_per_rank - 1) * ranks))
    return _schedule("interleaved 1F1B", micro_batches, stages_per_rank, orders)


def zero_bubble(ranks: int, micro_batches: int) -> Schedule:
    """Return ZB-H1: 1F1B with the backward pass split. On rank r the weights' half comes r micro-batches later.

    So r of them are left to fill the time at the end, when the ranks before still need theirs. Every rank holds up to p
    micro-batches, as many as rank 0 does in 1F1B.

    Raises:
        ValueError: for no ranks or no micro-batches.

    Source: Qi et al. 2023, https://arxiv.org/abs/2401.10241, section 2.2 ("handcrafted schedules")
    """
    _check(ranks, micro_batches)
    orders = []
    for rank in range(ranks):
        forwards = [Action("F", rank, number) for number in range(micro_batches)]
        inputs = [Action("I", rank, number) for number in range(micro_batches)]
        order = []
        for action in _alternate(forwards, inputs, warm_up=ranks - 1 - rank):
            order.append(action)
            if action.kind == "I" and action.micro_batch >= rank:
                order.append(Action("W", rank, action.micro_batch - rank))
        order += [Action("W", rank, number) for number in range(max(0, micro_batches - rank), micro_batches)]
        orders.append(order)
    return _schedule("zero-bubble (ZB-H1)", micro_batches, 1, orders)


SCHEDULES: dict[str, Callable[[int, int], Schedule]] = {
    "GPipe": gpipe,
    "1F1B": one_f_one_b,
    "interleaved 1F1B": interleaved,
    "zero-bubble (ZB-H1)": zero_bubble,
}
"""The generators by the names of their schedules; each takes the ranks and the micro-batches."""


def bubble(
    ranks: int, micro_batches: int, stages_per_rank: int = 1, *, backward: Fraction | float = 2, split: bool = False
) -> Fraction | float:
    """Return the formula for the bubble: the part of all ranks' time, 0 to 1, in which they wait.

    GPipe and 1F1B: (p−1)/(m+p−1). Interleaved with v stages per rank: (p−1)/(v·m+p−1). Neither depends on how long a
    backward pass takes. Zero-bubble (ZB-H1) with equal halves: each rank waits for p−1 forward passes, or p−1 halves of
    a backward pass where these are longer, instead of p−1 forward and backward passes.

    Args:
        backward: the time of a whole backward pass ÷ the time of a forward pass. It counts only if `split`.
        split: whether the backward pass is split, as in `zero_bubble`.

    Raises:
        ValueError: for fewer micro-batches than ranks if `split`: the formula does not hold there.
    """
    if not split:
        return Fraction(ranks - 1, stages_per_rank * micro_batches + ranks - 1)
    if micro_batches < ranks:
        raise ValueError(
            f"The formula of ZB-H1 needs as many micro-batches as ranks, {ranks}, but has {micro_batches}."
        )
    waiting = (ranks - 1) * max(Fraction(1), backward / Fraction(2))
    return waiting / (micro_batches * (1 + backward) + waiting)


def layers_of(layers: int, stages: int) -> list[range]:
    """Share out equal layers among stages, in order: `layers_of(6, 3)` is [range(0, 2), range(2, 4), range(4, 6)].

    Raises:
        ValueError: if the stages do not divide the layers.
    """
    if stages < 1 or layers % stages:
        raise ValueError(
            f"{layers} layers cannot be shared equally by {stages} stages, and the slowest stage would hold up all "
            f"others. Take a number of stages that divides {layers}."
        )
    each = layers // stages
    return [range(stage * each, (stage + 1) * each) for stage in range(stages)]


def _alternate(forwards: list[Action], backwards: list[Action], warm_up: int) -> list[Action]:
    """Do `warm_up` forward passes, then one forward and one backward in turn, then what is left of the backwards."""
    warm_up = min(warm_up, len(forwards))
    steady = [action for pair in zip(forwards[warm_up:], backwards, strict=False) for action in pair]
    return forwards[:warm_up] + steady + backwards[len(forwards) - warm_up :]


def _in_groups(kind: Kind, stages: range, group: int, micro_batches: int) -> Iterator[Action]:
    """Take `group` micro-batches through each of a rank's stages in turn, then the next group."""
    for first in range(0, micro_batches, group):
        for stage in stages:
            for number in range(first, first + group):
                yield Action(kind, stage, number)


def _check(ranks: int, micro_batches: int) -> None:
    if ranks < 1 or micro_batches < 1:
        raise ValueError(
            f"A pipeline needs at least 1 rank and 1 micro-batch, but has {ranks} and {micro_batches} of them."
        )


def _schedule(name: str, micro_batches: int, stages_per_rank: int, orders: list[list[Action]]) -> Schedule:
    return Schedule(name, micro_batches, stages_per_rank, tuple(tuple(order) for order in orders))
