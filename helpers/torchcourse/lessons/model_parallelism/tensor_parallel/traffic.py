"""See what collectives a piece of code calls, and with how many bytes: your own layers', DTensor's, anyone's.

with Traffic() as forward:
    loss = F.cross_entropy(model(x), y)
with Traffic() as backward:
    loss.backward()
print(forward)                      # 8 all-reduces, 0.1 MB sent per rank
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from torchcourse.lessons.data_parallelism.cost import ring_bytes
from torchcourse.ranks.who import rank_and_world_size
from torchcourse.units import format_bytes

# Where the whole tensor is found: in the first argument, or in what comes out.
_OPERATORS = {
    "c10d::allreduce_": ("all-reduce", "argument"),
    "c10d::allgather_": ("all-gather", "argument"),
    "_c10d_functional::all_reduce": ("all-reduce", "argument"),
    "_c10d_functional::all_gather_into_tensor": ("all-gather", "result"),
    "_c10d_functional::reduce_scatter_tensor": ("reduce-scatter", "argument"),
}


@dataclass(frozen=True)
class Collective:
    """One collective: its name, the shape and the bytes of the whole tensor, and what a rank sends for it in a ring."""

    name: str
    shape: tuple[int, ...]
    bytes: int
    sent: float


class Traffic(TorchDispatchMode):
    """Record all-reduces, all-gathers and reduce-scatters that are called inside, in the backward pass too.

    Args:
        ranks: how many ranks take part in each; all if left out.

    Raises:
        RuntimeError: outside a rank.
    """

    def __init__(self, ranks: int | None = None) -> None:
        super().__init__()
        self.ranks = ranks or rank_and_world_size()[1]
        self.collectives: list[Collective] = []

    @property
    def bytes_sent(self) -> float:
        """Bytes that a rank sends if all collectives go round a ring (lesson 01): 2(N−1)/N of each all-reduce's
        tensor, half of that for the others."""
        return sum(collective.sent for collective in self.collectives)

    def counts(self) -> Counter[str]:
        """Return how often each collective was called."""
        return Counter(collective.name for collective in self.collectives)

    def __str__(self) -> str:
        called = ", ".join(f"{count} {name}{'s' * (count > 1)}" for name, count in self.counts().items())
        return f"{called or 'no collective'}, {format_bytes(self.bytes_sent, base=1000)} sent per rank"

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # DTensor first turns itself into plain tensors and collectives
        result = function(*args, **(kwargs or {}))
        if function._schema.name in _OPERATORS:
            name, where = _OPERATORS[function._schema.name]
            parts = tree_leaves(args[0] if where == "argument" else result)
            shape = tuple(parts[0].shape) if len(parts) == 1 else (len(parts), *parts[0].shape)
            size = sum(part.nbytes for part in parts)
            sent = ring_bytes(size, self.ranks) / (1 if name == "all-reduce" else 2)
            self.collectives.append(Collective(name, shape, size, sent))
        return result
