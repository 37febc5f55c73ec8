"""A schedule on ideal ranks: when each action runs, how long every rank waits, and how much it holds.

    line = simulate(one_f_one_b(4, 8))
    line.bubble, line.peak(rank=0)

Each action starts as soon as its rank is free and its input is there. Times are in forward passes of one rank's whole
share of the layers; with whole numbers or fractions they are exact. A `Timeline` may as well come from a clock
(`run.py`): what is asked of it does not change.
"""

from dataclasses import dataclass
from fractions import Fraction

from torchcourse.lessons.model_parallelism.pipeline.schedules import Action, Schedule

Number = int | float | Fraction


class Deadlock(ValueError):
    """The orders of the ranks cannot be executed: each rank that is not done waits for something that never comes."""


@dataclass(frozen=True)
class Costs:
    """How long a micro-batch takes on one rank, through all stages that the rank holds.

    Attributes:
        forward: the forward pass.
        backward: the whole backward pass; twice the forward pass for dense layers.
        weights: the part of the backward pass, 0 to 1, that is spent on the gradients of the weights.
        message: from the end of an action until its result is on another rank.
    """

    forward: Number = 1
    backward: Number = 2
    weights: Number = Fraction(1, 2)
    message: Number = 0

    def of(self, kind: str) -> Number:
        """Return the time of an action of this kind on a rank with one stage."""
        if kind == "F":
            return self.forward
        return self.backward * {"B": 1, "I": 1 - self.weights, "W": self.weights}[kind]


@dataclass(frozen=True)
class Span:
    """What one rank did from `start` to `end`."""

    rank: int
    action: Action
    start: Number
    end: Number


@dataclass(frozen=True)
class Timeline:
    """One step of a pipeline, simulated or measured: spans in the order of their start on each rank."""

    schedule: Schedule
    spans: tuple[Span, ...]

    @property
    def length(self) -> Number:
        """The time from the first start on any rank to the last end."""
        return max(span.end for span in self.spans) - min(span.start for span in self.spans)

    @property
    def bubble(self) -> Number:
        """The part of all ranks' time, 0 to 1, in which they do nothing."""
        worked = sum(span.end - span.start for span in self.spans)
        return 1 - worked / (self.length * self.schedule.ranks)

    def held(self, rank: int) -> list[tuple[Number, Number]]:
        """Return how much a rank holds from which time on, as (time, amount) pairs.

        What a forward pass leaves for the backward pass counts from the start of F to the end of B, or of W where the
        backward pass is split. The unit is one micro-batch through the rank's whole share of the layers.
        """
        size = Fraction(1, self.schedule.stages_per_rank)
        changes = [(span.start, size) for span in self.spans if span.rank == rank and span.action.kind == "F"]
        changes += [(span.end, -size) for span in self.spans if span.rank == rank and span.action.kind in "BW"]
        amount: Number = 0
        curve: list[tuple[Number, Number]] = []
        for time, change in sorted(changes):  # at equal times a release (negative) comes first
            amount += change
            curve.append((time, amount))
        return curve

    def peak(self, rank: int) -> Number:
        """Return the most that a rank holds at a time, in the unit of `held`."""
        return max(amount for _, amount in self.held(rank))


def simulate(schedule: Schedule, costs: Costs = Costs()) -> Timeline:
    """Give each action of a schedule its time.

    Raises:
        Deadlock: if the orders block each other; its text names, for each rank, what it waits for.
    """
    time_of = {kind: costs.of(kind) / Fraction(schedule.stages_per_rank) for kind in "FBIW"}
    ends: dict[Action, Number] = {}
    spans: list[Span] = []
    next_of = [0] * schedule.ranks
    free_at: list[Number] = [0] * schedule.ranks
    progress = True
    while progress:
        progress = False
        for rank, order in enumerate(schedule.orders):
            while next_of[rank] < len(order):
                action = order[next_of[rank]]
                ready = _ready(schedule, action, ends, rank, costs.message)
                if ready is None:
                    break
                start = max(free_at[rank], ready)
                free_at[rank] = ends[_result(action)] = start + time_of[action.kind]
                spans.append(Span(rank, action, start, free_at[rank]))
                next_of[rank] += 1
                progress = True
    stuck = [rank for rank, order in enumerate(schedule.orders) if next_of[rank] < len(order)]
    if stuck:
        raise Deadlock(_who_waits(schedule, [(rank, schedule.orders[rank][next_of[rank]]) for rank in stuck], ends))
    return Timeline(schedule, tuple(spans))


def _result(action: Action) -> Action:
    """Return the action under the name that others wait for: I makes the gradient that the stage before needs."""
    return Action("B", action.stage, action.micro_batch) if action.kind == "I" else action


def _ready(schedule: Schedule, action: Action, ends: dict[Action, Number], rank: int, message: Number) -> Number | None:
    """Return when the action's input is on its rank, or None if that is not known yet."""
    if _missing(schedule, action, ends):
        return None
    needed = schedule.needs(action)
    if needed is None:
        return 0
    return ends[needed] + (message if schedule.rank_of(needed.stage) != rank else 0)


def _missing(schedule: Schedule, action: Action, ends: dict[Action, Number]) -> Action | None:
    """Return what the action still waits for: its own forward pass, or the pass that makes its input."""
    own_forward = Action("F", action.stage, action.micro_batch)
    if action.kind != "F" and own_forward not in ends:
        return own_forward
    needed = schedule.needs(action)
    return None if needed is None or needed in ends else needed


def _who_waits(schedule: Schedule, waiting: list[tuple[int, Action]], ends: dict[Action, Number]) -> str:
    lines = [
        f"rank {rank} cannot do {action}, for {missing} of rank {schedule.rank_of(missing.stage)} is missing"
        for rank, action in waiting
        if (missing := _missing(schedule, action, ends)) is not None
    ]
    return "These orders block each other: " + "; ".join(lines) + "."
