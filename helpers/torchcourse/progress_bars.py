"""Bars that move: in a notebook, in a terminal, and nowhere else. Importing this brings no torch.

A rank draws its bar for the notebook or terminal that started it, which passes it on (`ranks/report.py`).
Nothing goes to stderr, which nbgrader would take for a failure.
"""

import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

from tqdm import tqdm


def bar(steps: int | None) -> tqdm | None:
    """Return a tqdm bar, or None where only lines of text look right."""
    look: dict[str, Any] = {"total": steps, "mininterval": 0.2, "bar_format": _FORMAT}
    if in_notebook():
        return tqdm(file=Line(), **look)
    if sys.stdout.isatty():
        return tqdm(file=sys.stdout, dynamic_ncols=True, **look)
    columns = getattr(sys.stdout, "bar_columns", None)  # a rank's, when somebody watches
    return None if columns is None else tqdm(file=sys.stdout, ncols=columns or None, **look)


def columns() -> int | None:
    """Return how many characters a line that moves may have here: 0 for any number, None where no line may move.

    None also where a notebook's output is being collected, as by `redirect_stdout`.
    """
    if in_notebook():
        return 0 if type(sys.stdout).__module__.startswith("ipykernel") else None
    with contextlib.suppress(AttributeError, ValueError):  # no console, or a closed one
        return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    return None


def last_shown() -> float:
    """Return when a line of this process moved last, by the monotonic clock."""
    return Line.shown


class TrialProgress:
    """One line for a search in a notebook or a terminal, from the start on: trials, the best so far, time left.

    Its clock goes on during a trial, however long that takes.

    Args:
        trials: how many there will be.
        finished: how many there are already.
    """

    def __init__(self, trials: int, finished: int) -> None:
        # A search in ranks is followed where they were started.
        self._bar = bar(trials) if not hasattr(sys.stdout, "bar_columns") else None
        if self._bar is not None:
            self._bar.set_description("trials", refresh=False)
            self._bar.initial = finished
            self.show(finished, None)
        self._look: Callable[[], tuple[int, float | None]] | None = None
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def show(self, finished: int, best: float | None) -> None:
        """Say how many trials are finished, and the best value."""
        if self._bar is not None:
            self._bar.n = finished
            self._bar.set_postfix_str("" if best is None else f"best {best:.4g}", refresh=False)
            self._bar.refresh()

    @contextlib.contextmanager
    def following(self, look: Callable[[], tuple[int, float | None]]) -> Iterator[None]:
        """Show what `look` returns, trials finished and the best value, each second while other processes search.

        A look that fails, at a database that is locked, say, is made again a second later.
        """
        self._look = look
        try:
            yield
        finally:
            self._look = None

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._watcher.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._bar is not None:
            self._over.set()
            self._watcher.join()
            self._bar.close()

    def _watch(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            look = self._look
            with contextlib.suppress(Exception):
                if look is not None:
                    self.show(*look())
                elif self._bar is not None:
                    self._bar.refresh()


LOOK_SECONDS = 1.0
"""Time between two steps of a search's clock, and between two looks at a search of other processes."""

# tqdm's own without steps per second, so that two metrics and their validation fit into a line of JupyterLab.
_FORMAT = "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


class Line:
    """A cell's output as a file with one line, which every write replaces.

    Instead of tqdm's own widget, which needs ipywidgets, and stays at 0% in a saved notebook and nbgrader's feedback.
    """

    encoding = "utf-8"  # tells tqdm that it may draw with blocks
    shown = 0.0
    """When any of them was written last, by the monotonic clock."""

    def __init__(self) -> None:
        from IPython.display import display

        self._line = display({"text/plain": ""}, raw=True, display_id=True)

    def write(self, text: str) -> None:
        if text.strip():
            self._line.update({"text/plain": text.strip()}, raw=True)
            Line.shown = time.monotonic()

    def flush(self) -> None:
        """Nothing waits: tqdm asks for this after each write."""


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and "IPKernelApp" in shell.config
