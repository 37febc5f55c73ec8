"""Find a memory leak (메모리 누수): what grows from step to step, and the line that keeps it alive.

    report = find_leaks(lambda: train_step(next(batches)))
    print(report)

A leak in Python is never forgotten memory: somebody still holds the tensors. So two questions are asked after each
step. Which storages of earlier steps are still there (a weak reference tells, on every device)? And who refers to them:
a list, an attribute, a hook, a closure, an exception that was kept, or the autograd graph behind a running loss?
"""

import gc
import statistics
import weakref
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from torchcourse.lessons.troubleshooting.autograd_graph import count_nodes, live_tensors
from torchcourse.lessons.troubleshooting.holders import Holder, Search, line_that_keeps
from torchcourse.lessons.troubleshooting.tracking import Allocation, MemoryTracker
from torchcourse.source_lines import Line, hide
from torchcourse.units import format_bytes

hide(__file__)


@dataclass(frozen=True)
class Leak:
    """What one holder keeps more of with each step.

    Attributes:
        bytes_a_step: of tensors; 0 where only nodes of a graph pile up.
        tensors_a_step: storages per step.
        nodes_a_step: nodes of the autograd graph per step, for a leak that is a graph.
        made: the operation, shape and line that made most of the bytes, in words.
        holder: who keeps them alive, in words.
        line: the line that puts them there, where it was found.
    """

    bytes_a_step: float
    tensors_a_step: float
    nodes_a_step: float
    made: str
    holder: str
    line: Line | None

    def __str__(self) -> str:
        if self.bytes_a_step:
            count = "1 tensor" if self.tensors_a_step == 1 else f"{self.tensors_a_step:g} tensors"
            what = f"{format_bytes(self.bytes_a_step)} per step in {count}, most of it {self.made}"
        else:
            what = f"no tensor memory, but {self.nodes_a_step:g} nodes of the autograd graph per step"
        kept = f"Kept alive by {self.holder}" + (f", at {self.line}" if self.line else "")
        return f"{what}. {kept}."


@dataclass(frozen=True)
class LeakReport:
    """What was alive after each step, and what leaks.

    Attributes:
        bytes_after: bytes after each step, of all storages made since the watch began and still alive.
        nodes_after: nodes of the autograd graph after each step, reached from tensors that are alive.
        leaks: the largest first; empty if nothing grows.
        bytes_in_cycles: bytes that only Python's cycle collector could free: they come and go.
    """

    bytes_after: list[int]
    nodes_after: list[int]
    leaks: list[Leak] = field(default_factory=list)
    bytes_in_cycles: int = 0

    @property
    def bytes_a_step(self) -> float:
        """The median growth per step, over the second half of the steps."""
        return _growth(self.bytes_after)

    def __str__(self) -> str:
        more = self.bytes_a_step
        growth = f"{format_bytes(more)} more with each step" if more else "and they do not grow"
        lines = [f"After {len(self.bytes_after)} steps {format_bytes(self.bytes_after[-1])} are alive, {growth}."]
        lines += [f"{number}. {leak}" for number, leak in enumerate(self.leaks, 1)]
        if self.bytes_in_cycles:
            lines.append(f"{format_bytes(self.bytes_in_cycles)} hung in reference cycles until Python's collector ran.")
        return "\n".join(lines)


