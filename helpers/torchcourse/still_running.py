"""A cell that has shown nothing for 2 seconds says that it is still running: an import, a long sum, a loop of your own.

    from torchcourse import still_running
    still_running.watch()

The set-up cell of each notebook calls it. The line counts seconds until the cell ends, and then it is empty. It speaks
to a reader alone: where a program runs the notebook, to grade it or to build the site, nothing is added. And it gives
way to whatever else is shown: a bar, or what `run_ranks` says of itself.
"""

import contextlib
import os
import sys
import threading
import time
from typing import Any

from torchcourse import environment

QUIET_SECONDS = 2.0
"""How long a cell may show nothing before the line appears: longer than ranks and checks wait, who can say more."""


def watch() -> None:
    """Say from the next cell on that a silent cell is running, in a notebook with a reader. A second call adds nothing.

    It costs nothing while a cell computes, but for a message per second.
    """
    shell: Any = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    kernel = getattr(shell, "kernel", None)
    if kernel is None or hasattr(kernel.session, _MARK) or not environment.has_reader(os.environ):
        return
    watcher = _Watcher()
    send = kernel.session.send

    def noting(stream: Any, message: Any, *args: Any, **kwargs: Any) -> Any:
        watcher.note(message["header"]["msg_type"] if isinstance(message, dict) else message)
        return send(stream, message, *args, **kwargs)

    # All that a cell shows goes through this call: text, pictures, widgets. IPython tells only of a cell's two ends.
    kernel.session.send = noting
    setattr(kernel.session, _MARK, True)
    shell.events.register("pre_run_cell", watcher.begin)
    shell.events.register("post_run_cell", watcher.end)


_MARK = "_torchcourse_still_running"
_SHOWN = {"stream", "display_data", "update_display_data", "execute_result", "comm_open", "comm_msg"}


class _Watcher:
    """The thread that looks at the clock while a cell runs."""

    def __init__(self) -> None:
        self._shown = 0.0
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, _info: object = None) -> None:
        self.end()  # of a cell that runs another one, as get_ipython().run_cell does
        self._shown, self._over = time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._say, args=(self._over, self._shown), daemon=True)
        self._thread.start()

    def end(self, _result: object = None) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(timeout=1)  # its last word belongs to this cell
            self._thread = None

    def note(self, kind: str) -> None:
        """Take note of a message to the front end, unless it is the line itself."""
        if kind in _SHOWN and threading.current_thread() is not self._thread:
            self._shown = time.monotonic()

    def _say(self, over: threading.Event, begun: float) -> None:
        line = _Line()
        with contextlib.suppress(Exception):  # a kernel that is going away
            while not over.is_set():
                quiet = time.monotonic() - self._shown
                if quiet < QUIET_SECONDS:
                    line.write("")
                    over.wait(QUIET_SECONDS - quiet)
                else:
                    line.write(f"This cell is still running: {time.monotonic() - begun:.0f} s")
                    over.wait(1)
            line.write("")


class _Line:
    """An output with one line, which is there when there is something to say, and takes no room when it is empty.

    Not `progress_bars.Line`: what that shows keeps others silent who have more to say.
    """

    def __init__(self) -> None:
        self._text = ""
        self._handle: Any = None

    def write(self, text: str) -> None:
        from IPython.display import display

        if text == self._text:
            return
        self._text = text
        if self._handle is None:
            self._handle = display({"text/plain": text}, raw=True, display_id=True)
        else:
            self._handle.update({"text/plain": text}, raw=True)
