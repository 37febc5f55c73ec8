"""From a file to the dict that was saved, by what the file holds and not by what it is called."""

import os
import struct
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError

from torchcourse.training import checkpoint
from torchcourse.training.checkpoint import CheckpointError
from torchcourse.training.foreign import tensors
from torchcourse.training.foreign.torch_files import torch_load, why_refused


@dataclass
class Found:
    """What a file held: its content with all tensors on the CPU, its kind, and the devices its tensors came from.

    `notes` are sentences on what was chosen, and on what was not read.
    """

    content: dict[str, Any]
    kind: str
    devices: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


def read_file(path: Path) -> Found:
    """Read a file of torch.save, Lightning or safetensors.

    Raises:
        CheckpointError: if it is something else, damaged, or asks for more than data.
        OSError: if it cannot be opened.
    """
    with open(path, "rb") as file:
        return _read_file(file, path)


def looks_like_a_checkpoint(path: Path) -> bool:
    """Whether a file's name or its beginning is that of a checkpoint."""
    if not path.is_file():
        return False
    if path.suffix in (".pt", ".pth", ".ckpt", ".bin", ".safetensors"):
        return True
    try:
        with open(path, "rb") as file:
            start = file.read(9)
            if start.startswith(b"PK\x03\x04"):
                return any(name.endswith("data.pkl") for name in zipfile.ZipFile(file).namelist())
    except (OSError, zipfile.BadZipFile):
        return False
    return start.startswith(b"\x80") or start[8:] == b"{"


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
    if start[257:262] == b"ustar":
        raise CheckpointError(f"{path} is not a checkpoint: it is a tar archive. Unpack it first.")
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
    b"{": "JSON text, and not the index of a model in several files: it has no weight_map.",
    b"\x1f\x8b": "packed with gzip. Unpack it first.",
    b"\xfd7zXZ": "packed with xz. Unpack it first.",
    b"BZh": "packed with bzip2. Unpack it first.",
    b"\x28\xb5\x2f\xfd": "packed with zstd. Unpack it first.",
    b"\x89HDF": "an HDF5 file, as Keras writes it. Load it there, and export the weights.",
    b"GGUF": "a GGUF file of llama.cpp, with quantized weights. Get the model's original weights.",
    b"\x93NUMPY": "one NumPy array. Load it with numpy.load.",
}


def _read_zip(file: BinaryIO, path: Path) -> Found:
    try:
        names = {name.rpartition("/")[2] for name in zipfile.ZipFile(file).namelist()}
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error):
        if _has_whole_table(file):
            raise CheckpointError(
                f"{path} is damaged: the table at the end of the file does not fit its parts. A transfer as text does "
                "that. Use a different copy."
            ) from None
        raise CheckpointError(
            f"{path} is cut off: the table at the end of the file is missing. The copy or the saving broke off. "
            "Use a different copy."
        ) from None
    if "constants.pkl" in names:
        raise CheckpointError(
            f"{path} is a TorchScript program, not a dict of weights. Load it with torch.jit.load, if you trust its "
            "source, and save its state_dict()."
        )
    if all(name.endswith(".npy") for name in names):
        raise CheckpointError(
            f"{path} holds {len(names)} arrays of NumPy. Load them with numpy.load, make tensors of them "
            "(torch.from_numpy), and give these to model.load_state_dict."
        )
    if "model.json" in names or "serialized_exported_program.json" in names:
        raise CheckpointError(
            f"{path} is a program of torch.export, not a dict of weights. Load it with torch.export.load, and save its "
            "state_dict."
        )
    if "data.pkl" not in names:
        raise CheckpointError(f"{path} is a zip archive, but not of torch.save. Does it hold the checkpoint as a file?")
    if checkpoint.is_sealed(file):
        checkpoint.verify(file, path)
    else:
        _verify_parts(file, path)
    file.seek(0)
    return _read_torch(file, path, kind="PyTorch file")


def _has_whole_table(file: BinaryIO) -> bool:
    """Whether the record that ends a zip file is there, 22 bytes or more."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - 2**16))
    end = file.read()
    return 0 <= end.rfind(b"PK\x05\x06") <= len(end) - 22


def _verify_parts(file: BinaryIO, path: Path) -> None:
    """Compare each part of a zip file with its checksum, which torch.load does not look at.

    Where torch.save was told to write none (`set_crc32_options`), it is 0.
    """
    archive = zipfile.ZipFile(file)
    for part in archive.infolist():
        try:
            with archive.open(part) as content:
                while part.CRC and content.read(2**20):
                    pass
        except (MemoryError, OSError):
            raise
        except Exception:  # a damaged zip file can raise anything, such as UnicodeDecodeError for a name
            raise CheckpointError(
                f"{path} is damaged: {part.filename} in it is not what was saved. Use a different copy."
            ) from None


def _read_torch(file: BinaryIO, path: Path, kind: str) -> Found:
    devices: set[str] = set()
    try:
        content = torch_load(file, devices)
    except (MemoryError, OSError):
        raise
    except Exception as error:  # of whatever kind: a damaged file can ask PyTorch's reader for anything
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