class LeakWatch:
    """Watches a loop of your own: `with LeakWatch() as watch:`, and `watch.step()` at the end of each step.

    A buffer that is bounded, but not full yet (the last 100 losses), looks like a leak until it is full. It slows the
    steps down (it looks at every operation), so watch ten of them and not an epoch.
    """

    def __init__(self) -> None:
        self._tracker = MemoryTracker(lines=6)
        self._bytes: list[int] = []
        self._nodes: list[int] = []
        self._before: list[weakref.ref] = []

    def __enter__(self) -> "LeakWatch":
        # Frozen objects are left out when the live tensors are listed after each step: a tenth of the time.
        self._before = [weakref.ref(tensor) for tensor in live_tensors()]
        gc.freeze()
        self._tracker.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._tracker.__exit__(*error)
        gc.unfreeze()

    def step(self) -> None:
        """Say that a step is over."""
        self._bytes.append(self._tracker.current)
        self._nodes.append(count_nodes(self._before))
        self._tracker.step += 1

    def report(self) -> LeakReport:
        """Judge the steps so far, after the `with`.

        Raises:
            ValueError: after fewer than five steps; growth cannot be told from a start in less.
        """
        steps = len(self._bytes)
        if steps < 5:
            raise ValueError(f"A leak shows by its growth, and {steps} steps show none: watch at least 5.")
        before = self._tracker.current
        gc.collect()
        in_cycles = before - self._tracker.current
        return LeakReport(self._bytes, self._nodes, self._leaks(steps), in_cycles)

    def _leaks(self, steps: int) -> list[Leak]:
        """Group what survived by who holds it.

        The first steps make what stays (gradients, momentum), and the tensors of the last one may well be in use. So a
        leak is what was left behind by nearly each of the steps between.
        """
        judged = range(2, steps - 1)
        groups: dict[tuple, list[Allocation]] = defaultdict(list)
        for birth in self._tracker.live():
            if birth.step in judged:
                groups[birth.op, birth.shape, birth.dtype, birth.lines[:1]].append(birth)
        growing = [group for group in groups.values() if len({birth.step for birth in group}) >= 0.75 * len(judged)]
        search = Search()
        held: dict[Holder, list[Allocation]] = defaultdict(list)
        for group in sorted(growing, key=lambda group: -sum(birth.bytes for birth in group)):
            held[search.holder_of(group[len(group) // 2])].extend(group)
        nodes = _growth(self._nodes)
        if nodes and not held:
            held[search.holder_of_largest_graph()] = []
        leaks = [self._leak(holder, births, len(judged), nodes) for holder, births in held.items()]
        return sorted(leaks, key=lambda leak: -leak.bytes_a_step)

    def _leak(self, holder: Holder, births: list[Allocation], steps: int, nodes: float) -> Leak:
        by_group: dict[tuple, int] = defaultdict(int)
        for birth in births:
            by_group[birth.op, birth.shape, birth.lines[:1]] += birth.bytes
        made = ""
        if births:
            op, shape, lines = max(by_group, key=by_group.__getitem__)
            made = f"of shape {list(shape)}, made by {op}" + (f" at {lines[0]}" if lines else "")
        # A graph alone keeps no storage that is still alive, so its line is sought wherever anything was made.
        everywhere = (line for made, _ in self._tracker.changes() for line in made.lines[:2])
        stack = births[0].lines if births else tuple(dict.fromkeys(everywhere))
        return Leak(
            bytes_a_step=sum(birth.bytes for birth in births) / steps,
            tensors_a_step=round(len(births) / steps, 1),
            nodes_a_step=nodes,
            made=made,
            holder=holder.text,
            line=line_that_keeps(holder, stack),
        )


def find_leaks(step: Callable[[], Any], steps: int = 10) -> LeakReport:
    """Call `step()` a few times and report what grows, who holds it and at which line.

    Args:
        step: one training step, without arguments. What it returns is dropped.
        steps: how often it is called, at least 5.

    Raises:
        ValueError: for fewer than five steps.
    """
    with LeakWatch() as watch:
        for _ in range(steps):
            step()
            watch.step()
    return watch.report()


def _growth(values: list[int]) -> float:
    """Return the median difference of the second half; 0 unless it grew in three steps of four."""
    late = values[len(values) // 2 :]
    steps = [after - before for before, after in pairwise(late)]
    if not steps or sum(step > 0 for step in steps) < 0.75 * len(steps):
        return 0.0
    return float(statistics.median(steps))
