"""Count what the learner's function sends, for the checks of lesson 01 that allow a number of bytes or messages."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

_COLLECTIVES = (
    "allreduce",
    "allgather",
    "_allgather_base",
    "reduce",
    "reduce_scatter",
    "_reduce_scatter_base",
    "gather",
    "scatter",
    "broadcast",
    "alltoall",
    "alltoall_base",
)


@dataclass
class Traffic:
    """What one rank sent by itself, the collectives it called, and the ranks to which it let one send its result.

    `largest`: the bytes of the largest message.
    """

    bytes: int = 0
    messages: int = 0
    largest: int = 0
    targets: set[int] = field(default_factory=set)
    collectives: list[str] = field(default_factory=list)
    destinations: set[int] = field(default_factory=set)


@contextlib.contextmanager
def watched() -> Iterator[Traffic]:
    """Count messages and collectives where all functions of `torch.distributed` meet: at the process group."""
    traffic, group = Traffic(), dist.ProcessGroup
    originals = {name: vars(group)[name] for name in ("send", *_COLLECTIVES)}

    def send(self: Any, tensors: Sequence[torch.Tensor], target: int, *rest: Any) -> Any:
        size = sum(tensor.nbytes for tensor in tensors)
        traffic.bytes += size
        traffic.messages += 1
        traffic.largest = max(traffic.largest, size)
        traffic.targets.add(target)
        return originals["send"](self, tensors, target, *rest)

    def noted(name: str) -> Callable:
        def call(*arguments: Any, **named: Any) -> Any:
            traffic.collectives.append(name.strip("_"))
            traffic.destinations |= {option.rootRank for option in arguments if isinstance(option, dist.ReduceOptions)}
            return originals[name](*arguments, **named)

        return call

    for name in originals:
        setattr(group, name, send if name == "send" else noted(name))
    try:
        yield traffic
    finally:
        for name, original in originals.items():
            setattr(group, name, original)
