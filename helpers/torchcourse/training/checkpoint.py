"""Checkpoints (체크포인트): files from which training goes on, or a trained model is used.

    save(state, path)                 # all or nothing, and sealed with a checksum
    state = load(path)                # refuses a file that has changed since
    load_weights(model, state["model"])

A crash during `save` leaves the file that was there before: the new one is written beside it, forced to the disk, and
only then takes its name. `torch.load` compares what it reads with no checksum, so the file ends in the SHA-256 of its
content, as a zip comment: any program that reads PyTorch files still reads it.

`optimizer_state` turns an optimizer into what a checkpoint can hold, and `generators.random_state` all random numbers.
"""

import contextlib
import errno
import hashlib
import itertools
import os
import re
import shutil
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import psutil
import torch
from torch import nn

from torchcourse.training.plain_values import loss_of_copying, plain


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read, or belongs to something else. The message says which, and what to try."""


def save(state: dict[str, Any], path: str | os.PathLike) -> None:
    """Write `state` to `path`, so that at every moment either the old or the new file is there, whole.

    Args:
        state: tensors, numbers, strings and None, in dicts, lists and tuples; tensors are stored as CPU tensors.
        path: the file; its folder is made if needed.

    Raises:
        TypeError: for a value of a different kind, which `load` would refuse.
        CheckpointError: if the disk is full or the folder cannot be written. The old file is still there.
    """
    state = plain(state)
    with replacing(Path(path)) as file:
        hashed = _HashedFile(file)
        try:
            torch.save(state, cast(IO[bytes], hashed))
        except RuntimeError as error:
            # Its writer in C++ turns whatever happened into a count of bytes.
            raise hashed.problem or error from None
        _seal(file, hashed.sha256.hexdigest())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write, which takes the place of the one at `path` when the block ends, in one step.

    Several may write to one path at once: each writes a file of its own, and the last to end is there. Where `path` is
    a link, the file that it leads to is replaced.

    Raises:
        CheckpointError: if the disk is full or the folder cannot be written. The old file is still there.
    """
    path = Path(os.path.realpath(os.path.expanduser(path)))
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_what_the_dead_left(path)
        if os.path.isdir(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        raise _not_saved(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def try_folder(folder: Path) -> None:
    """Make a folder, and raise CheckpointError if nothing can be saved in it."""
    path = Path(os.path.realpath(folder / "last.pt"))
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise _not_saved(path, error) from error


def load(path: str | os.PathLike) -> dict[str, Any]:
    """Return what `save` wrote to `path`, with all tensors on the CPU.

    The file is read with `weights_only=True`: it can hold data, but no program that runs while it is read.

    Raises:
        CheckpointError: if there is no such file, or it is not as it was saved.
    """
    path = Path(os.path.expanduser(path))
    try:
        with open(path, "rb") as file:
            verify(file, path)
            return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"There is no checkpoint {path}.") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}).") from error
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:  # PyTorch's reader raises many kinds
        reason = next((line for line in str(error).splitlines() if "Unsupported" in line or "GLOBAL" in line), "")
        raise CheckpointError(
            f"{path} is whole, but holds what cannot be read back safely ({reason.strip() or type(error).__name__}). "
            "If you trust it, read it with torch.load(…, weights_only=False), and save plain numbers and strings."
        ) from error


def save_as_well(path: Path, name: str) -> None:
    """Let the file at `path` have a second name beside it, at once and without writing its content again.

    Where the file system knows no second names (hard links), the content is copied.
    """
    other = path.with_name(name)
    temporary = _temporary(other)
    try:
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copyfile(path, temporary)
        os.replace(temporary, other)
    except OSError as error:
        raise CheckpointError(f"{other} could not be saved ({error.strerror or error}).") from error
    finally:
        temporary.unlink(missing_ok=True)  # of two names for one file, replacing the one by the other removes none


