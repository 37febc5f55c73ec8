"""A limit for what the grader itself does with one submission, outside any sandbox.

A text that is made for it keeps a reader of Markdown or HTML busy for hours.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

MOST = 120.0
"""Seconds of the grader's own processor time, of which a submission takes less than one."""
_AGAIN = 1.0  # seconds until it is raised once more, where something went on all the same


class TooLong(BaseException):
    """The limit is reached; the message says what to look at.

    No Exception: readers of notebooks, of HTML and of text answer each of these with a guess, and go on.
    """


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Raise TooLong in the block after MOST seconds. Windows, and threads other than the first, have no limit."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise TooLong(f"its texts kept the grader busy for {MOST:.0f} s; look for one that is very long or nested")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, MOST, _AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
