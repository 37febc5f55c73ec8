"""Start ranks (랭크) from a notebook cell: `run_ranks(train, data)` runs `train(data)` in several processes at once.

Each rank is a process of its own and has joined a `torch.distributed` process group, as under `torchrun`: NCCL when every
rank has a GPU of its own, else gloo on the CPU with one thread a rank. The function may be defined in a cell.

How it works. Importing `torchcourse.parallel` starts a small server process which imports PyTorch in the background
(`_server.py`). A call asks it to fork the ranks (`_start.py`), sends each the pickled function (`_pickling.py`), and the rank
runs it (`_worker.py`). Meanwhile the notebook prints what the ranks print and waits for their results (`_report.py`).
"""

import contextlib
import linecache
import os
import pickle
import selectors
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import cloudpickle
import torch
import torch.distributed as dist

from torchcourse.parallel import _pickling, _report, _start
from torchcourse.parallel._server import NUMBER
from torchcourse.parallel._start import RankProcess
from torchcourse.parallel._worker import Failure, Job


class RankError(RuntimeError):
    """A rank failed. Of several failures this is the root cause, not the "connection closed" that it caused elsewhere.

    Attributes: `rank`, `kind` (name of the exception's class), `message` (its text), `traceback` (of that rank, with the
    source lines of the cell).
    """

    def __init__(self, rank: int, kind: str, message: str, traceback: str = "") -> None:
        super().__init__(rank, kind, message, traceback)
        self.rank, self.kind, self.message, self.traceback = rank, kind, message, traceback

    def __str__(self) -> str:
        text = f"rank {self.rank} failed with {self.kind}: {self.message}"
        return f"{text}\n\n{self.traceback}" if self.traceback else text


class RankTimeout(RankError, TimeoutError):
    """Ranks were still running at the time limit; `traceback` shows where each of them was."""

    def __str__(self) -> str:
        return f"{self.message}\n\n{self.traceback}"


def run_ranks(
    fn: Callable[..., Any],
    *args: Any,
    world_size: int | None = None,
    timeout: float | None = 60,
    env: dict[str, str] | None = None,
) -> list[Any]:
    """Call `fn(*args)` in `world_size` processes at once and return their results in rank order."""
    world_size = default_world_size() if world_size is None else world_size
    payload = _pickling.dumps((fn, args))
    store = _store()
    job = Job(
        rank=0,
        world_size=world_size,
        port=store.port,
        environ={**os.environ, **(env or {})},
        folder=os.getcwd(),
        path=list(sys.path),
        argv=list(sys.argv),
        sources={name: "".join(entry[2]) for name, entry in linecache.cache.items() if not os.path.exists(name)},
    )
    call = _Call(_start.start(world_size, _start.start_method()))
    try:
        call.send(job, payload)
        call.supervise(timeout)
        return call.results_in_order()
    except KeyboardInterrupt:
        call.show_stacks()
        raise
    finally:
        call.close()


def device() -> torch.device:
    """The device to compute on: in a rank that rank's own, elsewhere the GPU if there is one, else the CPU."""
    if dist.is_available() and dist.is_initialized() and "nccl" not in str(dist.get_backend_config()):
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def default_world_size() -> int:
    """As many ranks as GPUs when there are two or more, else two on the CPU."""
    gpus = torch.cuda.device_count()
    return gpus if gpus >= 2 else 2


def _store() -> dist.TCPStore:
    """The ranks' meeting point, on a free port of this machine."""
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


# Texts of errors that a rank gets because another rank is gone.
_VICTIM = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "connectFullMesh failed")
_SETTLE = 0.2  # seconds in which other ranks may still report, after a failure
_SETTLE_VICTIM = 2.0  # the same, when only victims have reported
_STACK_WAIT = 0.5  # seconds for the ranks to write their stacks


