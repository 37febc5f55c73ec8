"""Start ranks (랭크) from a notebook cell: `run_ranks(train, data)` calls `train(data)` in several processes at once.

Each rank is a process of its own that has joined a `torch.distributed` process group, as under `torchrun`. The function
may be defined in a cell.

How it works: asking `torchcourse.ranks` for `run_ranks` starts a small server process, which imports PyTorch in the
background (`server.py`). A call asks it to fork the ranks (`start.py`) and sends each the pickled function
(`pickling.py`); the rank joins the others (`group.py`), runs it and sends back what came out (`worker.py`). Meanwhile
the notebook prints what the ranks print and, if something goes wrong, says where (`report.py`)."""

import contextlib
import inspect
import linecache
import os
import pickle
import selectors
import signal
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import cloudpickle
import psutil
import torch
import torch.distributed as dist

from torchcourse.ranks import group, pickling, report, start
from torchcourse.ranks.environ import IN_RANK, under_torchrun
from torchcourse.ranks.server import NUMBER
from torchcourse.ranks.start import RankProcess
from torchcourse.ranks.who import default_world_size
from torchcourse.ranks.worker import Failure, Job, Started, describe


class RankError(RuntimeError):
    """A rank failed. If several did, this is the root cause, not the "connection closed" that it caused elsewhere.

    Attributes:
        rank: the rank that failed.
        kind: the name of the exception's class, "ProcessDied" for a process that ended without an exception, or
            "TimeoutError".
        message: the exception's text.
        traceback: that rank's traceback with the source lines of the cell, or its stack.
        note: what else is known, for example which other ranks failed.
    """

    def __init__(self, rank: int, kind: str, message: str, traceback: str = "", note: str = "") -> None:
        super().__init__(rank, kind, message, traceback, note)
        self.rank, self.kind, self.message, self.traceback, self.note = rank, kind, message, traceback, note

    def __str__(self) -> str:
        headline = f"rank {self.rank}: {self.message if self.kind == 'ProcessDied' else f'{self.kind}: {self.message}'}"
        traceback = self.traceback.removesuffix(f"{self.kind}: {self.message}".rstrip()).rstrip()  # the headline has it
        return "\n".join(part for part in (headline, self.note, traceback) if part)

    @property
    def left_alone(self) -> bool:
        """Whether the rank met no error of its own: the one that it waited for was gone, returned or failed."""
        return any(text in self.message for text in _VICTIM)

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: the rank's traceback without the launcher's own."""
        return f"{type(self).__name__}: {self}".splitlines()


class RankTimeout(RankError, TimeoutError):
    """Some ranks were still running at the time limit; `traceback` shows where each of them was."""

    def __str__(self) -> str:
        return "\n".join(part for part in (self.message, self.note, self.traceback) if part)


def run_ranks(
    fn: Callable[..., Any],
    *args: Any,
    world_size: int | None = None,
    timeout: float | None = 60,
    env: dict[str, str] | None = None,
) -> list[Any]:
    """Call `fn(*args)` in `world_size` processes at once and return their results in rank order.

    Inside, `torch.distributed` is initialised: with NCCL if every rank has a GPU of its own, else with gloo on the CPU
    and one thread a rank. `device()` is the device to compute on. What ranks print appears live, as `[rank 0] …`.

    Each rank starts as a fresh Python does: modules are imported anew, and each random generator has a seed of its own,
    another on each rank and in each call; seed them in `fn` where that matters. A rank has your folder, environment and
    import path. `fn` and `args` are pickled, so it works on copies. Tensors travel as CPU copies without a graph, in
    both directions. When `fn` returns, whatever processes it has started end too.

    Under `torchrun` the same call runs in place: this process already is a rank, so it calls `fn(*args)` here and
    returns the results of all ranks. `timeout` means nothing there, and after an error torchrun ends the other ranks.

    Args:
        fn: the function, from a cell or from a module; closures too. For keyword arguments use `functools.partial`.
        *args: its arguments, the same for each rank.
        world_size: how many ranks; by default one a GPU if there are two or more GPUs, else two on the CPU.
        timeout: seconds until ranks that are still running are ended, from the moment when all have started; None waits
            for ever.
        env: environment variables for the ranks, besides yours, for example `{"TORCH_DISTRIBUTED_DEBUG": "DETAIL"}`.

    Raises:
        RankError: a rank failed: an exception, an exit, a crash. All ranks have ended when it is raised.
        RankTimeout: the time is over. It is a RankError and a TimeoutError.
        TypeError, ValueError: `fn` or another argument will not do; nothing was started.
        MemoryError: there is no memory for so many ranks; nothing was started.
        KeyboardInterrupt: you interrupted; its text shows where each rank was. All ranks have ended.
    """
    _check_arguments(fn, args, timeout, env)
    world_size = _checked_world_size(world_size)
    if under_torchrun():
        return _run_in_place(fn, args, env)
    payload = pickling.dumps_call(fn, args)
    _check_memory(world_size, len(payload))
    libuv = sys.platform != "win32"  # which PyTorch for Windows is built without
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, use_libuv=libuv)
    job = Job(
        rank=0,
        world_size=world_size,
        port=store.port,
        environ={**os.environ, **(env or {})},
        folder=os.getcwd(),
        path=list(sys.path),
        argv=list(sys.argv),
        sources=_sources(),
    )
    try:
        ranks = start.start(world_size)
    except OSError as error:
        raise RuntimeError(
            f"This machine has no room for {world_size} ranks ({error.strerror}). Ask for fewer."
        ) from None
    call = _Call(ranks)
    try:
        call.send(job, payload)
        return call.results(timeout)
    except KeyboardInterrupt:
        raise _interrupted(call.where()) from None
    finally:
        call.close()


def free_memory() -> int:
    """Bytes that this process may still use: of the machine, or of the container that it is in."""
    free = psutil.virtual_memory().available
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit ("max")
            free = min(free, int(Path(limit).read_text()) - int(Path(used).read_text()))
    return free


def memory_of_a_rank(world_size: int) -> int:
    """Bytes of main memory that each of so many ranks takes here, before any data of its own."""
    kind = "gpu" if torch.cuda.device_count() >= world_size else start.start_method()
    return _MEGABYTES_A_RANK[kind] * 2**20


# Texts of the errors that a rank meets because another rank is gone.
_VICTIM = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "connectFullMesh failed")
_START = 120.0  # seconds for all ranks to join each other: a busy machine may need many
_SETTLE = 1.0  # seconds for the other ranks to report too, after a failure
_SETTLE_VICTIM = 4.0  # the same while only victims have reported
_STACKS = 5.0  # seconds for the ranks to write their stacks
_TEARDOWN = 5.0  # seconds for finished ranks to flush and end
_MEGABYTES_A_RANK = {"forkserver": 100, "spawn": 400, "gpu": 1000}  # of main memory, before your own data


class _Call:
    """One call of `run_ranks`: its processes, and what is known of each."""

    def __init__(self, ranks: list[RankProcess]) -> None:
        self.ranks = ranks
        self.pickles: dict[int, bytes] = {}  # rank -> its pickled result
        self.failures: dict[int, Failure] = {}
        self.started: set[int] = set()
        self.exited: set[int] = set()
        self.stacks: dict[int, bytes] = {rank.rank: b"" for rank in ranks}
        self.closed = False
        self.printer = report.LinePrinter()
        self.selector = selectors.DefaultSelector()
        for rank in ranks:
            # In this order: what a rank has said counts before its end.
            self.selector.register(rank.output, selectors.EVENT_READ, (self._on_output, rank))
            self.selector.register(rank.stacks, selectors.EVENT_READ, (self._on_stacks, rank))
            self.selector.register(rank.connection, selectors.EVENT_READ, (self._on_message, rank))
            self.selector.register(rank.status, selectors.EVENT_READ, (self._on_exit, rank))

    def send(self, job: Job, payload: bytes) -> None:
        for rank in self.ranks:
            job.rank = rank.rank
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has died, and its exit code says why
                rank.connection.send_bytes(pickle.dumps(job))
                rank.connection.send_bytes(payload)

    def results(self, timeout: float | None) -> list[Any]:
        """Wait for all ranks. Raises RankError and RankTimeout."""
        if not self._wait(self._all_started, None if timeout is None else max(_START, timeout)):
            raise self._not_started(max(_START, timeout))
        if not self._wait(self._outcome_known, timeout):
            raise self._not_finished(timeout)
        if self.failures:
            self._raise_failure()
        for rank in self.ranks:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                rank.connection.send_bytes(b"everybody has finished")
        self._wait(self._all_ended, _TEARDOWN)
        return [self._unpickle(rank.rank) for rank in self.ranks]

    def where(self) -> str:
        """Where each rank is, in the learner's source."""
        running = [rank for rank in self.ranks if rank.rank not in self.exited and rank.rank not in self.pickles]
        if all(rank.show_stack() for rank in running):
            # A dump is written in pieces: it is complete when nothing more has come for a moment.
            self._wait(lambda: all(self.stacks[rank.rank] for rank in running), _STACKS)
            self._wait(lambda: False, 0.05)
        texts = []
        for rank in self.ranks:
            if rank.rank in self.pickles:
                texts.append(f"rank {rank.rank} had already returned.")
            elif stack := report.stack_of(self.stacks[rank.rank]):
                texts.append(f"rank {rank.rank} was here:\n{stack}")
            else:
                texts.append(f"rank {rank.rank} did not say where it was.")
        return "\n".join(texts)

    def close(self) -> None:
        """End what still runs, and print what it had to say. May be called twice."""
        if self.closed:
            return
        self.closed = True
        for rank in self.ranks:
            if rank.rank not in self.exited:
                rank.kill()
        self._wait(self._all_ended, 2)
        self._wait(self._output_complete, 0.3)  # longer only if a process that a rank has detached still holds it
        for rank in self.ranks:
            self.printer.write(rank.rank, b"", final=True)
            rank.close()
        self.selector.close()

    def _wait(self, done: Callable[[], bool], seconds: float | None) -> bool:
        """Handle what the ranks send until `done()`, or until the time is over."""
        limit = float("inf") if seconds is None else time.monotonic() + seconds
        while not done():
            left = limit - time.monotonic()
            if left <= 0:
                return False
            self._handle_events(min(left, 0.05 if self.failures else 60))
        return True

    def _handle_events(self, timeout: float) -> None:
        if not self.selector.get_map():
            time.sleep(min(timeout, 0.05))
            return
        for key, _ in self.selector.select(timeout):
            handle, rank = key.data
            if not handle(rank):
                self.selector.unregister(key.fileobj)

    def _on_output(self, rank: RankProcess) -> bool:
        data = rank.output.read(65536)
        if data:
            self.printer.write(rank.rank, data)
        return data != b""

    def _on_stacks(self, rank: RankProcess) -> bool:
        data = rank.stacks.read(65536)
        self.stacks[rank.rank] += data or b""
        return data != b""

    def _on_message(self, rank: RankProcess) -> bool:
        try:
            message = pickle.loads(rank.connection.recv_bytes())
        except (EOFError, OSError):
            return False
        if isinstance(message, Started):
            self.started.add(rank.rank)
        else:
            (self.failures if isinstance(message, Failure) else self.pickles)[rank.rank] = message
        return True

    def _on_exit(self, rank: RankProcess) -> bool:
        data = rank.status.read(NUMBER.size)
        with contextlib.suppress(OSError):
            while rank.connection.poll() and self._on_message(rank):
                pass
        if not data:  # the rank server is gone, and so nobody knows
            rank.kill()
        self.exited.add(rank.rank)
        if rank.rank not in self.pickles and rank.rank not in self.failures:
            message = _end_of_process(NUMBER.unpack(data)[0] if data else None)
            self.failures[rank.rank] = Failure("ProcessDied", message, "", time.monotonic())
        return False

    def _all_started(self) -> bool:
        return len(self.started) == len(self.ranks) or self._outcome_known()

    def _outcome_known(self) -> bool:
        if len(self.pickles) + len(self.failures) == len(self.ranks):
            return True
        if not self.failures:
            return False
        first = min(failure.time for failure in self.failures.values())
        return time.monotonic() > first + (_SETTLE if self._root_causes() else _SETTLE_VICTIM)

    def _all_ended(self) -> bool:
        return len(self.exited) == len(self.ranks)

    def _output_complete(self) -> bool:
        open_channels = self.selector.get_map().values()
        return not any(key.data[0] in (self._on_output, self._on_stacks) for key in open_channels)

    def _root_causes(self) -> dict[int, Failure]:
        return {
            rank: failure
            for rank, failure in self.failures.items()
            if not any(text in failure.message for text in _VICTIM)
        }

    def _raise_failure(self) -> NoReturn:
        self.close()
        causes = self._root_causes() or self.failures
        first = min(causes, key=lambda rank: causes[rank].time)
        failure = causes.pop(first)
        stack = report.name_cells(failure.traceback) or report.stack_of(self.stacks[first])
        raise RankError(first, failure.kind, failure.message, stack, self._note(failure, causes))

    def _note(self, failure: Failure, others: dict[int, Failure]) -> str:
        notes = []
        returned = sorted(self.pickles)
        if not self._root_causes() and returned:
            notes.append(
                f"It was waiting for a rank that takes part no more: {_ranks(returned)} had already returned. "
                "Does every rank call the same collectives (집합 통신), with tensors of the same shape?"
            )
        alike = [
            rank for rank, other in others.items() if (other.kind, other.message) == (failure.kind, failure.message)
        ]
        if alike:
            notes.append(f"({_ranks(alike)} failed in the same way.)")
        for rank in sorted(others.keys() - alike):
            notes.append(
                f"(rank {rank} failed too: {others[rank].kind}: {textwrap.shorten(others[rank].message, 200)})"
            )
        return "\n".join(notes)

    def _not_started(self, seconds: float) -> RankTimeout:
        missing = [rank.rank for rank in self.ranks if rank.rank not in self.started]
        message = f"{_ranks(missing)} had not started after {seconds:g} s."
        note = "Is the machine very busy, or does an argument take that long to be rebuilt in a rank?"
        return RankTimeout(missing[0], "TimeoutError", message, self.where(), note)

    def _not_finished(self, seconds: float) -> RankTimeout:
        running = [rank.rank for rank in self.ranks if rank.rank not in self.pickles]
        message = f"{_ranks(running)} had not finished after {seconds:g} s (timeout={seconds:g})."
        note = (
            "If they wait for each other: does every rank call the same collectives (집합 통신) in the same order? "
            "If they only need longer: give run_ranks a larger timeout."
        )
        return RankTimeout(running[0], "TimeoutError", message, self.where(), note)

    def _unpickle(self, rank: int) -> Any:
        try:
            return cloudpickle.loads(self.pickles[rank])
        except Exception as error:
            raise TypeError(
                f"The result of rank {rank} cannot be rebuilt in the notebook ({type(error).__name__}: {error}). "
                "Return tensors, numbers, text, or lists and dictionaries of them."
            ) from error


