"""How a running fit shows itself, and how it is stopped without losing anything."""

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from torchcourse.interrupts import stopped
from torchcourse.progress_bars import bar
from torchcourse.ranks import who
from torchcourse.training.history import describe
from torchcourse.training.position import Position


class Progress:
    """One bar that moves, in a notebook and in a terminal, also from a rank; elsewhere a line of text per epoch.

    An epoch that takes long says so in lines of its own: after 2 seconds, then after twice as long as the last time.

    Nothing goes to stderr, which nbgrader would take for a failure.

    Args:
        shown: False for silence, as on all ranks but the first.
        epochs: the epochs at the end of this fit, or None if unknown.
        steps: the steps that are left, or None if unknown.
    """

    def __init__(self, shown: bool, epochs: int | None, steps: int | None) -> None:
        self._of = "" if epochs is None else f"/{epochs}"
        self._bar = bar(steps) if shown else None
        self._lines = shown and self._bar is None
        self._epoch, self._steps, self._done = 0, steps, 0
        self._quiet, self._next = QUIET_SECONDS, time.monotonic() + QUIET_SECONDS
        # Looked up once: this runs after every step.
        self.step = self._bar.update if self._bar is not None else self._count if self._lines else _nothing

    def epoch_begins(self, epoch: int) -> None:
        self._epoch = epoch
        if self._bar is not None:
            self._bar.set_description(f"epoch {epoch}{self._of}", refresh=False)

    def epoch_ends(self, row: dict[str, Any]) -> None:
        shown = {name: value for name, value in row.items() if name not in ("epoch", "step", "lr", "seconds")}
        if self._bar is not None:
            self._bar.set_postfix_str(describe(shown))
        elif self._lines:
            print(f"epoch {row['epoch']}{self._of}  {describe(shown)}  ({row['seconds']:.1f} s)", flush=True)
            self._next = time.monotonic() + self._quiet

    def _count(self) -> None:
        self._done += 1
        if time.monotonic() >= self._next:
            of = "" if self._steps is None else f" of {self._steps}"
            print(f"epoch {self._epoch}{self._of}  step {self._done}{of}", flush=True)
            self._quiet *= 2
            self._next = time.monotonic() + self._quiet

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()


QUIET_SECONDS = 2.0
"""How long a fit that writes lines says nothing at first."""


def stopped_by(terminated: bool, position: Position, folder: Path | None) -> BaseException:
    """Return what ends the program after the stop button or, having said so, after SIGTERM."""
    kept = "The weights are in the model, but without a checkpoint_dir nothing is on disk."
    if folder is not None:
        kept = f"Saved as {folder / 'last.pt'}: fit(…, resume=True) goes on from here."
    said = f"Stopped after step {position.step}, in epoch {position.epoch + 1}. {kept}"
    if not terminated:
        return stopped(said)
    if who.rank() == 0:
        print(said, flush=True)
    return SystemExit(128 + signal.SIGTERM)  # as a shell names a process that SIGTERM ended


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


def _nothing() -> None:
    pass
