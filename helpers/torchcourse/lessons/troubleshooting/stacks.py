"""Where processes stand that do not come back: the ranks of a call, and the workers of a DataLoader."""

import faulthandler
import linecache
import os
import re
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch.utils.data import Dataset

from torchcourse.ranks.run import RankError


def by_rank(error: RankError) -> dict[int, list[str]]:
    """Take the stacks of a RankTimeout apart: for each rank its lines of source, the innermost last.

    A rank that had returned already has an empty list.
    """
    stacks: dict[int, list[str]] = {}
    for part in re.split(r"^(?=rank \d+ )", error.traceback, flags=re.MULTILINE):
        if head := re.match(r"rank (\d+) (was here|had already returned|did not say)", part):
            stacks[int(head[1])] = re.findall(r"^    (?! )(.*\S)", part, re.MULTILINE)
    return stacks


def of_worker(file: str | os.PathLike) -> list[str]:
    """Return where a worker stood when it wrote last: its lines of source from the dataset on, the innermost last.

    Args:
        file: written by `write_stack_after`. Empty or without a sample being read: an empty list.
    """
    last = Path(file).read_text(encoding="utf-8").rpartition("(most recent call first):")[2]
    frames = re.findall(r'^  File "(.+)", line (\d+) in .+$', last, re.MULTILINE)
    ends = [number for number, (name, _) in enumerate(frames) if Path(name).name == "fetch.py"]
    inner = frames[: ends[0]] if ends else []
    return [linecache.getline(name, int(line)).strip() for name, line in reversed(inner)]


def write_stack_after(seconds: float, folder: Path) -> Callable[[int], None]:
    """Return a `worker_init_fn` for a DataLoader: a worker that lives this long writes its stack to `worker-0.txt` ….

    It writes every so many seconds until it ends, so the file's last stack is where it is now.
    """
    return partial(_write_stack, seconds, Path(folder).resolve())


def _write_stack(seconds: float, folder: Path, worker: int) -> None:
    file = (folder / f"worker-{worker}.txt").open("w")
    # The file has to stay open as long as the worker lives: the handler writes to its number.
    _open_files.append(file)
    faulthandler.dump_traceback_later(seconds, repeat=True, file=file)


_open_files: list = []


class Shaky(Dataset):
    """Samples 0, 1, 2 …, one of which is trouble, as happens with real files. For showing what loaders do then.

    Args:
        size: how many samples.
        bad: the number of the bad sample.
        trouble: "raises" (a broken file), "dies" (the system kills the process for its memory), "hangs" (a network
            drive that does not answer, for a minute).
    """

    def __init__(self, size: int, bad: int, trouble: str) -> None:
        self.size, self.bad, self.trouble = size, bad, trouble

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, number: int) -> torch.Tensor:
        if number == self.bad:
            self._fail(number)
        return torch.tensor(number)

    def _fail(self, number: int) -> None:
        if self.trouble == "raises":
            raise ValueError(f"sample {number} is no image")
        if self.trouble == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        read_from_drive()


def read_from_drive() -> None:
    """Wait for a drive that does not answer."""
    time.sleep(60)
