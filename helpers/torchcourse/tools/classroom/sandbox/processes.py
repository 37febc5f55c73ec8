"""The processes of a sandbox, seen from outside: what they use, and that none of them stays.

The first of them waits for the others, and inherits those whose parent ended; so all are found below it.
"""

import contextlib
import re
import time
import weakref
from pathlib import Path
from typing import NamedTuple

import psutil

_KILLED = 10.0  # seconds that killed processes have to end
_MOMENT = 0.005  # seconds from look to look
_MUCH = 2**30  # bytes
_FRESH = 1.0  # seconds that a list of processes is believed


class Usage(NamedTuple):
    """What all processes of a sandbox use."""

    seconds: float
    """Of processor time so far, of those that live and of those that these have waited for."""
    memory: int
    """Bytes that belong to this sandbox alone, with what is swapped out, and with the tables of pages."""
    number: int
    """How many there are."""
    threads: int
    """How many of all processes together."""
    sockets: int
    """How many are open in the sandbox's own network; 0 where it has none."""


def usage(first: psutil.Process) -> Usage:
    """Return what a sandbox uses, by its first process."""
    tree = _known_below(first)
    seconds, memory, shared, threads = 0.0, 0, 0, 0
    for process in [first, *tree]:
        with contextlib.suppress(psutil.Error):
            seconds += sum(process.cpu_times()[:4])
            if process != first:  # which only waits
                info = process.memory_info()
                memory += info.rss - info.shared
                shared += info.shared
                more = _status(process)
                memory += more.get("VmPTE", 0) * 1024 + more.get("VmSwap", 0) * 1024
                threads += more.get("Threads", 1)
    if shared > _MUCH:  # files too, which all sandboxes have together
        memory += sum(_shared(process) for process in tree)
    return Usage(seconds, memory, len(tree), threads, _sockets(tree[0]) if tree else 0)


def _status(process: psutil.Process) -> dict[str, int]:
    """Return the numbers that the system tells of a process."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{process.pid}/status").read_bytes()
        return {name.decode(): int(number) for name, number in _NUMBERS.findall(text)}
    return {}


_NUMBERS = re.compile(rb"^(VmPTE|VmSwap|Threads):\s*(\d+)", re.MULTILINE)


def _sockets(process: psutil.Process) -> int:
    """Return how many sockets there are in the network of a process, if that is not the one of this process."""
    with contextlib.suppress(OSError):
        own, theirs = (Path(f"/proc/{one}/ns/net").readlink() for one in ("self", process.pid))
        found = re.match(rb"sockets: used (\d+)", Path(f"/proc/{process.pid}/net/sockstat").read_bytes())
        return int(found[1]) if found and own != theirs else 0
    return 0


def _shared(process: psutil.Process) -> int:
    """Return the bytes of a process's memory that are no file's and that others may have too, each with its share.

    Who may not see the shares gets what the process has in all.
    """
    for name, part in (("smaps_rollup", "Pss_Shmem"), ("status", "RssShmem")):
        with contextlib.suppress(OSError):
            found = re.search(rf"^{part}:\s*(\d+) kB", Path(f"/proc/{process.pid}/{name}").read_text(), re.MULTILINE)
            if found:
                return int(found[1]) * 1024
    return 0


def below(first: psutil.Process) -> list[psutil.Process]:
    """Return all processes below this one."""
    with contextlib.suppress(psutil.Error):
        return first.children(recursive=True)
    return []


def _known_below(first: psutil.Process) -> list[psutil.Process]:
    """Return all processes below this one; who asks often is told what was found before, while nobody has begun one.

    To look through all processes of a machine with a hundred of them takes 2 ms, and a cell is looked at 4 times per
    second.
    """
    begun, now = _begun(), time.monotonic()
    known = _trees.get(first)
    if known is None or not begun or known.begun != begun or now - known.at > _FRESH:
        known = _trees[first] = _Tree(begun, now, below(first))
    return known.processes


class _Tree(NamedTuple):
    """The processes below one, at a time, and how many had been begun on the machine by then."""

    begun: int
    at: float
    processes: list[psutil.Process]


_trees = weakref.WeakKeyDictionary[psutil.Process, _Tree]()


def killed_for_memory() -> int:
    """Return how many processes this machine has ended since it started, for want of memory."""
    return _counted("vmstat", rb"^oom_kill (\d+)")


def _begun() -> int:
    """Return how many processes and threads were begun on this machine since it started; 0 if it does not tell."""
    return _counted("stat", rb"^processes (\d+)")


def _counted(file: str, line: bytes) -> int:
    with contextlib.suppress(OSError):
        found = re.search(line, Path("/proc", file).read_bytes(), re.MULTILINE)
        return int(found[1]) if found else 0
    return 0


def innermost(first: psutil.Process, depth: int) -> psutil.Process:
    """Return the process so many generations below, where each has one child.

    Raises:
        psutil.Error: if there is none.
    """
    for _ in range(depth):
        children = first.children()
        if not children:
            raise psutil.NoSuchProcess(first.pid, msg="it has no child")
        first = children[0]
    return first


def is_alive(process: psutil.Process) -> bool:
    """Whether a process goes on; one that ended and was not waited for does not."""
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def end(first: psutil.Process) -> None:
    """End this process and all below it."""
    with contextlib.suppress(psutil.Error):
        first.suspend()  # or it might end before its children are known, and nobody would find them
    until = time.monotonic() + _KILLED
    while (living := [*filter(is_alive, below(first))]) and time.monotonic() < until:
        for process in living:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(_MOMENT)
    with contextlib.suppress(psutil.Error):
        first.kill()
    # Not by psutil's `wait`: while others of its session live, Linux before 6.15 answers it with an error of its own.
    while is_alive(first) and time.monotonic() < until:
        time.sleep(_MOMENT)
    with contextlib.suppress(psutil.Error, OSError):
        first.wait(0)  # a child of this process is gone only then