def _run_in_place(fn: Callable[..., Any], args: tuple[Any, ...], env: dict[str, str] | None) -> list[Any]:
    os.environ.update(env or {})
    try:
        return group.run_in_place(fn, args)
    except Exception as error:
        failure = describe(error)
        raise RankError(int(os.environ["RANK"]), failure.kind, failure.message, failure.traceback) from error


def _check_arguments(
    fn: Callable[..., Any], args: tuple[Any, ...], timeout: float | None, env: dict[str, str] | None
) -> None:
    if IN_RANK in os.environ:
        raise RuntimeError(
            "run_ranks was called inside a rank. Call the function directly: the ranks are already running."
        )
    if not callable(fn):
        raise TypeError(
            f"run_ranks needs a function, and got an object of type {type(fn).__name__}. "
            "Write run_ranks(train), not run_ranks(train())."
        )
    with contextlib.suppress(ValueError):  # some built-in functions have no signature to look at
        try:
            inspect.signature(fn).bind(*args)
        except TypeError as error:
            raise TypeError(
                f"{getattr(fn, '__name__', 'The function')}() cannot be called with these arguments: {error}. "
                "What follows the function is passed to it; the number of ranks is world_size=…."
            ) from None
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0):
        raise ValueError(f"timeout is the number of seconds to wait, more than 0, or None; it is {timeout!r}.")
    if not all(isinstance(text, str) for item in (env or {}).items() for text in item):
        raise TypeError(f"env maps names to texts, for example {{'TORCH_DISTRIBUTED_DEBUG': 'DETAIL'}}; it is {env!r}.")


