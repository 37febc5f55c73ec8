"""A limit of time for what a learner wrote: it is named beforehand, ends an endless loop, and leaves the kernel usable.

    with time_limit(60):
        learner()             # raises TimeIsUp after 60 s

After `NOTICE` seconds the learner reads when the check will end. A thread of its own watches the clock. In the main
thread of Linux and macOS it sends a signal, which also ends a sleep or a wait for a lock; elsewhere it asks Python to
raise the error at the next line. Neither can end a single call into C code that never comes back to Python.
"""

import contextlib
import ctypes
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

NOTICE = 1.5
"""Seconds until the learner is told when the check ends."""

_TICK = 0.1  # seconds between two looks at the clock
_AGAIN = 0.5  # seconds until it is tried again, where the learner's code caught the error


class TimeIsUp(BaseException):
    """The time is over. No `except Exception` of the learner's code catches it."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"still running after {seconds:g} s")
        self.seconds = seconds


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `TimeIsUp` in this thread when what stands inside runs longer. An outer limit does not count meanwhile."""
    thread = threading.get_ident()
    limit = _Limit(seconds, thread, by_signal=_signals_work())
    with _outer_paused(thread), limit.handler():
        _limits.setdefault(thread, []).append(limit)
        watcher = threading.Thread(target=limit.watch, daemon=True)
        watcher.start()
        loaded = set(sys.modules)
        try:
            yield
        except TimeIsUp:
            _forget_half_imports(loaded)
            raise
        finally:
            limit.end()
            _limits[thread].remove(limit)


@contextlib.contextmanager
def announced(seconds: float) -> Iterator[None]:
    """Say that this part ends after so many seconds; what stands inside keeps the limit itself."""
    with _outer_paused(threading.get_ident()):
        notice = threading.Timer(NOTICE, _announce, (seconds,))
        notice.daemon = True
        notice.start()
        try:
            yield
        finally:
            notice.cancel()


def _forget_half_imports(loaded: set[str]) -> None:
    """Let an import that was cut off begin again: Python forgets the package, but not the parts that it had by then."""
    for name in sorted(sys.modules.keys() - loaded):
        package = name.rpartition(".")[0]
        if package and package not in sys.modules:
            del sys.modules[name]


_limits: dict[int, list["_Limit"]] = {}  # thread → its limits, the innermost last


class _Limit:
    """One limit, with the thread that it holds for."""

    def __init__(self, seconds: float, thread: int, by_signal: bool) -> None:
        self.seconds, self.thread, self.by_signal = seconds, thread, by_signal
        self.deadline = time.monotonic() + seconds
        self.notice_at = time.monotonic() + NOTICE
        self.over = threading.Event()
        self.lock = threading.Lock()

    def watch(self) -> None:
        while not self.over.wait(_TICK):
            now = time.monotonic()
            if now >= self.notice_at and self.deadline < math.inf:
                self.notice_at = math.inf
                if self.seconds > NOTICE:
                    _announce(self.seconds)
            if now >= self.deadline:
                self.deadline = now + _AGAIN
                self._interrupt()

    def _interrupt(self) -> None:
        with self.lock:  # not after `end`: the signal would meet somebody else
            if self.over.is_set():
                return
            if self.by_signal:
                signal.pthread_kill(self.thread, signal.SIGALRM)
            else:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.thread), ctypes.py_object(_Asynchronous))

    def end(self) -> None:
        with self.lock:
            self.over.set()

    @contextlib.contextmanager
    def handler(self) -> Iterator[None]:
        """Raise the error on the signal, and afterwards leave the signal as it was."""
        if not self.by_signal:
            yield
            return

        def stop(_number: int, _frame: FrameType | None) -> None:
            if not self.over.is_set():
                raise TimeIsUp(self.seconds)

        before = signal.signal(signal.SIGALRM, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGALRM, before)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        began, deadline, notice_at = time.monotonic(), self.deadline, self.notice_at
        self.deadline = math.inf
        try:
            yield
        finally:
            passed = time.monotonic() - began
            self.deadline, self.notice_at = deadline + passed, notice_at + passed


class _Asynchronous(TimeIsUp):
    """`TimeIsUp` as Python raises it in a different thread: without arguments."""

    def __init__(self) -> None:
        held = _limits.get(threading.get_ident())
        super().__init__(held[-1].seconds if held else math.nan)


def _outer_paused(thread: int) -> contextlib.AbstractContextManager[None]:
    held = _limits.get(thread)
    return held[-1].paused() if held else contextlib.nullcontext()


def _signals_work() -> bool:
    return hasattr(signal, "pthread_kill") and threading.current_thread() is threading.main_thread()


def _announce(seconds: float) -> None:
    print(f"Still checking. This part of the check stops by itself after {seconds:g} s.", flush=True)
