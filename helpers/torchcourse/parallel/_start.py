"""Starting the processes of the ranks: forked by the rank server, or spawned where forking is not possible (Windows)."""

import atexit
import contextlib
import io
import json
import multiprocessing
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, Listener
from pathlib import Path

import psutil

from torchcourse.parallel._server import NUMBER, READY

# Set in the rank server and in every rank: there, importing the package must not start another server.
IN_RANK = "TORCHCOURSE_IN_RANK"
_START_LIMIT = 300.0  # seconds; importing PyTorch takes 2 to 10, and on a crowded machine many times that


@dataclass
class RankProcess:
    """One running rank, seen from the notebook. Its four channels can be given to `selectors`."""

    rank: int
    pid: int
    connection: Connection  # the job goes in, the result or the error comes out
    output: io.RawIOBase  # what the rank prints (stdout and stderr); like the next two it never blocks
    stacks: io.RawIOBase  # what faulthandler writes
    status: io.RawIOBase  # the exit code, once the process has ended

    def kill(self) -> None:
        """End the rank and whatever it has started, for example DataLoader workers."""
        with contextlib.suppress(ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            if hasattr(os, "killpg"):
                os.killpg(self.pid, signal.SIGKILL)
            else:
                family = psutil.Process(self.pid)
                for process in [*family.children(recursive=True), family]:
                    process.kill()

    def close(self) -> None:
        for channel in (self.connection, self.output, self.stacks, self.status):
            channel.close()


def start_method() -> str:
    """How ranks start on this machine: "forkserver", or "spawn" on Windows, which cannot fork."""
    return "spawn" if sys.platform == "win32" else "forkserver"


def start(world_size: int, method: str) -> list[RankProcess]:
    """Start processes that wait for their job; all or none.

    Raises:
        OSError: the system has no room for so many processes or files.
        RuntimeError: the rank server did not start.
    """
    ranks: list[RankProcess] = []
    start_one = _spawn if method == "spawn" else _server().fork
    try:
        for rank in range(world_size):
            ranks.append(start_one(rank))
    except BaseException:
        for process in ranks:
            process.kill()
            process.close()
        raise
    return ranks


def warm_up() -> None:
    """Start the rank server in the background, if this process is one that may start ranks. Never waits, never raises."""
    if start_method() == "forkserver" and IN_RANK not in os.environ and multiprocessing.parent_process() is None:
        with contextlib.suppress(OSError):
            _server(wait=False)


class _Server:
    """The notebook's end of the rank server."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._ready = False
        self._lock = threading.Lock()  # two threads may start ranks
        self._control, theirs = socket.socketpair()
        script = Path(__file__).with_name("_server.py")
        with theirs:
            self._process = subprocess.Popen(
                # -P: the folder of the script holds this package's modules, which must not become top-level names
                [sys.executable, "-P", str(script), str(theirs.fileno()), json.dumps(sys.path)],
                pass_fds=[theirs.fileno()],
                env={"OMP_NUM_THREADS": "1", **os.environ, IN_RANK: "1"},  # one thread a rank, as torchrun sets it
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C and the kernel's own signals are for the notebook only
            )
        atexit.register(self.stop)

    def alive(self) -> bool:
        return self.owner == os.getpid() and self._process.poll() is None

    def fork(self, rank: int) -> RankProcess:
        with self._lock:
            self._wait_until_ready()
            connection, their_connection = multiprocessing.Pipe()
            pipes = [os.pipe() for _ in range(3)]
            theirs = [their_connection.fileno(), *(write for _, write in pipes)]
            try:
                socket.send_fds(self._control, [b"F"], theirs)
            except OSError as error:
                raise RuntimeError(_SERVER_GONE) from error
            finally:
                their_connection.close()
                for _, write in pipes:
                    os.close(write)
        pid = os.read(pipes[2][0], NUMBER.size)
        for read, _ in pipes:
            os.set_blocking(read, False)
        channels = [open(read, "rb", buffering=0) for read, _ in pipes]
        if not pid:
            raise RuntimeError(_SERVER_GONE)
        return RankProcess(rank, NUMBER.unpack(pid)[0], connection, *channels)

    def stop(self) -> None:
        """Close the control socket, which ends the server. In a forked copy of the notebook this does nothing."""
        if self.owner == os.getpid():
            self._control.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=2)

    def _wait_until_ready(self) -> None:
        if self._ready:
            return
        readable, _, _ = select.select([self._control], [], [], _START_LIMIT)
        if not readable:
            self._process.kill()
            raise RuntimeError(f"The ranks' starter process did not import PyTorch within {_START_LIMIT:.0f} s.")
        if self._control.recv(1) != READY:
            raise RuntimeError(_SERVER_GONE)
        self._ready = True


_SERVER_GONE = "The process that starts the ranks ended unexpectedly. Run the cell again: it starts a new one."
_current: _Server | None = None
_current_lock = threading.Lock()


def _server(wait: bool = True) -> _Server:
    global _current
    with _current_lock:
        if _current is None or not _current.alive():
            _current = _Server()
        return _current


def _spawn(rank: int) -> RankProcess:
    """Start a fresh interpreter. Everything here also exists on Windows: sockets can be waited for, pipes there cannot."""
    key = os.urandom(32)
    with Listener(("127.0.0.1", 0), authkey=key) as listener:
        process = subprocess.Popen(
            [sys.executable, "-m", "torchcourse.parallel._worker"],
            env={
                "OMP_NUM_THREADS": "1",
                **os.environ,
                IN_RANK: "1",
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,  # becomes the stacks channel
            start_new_session=True,
        )
        with process.stdin as stdin:
            stdin.write(pickle.dumps((listener.address, key)))
        connection = listener.accept()
    output = _pump(lambda: process.stdout.read1(65536))
    stacks = _pump(lambda: process.stderr.read1(65536))
    status = _pump(lambda: NUMBER.pack(process.wait()), once=True)
    return RankProcess(rank, process.pid, connection, output, stacks, status)


def _pump(read: Callable[[], bytes], once: bool = False) -> io.RawIOBase:
    """Copy what `read` returns into a socket until it returns nothing, in a thread."""
    ours, theirs = socket.socketpair()

    def copy() -> None:
        with theirs, contextlib.suppress(OSError):
            while data := read():
                theirs.sendall(data)
                if once:
                    break

    threading.Thread(target=copy, daemon=True).start()
    with ours:
        ours.setblocking(False)
        return ours.makefile("rb", buffering=0)
