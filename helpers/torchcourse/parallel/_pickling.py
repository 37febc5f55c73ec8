"""Pickling between the notebook and its ranks: functions of a cell by value, tensors as CPU copies, clear refusals."""

import io
from typing import Any

import cloudpickle
import torch


def dumps(obj: Any) -> bytes:
    """Pickle with cloudpickle; tensors become CPU copies that hold only their own elements."""
    buffer = io.BytesIO()
    _Pickler(buffer).dump(obj)
    return buffer.getvalue()


class _Pickler(cloudpickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is torch.Tensor and not obj.is_sparse and not obj.is_quantized:
            plain = _own_cpu_copy(obj)
            if plain is not obj:
                return _as_is, (plain,)
        return super().reducer_override(obj)


def _own_cpu_copy(tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_leaf:  # the graph stays behind
        tensor = tensor.detach()
    if tensor.device.type == "cuda":
        return tensor.cpu()
    return tensor


def _as_is(obj: Any) -> Any:
    return obj
