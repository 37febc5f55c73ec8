"""The line of a search that moves: trials, the best so far, time left."""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Self

from torchcourse.progress_bars import bar


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
