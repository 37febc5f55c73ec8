"""What runs inside a rank: join the process group, call the learner's function, send back its result or its error."""

import atexit
import contextlib
import ctypes
import faulthandler
import functools
import importlib
import io
import linecache
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import NoReturn

import cloudpickle
import torch
import torch.distributed as dist

from torchcourse import loader_workers
from torchcourse.ranks import group, pickling, report
from torchcourse.ranks.environ import IN_RANK

# Seconds that a finished rank stays for the others. Long enough for data on its way to arrive; short enough that a rank
# which waits in a collective for a finished one gets "Connection closed by peer" soon.
LINGER = 2.0


@dataclass
class Job:
    """What the notebook sends first; the pickled function follows in a second message."""

    rank: int
    world_size: int
    store: str  # the file in which the ranks meet
    port: int  # MASTER_PORT, for a process group that the learner makes
    environ: dict[str, str]
    folder: str
    path: list[str]
    argv: list[str]
    sources: dict[str, str]  # file name of a notebook cell -> its text
    bar_columns: int | None  # characters of a line that moves, 0 for any number, None where none may move


@dataclass
class Failure:
    """What a rank says about its error."""

    kind: str
    message: str
    traceback: str
    time: float  # of the monotonic clock, which all processes share


class Started:
    """What a rank says when it has joined the others and is about to call the function."""


def main(connection_fd: int, output_fd: int, stacks_fd: int) -> NoReturn:
    """Run as a rank that the rank server has forked."""
    _run(Connection(connection_fd), output_fd, stacks_fd)


def spawned() -> NoReturn:
    """Run as a rank in a fresh interpreter: standard input says where the notebook listens."""
    address, key, rank = pickle.loads(sys.stdin.buffer.read())
    connection = Connection(socket.create_connection(address).detach())
    connection.send_bytes(key)
    connection.send_bytes(pickle.dumps(rank))
    stacks_fd = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    _run(connection, 1, stacks_fd)


def _run(connection: Connection, output_fd: int, stacks_fd: int) -> NoReturn:
    job: Job = pickle.loads(connection.recv_bytes())
    payload = connection.recv_bytes()
    released = threading.Event()
    threading.Thread(target=_watch, args=(connection, released), daemon=True).start()
    try:
        _redirect(output_fd, stacks_fd, job.bar_columns)
        _prepare(job)
        # In a file, not a TCPStore: that one asks the name server who 127.0.0.1 is, several times per rank, and where
        # none answers, as on a laptop without a network, each question takes 5 s or more.
        group.join(dist.FileStore(job.store, job.world_size))
        function, args = cloudpickle.loads(payload)
        del payload
        _fill_main(function, args)
        connection.send_bytes(pickle.dumps(Started()))
        result = pickling.dumps_result(function(*args))
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()  # other ranks may still need what the GPU is about to send
    except BaseException as error:
        _flush()
        connection.send_bytes(pickle.dumps(describe(error)))
        _flush()
        os._exit(1)  # at once: a destructor may wait for other ranks
    _flush()
    connection.send_bytes(pickle.dumps(result))
    released.wait(LINGER)
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()  # writers of logs flush here
    _flush()
    os._exit(0)  # no interpreter teardown: gloo's threads sometimes abort in it, after all work is done


def _fill_main(function: Callable, args: tuple) -> None:
    """Let plain pickle find the classes of the notebook: DataLoader workers and `all_gather_object` use it."""
    main = vars(sys.modules["__main__"])
    while isinstance(function, functools.partial):
        function = function.func
    if getattr(function, "__module__", None) == "__main__":
        names = getattr(function, "__globals__", {})
        main.update({name: value for name, value in names.items() if not name.startswith("__")})
    main.update({type(arg).__name__: type(arg) for arg in args if type(arg).__module__ == "__main__"})


def describe(error: BaseException) -> Failure:
    """What the notebook is told about an error."""
    try:
        message = str(error)
    except Exception:
        message = "(an error that cannot be written as text)"
    return Failure(type(error).__name__, message, report.traceback_of(error), time.monotonic())


