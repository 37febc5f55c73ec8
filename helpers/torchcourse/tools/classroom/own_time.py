"""A limit for what the grader itself does with one submission, outside any sandbox.

A text that is made for it keeps a reader of Markdown or HTML busy for hours.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

MOST = 120.0
"""Seconds of the grader's own processor time, of which a submission takes less than one."""
_SOON = 0.001  # seconds until a limit is reached that was reached inside a block of another limit
_AGAIN = 1.0  # seconds until it is raised once more, where something went on all the same


class TooLong(BaseException):
    """The limit is reached; the message says what to look at.

    No Exception: readers of notebooks, of HTML and of text answer each of these with a guess, and go on.
    """


@contextlib.contextmanager
def limited(seconds: float | None = None) -> Iterator[None]:
    """Raise TooLong in the block after so many seconds, or MOST.

    Windows, and threads other than the first, have no limit. Inside a block with a limit of its own, that one goes on.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    most = MOST if seconds is None else seconds

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise TooLong(f"its texts kept the grader busy for {most:.0f} s; look for one that is very long or nested")

    begun = time.process_time()
    before = signal.signal(signal.SIGVTALRM, stop)
    left, _again = signal.setitimer(signal.ITIMER_VIRTUAL, most, _AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
        if left:
            rest = left - (time.process_time() - begun)
            signal.setitimer(signal.ITIMER_VIRTUAL, max(rest, _SOON), _AGAIN)
