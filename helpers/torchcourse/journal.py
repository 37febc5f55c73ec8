"""The learner's record: one JSON line for each answer, check and prediction, in a file that only grows.

    journal.record("quiz", question="mean-of-gradients", right=False)
    journal.read()      # every entry so far, oldest first
    journal.path()      # the file; open it in any editor

The file is `journal.jsonl`, in the first of these folders that there is. It never leaves the machine.

1. `$TORCHCOURSE_WORK`, which `make lab` sets;
2. a temporary folder while nbgrader runs the notebook, so that nothing of a class gets into its teacher's journal, into
   the lessons, or into what is handed back;
3. the nearest folder, from the current one upward, that holds a journal, or `work/` of the course's repository where
   that is nearer;
4. the current folder on Colab and Kaggle, whose own pages show its files;
5. `torchcourse-work` in the user's home folder.

Each line is flushed to the disk before `record` returns. Two notebooks may write at once. A line that a crash cut off
is moved to `journal.torn` by the next `record`; the lines before it are never touched. Where nothing can be written,
one sentence says so and the entries of this session stay in memory.
"""

import contextlib
import errno
import functools
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from torchcourse.entry_times import in_order

Entry = dict[str, Any]

NAME = "journal.jsonl"
HOSTS = ("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE")
"""Variables that say that the notebook runs on a host which lends its machine for one session."""
LOCK_SECONDS = 5.0
"""How long to wait for another notebook's write. After that a line is appended without the lock."""

_writing = threading.Lock()
_unsaved: list[Entry] = []
_warned: set[Path] = set()
_last_here: list[Path] = []


def record(kind: str, /, **fields: Any) -> Entry:
    """Append one entry and return it: the time (with its zone), the kind, then the fields.

    A number of NumPy or PyTorch is kept as a number, any other value that JSON does not know as its text. Never raises
    because of the disk: an entry that cannot be written is kept in memory, and is written with the next one that can.

    Raises:
        ValueError: if a field is called `time` or `kind`, as the first two of every entry are.
    """
    if taken := fields.keys() & {"time", "kind"}:
        raise ValueError(
            f"Every entry has a {' and a '.join(sorted(taken))} already; give that field a different name."
        )
    entry = {"time": datetime.now().astimezone().isoformat(timespec="seconds"), "kind": kind} | fields
    with _writing:
        _unsaved.append(entry)
        target = path()
        try:
            _append(target, b"".join(_line(waiting) for waiting in _unsaved))
        except OSError as error:
            _warn(target, error)
        else:
            _unsaved.clear()
    return entry


def read() -> list[Entry]:
    """Return all entries, oldest first. Lines that cannot be read are left out; `problems` names them.

    An entry of a wrong clock has the time of its neighbors, and what was written as `clock`; see `entry_times`.
    """
    return _read()[0] + list(_unsaved)


def problems() -> list[str]:
    """Return one sentence for each line of the journal that cannot be read, and one for a wrong clock; usually none."""
    entries, unreadable = _read()
    wrong = [entry["clock"] for entry in entries if "clock" in entry]
    if wrong:
        lines = "One entry was" if len(wrong) == 1 else f"{len(wrong)} entries were"
        return [*unreadable, f"{lines} written by a wrong clock ({wrong[0]}), and dated by the entries around."]
    return unreadable


def content() -> bytes:
    """Return the bytes of the journal's file; none where it cannot be read."""
    try:
        return path().read_bytes()
    except OSError:
        return b""


def move_to(folder: Path, join: Callable[[bytes, bytes], bytes]) -> int:
    """Let the journal lie in an existing folder from now on, joined with the one that lies there; that of before stays.

    A merge that is cut off loses nothing: its draft lies beside the journal, and the next merge takes it in.

    Args:
        folder: which other notebooks may write to at the same time.
        join: from the bytes of the journal there and of this one to those of both.

    Returns:
        How many entries were there.

    Raises:
        OSError: the folder cannot be written; nothing has changed.
    """
    target = folder / NAME
    with _writing:
        here = b"\n".join([content(), *(_line(waiting) for waiting in _unsaved)])
        before = _rewrite(target, lambda there: join(there, here), join)
        os.environ["TORCHCOURSE_WORK"] = str(folder)
        _unsaved.clear()
    return len(_parse(before)[0])


