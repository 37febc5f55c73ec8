"""Start ranks (랭크) from a notebook cell: `run_ranks(train, data)` calls `train(data)` in several processes at once.

Each rank is a process of its own that has joined a `torch.distributed` process group, as under `torchrun`. The function
may be defined in a cell.

How it works: asking `torchcourse.ranks` for `run_ranks` starts a small server process, which imports PyTorch in the
background (`server.py`). A call asks it to fork the ranks (`start.py`) and sends each the pickled function
(`pickling.py`); the rank joins the others (`group.py`), runs it and sends back what came out (`worker.py`). Meanwhile
the notebook prints what the ranks print, waits for them (`supervisor.py`) and, if something goes wrong, says where
(`report.py`, `errors.py`).
"""

import contextlib
import inspect
import linecache
import os
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from torchcourse.interrupts import stopped
from torchcourse.ranks import group, pickling, report, start
from torchcourse.ranks.environ import IN_RANK, under_torchrun
from torchcourse.ranks.errors import RankError, RankTimeout
from torchcourse.ranks.supervisor import Supervisor
from torchcourse.ranks.who import ON_CPU, default_world_size, gpus_for
from torchcourse.ranks.worker import Job, describe
from torchcourse.units import format_bytes, is_whole_number

__all__ = ["RankError", "RankTimeout", "free_memory", "free_port", "memory_of_a_rank", "run_ranks"]


def run_ranks(
    fn: Callable[..., Any],
    *args: Any,
    world_size: int | None = None,
    timeout: float | None = 60,
    env: dict[str, str] | None = None,
) -> list[Any]:
    """Call `fn(*args)` in `world_size` processes at once and return their results in rank order.

    Inside, `torch.distributed` is initialized: with NCCL if every rank has a GPU of its own, else with gloo on the CPU,
    one thread per rank and no GPU in sight. `device()` is the device to compute on. What ranks print appears live, as
    `[rank 0] …`.

    Each rank starts as a fresh Python does: modules are imported again, and random generators have different seeds on
    each rank and in each call; seed them in `fn` where that matters. A rank has your folder, environment and import
    path. `fn` and `args` are pickled, so it works on copies. Tensors travel as CPU copies without a graph, in both
    directions. When `fn` returns, whatever processes it has started end too.

    Under `torchrun` the same call runs in place: this process already is a rank, so it calls `fn(*args)` here and
    returns the results of all ranks. `timeout` means nothing there, and after an error torchrun ends the other ranks.

    Args:
        fn: the function, from a cell or from a module; closures too. For keyword arguments use `functools.partial`.
        *args: its arguments, the same for each rank.
        world_size: how many ranks; by default one per GPU if there are two or more GPUs, else two on the CPU.
        timeout: seconds until ranks that are still running are ended, from the moment when all have started; None waits
            forever.
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
    payload, modules = pickling.dumps_call(fn, args)
    _check_memory(world_size, len(payload))
    printer = report.LinePrinter()
    with tempfile.TemporaryDirectory(prefix="ranks-", ignore_cleanup_errors=True) as meeting_point:
        supervisor = Supervisor(_start(world_size, modules, printer), printer)
        try:
            supervisor.send(_job(world_size, meeting_point, env, printer.columns), payload)
            return supervisor.results(timeout)
        except KeyboardInterrupt:
            raise stopped(f"The ranks were stopped.\n{supervisor.where()}") from None
        finally:
            supervisor.close()


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


def free_port() -> int:
    """A port of this machine that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def memory_of_a_rank(world_size: int) -> int:
    """Bytes of main memory that each of so many ranks takes here, before any data of its own."""
    kind = "gpu" if gpus_for(world_size) else start.start_method()
    return _MEGABYTES_A_RANK[kind] * 2**20


_MEGABYTES_A_RANK = {"forkserver": 100, "spawn": 400, "gpu": 1000}  # of main memory, before your own data


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
    if not is_whole_number(world_size) or world_size < 1:
        raise ValueError(f"world_size is the number of ranks, a whole number from 1 up; it is {world_size!r}.")
    if under_torchrun() and world_size != started:
        raise ValueError(f"world_size is {world_size}, but torchrun started {started} ranks. Leave world_size out.")
    return int(world_size)


def _check_memory(world_size: int, payload: int) -> None:
    """Refuse more ranks than memory allows. Counts each rank's own memory and two copies of the arguments."""
    each, free = memory_of_a_rank(world_size) + 2 * payload, free_memory()
    if world_size * each > free:
        raise MemoryError(
            f"{world_size} ranks need about {format_bytes(world_size * each)} of memory ({format_bytes(each)} per "
            f"rank), and {format_bytes(free)} are free. There is room for {free // each}."
        )


def _start(world_size: int, modules: list[str], printer: report.LinePrinter) -> list[start.RankProcess]:
    try:
        return start.start_ranks(
            world_size, modules, lambda: printer.waiting("PyTorch is being imported for the ranks")
        )
    except OSError as error:
        raise RuntimeError(
            f"This machine has no room for {world_size} ranks ({error.strerror}). Ask for fewer."
        ) from None


def _job(world_size: int, meeting_point: str, env: dict[str, str] | None, columns: int | None) -> Job:
    """What every rank is told: to look like this process, where to meet the others, and whether a bar may move."""
    return Job(
        rank=0,
        world_size=world_size,
        store=os.path.join(meeting_point, "store"),
        port=free_port(),
        environ={**os.environ, **({} if gpus_for(world_size) else ON_CPU), **(env or {})},
        folder=_current_folder(),
        path=list(sys.path),
        argv=list(sys.argv),
        sources=_sources(),
        bar_columns=max(columns - len("[rank 0] "), 1) if columns else columns,
    )


def _current_folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        raise FileNotFoundError(
            "The current folder has been deleted, and the ranks would have to work in it. "
            "Go to one that there is, with os.chdir(...), and run this again."
        ) from None


def _sources() -> dict[str, str]:
    """The texts of notebook cells: what Python knows the source of, without a file."""
    entries = [entry for entry in linecache.cache.values() if len(entry) == 4]  # others are not read yet
    return {name: "".join(lines) for _, _, lines, name in entries if not os.path.exists(name)}
