"""A journal that outlives a lent machine: `keep_in` a folder that stays, `merged` with what lies there.

from torchcourse import journal_copies
journal_copies.keep_in("/content/drive/MyDrive/torchcourse")     # at the beginning of each session
"""

import json
import os
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from torchcourse import journal


def keep_in(folder: str | Path) -> Path:
    """Keep the journal in this folder from now on: what it holds already, and what this session has so far.

    Each later answer of this kernel is written there at once, so that there is nothing to save at the end. The same
    call in the next session brings all of it back. The file that the session had stays where it is.

    Args:
        folder: one that outlives the session, such as a mounted drive. It is made where it is missing, unless the
            folder around it is missing, too.

    Returns:
        The file of the journal.

    Raises:
        FileNotFoundError: the folder around it is missing: the drive is not mounted, perhaps.
        NotADirectoryError: there is a file of that name.
        OSError: the folder cannot be written.
    """
    chosen = Path(os.path.abspath(Path(folder).expanduser()))
    if not chosen.parent.is_dir():
        raise FileNotFoundError(
            f"There is no folder {chosen.parent}, so nothing was kept. If it belongs to a drive, mount the drive first."
        )
    if chosen.exists() and not chosen.is_dir():
        raise NotADirectoryError(f"{chosen} is a file. Name a folder to keep the journal in.")
    chosen.mkdir(exist_ok=True)
    before = journal.move_to(chosen, merged)
    entries = len(journal.read())
    print(f"Your journal is kept in {journal.path()}. Entries: {entries}, new there: {entries - before}.")
    return journal.path()


def merged(one: bytes, other: bytes) -> bytes:
    """Put two journals together: each entry of both once, in the order of either file, and else in that of time.

    An entry is the same in both if all of its fields are, however it is written. One that is in a journal twice stays
    twice. A line that cannot be read stays as it is, except that a torn last line goes where its whole entry is there.

    Args:
        one, other: the bytes of the files.
    """
    ours, theirs = _lines(one), _lines(other)
    first, second = _numbered(_untorn(ours, theirs)), _numbered(_untorn(theirs, ours))
    lines = second | first  # of an entry that is in both, the line of the first
    left = [list(reversed(first)), list(reversed(second))]  # what comes next is at the end
    shared = first.keys() & second.keys()
    order: dict[_Name, bytes] = {}
    while left[0] or left[1]:
        name = left[_next_side(left, shared)].pop()
        order[name] = lines[name]
        for names in left:
            while names and names[-1] in order:
                names.pop()
    return b"".join(line + b"\n" for line in order.values())


_Name = tuple[str | bytes, int]
"""An entry in one form, and how many of the same came before it in its file."""


def _lines(content: bytes) -> list[bytes]:
    return [line for line in content.removeprefix(b"\xef\xbb\xbf").splitlines() if line.strip()]


def _untorn(lines: list[bytes], others: list[bytes]) -> list[bytes]:
    """Leave out a last line that is the beginning of one of the others."""
    if lines and journal.entry_of(lines[-1]) is None:
        whole = any(line.startswith(lines[-1]) and line != lines[-1] for line in others)
        return lines[:-1] if whole else lines
    return lines


def _numbered(lines: list[bytes]) -> dict[_Name, bytes]:
    seen: Counter[str | bytes] = Counter()
    named = {}
    for line in lines:
        entry = journal.entry_of(line)
        key = line if entry is None else json.dumps(entry, sort_keys=True)
        named[key, seen[key]] = line
        seen[key] += 1
    return named


def _next_side(left: list[list[_Name]], shared: set[_Name]) -> int:
    """Return whose next entry comes first. One that both have waits until both have come to it."""
    if not (left[0] and left[1]):
        return 0 if left[0] else 1
    (mine, theirs) = (names[-1] for names in left)
    if (mine in shared) != (theirs in shared):
        return 1 if mine in shared else 0
    return 0 if _time(mine) <= _time(theirs) else 1


def _time(name: _Name) -> datetime:
    """Return the time of an entry; a line that cannot be read comes as soon as it is its turn."""
    if isinstance(name[0], bytes):
        return datetime.min.replace(tzinfo=UTC)
    return datetime.fromisoformat(json.loads(name[0])["time"])
