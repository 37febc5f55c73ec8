"""Starting the processes of the ranks: forked by the rank server, or spawned where nothing can fork (Windows)."""

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
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import BinaryIO, Protocol, cast

import psutil

from torchcourse.ranks import server
from torchcourse.ranks.environ import IN_RANK, under_torchrun
from torchcourse.ranks.server import FORK, IMPORT, NUMBER, READY

_START_LIMIT = 300.0  # seconds; importing PyTorch takes 2 to 10, and on a crowded machine many times that
_SERVER_GONE = "The process that starts the ranks ended unexpectedly. Run this again: it starts a new one."


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
        if sys.platform == "win32":
            with contextlib.suppress(psutil.NoSuchProcess):
                rank = psutil.Process(self.pid)
                for process in [*rank.children(recursive=True), rank]:
                    process.kill()
            return
        for kill in (os.kill, os.killpg):  # a rank that has only just been forked leads no group yet
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(self.pid, signal.SIGKILL)

    def show_stack(self) -> bool:
        """Ask the rank to write where it is to its stacks channel; False where that is not possible (Windows)."""
        if not hasattr(signal, "SIGUSR1"):
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGUSR1)
        return True

    def close(self) -> None:
        for channel in (self.connection, self.output, self.stacks, self.status):
            channel.close()


def start_method() -> str:
    """How ranks start on this machine: "forkserver", or "spawn" on Windows, which cannot fork."""
    return "spawn" if sys.platform == "win32" else "forkserver"


def start_ranks(
    world_size: int, modules: Iterable[str] = (), meanwhile: Callable[[], object] = lambda: None
) -> list[RankProcess]:
    """Start processes that wait for their job; all or none.

    Args:
        world_size: how many.
        modules: of the course, which the ranks will need: the rank server imports them once, where there is one.
        meanwhile: called each second while the rank server is not ready yet.

    Raises:
        OSError: the system has no room for so many processes or open files.
        RuntimeError: the rank server did not start.
    """
    ranks: list[RankProcess] = []
    try:
        spawned = start_method() == "spawn"
        for process in _spawn(world_size) if spawned else _server().fork(world_size, modules, meanwhile):
            ranks.append(process)
    except BaseException:
        for process in ranks:
            process.kill()
            process.close()
        raise
    return ranks


def warm_up() -> None:
    """Start the rank server in the background, if this process is one that may start ranks. Never waits or raises."""
    is_rank = IN_RANK in os.environ or under_torchrun()
    if start_method() == "forkserver" and not is_rank and multiprocessing.parent_process() is None:
        with contextlib.suppress(OSError):
            _server()


def fork_server() -> None:
    """Fork the rank server from this process, which has imported PyTorch, has one thread and computed no tensor."""
    global _current
    with _current_lock:
        _current = _Server(_forked_server)


class _Process(Protocol):
    """What is needed of the rank server's process."""

    def poll(self) -> int | None: ...
    def kill(self) -> None: ...
    def terminate(self) -> None: ...
    def wait(self, timeout: float | None = None) -> int: ...


class _Server:
    """The notebook's end of the rank server.

    Args:
        begin: starts the process, which gets this end of the control socket.
    """

    def __init__(self, begin: Callable[[socket.socket], _Process]) -> None:
        self.owner = os.getpid()
        self._ready = False
        self._imported: set[str] = set()  # modules of the course
        self._lock = threading.Lock()  # two threads may start ranks
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = begin(theirs)
        atexit.register(self.stop)

    def alive(self) -> bool:
        return self.owner == os.getpid() and self._process.poll() is None

    def fork(self, world_size: int, modules: Iterable[str], meanwhile: Callable[[], object]) -> Iterator[RankProcess]:
        with self._lock:
            self._wait_until_ready(meanwhile)
            self._ask_to_import(sorted({*modules} - self._imported))
            for rank in range(world_size):
                yield self._fork(rank)

    def stop(self) -> None:
        """End the server. In a forked copy of the notebook this does nothing."""
        if self.owner == os.getpid():
            self._control.close()
            self._process.terminate()  # it may still be importing, and not look at the socket
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=2)

    def _wait_until_ready(self, meanwhile: Callable[[], object]) -> None:
        if self._ready:
            return
        limit = time.monotonic() + _START_LIMIT
        while not select.select([self._control], [], [], 1.0)[0]:
            if time.monotonic() > limit:
                self._process.kill()
                raise RuntimeError(
                    f"The process that starts the ranks did not import PyTorch within {_START_LIMIT:.0f} s."
                )
            meanwhile()
        if self._control.recv(1) != READY:
            raise RuntimeError(_SERVER_GONE)
        self._ready = True

    def _ask_to_import(self, modules: list[str]) -> None:
        if modules:
            names = json.dumps(modules).encode()
            with _server_gone():
                self._control.sendall(IMPORT + NUMBER.pack(len(names)) + names)
            self._imported |= {*modules}

    def _fork(self, rank: int) -> RankProcess:
        with contextlib.ExitStack() as ours:
            connection, their_connection = multiprocessing.Pipe()
            ours.callback(connection.close)
            channels, theirs = [], [their_connection.fileno()]
            with their_connection, contextlib.ExitStack() as sent:
                for _ in ("output", "stacks", "status"):
                    read_fd, write_fd = os.pipe()
                    channels.append(ours.enter_context(io.FileIO(read_fd)))
                    sent.callback(os.close, write_fd)
                    theirs.append(write_fd)
                with _server_gone():
                    socket.send_fds(self._control, [FORK], theirs)
            answer = channels[-1].read(NUMBER.size)
            if len(answer) < NUMBER.size:
                raise RuntimeError(_SERVER_GONE)
            (pid,) = NUMBER.unpack(answer)
            if pid < 0:
                raise OSError(-pid, os.strerror(-pid))
            for channel in channels:
                os.set_blocking(channel.fileno(), False)
            ours.pop_all()
        return RankProcess(rank, pid, connection, *channels)


