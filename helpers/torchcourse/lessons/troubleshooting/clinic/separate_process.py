"""Run programs whose loader has workers in a process of their own: a rank of one.

Where a DataLoader forks its workers, that is safe in a rank and less so in a notebook, where threads run. And where a
worker dies, PyTorch's handler of SIGCHLD raises in the process that started it, at whatever line that process is just
then.
"""

import contextlib
import functools
import io
import multiprocessing
import signal
import sys
from collections.abc import Callable
from typing import Any

from torchcourse.checks.errors import still_at
from torchcourse.checks.kit import one_thread
from torchcourse.lessons.troubleshooting.clinic.program import Program, lines_of_program
from torchcourse.ranks.run import RankError, run_ranks

TIME_LIMIT = 20
"""Seconds for a call where workers are forked."""


def time_limit() -> int:
    """Return the seconds for a call. Workers that are not forked import PyTorch first."""
    chosen, standard = multiprocessing.get_start_method(allow_none=True), multiprocessing.get_all_start_methods()[0]
    forked = sys.platform == "linux" and chosen in (None, standard, "fork")  # as a rank decides
    return TIME_LIMIT if forked else 6 * TIME_LIMIT


def call_separately(function: Callable, *arguments: Any, timeout: float | None = None) -> Any:
    """Return `function(*arguments)`, called in a process of its own, within `time_limit()` if no other limit is given.

    Raises:
        RankError, RankTimeout: as `run_ranks`.
    """
    return run_ranks(_shielded, function, *arguments, world_size=1, timeout=timeout or time_limit())[0]


def log_separately(program: Program, **arguments: Any) -> str:
    """The `log` of a case: run `main(**arguments)` in a process of its own; return what it prints, with its error."""
    printed = io.StringIO()
    with program.lend_names(), one_thread(), contextlib.redirect_stdout(printed):
        try:
            call_separately(functools.partial(program.main, **arguments), timeout=3 * time_limit())
        except RankError as error:
            where = [f'  File "program.py", {place}\n    {code}' for place, code in lines_of_program(error)[-1:]]
            own = [f"  {line}" for line in still_at(error).strip().splitlines()]
            print("Traceback (most recent call last):", *where, *own, f"{error.kind}: {error.message}", sep="\n")
    return printed.getvalue().replace("[rank 0] ", "").rstrip()


def _shielded(function: Callable, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except BaseException:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # the other worker ends too, and the report must not end with it
        raise
