"""What the notebook does while its ranks work: print what they print, collect what they return, find out who failed.

A `Supervisor` belongs to one call of `run_ranks`. It reads the four channels of each rank as they fill, and ends all
ranks when one has failed or the time is over.
"""

import contextlib
import math
import pickle
import selectors
import signal
import textwrap
import time
from collections.abc import Callable
from typing import Any, NoReturn

import cloudpickle

from torchcourse.ranks import report
from torchcourse.ranks.errors import RankError, RankTimeout, is_victim
from torchcourse.ranks.server import NUMBER
from torchcourse.ranks.start import RankProcess
from torchcourse.ranks.worker import Failure, Job, Started

_START = 120.0  # seconds for all ranks to join each other: a busy machine may need many
_SETTLE = 1.0  # seconds for the other ranks to report too, after a failure
_SETTLE_VICTIM = 4.0  # the same while only victims have reported
_STACKS = 5.0  # seconds for the ranks to write their stacks
_TEARDOWN = 5.0  # seconds for finished ranks to flush and end


class Supervisor:
    """The processes of one call of `run_ranks`, and what is known of each."""

    def __init__(self, ranks: list[RankProcess], printer: report.LinePrinter) -> None:
        self.ranks = ranks
        self.pickles: dict[int, bytes] = {}  # rank -> its pickled result
        self.failures: dict[int, Failure] = {}
        self.started: set[int] = set()
        self.exited: set[int] = set()
        self.stacks: dict[int, bytes] = {rank.rank: b"" for rank in ranks}
        self.closed = False
        self.printer = printer
        self.selector = selectors.DefaultSelector()
        for rank in ranks:
            # In this order: what a rank has said counts before its end.
            self.selector.register(rank.output, selectors.EVENT_READ, (self._on_output, rank))
            self.selector.register(rank.stacks, selectors.EVENT_READ, (self._on_stacks, rank))
            self.selector.register(rank.connection, selectors.EVENT_READ, (self._on_message, rank))
            self.selector.register(rank.status, selectors.EVENT_READ, (self._on_exit, rank))

    def send(self, job: Job, payload: bytes) -> None:
        """Tell each rank its job, and then the pickled function."""
        for rank in self.ranks:
            job.rank = rank.rank
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has died, and its exit code says why
                rank.connection.send_bytes(pickle.dumps(job))
                rank.connection.send_bytes(payload)

    def results(self, timeout: float | None) -> list[Any]:
        """Wait for all ranks and return their results in rank order.

        Raises:
            RankError: a rank failed.
            RankTimeout: not all had finished after `timeout` seconds, or started after _START or more.
            TypeError: a result cannot be rebuilt here.
        """
        limit = math.inf if timeout is None else timeout
        if not self._wait(self._all_started, max(_START, limit)):
            raise self._not_started(max(_START, limit))
        if not self._wait(self._outcome_known, limit):
            raise self._not_finished(limit)
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
        self.printer.over()
        self.selector.close()

    def _wait(self, done: Callable[[], bool], seconds: float) -> bool:
        """Handle what the ranks send until `done()`, or until the time is over; say which it was."""
        limit = time.monotonic() + seconds
        while not done():
            left = limit - time.monotonic()
            if left <= 0:
                return False
            self._handle_events(min(left, 0.05 if self.failures else 1.0))
            self.printer.waiting("run_ranks is running")
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
        return {rank: failure for rank, failure in self.failures.items() if not is_victim(failure.message)}

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
                "Does every rank call the same collectives (집합 통신), with tensors of the same shape and type?"
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


_HINTS = {
    "SIGKILL": " Often the system does that when memory runs out.",
    "SIGABRT": " gloo does that when the ranks' calls do not match. Does every rank go through the same number of "
    "batches, and call the same collectives (집합 통신) with tensors of the same shape and type?",
}


def _end_of_process(code: int | None) -> str:
    if code is None:
        return "the process disappeared, together with the process that had started it."
    if code >= 0:
        return f"the process ended with exit code {code}, without an exception. Does something call os._exit()?"
    name, text = signal.Signals(-code).name, signal.strsignal(-code)
    return f"the process was ended by {name} ({text}).{_HINTS.get(name, '')}"


def _ranks(ranks: list[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, sorted(ranks)))}"
