"""The tensors inside a structure, and the dense tensors that a tensor of a special kind is made of.

A watcher meets whatever a model passes around: dataclasses, sparse gradients, nested batches, a DTensor. Asking such a
tensor for its shape or its storage may raise, and an operation on a DTensor may wait for other ranks. Its dense parts
do neither.
"""

import dataclasses
import types
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from torchcourse.source_lines import hide

hide(__file__)

_PLAIN = (torch.Tensor, nn.Parameter)
_DEPTH = 20  # a structure that is deeper holds itself
_COMPRESSED = {
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_bsr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
    torch.sparse_bsc: ("ccol_indices", "row_indices", "values"),
    torch.sparse_coo: ("_indices", "_values"),
}


def tensors_in(value: Any, depth: int = 0) -> Iterator[torch.Tensor]:
    """Yield the tensors in tuples, lists, sets, mappings, dataclasses and namespaces, within one another."""
    if isinstance(value, torch.Tensor):
        yield value
        return
    if isinstance(value, Mapping):
        items: Any = value.values()
    elif isinstance(value, tuple | list | set | frozenset | deque):
        items = value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = [getattr(value, field.name, None) for field in dataclasses.fields(value)]
    elif isinstance(value, types.SimpleNamespace):
        items = vars(value).values()
    else:
        return
    if depth < _DEPTH:
        for item in items:
            yield from tensors_in(item, depth + 1)


def dense_parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Return the dense tensors with a storage that a tensor is made of: mostly itself, without its graph if not.

    A sparse tensor has indices and values, a nested one its values, a DTensor the part that lies on this rank. Empty
    for a tensor without a storage in reach (MKL-DNN's own layout, a layer that is not made yet), or without memory in
    it (the zeros of forward-mode differentiation, and shapes alone there).
    """
    try:
        if type(tensor) not in _PLAIN and is_traceable_wrapper_subclass(tensor):
            inner = [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]]
            return [part for item in inner if isinstance(item, torch.Tensor) for part in dense_parts(item)]
        if tensor.layout in _COMPRESSED:
            plain = tensor.detach()
            return [getattr(plain, name)() for name in _COMPRESSED[tensor.layout]]
        if tensor.is_nested:
            return [tensor.detach().values()]
        tensor.untyped_storage()
    except (NotImplementedError, RuntimeError, ValueError, TypeError):
        return []
    # Forward mode computes with zeros that lie nowhere, and asks what shape a sum with them has on the meta device.
    nowhere = tensor._is_zerotensor() or (tensor.is_meta and forward_ad._current_level >= 0)
    return [] if nowhere else [tensor]


def share_memory(one: Any, other: Any) -> bool:
    """Whether two tensors begin at the same place of memory; sparse ones and those without numbers do not say."""
    try:
        return isinstance(one, torch.Tensor) and one.data_ptr() == other.data_ptr() != 0
    except RuntimeError:
        return False


def magnitudes(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Return the largest magnitude of each dense part, on its device; empty where there are no numbers to look at.

    Each is one number (shape []): nan if there is a nan, −inf if no other infinity is in the part. Integers, quantized
    numbers, tensors without numbers (meta, fake) and those inside `torch.vmap` have none.
    """
    found = []
    for part in _with_numbers(tensor):
        try:
            found.append(_largest(part.detach()))
        except (NotImplementedError, RuntimeError, TypeError):  # a format that PyTorch can store, and not compare
            continue
    return found


def _with_numbers(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return
    plain = type(tensor) in _PLAIN and tensor.layout == torch.strided and not tensor.is_nested
    for part in (tensor,) if plain else dense_parts(tensor):
        floats = part.is_floating_point() or part.is_complex()
        if floats and part.numel() and not part.is_meta and not is_fake(part):
            yield part


def is_fake(tensor: torch.Tensor) -> bool:
    """Whether a tensor stands for one, without numbers."""
    if type(tensor) in _PLAIN:
        return False
    from torch._subclasses.fake_tensor import FakeTensor  # takes a while

    return isinstance(tensor, FakeTensor)


def _largest(part: torch.Tensor) -> torch.Tensor:
    """The largest magnitude, in one pass and without a copy.

    The norm of order infinity would be the same number: on a CPU it takes 20 to 60 times as long, isfinite() too.
    """
    if part.is_complex():
        part = torch.view_as_real(part.resolve_conj())
    if part.element_size() == 1:  # an 8-bit format, which PyTorch does not compare
        part = part.float()
    low, high = torch.aminmax(part)
    only_negative = (low == -torch.inf) & (high < torch.inf)
    return torch.where(only_negative, -torch.inf, torch.maximum(-low, high))
