"""Bars that move: in a notebook, in a terminal, and nowhere else. Importing this brings no torch.

A rank draws its bar for the notebook or terminal that started it, which passes it on (`ranks/report.py`).
Nothing goes to stderr, which nbgrader would take for a failure.
"""

import contextlib
import shutil
import sys
import time
from typing import Any

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
