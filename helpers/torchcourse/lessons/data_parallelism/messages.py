"""Every collective and message that this rank calls for, seen where PyTorch dispatches them: FSDP2's own, too."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True)
class Message:
    """A collective, or half of a message: which one, and the bytes of the whole tensor (all shards together).

    In a ring, a rank sends (N−1)/N of these bytes for an all-gather and for a reduce-scatter, and twice that for an
    all-reduce.
    """

    kind: str
    size: int


@contextlib.contextmanager
def listed_messages() -> Iterator[list[Message]]:
    """Give the list of the collectives and messages that this rank calls for within the block, in their order."""
    heard: list[Message] = []
    with _Listener(heard):
        yield heard


class _Listener(TorchDispatchMode):
    def __init__(self, heard: list[Message]) -> None:
        super().__init__()
        self.heard = heard

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        namespace, _, name = func.name().partition("::")
        kinds = [kind for short, kind in _KINDS.items() if namespace == "c10d" and name.strip("_").startswith(short)]
        if kinds:
            self.heard.append(Message(kinds[0], max(_bytes(argument) for argument in args)))
        return func(*args, **(kwargs or {}))


_KINDS = {
    "allgather": "all-gather",
    "reduce_scatter": "reduce-scatter",
    "allreduce": "all-reduce",
    "alltoall": "all-to-all",
    "broadcast": "broadcast",
    "reduce": "reduce",
    "gather": "gather",
    "scatter": "scatter",
    "send": "send",
    "recv": "receive",
}
"""How the names of PyTorch's operators begin → what they are called; of two that fit, the first."""


def _bytes(argument: Any) -> int:
    if isinstance(argument, torch.Tensor):
        return argument.numel() * argument.element_size()
    return sum(map(_bytes, argument)) if isinstance(argument, list | tuple) else 0
