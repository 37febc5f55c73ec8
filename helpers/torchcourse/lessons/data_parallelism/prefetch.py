"""When the units of FSDP compute and when they travel: a modeled step on one rank, with and without prefetching.

A rank computes one unit at a time, and its network moves one message at a time. A unit computes when it is gathered.
With prefetch k, the gather of a unit may start as soon as the unit k places before it begins to compute; with 0, when
the unit before it has finished. The gradients of a unit travel after its backward pass, and nobody waits for them but
the optimizer.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["forward", "backward", "all-gather", "reduce-scatter"]


@dataclass(frozen=True)
class Task:
    """Something that takes time in a step: what, which unit (from 0), and from when to when (ms)."""

    kind: Kind
    unit: int
    start: float
    end: float


@dataclass(frozen=True)
class Step:
    """A modeled step: its tasks, how long it takes (ms), and how many units are gathered at most at a time."""

    tasks: list[Task]
    milliseconds: float
    most_gathered: int

    @property
    def computing(self) -> float:
        """The share of the step in which the rank computes."""
        busy = sum(task.end - task.start for task in self.tasks if task.kind in ("forward", "backward"))
        return busy / self.milliseconds


def modeled_step(units: int, forward_ms: float, gather_ms: float, prefetch: int) -> Step:
    """Return a step of equal units. The backward pass takes twice as long as the forward pass.

    Args:
        units: how many.
        forward_ms: of one unit.
        gather_ms: of one unit; its reduce-scatter takes as long.
        prefetch: how many units ahead are gathered.
    """
    turns: list[tuple[Kind, int]] = [("forward", unit) for unit in range(units)]
    turns += [("backward", unit) for unit in reversed(range(units))]
    gathers: list[Task] = []
    tasks: list[Task] = []
    starts: list[float] = []  # when each turn begins to compute
    network, now = 0.0, 0.0
    for place, (kind, unit) in enumerate(turns):
        for ahead in range(len(gathers), min(place + prefetch, len(turns) - 1) + 1):
            # Nobody knows at the end of the forward pass how the backward pass begins: the loss stands between them.
            if kind == "forward" and turns[ahead][0] == "backward":
                break
            asked = now
            start = max(asked, network)
            network = start + gather_ms
            gathers.append(Task("all-gather", turns[ahead][1], start, network))
        begin = max(now, gathers[place].end)
        now = begin + forward_ms * (1 if kind == "forward" else 2)
        starts.append(begin)
        tasks.append(Task(kind, unit, begin, now))
        if kind == "backward":
            start = max(now, network)
            network = start + gather_ms
            tasks.append(Task("reduce-scatter", unit, start, network))
    gathered = [(gather.start, turn.end) for gather, turn in zip(gathers, _turns(tasks), strict=True)]
    most = max(sum(start <= moment < end for start, end in gathered) for moment, _ in gathered)
    return Step(gathers + tasks, max(now, network), most)


def _turns(tasks: list[Task]) -> list[Task]:
    return [task for task in tasks if task.kind in ("forward", "backward")]
