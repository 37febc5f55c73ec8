"""What `torch.compile` made of a function: how many graphs, where they break, how often it had to begin again.

The compiler has two halves. The front (Dynamo) records a function's tensor operations as a **graph**. The back makes
code of it: Inductor, the usual one, needs a C++ compiler for a CPU. What is counted here is the work of the front, with
a back that only runs the graph as it is: so it needs no compiler, and shows the same breaks.
"""

import contextlib
import functools
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Graphs:
    """What the front recorded.

    Attributes:
        sizes: the number of operations in each graph, in the order in which they were recorded.
    """

    sizes: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.sizes)


def counted(function: Callable[..., Any], **options: Any) -> tuple[Callable[..., Any], Graphs]:
    """Return the function as `torch.compile` runs it, with a back that counts graphs and changes nothing.

    Args:
        function: what to compile.
        **options: of `torch.compile`, such as `dynamic=True`.
    """
    torch.compiler.reset()
    graphs = Graphs()

    def back(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        graphs.sizes.append(sum(node.op not in ("placeholder", "output", "get_attr") for node in graph.graph.nodes))
        return graph.forward

    compiled = torch.compile(function, backend=back, **options)

    @functools.wraps(function)
    def run(*arguments: Any, **named: Any) -> Any:
        with _quiet():
            return compiled(*arguments, **named)

    return run, graphs


def break_reasons(function: Callable[..., Any], *arguments: Any) -> list[str]:
    """Return the first line of why each graph ended before the function did, and the line of the function.

    A break ahead of all tensor operations ends no graph: where there are only such, the reasons come without lines.
    """
    torch.compiler.reset()
    met = torch._dynamo.utils.counters["graph_break"]
    met.clear()
    with _quiet():
        explained = torch._dynamo.explain(function)(*arguments)
    reasons = []
    for why in explained.break_reasons:
        place = why.user_stack[-1] if why.user_stack else None
        said = why.reason.strip().splitlines()[0]
        reasons.append(f"{said} – at: {place.line}" if place is not None else said)
    return reasons or [why.strip().splitlines()[0] for why in met]


def cpp_compiler() -> str | None:
    """Return the C++ compiler that Inductor would use on a CPU, or None where there is none."""
    return next((name for name in ("g++", "clang++", "c++") if shutil.which(name)), None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the front's own warnings about breaks away: what is counted here says the same in one line."""
    log = logging.getLogger("torch._dynamo")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)
