"""What a checkpoint may hold, and what may be copied into a model: values that come back as they were.

`plain` turns a state into such values, or names what cannot come back. `loss_of_copying` says what a tensor would lose
when it is copied into one of a model.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.parameter import is_lazy

_NUMBERS_AND_TEXT: tuple[type, ...] = (bool, int, float, complex, str, bytes)
_TO_BASE: dict[type, Callable[[Any], Any]] = {
    int: int.__pos__,
    float: float.__pos__,
    complex: complex.__pos__,
    str: str.__str__,
    bytes: lambda value: bytes.__add__(value, b""),
}
_LARGEST_INTEGER = 2**2039  # what the safe reader of PyTorch takes: 255 bytes with the sign


def plain(value: Any, where: str = "state") -> Any:
    """Return a copy that `checkpoint.load` can read: CPU tensors, plain numbers and strings, in plain containers.

    Kinds of numbers and strings, such as members of an IntEnum or NumPy's, become the number or string that they equal.
    A tensor that is a small part of a large one is cut out of it. Two names of one tensor stay one tensor.

    Raises:
        TypeError: for anything else; names where it stands.
    """
    return _plain(value, where, {})


def _plain(value: Any, where: str, copies: dict[tuple, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return _plain_tensor(value, where, copies)
    if value is None or isinstance(value, (np.generic, *_NUMBERS_AND_TEXT)):
        return _plain_scalar(value, where)
    try:
        if isinstance(value, dict):
            container = type(value) if type(value) in (OrderedDict, Counter) else dict
            return container(
                {_plain_key(key, where): _plain(item, f"{where}[{key!r}]", copies) for key, item in value.items()}
            )
        if type(value) in (list, tuple):
            return type(value)(_plain(item, f"{where}[{index}]", copies) for index, item in enumerate(value))
    except RecursionError:
        raise TypeError(
            f"A checkpoint cannot hold {where[:60]}, which contains itself or is nested too deep."
        ) from None
    raise TypeError(
        f"A checkpoint cannot hold {where}, which is a {type(value).__name__}: only tensors, numbers, strings and "
        "containers of them can be read back safely."
    )


def _plain_scalar(value: Any, where: str) -> Any:
    if isinstance(value, np.generic) and not isinstance(value, np.datetime64 | np.timedelta64):
        value = item if type(item := value.item()) in _NUMBERS_AND_TEXT else value
    if value is not None and type(value) not in _NUMBERS_AND_TEXT:
        kind = next((kind for kind in _NUMBERS_AND_TEXT if isinstance(value, kind)), None)
        if kind is None:
            raise TypeError(
                f"A checkpoint cannot hold {where}, which is a {type(value).__name__}: only plain numbers and strings "
                "can be read back safely. Turn it into one of them first."
            )
        # By the base class: a member of an Enum may print itself as its name, and here its value is wanted.
        value = _TO_BASE[kind](value)
    if type(value) is int and abs(value) >= _LARGEST_INTEGER:
        raise TypeError(f"A checkpoint cannot hold {where}: an integer of so many digits. Save it as text.")
    return value


def _plain_key(key: Any, where: str) -> Any:
    if isinstance(key, tuple):
        return tuple(_plain_key(part, where) for part in key)
    if key is None or isinstance(key, (np.generic, *_NUMBERS_AND_TEXT)):
        return _plain_scalar(key, f"the key {key!r} in {where}")
    raise TypeError(
        f"A checkpoint cannot hold the key {key!r} in {where}, which is a {type(key).__name__}: only numbers, strings "
        "and tuples of them can be read back as keys."
    )


def _plain_tensor(tensor: torch.Tensor, where: str, copies: dict[tuple, torch.Tensor]) -> torch.Tensor:
    if is_lazy(tensor):
        raise TypeError(
            f"A checkpoint cannot hold {where}, the parameter of a lazy layer that has no shape yet. "
            "Send one batch through the model first."
        )
    if tensor.is_mkldnn:
        raise TypeError(f"A checkpoint cannot hold {where}, a tensor in MKL-DNN's form. Call to_dense() first.")
    if tensor.is_meta:
        raise TypeError(f"A checkpoint cannot hold {where}, a tensor on the meta device: it has no values.")
    if hasattr(tensor, "full_tensor"):  # a DTensor, whose class takes a second to import
        raise TypeError(
            f"A checkpoint cannot hold {where}, which is one rank's share of a tensor (DTensor). Save with "
            "foreign.save_sharded, or call full_tensor() first."
        )
    if tensor.is_nested and tensor.layout == torch.jagged:
        raise TypeError(
            f"A checkpoint cannot hold {where}, a nested tensor of layout jagged. Save its values() and offsets()."
        )
    tensor = tensor.detach()
    if type(tensor) is not torch.Tensor:
        tensor = tensor.as_subclass(torch.Tensor)
    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized:
        return tensor.cpu()
    storage = tensor.untyped_storage()
    view = (str(tensor.device), storage.data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride())
    key = (*view, tensor.dtype, tensor.is_conj(), tensor.is_neg())
    if key not in copies:
        # torch.save writes all of the memory that a tensor is a view of.
        cut = storage.nbytes() > tensor.numel() * tensor.element_size()
        # Nor does it write one memory as numbers of two kinds.
        kind = copies.setdefault((str(tensor.device), storage.data_ptr()), tensor)
        own = cut or kind.dtype != tensor.dtype
        copies[key] = tensor.cpu().clone() if own and tensor.device.type == "cpu" else tensor.cpu()
    return copies[key]


def loss_of_copying(saved: Any, own: torch.Tensor) -> str:
    """Return what keeps a saved tensor from being copied into a model's as it is, in words; "" if nothing does.

    A shape that a lazy layer of the model has not yet got is no hindrance: PyTorch gives it the saved one.
    """
    if not isinstance(saved, torch.Tensor):
        return f"a {type(saved).__name__} where the model has a tensor"
    if saved.is_meta:
        return "without values (on the meta device)"
    if is_lazy(own):
        return ""
    if own.is_meta:
        return "where the model has no values yet (it is on the meta device: call model.to_empty(device=…) first)"
    if saved.is_nested:
        return "as a nested tensor, where the model has a plain one"
    if saved.shape != own.shape:
        return f"{list(saved.shape)} where the model has {list(own.shape)}"
    if saved.layout != own.layout and own.layout != torch.strided:
        return f"as {_kind(saved)} where the model has {_kind(own)}"
    if saved.is_quantized != own.is_quantized or _family(saved) != _family(own):
        return f"as {_kind(saved)} where the model has {_kind(own)}"
    if saved.dtype != own.dtype and not _survives(saved, own.dtype):
        return f"as {_kind(saved)}, with values beyond the range of {_kind(own)}, which the model has"
    return ""


def _survives(saved: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether no whole number changes, and no finite one becomes infinite, by the conversion."""
    values = saved.detach().coalesce().values() if saved.layout == torch.sparse_coo else saved.detach()
    if values.layout != torch.strided or values.is_quantized:
        return True
    if _family(values) == "whole":
        return torch.equal(values.to(dtype).to(values.dtype), values)
    if values.dtype.itemsize == 1:  # eight-bit floats know no isfinite()
        values = values.float()
    return bool((values.to(dtype).to(torch.promote_types(dtype, torch.float32)).isfinite() | ~values.isfinite()).all())


def _family(tensor: torch.Tensor) -> str:
    return "complex" if tensor.is_complex() else "float" if tensor.is_floating_point() else "whole"


def _kind(tensor: torch.Tensor) -> str:
    """Return "float32", or "sparse float32"."""
    layout = (
        "" if tensor.layout == torch.strided else str(tensor.layout).removeprefix("torch.").replace("_coo", "") + " "
    )
    return layout + str(tensor.dtype).removeprefix("torch.")