def path() -> Path:
    """Return the journal's file, which need not exist yet."""
    chosen = os.environ.get("TORCHCOURSE_WORK")
    return (Path(os.path.expanduser(chosen)) if chosen else _folder(_here())) / NAME


def when(entry: Entry) -> datetime:
    """Return the time of an entry, with its zone."""
    return datetime.fromisoformat(entry["time"])


def entry_of(line: bytes) -> Entry | None:
    """Return the entry that a line of a journal holds; None if it holds none."""
    try:
        entry = json.loads(line.decode("utf-8-sig"))
        zone = datetime.fromisoformat(entry["time"]).tzinfo
        return entry if zone is not None and isinstance(entry["kind"], str) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _here() -> Path:
    """Return the current folder; where somebody has deleted it, the last one that there was."""
    with contextlib.suppress(OSError):
        _last_here[:] = [Path.cwd()]
    return _last_here[0] if _last_here else Path(os.path.expanduser("~"))


def _folder(here: Path) -> Path:
    """Return the folder of the journal for a notebook that runs here, where no variable names one."""
    if "NBGRADER_EXECUTION" in os.environ:
        return Path(_of_this_process().name)
    for folder in (here, *here.parents):
        if _is_journal(folder / NAME):
            return folder
        if os.path.isfile(folder / "course.py") and os.path.isdir(folder / "helpers" / "torchcourse"):
            return folder / "work"
    if any(variable in os.environ for variable in HOSTS):
        return here
    return Path(os.path.expanduser("~")) / "torchcourse-work"


@functools.cache
def _of_this_process() -> tempfile.TemporaryDirectory:
    """A folder that is gone with this process."""
    return tempfile.TemporaryDirectory(prefix="torchcourse-")


def _is_journal(file: Path) -> bool:
    """Whether this file is ours: empty, or with an entry near its beginning. Other programs use the name too."""
    try:
        with file.open("rb") as opened:
            beginning = opened.read(1 << 16)
    except OSError:
        return False
    return not beginning.strip() or any(_is_entry(line) for line in beginning.splitlines())


def _warn(target: Path, error: OSError) -> None:
    if target not in _warned:
        _warned.add(target)
        reason = error.strerror or type(error).__name__
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        sentence = (
            f"Your answers are not kept on disk: {target} cannot be written ({reason}). "
            "Set the variable TORCHCOURSE_WORK to a folder of your own and restart the kernel."
        )
        with contextlib.suppress(OSError, ValueError):  # a console that is gone
            # Not on stderr: nbgrader takes anything there for a failed test.
            print(sentence.encode(encoding, "backslashreplace").decode(encoding))


def _line(entry: Entry) -> bytes:
    try:
        text = json.dumps(entry, ensure_ascii=False, default=_plain)
    except (TypeError, ValueError, RecursionError):  # a key that JSON does not know, or a value that holds itself
        plain = {
            name: value if type(value) in (str, int, float, bool) else _text(value) for name, value in entry.items()
        }
        text = json.dumps(plain, ensure_ascii=False)
    # Half of a surrogate pair has no UTF-8 form; its backslash form is valid JSON.
    return text.encode("utf-8", errors="backslashreplace") + b"\n"


def _plain(value: Any) -> Any:
    """Return the number of a NumPy or PyTorch value that holds one, else the value's text."""
    with contextlib.suppress(Exception):
        if isinstance(number := value.item(), bool | int | float):
            return number
    return _text(value)


def _text(value: Any) -> str:
    try:
        return str(value)
    except Exception as error:  # whatever somebody's __str__ raises: the answer beside it is kept
        return f"<{type(value).__name__} without text: {type(error).__name__}>"