def _redirect(output_fd: int, stacks_fd: int, bar_columns: int | None) -> None:
    """Send all output, that of C libraries too, to the notebook line by line; say where this rank is on SIGUSR1."""
    faulthandler.enable(stacks_fd, all_threads=False)
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR1, file=stacks_fd)  # all threads: any may get it
    for fd in (1, 2):
        os.dup2(output_fd, fd)
    sys.stdout, sys.stderr = _Lines(1, bar_columns), _Lines(2)
    with contextlib.suppress(Exception):  # C's stdout is a pipe here, and would keep its lines until the end
        libc = ctypes.CDLL(None)
        stdout = ctypes.c_void_p.in_dll(libc, "__stdoutp" if sys.platform == "darwin" else "stdout")
        libc.setvbuf(stdout, None, 1, 0)  # 1 is _IOLBF on Linux and macOS


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # the learner may have put anything there
            stream.flush_all() if isinstance(stream, _Lines) else stream.flush()
    with contextlib.suppress(Exception):
        ctypes.CDLL(None).fflush(None)


class _Lines(io.TextIOWrapper):
    """A text stream that hands on whole lines: threads and DataLoader workers do not tear each other's lines."""

    def __init__(self, fd: int, bar_columns: int | None = None) -> None:
        super().__init__(io.FileIO(fd, "w", closefd=False), "utf-8", "backslashreplace", write_through=True)
        self.bar_columns = bar_columns  # which `progress_bars.bar` asks for
        self._begun: dict[int, str] = {}  # thread -> its line so far
        self._renew_lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew_lock)

    def write(self, text: str) -> int:
        thread = threading.get_ident()
        lines, newline, rest = (self._begun.pop(thread, "") + text).rpartition("\n")
        if rest:
            self._begun[thread] = rest
        if newline:
            self._emit(lines + newline)
        return len(text)

    def flush(self) -> None:
        """Hand on the line that this thread has begun; other threads keep theirs."""
        self._emit(self._begun.pop(threading.get_ident(), ""))

    def flush_all(self) -> None:
        while self._begun:
            self._emit(self._begun.popitem()[1])

    def _emit(self, text: str) -> None:
        if text:
            with self._lock:
                super().write(text)

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()


def _prepare(job: Job) -> None:
    """Make this process look like the notebook's own: environment, folder, import path, texts of the cells."""
    os.environ.clear()
    os.environ.update(job.environ)
    os.environ.update(
        {
            IN_RANK: "1",
            "RANK": str(job.rank),
            "LOCAL_RANK": str(job.rank),
            "WORLD_SIZE": str(job.world_size),
            "LOCAL_WORLD_SIZE": str(job.world_size),
            "GROUP_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(job.port),
            "USE_LIBUV": "0" if sys.platform == "win32" else "1",
        }
    )
    if sys.platform in ("linux", "darwin"):  # all ranks are here: odd host names and firewalls play no part
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
    os.chdir(job.folder)
    sys.path[:] = job.path
    importlib.invalidate_caches()  # a module may have been written since the server looked
    sys.argv[:] = job.argv
    for name, text in job.sources.items():
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    _prepare_loader_workers()
    torch.seed()  # forked ranks would all have the server's state; two fresh processes draw different numbers
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    dist.set_debug_level_from_env()  # torch read the environment when the server imported it


def _prepare_loader_workers() -> None:
    """Let a DataLoader's workers know the notebook's classes, and start fast where that is possible."""
    standard = multiprocessing.get_all_start_methods()[0]
    if sys.platform == "linux" and multiprocessing.get_start_method(allow_none=True) in (None, standard):
        # This rank was forked from a clean process, so its workers may be, too. Python 3.14 has no such standard.
        multiprocessing.set_start_method("fork", force=True)
    loader_workers.prepare(start_server=False)  # few ranks have workers


def _watch(connection: Connection, released: threading.Event) -> None:
    """Wait for the notebook's word that all ranks have finished. If the notebook is gone, so are we."""
    try:
        connection.recv_bytes()
        released.set()
    except (EOFError, OSError):
        if hasattr(os, "killpg"):
            os.killpg(0, signal.SIGKILL)  # takes the DataLoader workers along
        os._exit(1)