@dataclass
class _Call:
    """One call of `run_ranks`: the processes, and what is known of each."""

    ranks: list[RankProcess]
    results: dict[int, bytes] = field(default_factory=dict)
    failures: dict[int, Failure] = field(default_factory=dict)
    exited: dict[int, int] = field(default_factory=dict)
    stacks: dict[int, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.printer = _report.LinePrinter()
        self.selector = selectors.DefaultSelector()
        for process in self.ranks:
            for channel, handle in (
                (process.output, self._on_output),
                (process.connection, self._on_message),
                (process.stacks, self._on_stack),
                (process.status, self._on_exit),
            ):
                self.selector.register(channel, selectors.EVENT_READ, (handle, process))

    def send(self, job: Job, payload: bytes) -> None:
        for process in self.ranks:
            job.rank = process.rank
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its exit says why
                process.connection.send_bytes(pickle.dumps(job))
                process.connection.send_bytes(payload)

    def supervise(self, timeout: float | None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        settled = None
        while len(self.results) + len(self.failures) < len(self.ranks):
            if self.failures:
                wait = _SETTLE if self._root_causes() else _SETTLE_VICTIM
                settled = min(f.time for f in self.failures.values()) + wait
            limit = min((t for t in (deadline, settled) if t is not None), default=None)
            left = None if limit is None else limit - time.monotonic()
            if left is not None and left <= 0:
                break
            self._handle_events(left)
        if self.failures:
            self._kill()
            raise self._error()
        if len(self.results) < len(self.ranks):
            stuck = [p.rank for p in self.ranks if p.rank not in self.results]
            stacks = self._where()
            self._kill()
            raise RankTimeout(stuck[0], "TimeoutError", f"ranks {stuck} still running after {timeout:g} s", stacks)
        self._release()

    def results_in_order(self) -> list[Any]:
        return [cloudpickle.loads(self.results[process.rank]) for process in self.ranks]

    def show_stacks(self) -> None:
        print(self._where())

    def close(self) -> None:
        self._kill()
        self.selector.close()
        for process in self.ranks:
            process.close()

    def _release(self) -> None:
        for process in self.ranks:
            with contextlib.suppress(OSError):
                process.connection.send_bytes(b"")
        limit = time.monotonic() + 5
        while len(self.exited) < len(self.ranks) and time.monotonic() < limit:
            self._handle_events(limit - time.monotonic())

    def _kill(self) -> None:
        for process in self.ranks:
            if process.rank not in self.exited:
                process.kill()
        limit = time.monotonic() + 2
        while len(self.exited) < len(self.ranks) and time.monotonic() < limit:
            self._handle_events(limit - time.monotonic())
        for process in self.ranks:
            self.printer.end(process.rank)

    def _handle_events(self, timeout: float | None) -> None:
        for key, _ in self.selector.select(timeout):
            handle, process = key.data
            if not handle(process):
                self.selector.unregister(key.fileobj)

    def _on_output(self, process: RankProcess) -> bool:
        data = process.output.read(65536)
        if data:
            self.printer.write(process.rank, data)
        return data != b""

    def _on_stack(self, process: RankProcess) -> bool:
        data = process.stacks.read(65536)
        if data:
            self.stacks[process.rank] = self.stacks.get(process.rank, b"") + data
        return data != b""

    def _on_message(self, process: RankProcess) -> bool:
        try:
            message = process.connection.recv_bytes()
        except (EOFError, OSError):
            return False
        message = pickle.loads(message)
        if isinstance(message, Failure):
            self.failures[process.rank] = message
        else:
            self.results[process.rank] = message
        return True

    def _on_exit(self, process: RankProcess) -> bool:
        data = process.status.read(NUMBER.size)
        code = NUMBER.unpack(data)[0] if data else None
        while process.connection.poll() and self._on_message(process):
            pass
        while self._on_output(process) and process.output in ():
            pass
        self.exited[process.rank] = code
        if process.rank not in self.results and process.rank not in self.failures:
            self.failures[process.rank] = Failure(
                "ProcessDied", f"the process ended with exit code {code}", "", time.monotonic()
            )
        return False

    def _root_causes(self) -> dict[int, Failure]:
        return {r: f for r, f in self.failures.items() if not any(text in f.message for text in _VICTIM)}

    def _error(self) -> RankError:
        causes = self._root_causes() or self.failures
        rank = min(causes, key=lambda r: causes[r].time)
        failure = causes[rank]
        return RankError(rank, failure.kind, failure.message, failure.traceback)

    def _where(self) -> str:
        import signal

        for process in self.ranks:
            if process.rank not in self.exited:
                os.kill(process.pid, signal.SIGUSR1)
        limit = time.monotonic() + _STACK_WAIT
        while time.monotonic() < limit:
            self._handle_events(limit - time.monotonic())
        return "\n".join(f"rank {r}: {s.decode()}" for r, s in self.stacks.items())