def _append(target: Path, lines: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
    descriptor = os.open(target, flags, 0o644)
    try:
        with _locked(descriptor) as alone:
            tail = _unfinished(descriptor)
            if tail and alone and not _is_entry(tail):
                _move_aside(descriptor, tail, target)
            elif tail:
                lines = b"\n" + lines
            end = os.lseek(descriptor, 0, os.SEEK_END)
            try:
                if os.write(descriptor, lines) != len(lines):
                    raise OSError(errno.ENOSPC, "the disk is full")
                os.fsync(descriptor)
            except OSError:
                if alone:
                    os.ftruncate(descriptor, end)
                raise
    finally:
        os.close(descriptor)


def _rewrite(target: Path, change: Callable[[bytes], bytes], join: Callable[[bytes, bytes], bytes]) -> bytes:
    """Replace the bytes of a journal by others under its lock, and return those of before."""
    draft = target.with_name("journal.draft")
    descriptor = os.open(target, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
    with open(descriptor, "r+b", buffering=0) as file, _locked(descriptor):
        before = file.read()
        kept = join(before, draft.read_bytes()) if draft.exists() else before
        lines = change(kept)
        if lines != before:
            with draft.open("wb") as whole:
                whole.write(lines)
                whole.flush()
                os.fsync(whole.fileno())
            file.seek(0)
            rest = memoryview(lines)
            while rest:
                rest = rest[file.write(rest) or 0 :]
            file.truncate(len(lines))
            os.fsync(descriptor)
        draft.unlink(missing_ok=True)
    return before


def _unfinished(descriptor: int) -> bytes:
    """Return what comes after the last newline."""
    start = os.lseek(descriptor, 0, os.SEEK_END)
    tail = b""
    while start > 0 and b"\n" not in tail:
        size = min(4096, start)
        start -= size
        os.lseek(descriptor, start, os.SEEK_SET)
        tail = os.read(descriptor, size) + tail
    return tail.rpartition(b"\n")[2]


def _move_aside(descriptor: int, tail: bytes, target: Path) -> None:
    with open(target.with_name("journal.torn"), "ab") as torn:
        torn.write(tail + b"\n")
        torn.flush()
        os.fsync(torn.fileno())
    os.ftruncate(descriptor, os.lseek(descriptor, 0, os.SEEK_END) - len(tail))


@contextlib.contextmanager
def _locked(descriptor: int) -> Iterator[bool]:
    """Hold the file's lock inside the block; the value says whether it could be had."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            _lock(descriptor)
        except (BlockingIOError, PermissionError):
            if time.monotonic() > deadline:
                yield False
                return
            time.sleep(0.005)
        except OSError:  # a network drive without locks
            yield False
            return
        else:
            break
    try:
        yield True
    finally:
        _unlock(descriptor)


if sys.platform == "win32":
    import msvcrt

    # Windows keeps others from reading what is locked, so the lock is on a byte far after the text.
    _LOCKED_BYTE = 1 << 30

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

    def _unlock(descriptor: int) -> None:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _read() -> tuple[list[Entry], list[str]]:
    """Return copies of the file's entries, and what is wrong with its lines. An unchanged file is read once."""
    target = path()
    with contextlib.suppress(OSError):
        status = target.stat()
        entries, unreadable = _parsed(target, status.st_mtime_ns, status.st_size)
        return [dict(entry) for entry in entries], list(unreadable)
    return [], []


@functools.lru_cache(maxsize=2)
def _parsed(target: Path, _modified: int, _size: int) -> tuple[list[Entry], list[str]]:
    entries, unreadable = _parse(target.read_bytes())
    return in_order(entries, datetime.now().astimezone()), unreadable


def _parse(lines: bytes) -> tuple[list[Entry], list[str]]:
    entries, unreadable = [], []
    # Split as bytes: an answer may hold a character that Unicode counts as a line break.
    for number, line in enumerate(lines.splitlines(), start=1):
        if not line.strip():
            continue
        entry = entry_of(line)
        if entry is None:
            unreadable.append(f"Line {number} of {path()} cannot be read and is left out; all other lines are fine.")
        else:
            entries.append(entry)
    return entries, unreadable


def _is_entry(line: bytes) -> bool:
    return entry_of(line) is not None
