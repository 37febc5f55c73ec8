"""The autograd graph (자동 미분 그래프) behind live tensors: how many nodes it has, and which memory they keep."""

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import torch

from torchcourse.lessons.troubleshooting.tensor_parts import dense_parts
from torchcourse.source_lines import hide

hide(__file__)

_LIMIT = 300_000  # nodes that are looked at; a graph that is larger shows its growth long before

_OF_A_LEAF = 2**64 - 1  # the number of every AccumulateGrad node, so that they run first


def storage_keys(tensor: torch.Tensor) -> list[int]:
    """Return a number for each memory behind a tensor, the same for all its views; empty where there is none."""
    return [part.untyped_storage()._cdata for part in dense_parts(tensor)]


def live_tensors() -> list[torch.Tensor]:
    """Return every tensor that a Python object stands for."""
    kinds = _tensor_classes()  # a look-up in a set: there are hundreds of thousands of objects
    return [item for item in gc.get_objects() if type(item) in kinds]


def count_nodes(more: list[weakref.ref], live: list[torch.Tensor] | None = None) -> int:
    """Return how many nodes of autograd graphs are reached from the live tensors (if not given), and from `more`."""
    tensors = (live_tensors() if live is None else live) + [tensor for ref in more if (tensor := ref()) is not None]
    return sum(1 for _ in nodes(*map(end_of_graph, tensors)))


def end_of_graph(tensor: torch.Tensor) -> Any:
    """Return the node that made the tensor, or None."""
    try:
        return tensor.grad_fn
    except RuntimeError:  # a view whose graph autograd refuses to make
        return None


def next_number() -> int:
    """Return a number that all nodes made so far by this thread lie below, and those to come do not."""
    with torch.inference_mode(False), torch.enable_grad():
        made: Any = torch.ones((), device="cpu", requires_grad=True).neg().grad_fn
    return made._sequence_nr()


def numbers(graph: list[Any], since: int) -> set[int]:
    """Return the sequence numbers of those nodes that were made since `next_number()` was this one."""
    found = {node._sequence_nr() for node in graph}
    return {number for number in found if since <= number < _OF_A_LEAF}


def nodes(*roots: Any) -> Iterator[Any]:
    """Yield the nodes that are reached from these, each once."""
    seen: set[Any] = set()
    waiting = list(roots)
    while waiting and len(seen) < _LIMIT:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        waiting += [following for following, _ in node.next_functions]


def storages(node: Any) -> set[int]:
    """Return the keys of the storages that a node has saved for its backward pass, or keeps as attributes.

    The node of a weight, which gathers its gradient, keeps the weight.
    """
    names = [name for name in dir(node) if name.startswith("_saved_")]
    values = [_saved(node, name) for name in (*names, "saved_tensors", "variable")]
    values += list(getattr(node, "__dict__", {}).values())  # what a torch.autograd.Function writes on its ctx
    flat = [item for value in values for item in (value if isinstance(value, tuple | list) else [value])]
    return {key for item in flat if isinstance(item, torch.Tensor) for key in storage_keys(item)}


def _tensor_classes() -> set[type]:
    kinds: set[type] = set()
    waiting: list[type] = [torch.Tensor]
    while waiting:
        kind = waiting.pop()
        if kind not in kinds:
            kinds.add(kind)
            waiting += type.__subclasses__(kind)
    return kinds


def _saved(node: Any, name: str) -> Any:
    try:
        return getattr(node, name, None)
    except RuntimeError:  # backward() has freed it, or a hook of checkpoint() would have to compute it again
        return None
