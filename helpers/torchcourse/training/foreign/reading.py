"""From a path to the dict that was saved, by what the file holds and not by what it is called."""

import json
import os
import pickle
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError

from torchcourse.training import checkpoint
from torchcourse.training.checkpoint import CheckpointError, some
from torchcourse.training.foreign import sharded, tensors
from torchcourse.training.foreign.torch_files import torch_load, why_refused


@dataclass
class Found:
    """What a file held: its content with all tensors on the CPU, its kind, and the devices its tensors came from."""

    content: dict[str, Any]
    kind: str
    devices: set[str] = field(default_factory=set)


def read(source: str | os.PathLike) -> Found:
    """Read a checkpoint of any kind without running anything in it.

    Args:
        source: a file of torch.save, Lightning or safetensors; or a folder: of torch.distributed.checkpoint, or with
            the index of a model that is spread over several files.

    Raises:
        CheckpointError: if it cannot be read; one sentence says what it is instead, and what to do.
    """
    path = Path(source)
    try:
        if path.is_dir():
            return _read_folder(path)
        with open(path, "rb") as file:
            return _read_file(file, path)
    except FileNotFoundError:
        raise CheckpointError(f"There is no file {path}. Is the path right, as seen from {Path.cwd()}?") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}).") from error


def _read_file(file: BinaryIO, path: Path) -> Found:
    start = file.read(512)
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if start.startswith(b"PK\x03\x04"):
        return _read_zip(file, path)
    if size > 9 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 100_000_000:
        return _read_safetensors(path)
    if start.startswith(b"\x80"):
        return _read_torch(file, path, kind="PyTorch file of the old kind")
    for sign, what in _NOT_A_CHECKPOINT.items():
        if start.lstrip().startswith(sign) if sign else not start:
            raise CheckpointError(f"{path} is not a checkpoint: it is {what}")
    raise CheckpointError(
        f"{path} is not a checkpoint of PyTorch or safetensors: it begins with {start[:8]!r}. Which program wrote it?"
    )


_NOT_A_CHECKPOINT = {
    b"": "an empty file. Download or save it again.",
    b"<": "a web page, perhaps of a login or an error. Open it in an editor, and download the file itself.",
    b"version https://git-lfs": "a Git LFS pointer, a note of where the file is. Run `git lfs pull` in its repository.",
    b"{": "JSON text. If it is the index of a model in several files, give the folder.",
    b"\x1f\x8b": "packed with gzip. Unpack it first.",
    b"\x89HDF": "an HDF5 file, as Keras writes it. Load it there, and export the weights.",
    b"GGUF": "a GGUF file of llama.cpp, with quantized weights. Get the model's original weights.",
    b"\x93NUMPY": "one NumPy array. Load it with numpy.load.",
}


def _read_zip(file: BinaryIO, path: Path) -> Found:
    try:
        names = {name.rpartition("/")[2] for name in zipfile.ZipFile(file).namelist()}
    except zipfile.BadZipFile:
        raise CheckpointError(
            f"{path} is cut off: the table at the end of the file is missing. The copy or the saving broke off. "
            "Use a different copy."
        ) from None
    if "constants.pkl" in names:
        raise CheckpointError(
            f"{path} is a TorchScript program, not a dict of weights. Load it with torch.jit.load, if you trust its "
            "source, and save its state_dict()."
        )
    if "data.pkl" not in names:
        raise CheckpointError(f"{path} is a zip archive, but not of torch.save. Does it hold the checkpoint as a file?")
    if checkpoint.is_sealed(file):
        checkpoint.verify(file, path)
    file.seek(0)
    return _read_torch(file, path, kind="PyTorch file")


def _read_torch(file: BinaryIO, path: Path, kind: str) -> Found:
    devices: set[str] = set()
    try:
        content = torch_load(file, devices)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(why_refused(file, path, error)) from None
    if isinstance(content, torch.Tensor):
        raise CheckpointError(f"{path} holds one tensor of shape {list(content.shape)}, not a dict of weights by name.")
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a dict of weights by name.")
    return Found(content, kind, devices)


def _read_safetensors(path: Path) -> Found:
    try:
        return Found(tensors.import_safetensors(path), "safetensors file")
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is a safetensors file that is damaged or cut off ({error}). Use a different copy."
        ) from None


def _read_folder(folder: Path) -> Found:
    if (folder / ".metadata").exists():
        return Found(*sharded.read_folder(folder))
    if shares := list(folder.glob("*.distcp")):
        raise CheckpointError(
            f"{folder} has the shares of {len(shares)} rank(s), but no .metadata, which is written last: the saving "
            "was not finished. Use the checkpoint before it."
        )
    indexes = sorted(folder.glob("*.index.json"))
    if len(indexes) == 1:
        return _read_indexed(folder, indexes[0])
    files = sorted(path for path in folder.iterdir() if path.suffix in (".pt", ".pth", ".ckpt", ".bin", ".safetensors"))
    if len(files) == 1:
        with open(files[0], "rb") as file:
            return _read_file(file, files[0])
    listed = ", ".join(path.name for path in files[:5]) or "nothing that looks like a checkpoint"
    raise CheckpointError(f"{folder} is a folder with {listed}. Give one of the files in it.")


def _read_indexed(folder: Path, index: Path) -> Found:
    """Put together a model whose index says which tensor is in which file (Hugging Face's layout)."""
    try:
        files = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"{index} is not the index of a model: it has no weight_map.") from None
    whole = Found({}, f"{len(set(files.values()))} files with an index")
    for name in sorted(set(files.values())):
        if Path(name).name != name:
            raise CheckpointError(
                f"{index} points out of its folder, to {name}. A file that does that is not to be trusted."
            )
        part = read(folder / name)
        whole.content |= part.content
        whole.devices |= part.devices
    if missing := [name for name in files if name not in whole.content]:
        raise CheckpointError(f"{index} promises {some(missing)}, which are in none of the files.")
    return whole