def load_weights(model: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Copy weights into a model, if they all fit.

    Raises:
        CheckpointError: if they belong to a different architecture; names what is missing, left over or reshaped.
    """
    check_weights(model, weights)
    model.load_state_dict({name: value.to_dense() if _sparse(value) else value for name, value in weights.items()})


def check_weights(model: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Raise CheckpointError as `load_weights` does, and change nothing."""
    own = model.state_dict()
    problems = []
    if missing := [name for name in own if name not in weights]:
        problems.append(f"it lacks {some(missing)}")
    if unexpected := [name for name in weights if name not in own]:
        problems.append(f"it has {some(unexpected)}, which the model lacks")
    unlike = {
        name: loss_of_copying(weights[name], tensor)
        for name, tensor in own.items()
        if isinstance(tensor, torch.Tensor) and name in weights
    }
    if different := [f"{name} {words}" for name, words in unlike.items() if words]:
        problems.append(f"it has {some(different)}")
    if problems:
        raise CheckpointError(
            f"The checkpoint belongs to a different architecture: {'; '.join(problems)}. "
            "Build the model exactly as it was built for training."
        )


def is_sealed(file: BinaryIO) -> bool:
    """Whether a file ends in a checksum, as those of `save` do."""
    return tail(file)[2:].startswith(_SEAL)


def verify(file: BinaryIO, path: Path) -> None:
    """Raise CheckpointError unless the file is as `save` wrote it; leave it at its beginning."""
    end = tail(file)
    body = file.seek(0, os.SEEK_END) - len(end)
    length, seal, digest = end[:2], end[2 : 2 + len(_SEAL)], end[2 + len(_SEAL) :]
    if length != struct.pack("<H", _SEAL_LENGTH) or seal != _SEAL:
        raise CheckpointError(
            f"{path} is not a whole checkpoint: the checksum at its end is missing. The file was cut off (by a copy "
            "that broke off, or a full disk), or another program wrote it. Use a different copy."
        )
    file.seek(0)
    sha256 = hashlib.sha256()
    while body > 0:
        chunk = file.read(min(_CHUNK, body))
        sha256.update(chunk)
        body -= len(chunk)
    sha256.update(b"\0\0")  # the length of the comment, before there was one
    if sha256.hexdigest().encode() != digest:
        raise CheckpointError(
            f"{path} is damaged: its SHA-256 is not the one that was stored when it was saved, so at least one bit has "
            "changed. Use a different copy."
        )
    file.seek(0)


def some(names: list[str], most: int = 5) -> str:
    """Return a list of names as text, cut after the first few."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the optimizer's state with parameters called by name.

    PyTorch counts them instead, and a model that lists its parameters differently would silently get a wrong state.

    Raises:
        ValueError: if the optimizer holds a tensor that is not a parameter of the model.
    """
    names = parameter_names(model, optimizer)
    groups = [
        {key: value for key, value in group.items() if key not in ("params", "param_names")}
        | {"params": [names[parameter] for parameter in group["params"]]}
        for group in optimizer.param_groups
    ]
    state = {names[parameter]: dict(values or {}) for parameter, values in optimizer.state.items()}
    return {"class": type(optimizer).__name__, "state": state, "groups": groups}


def load_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Give an optimizer the state that `optimizer_state` returned, parameter by parameter.

    Raises:
        CheckpointError: if it was saved by a different kind of optimizer, or for different parameters.
    """
    own = matching_groups(model, optimizer, saved)
    numbers = {name: number for number, name in enumerate(name for group in own for name in group)}
    groups = []
    for group, ours, theirs in zip(optimizer.param_groups, own, saved["groups"], strict=True):
        extra = {key: group[key] for key in ("param_names", *HOW) if key in group}
        groups.append({**theirs, **extra, "params": [numbers[name] for name in ours]})
    state = {numbers[name]: values for name, values in saved["state"].items()}
    optimizer.load_state_dict({"state": state, "param_groups": groups})


HOW = ("foreach", "fused", "capturable", "differentiable")
"""Settings that say how a machine computes, not what: a run on a GPU has others than the same run on a CPU."""


def matching_groups(model: nn.Module, optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> list[list[str]]:
    """Return the names of the parameters in each of an optimizer's groups.

    Raises:
        CheckpointError: if what `optimizer_state` returned belongs to a different optimizer or groups.
        ValueError: if the optimizer holds a tensor that is not a parameter of the model.
    """
    if saved["class"] not in (None, type(optimizer).__name__):
        raise CheckpointError(
            f"The checkpoint was trained with {saved['class']}, but the optimizer is {type(optimizer).__name__}."
        )
    names = parameter_names(model, optimizer)
    own = [[names[parameter] for parameter in group["params"]] for group in optimizer.param_groups]
    if [set(group) for group in own] != [set(group["params"]) for group in saved["groups"]]:
        raise CheckpointError(
            f"The optimizer's {len(own)} parameter group(s) hold different parameters from the {len(saved['groups'])} "
            "in the checkpoint. Build the groups as they were built for training."
        )
    return own


_SEAL = b"sha256:"
_SEAL_LENGTH = len(_SEAL) + 64
_CHUNK = 1 << 20


class _HashedFile:
    """A file for `torch.save` to write to, front to back, which computes the SHA-256 on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()
        self.problem: OSError | None = None

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.problem = self.problem or error
            raise

    def flush(self) -> None:
        self.file.flush()


def tail(file: BinaryIO) -> bytes:
    """Return the end of a file: of a sealed one, the length of the zip comment, and the comment with the checksum."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - _SEAL_LENGTH - 2))
    return file.read()


def _seal(file: BinaryIO, digest: str) -> None:
    """Append the digest as the comment of the zip file, whose last field is the comment's length, here 0."""
    comment = _SEAL + digest.encode()
    file.seek(-2, os.SEEK_END)
    file.write(struct.pack("<H", len(comment)) + comment)


def _not_saved(path: Path, error: Exception) -> CheckpointError:
    reason = getattr(error, "strerror", None) or error
    kept = f"; the {path.name} from before is unharmed" if os.path.isfile(path) else ""
    number = getattr(error, "errno", None)
    advice = _REMEDIES.get(number, _IS_IT_FULL) if number else _IS_IT_FULL
    return CheckpointError(f"{path} could not be saved ({reason}){kept}. {advice}")


_IS_IT_FULL = "Is the disk full or read-only?"
_REMEDIES = {
    errno.ENOENT: "The folder cannot be made there: choose a different one.",
    errno.EROFS: "The disk is read-only: choose a different folder.",
    errno.EISDIR: "Give the name of a file, not of a folder.",
    errno.ENOTDIR: "A part of the path is a file: choose a different folder.",
    errno.EEXIST: "A part of the path is a file: choose a different folder.",
    errno.EACCES: "May you write to this folder? Choose one that you may write to.",
    errno.EPERM: "May you write to this folder? Choose one that you may write to.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
}
"""What to do about an error of the operating system, where it is not the disk."""

_HOST = re.sub(r"[^\w.]", "", socket.gethostname())[:40]
_TEMPORARY = re.compile(rf"\.{re.escape(_HOST)}-(\d+)-\d+-\d+\.tmp$")
_COUNT = itertools.count()


def _temporary(path: Path) -> Path:
    """Return a name beside `path` that no other process, thread or call uses."""
    return path.with_name(f"{path.name[:40]}.{_HOST}-{os.getpid()}-{threading.get_ident()}-{next(_COUNT)}.tmp")


def _remove_what_the_dead_left(path: Path) -> None:
    """Remove unfinished files for `path`, each as large as a checkpoint, whose writer on this machine is no more."""
    for name in os.listdir(path.parent):
        writer = _TEMPORARY.search(name)
        if writer and name.startswith(path.name[:40]) and not psutil.pid_exists(int(writer[1])):
            with contextlib.suppress(OSError):
                # A container may have processes that cannot be seen from here: so nothing that is being written to.
                if time.time() - path.with_name(name).stat().st_mtime > 60:
                    path.with_name(name).unlink()


def _sparse(value: Any) -> bool:
    """Whether it is a sparse tensor; what a module saves besides its weights (`get_extra_state`) may be anything."""
    return isinstance(value, torch.Tensor) and value.layout != torch.strided and not value.is_nested


def _sync_folder(folder: Path) -> None:
    """Force the folder's new entry to the disk: without it, a power cut could undo the renaming."""
    if os.name == "nt":  # Windows cannot open folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def parameter_names(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[torch.Tensor, str]:
    """Return the names of a model's parameters. Raises ValueError if the optimizer trains a tensor that is none."""
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter not in names:
                raise ValueError(
                    f"The optimizer trains a tensor of shape {list(parameter.shape)}, not a parameter of the model. "
                    "Was a layer replaced, or the model copied, after the optimizer was made? Make the optimizer last. "
                    "Is a layer in a plain list? Use nn.ModuleList."
                )
    return names
