"""Put a learner's parts into a program and let its judge look at it: quietly, and with a limit of time."""

import contextlib
import io
from collections.abc import Callable

import torch

from torchcourse.checks import NotDone, Wrong
from torchcourse.checks.errors import is_hole, kind_of, sentence, still_at
from torchcourse.checks.kit import one_thread
from torchcourse.checks.limits import TimeIsUp, time_limit
from torchcourse.lessons.troubleshooting.clinic.case import find
from torchcourse.lessons.troubleshooting.clinic.program import Program, named

TIME_LIMIT = 60.0  # seconds; a healed program is judged in about one


def examine(slug: str, *parts: Callable, seed: int = 0) -> str:
    """Judge the program with these parts in it, on the data and sizes that `seed` sets.

    Returns:
        The judge's sentence for a healed program.

    Raises:
        Wrong: with the symptom and a hint.
        NotDone: nothing was changed yet.
        ValueError: these are not the parts of this patient.
    """
    case = find(slug)
    parts = named(case.parts, parts)
    given = tuple(getattr(part, "__name__", repr(part)) for part in parts)
    if sorted(given) != sorted(case.parts):
        raise ValueError(f"To be repaired: {', '.join(case.parts)}. Given: {', '.join(given) or 'nothing'}.")
    program = Program(slug, *parts)
    if program.is_untouched:
        raise NotDone("The program is still as it was admitted.")
    try:
        quietly = contextlib.redirect_stdout(io.StringIO())
        # Whatever a part leaves behind, the next one finds autograd as it was.
        with program.lend_names(), one_thread(), quietly, time_limit(TIME_LIMIT), torch.enable_grad():
            try:
                healed = case.judge(program, seed)
            except Exception:
                _refuse_autograd_off()  # an error may come of it
                raise
            _refuse_autograd_off()
            return healed
    except TimeIsUp as end:
        text = f"Your program was still running after {end.seconds:g} s, and was stopped. Does its loop end? If so, "
        raise Wrong("endless", f"{text}it is too slow.{still_at(end)}") from None
    except (Exception, SystemExit) as error:  # a part that ends the program would end the notebook's cell, unjudged
        notes = getattr(error, "__notes__", [])
        if is_hole(error) or kind_of(error) == "Wrong" or (not notes and isinstance(error, Exception)):
            raise
        raise Wrong(f"raised_{kind_of(error)}", "\n".join([sentence(error), *notes[:1]])) from error


def _refuse_autograd_off() -> None:
    if not torch.is_grad_enabled():
        raise Wrong(
            "grad_off",
            "After your code has run, autograd is off for everybody: the next training step has no gradients.",
        )


def symptom(slug: str, *parts: Callable, seed: int) -> str | None:
    """Return the symptom that the judge finds on the data of this seed; None for a healed program."""
    try:
        examine(slug, *parts, seed=seed)
    except Wrong as wrong:
        return wrong.symptom
    return None
