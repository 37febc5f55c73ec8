"""Check of lesson 04, notebook 3: a file that a kill at any moment leaves whole."""

import copy
import errno
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import same
from torchcourse.ranks.run import RankError, run_ranks
from torchcourse.training import checkpoint
from torchcourse.training.crash import KILL
from torchcourse.units import counted

MOST_KILLS = 10  # each takes a process of its own
IN_TORCH_SAVE = "in the middle of torch.save"
FULL_DISK = "a full disk"

Save = Callable[[dict, str], Any]


@check
def save_whole(learner: Save) -> str:
    """Kill the process in the midst of torch.save and at each line of the function, and let the disk be full once; look
    at the file each time."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "last.pt"
        seen = _save(learner, path)
        _refuse_other_state(path)
        if seen.opened:
            raise Wrong(
                "torn",
                "You write into the file that holds the old state. From the moment it is opened until it is closed, "
                "the old state is gone and the new one is not there: a kill in between costs both.",
            )
        _judge_kill(learner, path, IN_TORCH_SAVE)
        _judge_full_disk(learner, path)
        lines = min(seen.lines, MOST_KILLS)
        for line in range(1, lines + 1):
            _judge_kill(learner, path, line)
        if seen.moved_from not in (None, os.fspath(path.parent)):
            raise Wrong(
                "elsewhere",
                f"Your temporary file is in {seen.moved_from}. If that is another disk, moving it is a copy, and "
                "a copy can be killed half-way. Which folder is certainly on the same disk as the file?",
            )
        _judge_sync(seen)
    return f"Killed in the middle of torch.save and at {counted(lines, 'line')} of yours: the file was whole each time."


def _judge_kill(learner: Save, path: Path, moment: int | str) -> None:
    try:
        _save(learner, path, moment)
        return  # it was done before the moment came
    except RankError as error:
        if error.kind != "ProcessDied":
            raise
    where = moment if isinstance(moment, str) else f"at its line number {moment} (counted as they run)"
    if not path.exists():
        raise Wrong(
            "gone",
            f"The process was killed {where}, and now there is no file at all: the old one was taken away before the "
            "new one had its name. One call can do both at once.",
        )
    state = _read(path)
    if not (same(state, _OLD, tolerance=0) or same(state, _NEW, tolerance=0)):
        raise Wrong(
            "too_early",
            f"The process was killed {where}, and the file holds neither all of the old state nor all of the new one: "
            "it got its name before all of it was written. When is what you wrote certainly in the file?",
        )


def _judge_full_disk(learner: Save, path: Path) -> None:
    """Let torch.save end in an error half-way: the old file has to stay, and the program has to hear of it."""
    try:
        _save(learner, path, FULL_DISK)
        silent = True
    except RankError as error:
        if error.kind in ("NameError", "ImportError", "ProcessDied"):
            raise
        silent = False
    if not same(_read(path), _OLD, tolerance=0):
        now = "is not the old state" if path.exists() else "is gone"
        raise Wrong(
            "spoiled",
            f"When torch.save ends in an error (the disk is full, say), {path.name} {now} after your function. Which "
            "line must not run then, and which file may be removed?",
        )
    if silent:
        raise Wrong(
            "swallowed",
            "When torch.save ends in an error (the disk is full, say), your function ends as if all were well: the "
            "program that called it goes on, and believes that its state is saved. Let the error through.",
        )


def _refuse_other_state(path: Path) -> None:
    """Refuse a call after which the file does not hold the new state, by what it holds instead."""
    state = _read(path)
    if same(state, _NEW, tolerance=0):
        return
    if not path.exists():
        symptom, hint = "gone", "there is no {} any more. Which of the two names is the new one?"
    elif state is _UNREADABLE:
        symptom, hint = (
            "unreadable",
            "torch.load cannot read {}. Is it torch.save that writes the state, and all of it?",
        )
    elif same(state, _OLD, tolerance=0):
        symptom, hint = "not_saved", "{} still holds the old state. Where did the new one go?"
    else:
        symptom, hint = "other_state", "{} holds something else than the state it was given."
    raise Wrong(symptom, f"After your function, {hint.format(path.name)}")


_UNREADABLE = object()
_OLD = {"step": 1}
_NEW = {"step": 2, "weights": torch.linspace(0, 1, 1000), "model": {"bias": torch.linspace(1, 2, 7)}}
"""The new state. Half precision does not hold it."""


def _read(path: Path) -> Any:
    """What torch.load finds in the file; `_UNREADABLE` where it can read nothing."""
    try:
        return torch.load(path, weights_only=True)
    except Exception:
        return _UNREADABLE


@dataclass
class _Seen:
    """What a call did.

    `lines`: how many ran. `opened`: the target, for writing. `synced`: what was forced to the disk before the move, and
    its bytes then. `moved`, `moved_from`, `moved_bytes`: the new file, where it came from, and its size then. Files are
    known by their numbers on the disk (inodes).
    """

    lines: int = 0
    opened: bool = False
    synced: dict[int, int] = field(default_factory=dict)
    moved: int | None = None
    moved_from: str | None = None
    moved_bytes: int | None = None


def _judge_sync(seen: _Seen) -> None:
    """Refuse a move before which the moved file was not forced to the disk, or not all of it."""
    if not seen.synced:
        raise Wrong(
            "no_fsync",
            "A kill does no harm now, but a power cut may: what you wrote is in the system's memory, and the new "
            "name can reach the disk before the content does. What forces a file to the disk?",
        )
    if seen.moved is None:
        return
    if seen.moved not in seen.synced:
        raise Wrong(
            "another_file_synced",
            "You call os.fsync, but not for the file that gets the new name: what it holds may still be in the "
            "system's memory, and a power cut takes that. Which file has to be on the disk?",
        )
    if seen.synced[seen.moved] != seen.moved_bytes:
        raise Wrong(
            "synced_too_early",
            f"When you call os.fsync, {seen.synced[seen.moved]:,} of the file's {seen.moved_bytes:,} bytes are in it: "
            "the rest is not yet written, or still in Python's hands. What hands it over before?",
        )


def _save(learner: Save, path: Path, kill_at: int | str | None = None) -> _Seen:
    """Run the learner's function in a process of its own, over a file with step 1; kill it at a line, or in torch.save,
    or let torch.save end in an error.

    Raises:
        RankError: of the kind `ProcessDied`, if the process was killed.
    """
    checkpoint.save(_OLD, path)
    return run_ranks(_save_in_a_rank, learner, os.fspath(path), kill_at, world_size=1)[0]


def _save_in_a_rank(learner: Save, path: str, kill_at: int | str | None) -> _Seen:
    seen = _Seen()
    files = {learner.__code__.co_filename} if hasattr(learner, "__code__") else set()
    real_save = torch.save

    def audit(event: str, args: tuple) -> None:
        if event == "open" and isinstance(args[0], str | bytes) and os.fsdecode(args[0]) == path:
            seen.opened |= isinstance(args[1], str) and any(letter in args[1] for letter in "wax+")
        elif event == "os.rename" and os.fspath(args[1]) == path:
            seen.moved_from, file = os.path.dirname(os.path.abspath(os.fspath(args[0]))), os.stat(args[0])
            seen.moved, seen.moved_bytes = file.st_ino, file.st_size

    def trace(frame: Any, event: str, _arg: Any) -> Any:
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            seen.lines += 1
            if seen.lines == kill_at:
                os.kill(os.getpid(), KILL)
        return trace

    def half_save(state: Any, target: Any, *args: Any, **options: Any) -> None:
        measured = Path(path).with_name("measure.tmp")
        real_save(state, measured, *args, **options)
        whole = measured.read_bytes()
        file = open(target, "wb") if isinstance(target, str | os.PathLike) else target  # noqa: SIM115 (killed below)
        file.write(whole[: len(whole) // 2])
        file.flush()
        if kill_at == FULL_DISK:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.kill(os.getpid(), KILL)

    def watched_save(state: Any, target: Any, *args: Any, **options: Any) -> None:
        # torch.save opens files below Python, where no audit sees it.
        seen.opened |= isinstance(target, str | os.PathLike) and os.path.abspath(os.fspath(target)) == path
        real_save(state, target, *args, **options)

    def watched_sync(name: str) -> Callable[..., None]:
        real = getattr(os, name)

        def sync(*descriptors: Any) -> None:
            real(*descriptors)  # first, for it says what is no descriptor
            of_all = [] if descriptors else [os.stat(file) for file in Path(path).parent.iterdir()]  # by os.sync()
            found = [os.fstat(one if isinstance(one, int) else one.fileno()) for one in descriptors] + of_all
            if seen.moved_from is None:
                seen.synced.update((one.st_ino, one.st_size) for one in found)

        return sync

    sys.addaudithook(audit)
    with ExitStack() as patches:
        patches.enter_context(patch("torch.save", half_save if isinstance(kill_at, str) else watched_save))
        for name in {"fsync", "fdatasync", "sync"} & set(dir(os)):  # not every system has all three
            patches.enter_context(patch(f"os.{name}", watched_sync(name)))
        sys.settrace(trace)
        try:
            learner(copy.deepcopy(_NEW), path)
        finally:
            sys.settrace(None)
    return seen
