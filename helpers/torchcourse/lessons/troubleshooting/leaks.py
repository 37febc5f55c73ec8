"""Find a memory leak (메모리 누수): what grows from step to step, and the line that keeps it alive.

    report = find_leaks(lambda: train_step(next(batches)))
    print(report)

A leak in Python is never forgotten memory: somebody still holds the tensors. So two questions are asked after each
step. Which storages of earlier steps are still there (a weak reference tells, on every device)? And who refers to them:
a list, an attribute, a hook, a closure, an exception that was kept, or the autograd graph behind a running loss?

What holds no tensor (NumPy arrays, Python objects, a library's own memory) shows in the memory of the process alone:
its growth is named where no tensor explains it.
"""

import contextlib
import gc
import inspect
import statistics
import traceback
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from types import FrameType, TracebackType
from typing import Any

from torchcourse.lessons.troubleshooting import tracking
from torchcourse.lessons.troubleshooting.autograd_graph import count_nodes, live_tensors, next_number
from torchcourse.lessons.troubleshooting.holders import UNKNOWN, Holder, Search, in_most, line_that_keeps
from torchcourse.lessons.troubleshooting.host_memory import bytes_in_use, is_exact
from torchcourse.lessons.troubleshooting.tensor_parts import dense_parts
from torchcourse.lessons.troubleshooting.tracking import Allocation, MemoryTracker
from torchcourse.source_lines import Line, hide, user_lines
from torchcourse.units import counted, format_bytes

hide(__file__)

