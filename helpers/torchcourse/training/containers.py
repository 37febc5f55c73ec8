"""Tensors in containers, as models take and return them: dicts, lists, tuples, named tuples, dataclasses."""

import copy
import dataclasses
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence


def mapped(function: Callable[..., Any], first: Any, *others: Any) -> Any:
    """Return a container of the same kind and shape, with the function applied to what is in it.

    Args:
        function: of one item of each container, at the same place.
        first, others: containers of one shape; or what is no container, to which the function itself is applied.
    """
    items = _items(first)
    if items is None:
        return function(first, *others)
    beside = [_items(other) or {} for other in others]
    return _rebuilt(first, {key: mapped(function, item, *(one[key] for one in beside)) for key, item in items.items()})


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in a container, or the one that is none."""
    return (item for item in leaves(value) if isinstance(item, torch.Tensor))


def leaves(value: Any) -> Iterator[Any]:
    """Yield whatever is in a container, or the one thing that is none."""
    items = _items(value)
    if items is None:
        yield value
        return
    for item in items.values():
        yield from leaves(item)


def rows(value: Any, part: slice) -> Any:
    """Return some of the samples of outputs, which may be tensors in containers."""
    return mapped(lambda item: item[part] if isinstance(item, torch.Tensor) and item.dim() else item, value)


def joined(values: list[Any]) -> Any:
    """Return the outputs for several batches as those for one."""

    def join(*items: Any) -> Any:
        return torch.cat(items) if isinstance(items[0], torch.Tensor) and items[0].dim() else items[0]

    return mapped(join, *values)


def detached(value: Any) -> Any:
    """Return outputs without the graph that they were computed by."""
    return mapped(lambda item: item.detach() if isinstance(item, torch.Tensor) else item, value)


def has_number(value: Any) -> bool:
    """Whether outputs hold a tensor of one number, such as a loss that the model computed itself."""
    return any(not tensor.dim() for tensor in tensors(value))


def numbers_in(value: Any) -> int:
    return sum(tensor.numel() for tensor in tensors(value))


def fingerprint(value: Any) -> list[float]:
    """Return a sum for each tensor in a container: enough to tell two batches apart."""
    return [_weighted_sum(tensor) for tensor in tensors(value)]


def _weighted_sum(tensor: torch.Tensor) -> float:
    weights = torch.arange(1, tensor.numel() + 1, device=tensor.device, dtype=torch.float64)
    return (tensor.reshape(-1).double() * weights).sum().item()


def _items(value: Any) -> dict[Any, Any] | None:
    """Return what is in a container; None for what is none. A packed sequence is one value: its parts go together."""
    if isinstance(value, MutableMapping):
        return dict(value)
    if isinstance(value, tuple | list):
        return None if isinstance(value, PackedSequence) else dict(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return None


def _rebuilt(value: Any, items: dict[Any, Any]) -> Any:
    """Return a container as `value` is one, with other items."""
    if isinstance(value, tuple | list):
        kind: Any = type(value)
        return kind._make(items.values()) if hasattr(kind, "_make") else kind(items.values())
    new = copy.copy(value)
    if isinstance(new, MutableMapping):
        new.update(items)
        return new
    for name, item in items.items():
        object.__setattr__(new, name, item)  # a frozen one too
    return new
