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
        epochs: the epochs at the end of this fit, or None if unknown.
        steps: the steps that are left, or None if unknown.
    """

    def __init__(self, shown: bool, epochs: int | None, steps: int | None) -> None:
        self._of = "" if epochs is None else f"/{epochs}"
        self._bar = _bar(steps) if shown else None
        self._lines = shown and self._bar is None
        # Looked up once: this runs after every step.
        self.step = self._bar.update if self._bar is not None else _nothing

    def epoch_begins(self, epoch: int) -> None:
        if self._bar is not None:
            self._bar.set_description(f"epoch {epoch}{self._of}", refresh=False)

    def epoch_ends(self, row: dict[str, Any]) -> None:
        shown = {name: value for name, value in row.items() if name not in ("epoch", "step", "lr", "seconds")}
        if self._bar is not None:
            self._bar.set_postfix_str(describe(shown))
        elif self._lines:
            print(f"epoch {row['epoch']}{self._of}  {describe(shown)}  ({row['seconds']:.1f} s)", flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()


class GentleStop:
    """The first Ctrl-C (or Jupyter's stop button), or a SIGTERM, only sets `asked`.

    So a step is never cut in the middle, where some weights would be new and some old. A second Ctrl-C interrupts at
    once. SIGTERM is how Slurm and the owners of spot machines say that the machine goes away soon.

    Args:
        interrupts: whether to answer Ctrl-C.
        terminations: whether to answer SIGTERM.
        alone: False on several ranks: then `agree` decides when all of them stop.
    """

    def __init__(self, interrupts: bool = True, terminations: bool = False, alone: bool = True) -> None:
        self.asked = self.requested = self.terminated = False
        self._alone = alone
        # Python allows signal handlers in the main thread only; elsewhere Ctrl-C does not arrive anyway.
        here = threading.current_thread() is threading.main_thread()
        wanted = [(signal.SIGINT, interrupts), (signal.SIGTERM, terminations)]
        self._signals = [number for number, answered in wanted if answered and here]

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._on_signal) for number in self._signals}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def agree(self, ranks_asked: float) -> None:
        """Stop if any rank was asked to; on several ranks only SIGTERM asks."""
        self.requested = self.terminated = self.requested or ranks_asked > 0

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

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self.requested = self._alone
        self.terminated = self.terminated or number == signal.SIGTERM


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

    Instead of tqdm's own widget, which needs ipywidgets, and stays at 0% in a saved notebook and nbgrader's feedback.
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
