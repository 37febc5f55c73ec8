"""An array on disk that need not fit into memory: the operating system brings in the pages that are read.

NumPy's `.npy` files can be mapped: https://numpy.org/doc/stable/reference/generated/numpy.memmap.html
"""

import contextlib
import os
import sys
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch.utils.data import Dataset

from torchcourse.units import is_whole_number


class MappedArray(Dataset):
    """A map-style dataset of the rows of a `.npy` file, which stays on disk.

    `rows[i]` is a tensor of its own, a copy of row i. Workers and ranks get the path and not the content, and the pages
    that they read are shared by all processes of the machine.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no array, is cut short, or holds something else than numbers.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path).resolve()  # a worker may have another working folder
        self._open()

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(np.array(self._array[index], dtype=self._array.dtype.newbyteorder("=")))

    @property
    def nbytes(self) -> int:
        """The size of the whole array in bytes."""
        return self._array.nbytes

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path = state["path"]
        self._open()

    def _open(self) -> None:
        if not self.path.is_file():
            raise FileNotFoundError(f"There is no array {self.path.name} in {self.path.parent}.")
        try:
            self._array = np.load(self.path, mmap_mode="r", allow_pickle=False)
            len(self._array)  # an archive (.npz) and a single number have no rows
            torch.from_numpy(np.empty(0, dtype=self._array.dtype.newbyteorder("=")))
        except Exception as error:  # a damaged head is parsed as Python, so that nearly anything is raised
            raise ValueError(f"{self.path.name} cannot be mapped as an array: {error}") from error


def write_rows(path: str | os.PathLike, rows: int, parts: Iterable[ArrayLike]) -> None:
    """Write an array to a `.npy` file part by part, so that it is never in memory as a whole.

    The file has a different name until it is whole, so that a write that is broken off leaves what was there before.

    Args:
        path: the file.
        rows: how many there will be.
        parts: arrays [n, …] of one type and shape of row, which make up the rows one after the other.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if the parts make up a different number of rows, or their rows differ in type or shape, or are
            nothing that `MappedArray` reads.
    """
    path, array, done = Path(path), None, 0
    if not is_whole_number(rows) or rows < 0:
        raise ValueError(f"rows={rows!r} is no number of rows.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {path.parent} to write {path.name} into.")
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        for number, part in enumerate(map(_part, parts)):
            if array is None:
                array = np.lib.format.open_memmap(temporary, "w+", part.dtype, (rows, *part.shape[1:]))
            if (part.dtype, part.shape[1:]) != (array.dtype, array.shape[1:]):
                raise ValueError(
                    f"Part {number} has rows of {part.dtype} {list(part.shape[1:])}, and part 0 of {array.dtype} "
                    f"{list(array.shape[1:])}. Convert all parts to one type and shape of row."
                )
            if done + len(part) <= rows:
                array[done : done + len(part)] = part
            done += len(part)
        if array is None:
            raise ValueError("There are no parts, so the type and the shape of a row are not known.")
        if done != rows:
            raise ValueError(f"The parts have {done} rows, and {rows} were announced.")
        array.flush()
        array = None  # Windows renames no file that is mapped
        os.replace(temporary, path)
    finally:
        array = None
        temporary.unlink(missing_ok=True)


def _part(part: Any) -> np.ndarray:
    """Return a part as an array that can be read again.

    Raises:
        ValueError: if it cannot.
    """
    if np.ma.isMaskedArray(part):
        raise ValueError("A masked array would lose its mask. Fill it first: part.filled(…).")
    if isinstance(part, torch.Tensor) and (part.dtype == torch.bfloat16 or part.is_sparse):
        raise ValueError(f"NumPy's files hold no {part.dtype} and nothing sparse. Convert the part: part.float().")
    array = part.numpy(force=True) if isinstance(part, torch.Tensor) else np.asarray(part)
    try:
        torch.from_numpy(np.empty(0, dtype=array.dtype.newbyteorder("=")))
        len(array)
    except TypeError as error:
        raise ValueError(f"A part is an array [n, …] of numbers that torch has, and no {array.dtype} value.") from error
    return array


@contextlib.contextmanager
def memory_limit(more: int) -> Iterator[bool]:
    """Within the block, let this process take at most so many bytes of memory more; True if the system enforces it.

    It is Linux's RLIMIT_DATA, which counts what a program allocates and leaves out files that are mapped for reading.
    (RLIMIT_AS counts these as well, so it would refuse a large map that needs no memory.) Elsewhere nothing is limited.

    Source: https://man7.org/linux/man-pages/man2/getrlimit.2.html
    """
    if sys.platform != "linux":
        yield False
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    used = int(fields["VmData"].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (used + more, hard))
    try:
        yield True
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
