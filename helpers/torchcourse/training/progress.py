"""How a running fit shows itself, and how it is stopped without losing anything."""

import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Self

from tqdm import tqdm

from torchcourse.training.history import describe


class Progress:
    """One bar that moves, in a notebook and in a terminal; elsewhere a line of text per epoch.

    Nothing goes to stderr, which nbgrader would take for a failure.

    Args:
        shown: False for silence, as on all ranks but the first.
        epochs: the epochs at the end of this fit.
        steps: the steps that are left, or None if unknown.
    """

    def __init__(self, shown: bool, epochs: int, steps: int | None) -> None:
        self.epochs = epochs
        self._bar = _bar(steps) if shown else None
        self._lines = shown and self._bar is None
        # Looked up once: this runs after every step.
        self.step = self._bar.update if self._bar is not None else _nothing

    def epoch_begins(self, epoch: int) -> None:
        if self._bar is not None:
            self._bar.set_description(f"epoch {epoch}/{self.epochs}", refresh=False)

    def epoch_ends(self, row: dict[str, Any]) -> None:
        shown = {name: value for name, value in row.items() if name not in ("epoch", "step", "lr", "seconds")}
        if self._bar is not None:
            self._bar.set_postfix_str(describe(shown))
        elif self._lines:
            print(f"epoch {row['epoch']}/{self.epochs}  {describe(shown)}  ({row['seconds']:.1f} s)", flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()


class GentleStop:
    """While active, the first Ctrl-C (or Jupyter's stop button) only sets `requested`; a second one interrupts at once.

    So a step is never cut in the middle, where some weights would be new and some old.
    """

    def __init__(self, active: bool = True) -> None:
        self.requested = False
        # Python allows signal handlers in the main thread only; elsewhere Ctrl-C does not arrive anyway.
        self._active = active and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Self:
        if self._active:
            self._before = signal.signal(signal.SIGINT, self._on_interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._active:
            signal.signal(signal.SIGINT, self._before)

    def until(self, items: Iterator) -> Iterator:
        """Yield items until a stop is requested. Ctrl-C also ends a loader's workers, whose failure is no error."""
        while not self.requested:
            try:
                item = next(items)
            except StopIteration:
                return
            except Exception:
                if self.requested:
                    return
                raise
            yield item

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


def _bar(steps: int | None) -> tqdm | None:
    """Return a tqdm bar, or None where only lines of text look right."""
    look: dict[str, Any] = {"total": steps, "mininterval": 0.2, "bar_format": _FORMAT}
    if _in_notebook():
        return tqdm(file=_Output(), **look)
    if sys.stdout.isatty():
        return tqdm(file=sys.stdout, dynamic_ncols=True, **look)
    return None


# tqdm's own without steps per second, so that two metrics and their validation fit into a line of JupyterLab.
_FORMAT = "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


class _Output:
    """A cell's output as a file with one line, which every write replaces.

    In place of tqdm's own widget, which needs ipywidgets, and stays at 0 % in a saved notebook and nbgrader's feedback.
    """

    encoding = "utf-8"  # tells tqdm that it may draw with blocks

    def __init__(self) -> None:
        from IPython.display import display

        self._line = display({"text/plain": ""}, raw=True, display_id=True)

    def write(self, text: str) -> None:
        if text.strip():
            self._line.update({"text/plain": text.strip()}, raw=True)

    def flush(self) -> None:
        """Nothing waits: tqdm asks for this after each write."""


def _in_notebook() -> bool:
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and "IPKernelApp" in shell.config


def _nothing() -> None:
    pass
