"""Patient: `sys.exit` on a bad line, in a parser that runs inside a worker of a DataLoader."""

import contextlib
import functools
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch

from torchcourse import figures
from torchcourse.checks import Wrong
from torchcourse.checks.errors import message_of, still_at
from torchcourse.data import mnist
from torchcourse.lessons.troubleshooting.clinic.comparisons import (
    Order,
    expect_orders_by_seed,
    expect_workers,
    numbers_of_images,
    orders_by,
)
from torchcourse.lessons.troubleshooting.clinic.program import Program
from torchcourse.lessons.troubleshooting.clinic.separate_process import call_separately, log_separately, time_limit
from torchcourse.ranks.run import RankError, RankTimeout

Batch = tuple[torch.Tensor, torch.Tensor]
"""Images [B, 784] and labels [B]."""

EPOCHS, BATCH = 2, 32
log = log_separately
_LEFT_ALONE = (
    "ConnectionResetError",
    "ConnectionRefusedError",
    "BrokenPipeError",
    "EOFError",
    "FileNotFoundError",
    "ProcessDied",
)
"""What the main process may meet instead of "exited unexpectedly", at none of the learner's lines: it was fetching a
tensor from the dead worker."""


def evidence(program: Program) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "records.txt")
        program.write_records(path, 400, (267,))
        lengths = [len(line) for line in path.read_text().splitlines()]
    usual = max(lengths)
    short = [place for place, length in enumerate(lengths) if length != usual]
    figure, axis = figures.new()
    axis.plot(lengths, ".")
    axis.set(xlabel="line of the file", ylabel="characters in the line", ylim=(0, 1.1 * usual))
    axis.set_title(f"{len(short)} of {len(lengths)} lines is not {usual} characters long: line {short[0]}")
    figures.show(
        figure, f"All lines of the file have {usual} characters, but for line {short[0]}: {lengths[short[0]]}."
    )


def judge(program: Program, seed: int) -> str:
    """Load files with bad lines at other places for two epochs, in a process of its own; compare what arrives."""
    count = 150 + 7 * seed
    first, second = (20 + seed, 99), (0, 3 + seed, count - 1)
    files = [(count, first), (count, second), (count - len(first), ())]  # the last one is whole
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, str(number), "records.txt") for number in range(len(files))]
        for path, (records, cut_off) in zip(paths, files, strict=True):
            path.parent.mkdir()
            program.write_records(path, records, cut_off)
        written = [path.read_bytes() for path in paths]
        fetched, orders = _fetched(program.record_loader, paths, seed)
        if [path.read_bytes() for path in paths] != written:
            raise Wrong(
                "inputs_changed",
                "Loading has written into the file. Whoever looks for the fault of the export needs it as it came.",
            )
    for loaded, (records, cut_off) in zip(fetched, files, strict=True):
        expect_workers(
            loaded.workers,
            "Nothing dies any more, because there is no worker any more. That is the way to *see* the error. Loading "
            "was given to two workers because it is slow; they should come back.",
        )
        orders_seen = [_order(batches, records, cut_off) for batches in loaded.epochs]
        if orders_seen[0] in (sorted(orders_seen[0]), orders_seen[1]):
            raise Wrong("no_shuffle", "All records arrive, but no longer in a new order each epoch.")
    _judge_report(fetched[0], fetched[2], len(first))
    expect_orders_by_seed(orders)
    return (
        "Healed: each readable record arrives once per epoch, in a new order, from workers; the bad lines are left out "
        "and reported."
    )


@dataclass(frozen=True)
class Fetched:
    """What the loader of a file brought, and what it told."""

    workers: int
    epochs: list[list[Batch]]
    said: str
    """What was printed, warned of or logged, by the loader and its workers; without the folder's name."""
    kept: dict[str, int]
    """Attributes of the dataset and of the loader that are a number, or have a length: these."""


def _judge_report(cut: Fetched, whole: Fetched, left_out: int) -> None:
    """Refuse a loader that is as silent about a file with bad lines as about a whole one of as many good lines."""
    counted = any(size == left_out and not whole.kept.get(name) for name, size in cut.kept.items())
    if cut.said == whole.said and not counted:
        raise Wrong(
            "silent",
            f"The good records arrive. But nothing tells of the {left_out} that are left out: no line is printed, "
            "nothing is warned of, and the dataset keeps no count. Who would notice that half of a file is cut off?",
        )


