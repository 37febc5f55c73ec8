"""Checkpoints that many ranks write together, each its share, and one process gathers into one file.

    save_sharded({"model": …, "optimizer": …}, "run/step-500")      # on every rank: one file per rank, in one folder
    gather("run/step-500", "whole.pt")                              # later, in one process, without any rank

This is `torch.distributed.checkpoint` (DCP): https://docs.pytorch.org/docs/stable/distributed.checkpoint.html
Its folder is described by a pickle file, and its own reader would run whatever that file asks for. Here it is read with
the few classes that a description needs, and no others.
"""

import os
import pickle
from enum import Enum
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint import CheckpointException, FileSystemReader, metadata
from torch.distributed.checkpoint._nested_dict import set_element
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

from torchcourse.training import checkpoint
from torchcourse.training.checkpoint import CheckpointError
from torchcourse.training.foreign.torch_files import load_bytes


def save_sharded(
    folder: str | os.PathLike, model: nn.Module, optimizer: torch.optim.Optimizer | None = None, **more: Any
) -> None:
    """Save a model and its optimizer, each rank its share. Every rank has to call it.

    Args:
        folder: where all ranks can write; each writes a file of its own, and rank 0 the description at last.
        model: plain, or sharded by FSDP2 (`fully_shard`).
        more: numbers and strings to keep besides, such as `epoch=3`; the same on all ranks.
    """
    state: dict[str, Any] = {"model": get_model_state_dict(model), **more}
    if optimizer is not None:
        state["optimizer"] = get_optimizer_state_dict(model, optimizer)
    dcp.save(state, checkpoint_id=os.fspath(folder))


def gather(folder: str | os.PathLike, path: str | os.PathLike) -> dict[str, Any]:
    """Put the shares in a folder together, save them as one file (`checkpoint.save`), and return the content.

    One process is enough, without a process group and without a GPU; the whole has to fit into its memory.

    Raises:
        CheckpointError: if a share is missing or damaged, or the description asks for more than tensors.
    """
    content, _ = read_folder(Path(folder))
    checkpoint.save(content, path)
    return content


def read_folder(folder: Path) -> tuple[dict[str, Any], str]:
    """Return the whole content of a folder, and what kind of folder it is. (DCP forgets where its tensors were.)

    Raises:
        CheckpointError: as `gather` does.
    """
    content: dict[str, Any] = {}
    reader = _SafeReader(folder)
    description = reader.read_metadata()
    files = sorted({info.relative_path for info in description.storage_data.values()})
    for name in files:
        if Path(name).name != name:
            raise CheckpointError(
                f"{folder} points out of itself, to {name}. A folder that does that is not to be trusted."
            )
        if not (folder / name).exists():
            raise CheckpointError(
                f"{folder} lacks {name}, one of {len(files)} shares, so parts of the tensors are lost. "
                "Copy the whole folder."
            )
    try:
        _load_state_dict(content, storage_reader=reader, planner=_SafePlanner(), no_dist=True)
    except CheckpointException as error:
        cause = next(iter(error.failures.values()))[0]
        if isinstance(cause, CheckpointError):
            raise cause from None
        raise CheckpointError(f"A share in {folder} is damaged or cut off ({cause}). Use a different copy.") from error
    return content, f"folder with the shares of {len(files)} rank(s)"


class _SafeReader(FileSystemReader):
    """DCP's reader, with a description that is read without running anything."""

    def __init__(self, folder: Path) -> None:
        super().__init__(os.fspath(folder))
        self._folder = folder

    def read_metadata(self, *_args: Any, **_options: Any) -> metadata.Metadata:
        try:
            with open(self._folder / ".metadata", "rb") as file:
                description = _DescriptionUnpickler(file).load()
        except (MemoryError, OSError):
            raise
        except Exception as error:  # a damaged pickle file can ask for anything
            raise CheckpointError(
                f"{self._folder}/.metadata is damaged, or asks for more than a description needs ({error}). "
                "Use a different copy."
            ) from None
        if getattr(description, "storage_meta", None) is None:
            description.storage_meta = metadata.StorageMeta()
        description.storage_meta.load_id = self.load_id
        return description


class _DescriptionUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return _member
        if module in ("pathlib", "pathlib._local") and name in _PATHS:
            return _PATHS[name]
        allowed = (
            module == "torch.distributed.checkpoint.metadata"
            or (module, name) in _DESCRIPTION
            or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype))
        )
        if not allowed or "." in name:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return super().find_class(module, name)


def _member(kind: Any, name: str) -> Any:
    """Return a member of an Enum: Python 3.11.2 pickles one as getattr(its class, its name)."""
    if not (isinstance(kind, type) and issubclass(kind, Enum)) or name not in kind.__members__:
        raise pickle.UnpicklingError("builtins.getattr")
    return kind[name]


_DESCRIPTION = {
    ("torch", "Size"),
    ("torch", "device"),
    ("torch.serialization", "_get_layout"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("collections", "OrderedDict"),
}
# Paths that touch no disk: one of Windows cannot be made elsewhere.
_PATHS = {
    "Path": PurePath,
    **dict.fromkeys(("PosixPath", "PurePosixPath"), PurePosixPath),
    **dict.fromkeys(("WindowsPath", "PureWindowsPath"), PureWindowsPath),
}


class _SafePlanner(_EmptyStateDictLoadPlanner):
    """DCP's planner for a whole that nobody has described in advance; values beside the tensors run nothing either."""

    def load_bytes(self, read_item: Any, value: Any) -> None:
        name = read_item.dest_index.fqn
        set_element(self.original_state_dict, self.mappings[name], load_bytes(value))
