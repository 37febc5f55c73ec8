"""Whole checkpoints as safetensors files, which hold no program: https://huggingface.co/docs/safetensors/index

The format takes one flat dict of tensors that share no memory, and notes in text. So tensors are named by their path, a
tensor with several names is stored once, and all else, with the structure of the whole, is one note in JSON.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save

from torchcourse.training import checkpoint
from torchcourse.training.checkpoint import CheckpointError

_NOTE = "torchcourse.tree"


def export_safetensors(state: dict[str, Any], path: str | os.PathLike) -> None:
    """Write a checkpoint, or a model's state dict, as a safetensors file; all or nothing, as `checkpoint.save` does.

    A flat dict of tensors becomes a file as any program expects it. Names of one tensor (tied weights) stay one tensor.

    Raises:
        TypeError: for a value that is neither a tensor nor a number, text or None, in dicts, lists and tuples.
        CheckpointError: if it cannot be written; the old file is still there.
    """
    tensors: dict[str, torch.Tensor] = {}
    names: dict[tuple, str] = {}

    def strip(value: Any, name: str) -> Any:
        if isinstance(value, torch.Tensor):
            # The same memory, seen in the same way: one tensor under two names.
            place = (value.untyped_storage().data_ptr(), value.storage_offset(), value.shape, value.stride())
            key = (*place, value.dtype, value.is_conj(), value.is_neg())
            if value.numel() == 0 or key not in names:
                names[key] = name
                tensors[name] = value.contiguous().clone()
            return {"tensor": names[key]}
        if isinstance(value, dict):
            return {"dict": [[key, strip(item, f"{name}.{key}" if name else str(key))] for key, item in value.items()]}
        if isinstance(value, list | tuple):
            kind = "tuple" if isinstance(value, tuple) else "list"
            return {kind: [strip(item, f"{name}.{index}") for index, item in enumerate(value)]}
        if isinstance(value, bytes):
            raise TypeError(f"A safetensors file cannot hold {name}, which is bytes.")
        return value

    tree = strip(checkpoint.plain(state), "")
    content = save(tensors, metadata={_NOTE: json.dumps(tree)})
    with checkpoint.replacing(Path(path)) as file:
        file.write(content)


def import_safetensors(path: str | os.PathLike) -> dict[str, Any]:
    """Return what `export_safetensors` wrote, or the flat dict of tensors that another program did.

    Raises:
        CheckpointError: if the notes of the file do not fit its tensors.
        safetensors.SafetensorError: if it is not a safetensors file, or cut off.
    """
    with safe_open(path, framework="pt") as file:
        note = (file.metadata() or {}).get(_NOTE)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is not a dict)

    def build(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        ((kind, content),) = value.items()
        if kind == "tensor":
            return tensors[content]
        if kind == "dict":
            return {key: build(item) for key, item in content}
        items = [build(item) for item in content]
        return tuple(items) if kind == "tuple" else items

    if note is None:
        return tensors
    try:
        return build(json.loads(note))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: the notes in this file do not fit its tensors ({error}).") from None