def _fetched(record_loader: Callable, paths: list[Path], seed: int) -> tuple[list[Fetched], list[Order]]:
    """Load each file in a process of its own; return with it the orders by this seed, by it again, and by another."""
    try:
        return call_separately(_fetch, record_loader, paths, seed)
    except RankTimeout:
        raise Wrong(
            "hang",
            f"After {time_limit()} s your loader was still being read: a worker has stopped without a word, or a loop "
            "does not end.",
        ) from None
    except RankError as error:
        what = (message_of(error).splitlines() or [error.kind])[0][:120].rstrip(".")
        if "exited unexpectedly" in error.message or (error.kind in _LEFT_ALONE and not still_at(error)):
            raise Wrong(
                "still_there", f"A worker still ends in the middle of the file: {what}. Which line was it given?"
            ) from None
        if error.kind == "SystemExit":
            raise Wrong(
                "program_ends",
                "Without workers it is your program itself that ends on a bad line. Who calls sys.exit, and should a "
                "function of a library do that?",
            ) from None
        raise Wrong(
            "still_stops",
            f"No worker dies, but the epoch still ends at the bad line, or does not begin, with {error.kind}: {what}."
            f"{still_at(error)}\nOne bad line in a file should cost one record, not the night.",
        ) from None


def _fetch(record_loader: Callable, paths: list[Path], seed: int) -> tuple[list[Fetched], list[Order]]:
    # A file, since workers write to it too; one for all, since those that are not forked have it from their server.
    with tempfile.TemporaryFile("w+", buffering=1) as said, _told_to(said):
        fetched = [_fetch_file(record_loader, path, seed, said) for path in paths]
    return fetched, orders_by(functools.partial(record_loader, paths[-1]), seed)


def _fetch_file(record_loader: Callable, path: Path, seed: int, said: IO[str]) -> Fetched:
    said.seek(0)
    said.truncate()
    loader = record_loader(path, seed)
    epochs = [[tuple(batch) for batch in loader] for _ in range(EPOCHS)]
    said.seek(0)
    text = said.read().replace(str(path.parent), "")
    kept = {}
    for thing in (getattr(loader, "dataset", None), loader):
        for name, value in getattr(thing, "__dict__", {}).items():
            size = len(value) if isinstance(value, Sized) else value
            if isinstance(size, int) and not isinstance(size, bool):
                kept[f"{type(thing).__name__}.{name}"] = size
    return Fetched(getattr(loader, "num_workers", 0), epochs, text, kept)


@contextlib.contextmanager
def _told_to(file: IO[str]) -> Iterator[None]:
    """Send there what is printed, warned of and logged, by this process and by those that it starts."""
    handler, root = logging.StreamHandler(file), logging.getLogger()
    root.addHandler(handler)
    before = {number: os.dup(number) for number in (1, 2)}
    try:
        for number in before:
            os.dup2(file.fileno(), number)
        with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file), warnings.catch_warnings():
            warnings.simplefilter("always")
            yield
    finally:
        root.removeHandler(handler)
        for number, copy in before.items():
            os.dup2(copy, number)
            os.close(copy)


def _order(batches: list[Batch], count: int, cut_off: tuple[int, ...]) -> list[int]:
    """Return the numbers of the records in the order in which an epoch brings them."""
    order = numbers_of_images([row for rows, _ in batches for row in rows], count, cut_off, "are no record of the file")
    for rows, labels in batches:
        kinds = [each.dtype if isinstance(each, torch.Tensor) else type(each[0]) for each in (rows, labels)]
        if kinds != [torch.float32, torch.int64]:
            raise Wrong("dtype", f"Images were float32 and labels int64; yours are {kinds[0]} and {kinds[1]}.")
    if [int(label) for _, labels in batches for label in labels] != mnist()[:count][1][order].tolist():
        raise Wrong("labels_mixed", "All records arrive, and some carry the label of a different one.")
    if max(len(rows) for rows, _ in batches) != BATCH:
        raise Wrong("other_batches", f"The batches were {BATCH} records long, and no longer are.")
    return order