_AROUND = ("torch._compile", "torch._dynamo.eval_frame")
"""The modules of the frames in which PyTorch wraps whoever is told of an operation."""
_NOISE = 256 * 1024
"""Bytes per step that a healthy step may add to what the allocator has handed out: kernels cached by shape, logs."""
_OBJECT = 2048
"""Bytes that a tensor or a node of a graph takes beside its numbers, with what the watch notes of it; about."""
_RESIDENT_NOISE = 4 * 1024 * 1024
"""The same of resident memory, for want of a better measure: it wavers."""


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
        unseen_a_step: bytes of the process's memory per step that no tensor explains; 0 if they do not grow steadily.
    """

    bytes_after: list[int]
    nodes_after: list[int]
    leaks: list[Leak] = field(default_factory=list)
    bytes_in_cycles: int = 0
    unseen_a_step: float = 0.0

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
        if self.unseen_a_step:
            lines.append(
                f"The process's memory grows by {format_bytes(self.unseen_a_step)} more per step, in no tensor that I "
                "can see. Look for NumPy arrays, lists and other Python objects, and for what libraries keep; "
                "`tracemalloc` names the lines of the first two."
            )
        return "\n".join(lines)


class LeakWatch:
    """Watches a loop of your own: `with LeakWatch() as watch:`, and `watch.step()` at the end of each step.

    Tensors that are made out of sight (in another thread, by `torch.frombuffer`) are found at the end of the step, if
    they are still there; where they were made is not known then.

    A buffer that is bounded, but not full yet (the last 100 losses), looks like a leak until it is full. It slows the
    steps down (it looks at every operation), so watch ten of them and not an epoch.
    """

    def __init__(self) -> None:
        self._tracker = MemoryTracker(longest=2000, lines=6)
        self._bytes: list[int] = []
        self._nodes: list[int] = []
        self._starts: list[int] = []  # the number of each step's first node of a graph
        self._untold: list[int] = []  # bytes of the process that are in no tensor on the CPU
        self._in_cycles = 0  # bytes that only the garbage collector frees
        self._before: list[weakref.ref] = []
        self._storages_before: dict[int, weakref.ref] = {}

    def __enter__(self) -> "LeakWatch":
        # Frozen objects are left out when the live tensors are listed after each step: a tenth of the time.
        tensors = live_tensors()
        self._before = [weakref.ref(tensor) for tensor in tensors]
        for part in (part for tensor in tensors for part in dense_parts(tensor)):
            storage = part.untyped_storage()
            self._storages_before[storage._cdata] = weakref.ref(storage)
        gc.freeze()
        self._starts.append(next_number())
        self._tracker.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._tracker.__exit__(*error)
        before = self._tracker.current
        gc.collect()  # while it has only this watch's objects to look at
        self._in_cycles = before - self._tracker.current
        gc.unfreeze()

    def step(self) -> None:
        """Say that a step is over."""
        _empty_own_frames()
        live = live_tensors()
        for part in (part for tensor in live for part in dense_parts(tensor)):
            before = self._storages_before.get(part.untyped_storage()._cdata)
            # A number in a line of Python becomes a tensor without dimensions, out of sight: it belongs to a graph.
            if part.dim() and (before is None or before() is None):
                self._tracker.adopt(part)
        self._nodes.append(count_nodes(self._before, live))
        del live
        self._bytes.append(self._tracker.current)
        self._untold.append(self._count_untold())
        self._starts.append(next_number())
        self._tracker.step += 1

    def report(self) -> LeakReport:
        """Judge the steps so far, after the `with`.

        Raises:
            ValueError: after fewer than five steps; growth cannot be told from a start in less.
        """
        steps = len(self._bytes)
        if steps < 5:
            raise ValueError(
                f"A leak shows by its growth, and {counted(steps, 'step')} cannot show it: watch at least 5."
            )
        unseen = self._unseen_a_step(self._count_untold())
        return LeakReport(self._bytes, self._nodes, self._leaks(steps), self._in_cycles, unseen)

    def _count_untold(self) -> int:
        live = self._tracker.live()
        objects = len(live) + self._nodes[-1]
        return bytes_in_use() - sum(made.bytes for made in live if made.device == "cpu") - _OBJECT * objects

    def _unseen_a_step(self, after_collecting: int) -> float:
        """Return the steady growth of what is in no tensor, after the first steps, in which libraries fill caches."""
        threshold = _NOISE if is_exact() else _RESIDENT_NOISE
        growth = [after - before for before, after in pairwise(self._untold[1:])]
        if sum(more < threshold for more in growth) > len(growth) // 8:
            return 0.0
        a_step = float(statistics.median(growth))
        return a_step if after_collecting - self._untold[1] >= 0.5 * a_step * len(growth) else 0.0

    def _leaks(self, steps: int) -> list[Leak]:
        """Group what survived by who holds it.

        The first steps make what stays (gradients, momentum), and the tensors of the last one may well be in use. So a
        leak is what was left behind by nearly each of the steps between.
        """
        judged = range(2, steps - 1)
        search = Search(self._starts)
        held: dict[Holder, list[Allocation]] = defaultdict(list)
        for group in self._growing_groups(judged):
            held[search.holder_of(group[len(group) // 2])].extend(group)
        known = {birth.key for births in held.values() for birth in births}
        graphs = search.growing_graphs(judged, known)
        if not held and not graphs and (nodes := self._nodes_that_stay()):
            graphs[UNKNOWN] = nodes
        of_tensors = max(0.0, _growth(self._nodes) - sum(graphs.values()))
        leaks = [self._leak(holder, births, len(judged), of_tensors) for holder, births in held.items()]
        leaks += [self._leak(holder, [], len(judged), nodes) for holder, nodes in graphs.items()]
        return sorted(leaks, key=lambda leak: (-leak.bytes_a_step, -leak.nodes_a_step))

    def _growing_groups(self, judged: range) -> list[list[Allocation]]:
        """Return the births of nearly each of the steps that survived, alike ones together, the largest group first.

        Alike: made by one operation in one line, on the same way of calls and with one shape; or at least by one
        operation in one line, for batches have many lengths.
        """
        left = sorted((birth for birth in self._tracker.live() if birth.step in judged), key=lambda birth: birth.born)
        growing: list[list[Allocation]] = []
        for alike in (_exactly, _nearly):
            groups: dict[Any, list[Allocation]] = defaultdict(list)
            in_step: Counter[Any] = Counter()
            for birth in left:
                # The first two of a step by themselves: one line may fill two lists.
                place = min(in_step[birth.step, alike(birth)], 2)
                in_step[birth.step, alike(birth)] += 1
                groups[alike(birth), place].append(birth)
            steady = [
                group
                for group in groups.values()
                if in_most([sum(birth.step == step for birth in group) for step in judged])
            ]
            growing += steady
            found = {id(birth) for group in steady for birth in group}
            left = [birth for birth in left if id(birth) not in found]
        return sorted(growing, key=lambda group: -sum(birth.bytes for birth in group))

    def _nodes_that_stay(self) -> float:
        """Return the growth of the graph, if it is still there after Python's collector ran."""
        nodes = _growth(self._nodes)
        stay = count_nodes([]) - self._nodes[0]
        return nodes if stay >= 0.5 * nodes * len(self._nodes) else 0.0

    def _leak(self, holder: Holder, births: list[Allocation], steps: int, nodes: float) -> Leak:
        by_group: dict[tuple, int] = defaultdict(int)
        for birth in births:
            by_group[birth.op, birth.shape, birth.lines[:1]] += birth.bytes
        made = ""
        if births:
            op, shape, lines = max(by_group, key=by_group.__getitem__)
            made = f"of shape {list(shape)}, made {'out of sight' if op == 'unseen' else f'by {op}'}"
            made += f" at {lines[0]}" if lines else ""
        # A graph alone keeps no storage that is still alive, so its line is sought wherever anything was made.
        everywhere = (line for made, _ in self._tracker.changes() for line in made.lines[:2])
        stack = births[0].lines if births else ()
        stack = stack or (*dict.fromkeys(everywhere), *user_lines(6))
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
        TypeError: if `step` is no function of a step.
    """
    if not callable(step) or inspect.isgeneratorfunction(step):
        got = "a generator, of which no line would run" if callable(step) else type(step).__name__
        raise TypeError(f"find_leaks() calls a step itself: pass the function, without parentheses. It got {got}.")
    with LeakWatch() as watch:
        for _ in range(steps):
            step()
            watch.step()
    return watch.report()


def _empty_own_frames() -> None:
    """Empty the frames of the watch in the tracebacks of errors that are kept.

    An operation that failed under watch has come through them, and they hold what it was given. Otherwise they would
    not be there.
    """
    tracebacks = [thing for thing in gc.get_objects() if type(thing) is TracebackType]
    for start in tracebacks:
        entry = start
        while _module(entry.tb_frame) in _AROUND and entry.tb_next is not None:
            entry = entry.tb_next
        if _module(entry.tb_frame) != tracking.__name__:
            continue
        for frame, _ in traceback.walk_tb(start):
            if _module(frame) in (*_AROUND, tracking.__name__, "torch._ops"):
                with contextlib.suppress(RuntimeError):  # it is running
                    frame.clear()


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _exactly(birth: Allocation) -> Any:
    return birth.op, birth.shape, birth.dtype, birth.lines


def _nearly(birth: Allocation) -> Any:
    return birth.op, birth.lines[:1]


def _growth(values: list[int]) -> float:
    """Return the median difference of the second half; 0 unless it grew in three steps of four."""
    steps = [after - before for before, after in pairwise(values[len(values) // 2 :])]
    return float(statistics.median(steps)) if steps and in_most(steps) else 0.0