@contextlib.contextmanager
def _server_gone() -> Iterator[None]:
    """Say it of a request that nobody reads any more."""
    try:
        yield
    except (BrokenPipeError, ConnectionResetError) as error:
        raise RuntimeError(_SERVER_GONE) from error


_current: _Server | None = None
_current_lock = threading.Lock()


def _server() -> _Server:
    """The server of this process, a new one if there is none or it has died."""
    global _current
    with _current_lock:
        if _current is None or not _current.alive():
            _current = _Server(_started_server)
        return _current


def _started_server(control: socket.socket) -> subprocess.Popen:
    script = Path(__file__).with_name("server.py")
    return subprocess.Popen(
        # -P: the folder of the script holds this package's modules, which must not become top-level names
        [sys.executable, "-P", str(script), str(control.fileno()), json.dumps(_path())],
        pass_fds=[control.fileno()],
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C and the kernel's own signals are for the notebook only
    )


def _forked_server(control: socket.socket) -> "_Forked":
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.environ.update(_environment())
        server.main(os.dup(control.fileno()), _path())
    return _Forked(pid)


class _Forked:
    """A child of this process, with what is needed of a Popen."""

    def __init__(self, pid: int) -> None:
        self._process, self._ended = psutil.Process(pid), False

    def poll(self) -> int | None:
        self._ended = self._ended or os.waitpid(self._process.pid, os.WNOHANG)[0] != 0
        return 0 if self._ended else None

    def kill(self) -> None:
        self._process.kill()

    def terminate(self) -> None:
        self._process.terminate()

    def wait(self, timeout: float | None = None) -> int:
        self._process.wait(timeout)
        self._ended = True
        return 0


def _path() -> list[str]:
    return [entry for entry in sys.path if isinstance(entry, str)]  # Python ignores what else people put there


def _environment() -> dict[str, str]:
    return {
        "OMP_NUM_THREADS": "1",  # one thread per rank, as torchrun sets it
        "OBJC_DISABLE_INITIALIZE_FORK_SAFETY": "YES",  # macOS else ends a fork of a process that has loaded frameworks
        **os.environ,
        IN_RANK: "1",
    }


def _spawn(world_size: int) -> Iterator[RankProcess]:
    """Start fresh interpreters, by means that Windows has too: there, sockets can be waited for and pipes cannot."""
    key = os.urandom(32)
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as undo:
        processes = []
        for rank in range(world_size):
            process = subprocess.Popen(
                [sys.executable, "-c", "from torchcourse.ranks import worker; worker.spawned()"],
                env={**_environment(), "PYTHONPATH": os.pathsep.join(filter(None, _path()))},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,  # becomes the stacks channel
                start_new_session=True,
            )
            undo.callback(process.kill)
            processes.append(process)
            with cast(BinaryIO, process.stdin) as stdin:
                stdin.write(pickle.dumps((listener.getsockname(), key, rank)))
        connections = _accept(listener, processes, key)
        undo.pop_all()
    for rank, process in enumerate(processes):
        output = _pump(iter(partial(cast(io.BufferedReader, process.stdout).read1, 65536), b""))
        stacks = _pump(iter(partial(cast(io.BufferedReader, process.stderr).read1, 65536), b""))
        status = _pump(NUMBER.pack(ended.wait()) for ended in [process])
        yield RankProcess(rank, process.pid, connections[rank], output, stacks, status)


def _accept(listener: socket.socket, processes: list[subprocess.Popen], key: bytes) -> dict[int, Connection]:
    """Wait for all ranks to call back; each shows the key first, since anybody on this machine can connect."""
    connections: dict[int, Connection] = {}
    listener.settimeout(0.2)
    while len(connections) < len(processes):
        for rank, process in enumerate(processes):
            if rank not in connections and process.poll() is not None:
                said = cast(BinaryIO, process.stderr).read().decode(errors="replace").strip()
                raise RuntimeError(f"rank {rank} ended while it was starting (exit code {process.returncode}).\n{said}")
        with contextlib.suppress(TimeoutError):
            caller, _ = listener.accept()
            caller.setblocking(True)
            connection = Connection(caller.detach())
            if connection.recv_bytes(len(key)) == key:
                connections[pickle.loads(connection.recv_bytes())] = connection
    return connections


def _pump(chunks: Iterable[bytes]) -> io.RawIOBase:
    """Copy chunks into a socket as they come, in a thread, and close it after the last."""
    ours, theirs = socket.socketpair()

    def copy() -> None:
        with theirs, contextlib.suppress(OSError):
            for chunk in chunks:
                theirs.sendall(chunk)

    threading.Thread(target=copy, daemon=True).start()
    with ours:
        ours.setblocking(False)
        return ours.makefile("rb", buffering=0)