def _checked_world_size(world_size: int | None) -> int:
    started = default_world_size()
    if world_size is None:
        return started
    if isinstance(world_size, bool) or not isinstance(world_size, int) or world_size < 1:
        raise ValueError(f"world_size is the number of ranks, a whole number from 1 up; it is {world_size!r}.")
    if under_torchrun() and world_size != started:
        raise ValueError(f"world_size is {world_size}, but torchrun started {started} ranks. Leave world_size out.")
    return world_size


def _check_memory(world_size: int, payload: int) -> None:
    """Refuse more ranks than memory allows. Counts each rank's own memory and two copies of the arguments."""
    megabytes = (memory_of_a_rank(world_size) + 2 * payload) // 2**20
    free = free_memory() // 2**20
    if world_size * megabytes > free:
        raise MemoryError(
            f"{world_size} ranks need about {world_size * megabytes:,} MB of memory ({megabytes:,} MB a rank), "
            f"and {free:,} MB are free. There is room for {free // megabytes}."
        )


def _sources() -> dict[str, str]:
    """The texts of notebook cells: what Python knows the source of, without a file."""
    entries = [entry for entry in linecache.cache.values() if len(entry) == 4]  # others are not read yet
    return {name: "".join(lines) for _, _, lines, name in entries if not os.path.exists(name)}


def _end_of_process(code: int | None) -> str:
    if code is None:
        return "the process disappeared, together with the process that had started it."
    if code >= 0:
        return f"the process ended with exit code {code}, without an exception. Does something call os._exit()?"
    name, text = signal.Signals(-code).name, signal.strsignal(-code)
    hint = " Often the system does that when memory runs out." if name == "SIGKILL" else ""
    return f"the process was ended by {name} ({text}).{hint}"


def _ranks(ranks: list[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, sorted(ranks)))}"


def _interrupted(where: str) -> KeyboardInterrupt:
    error = KeyboardInterrupt(f"The ranks were stopped.\n{where}")
    shown = f"KeyboardInterrupt: {error}".splitlines()
    error._render_traceback_ = lambda: shown  # for IPython: without the launcher's own frames
    return error
