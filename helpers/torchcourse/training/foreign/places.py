"""Where in the content of a checkpoint weights may stand: dicts of tensors by name, and what has one prefix in them."""

from collections.abc import Iterator
from typing import Any

import torch


def parts(content: dict[str, Any], label: str = "", depth: int = 0) -> Iterator[tuple[str, dict, list[str]]]:
    """Yield every dict of tensors in a checkpoint, and what stands under one prefix in it, with the rest's names."""
    if {"state", "param_groups"} <= content.keys():  # an optimizer's, whose numbers are no weights
        return
    tensors = {
        name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    if tensors:
        yield from _under_prefixes(label, tensors, [], "/" if label else "")
    if depth < 3:
        for key, value in content.items():
            if isinstance(value, dict):
                yield from parts(value, f"{label}/{key}" if label else str(key), depth + 1)


def nested(content: dict[str, Any], label: str = "", depth: int = 0) -> Iterator[tuple[str, dict, list[str]]]:
    """Yield weights that stand in dicts within dicts, one for each module, by names with dots."""
    if {"state", "param_groups"} <= content.keys() or depth > 3:
        return
    flat = dict(_flat(content))
    if any("." in name for name in flat):
        yield label, flat, []
    for key, value in content.items():
        if isinstance(value, dict):
            yield from nested(value, f"{label}/{key}" if label else str(key), depth + 1)


def _flat(content: dict[str, Any], depth: int = 0) -> Iterator[tuple[str, torch.Tensor]]:
    for key, value in content.items():
        if isinstance(value, torch.Tensor) and isinstance(key, str):
            yield key, value
        elif isinstance(value, dict) and depth < 20:
            yield from ((f"{key}.{name}", tensor) for name, tensor in _flat(value, depth + 1))


def spelled(content: Any, depth: int = 0) -> tuple[Any, dict[str, str]]:
    """Return the content with names of bytes as text and a/weight as a.weight; and what it has changed, old → new."""
    if not isinstance(content, dict) or depth > 20:
        return content, {}
    text_by_name: dict[Any, Any] = {}
    changed: dict[str, str] = {}
    for key, value in content.items():
        # Python 2 pickled names as bytes; JAX and TensorFlow write layer/weight.
        text = key.decode("utf-8", "replace") if isinstance(key, bytes) else key
        name = text.replace("/", ".") if isinstance(text, str) else text
        text_by_name[name], below = spelled(value, depth + 1)
        changed |= {str(key): name} if name != key and isinstance(value, torch.Tensor) else below
    return text_by_name, changed


def _under_prefixes(
    label: str, tensors: dict[str, torch.Tensor], unused: list[str], separator: str, depth: int = 0
) -> Iterator[tuple[str, dict, list[str]]]:
    yield label, tensors, unused
    prefixes = dict.fromkeys(name.partition(".")[0] for name in tensors if "." in name)
    for prefix in [] if depth == 2 else prefixes:
        if prefix.isdigit():  # a layer of an nn.Sequential
            continue
        inside = {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(prefix + ".")}
        rest = [name for name in tensors if not name.startswith(prefix + ".")]
        deeper = depth + (1 if rest else 0)  # what all names begin with is no choice
        yield from _under_prefixes(f"{label}{separator}{prefix}.", inside, unused + rest, "", deeper)
