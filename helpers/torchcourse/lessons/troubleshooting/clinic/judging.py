"""Put a learner's parts into a program and let its judge look at it: quietly, and with a limit of time."""

import contextlib
import io
import signal
import threading
from collections.abc import Callable, Iterator

from torchcourse.checks import Wrong
from torchcourse.checks.kit import one_thread
from torchcourse.lessons.troubleshooting.clinic.case import find
from torchcourse.lessons.troubleshooting.clinic.program import Program

TIME_LIMIT = 60.0  # seconds; a healed program is judged in about one


def examine(slug: str, *parts: Callable, seed: int = 0) -> str:
    """Judge the program with these parts in it, on the data and sizes that `seed` sets.

    Returns:
        The judge's sentence for a healed program.

    Raises:
        Wrong: with the symptom and a hint.
        NotImplementedError: nothing was changed yet.
        ValueError: these are not the parts of this patient.
    """
    case = find(slug)
    given = tuple(getattr(part, "__name__", repr(part)) for part in parts)
    if sorted(given) != sorted(case.parts):
        raise ValueError(f"To be repaired: {', '.join(case.parts)}. Given: {', '.join(given) or 'nothing'}.")
    program = Program(slug, *parts)
    if program.is_untouched:
        raise NotImplementedError("The program is still as it was admitted.")
    with program.lend_names(), one_thread(), contextlib.redirect_stdout(io.StringIO()), _time_limit(TIME_LIMIT):
        return case.judge(program, seed)


def symptom(slug: str, *parts: Callable, seed: int) -> str | None:
    """Return the symptom that the judge finds on the data of this seed; None for a healed program."""
    try:
        examine(slug, *parts, seed=seed)
    except Wrong as wrong:
        return wrong.symptom
    return None


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """End what runs too long. Works where signals do: in the main thread, not on Windows."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise Wrong("endless", f"Your program was still running after {seconds:.0f} seconds. Does its loop end?")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
