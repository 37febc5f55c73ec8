"""What a case is made of, and how to find one."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from torchcourse.lessons.troubleshooting.clinic.cases import WARDS
from torchcourse.lessons.troubleshooting.clinic.program import Program


@dataclass(frozen=True)
class Case:
    """One patient; the package's docstring says how to write one.

    Attributes:
        slug: the name of its module and of its program.
        title: a few words for the board, which do not give the fault away.
        complaint: what the user reports, in the little Markdown of `torchcourse.quiz.markup`.
        parts: names of the functions or classes of the program that the learner repairs.
        hints: where to look; what to measure; what to look for.
        evidence: shows figures or numbers of the broken program, and returns those that a lesson speaks of, by name.
        judge: `judge(program, seed)` returns the sentence for success or raises `torchcourse.checks.Wrong`.
        diagnosis: what it was and where one meets it, shown when the patient is healed.
        log: `log(program, **arguments)` returns what a user sees of a run of `main(**arguments)`; by default what it
            prints, and its error if any.
    """

    slug: str
    title: str
    complaint: str
    parts: tuple[str, ...]
    hints: tuple[str, str, str]
    evidence: Callable[[Program], dict[str, float] | None]
    judge: Callable[[Program, int], str]
    diagnosis: str = ""
    log: Callable[..., str] = Program.log


def find(slug: str) -> Case:
    """Return the case of this name.

    Raises:
        ValueError: if there is none; names those that there are.
    """
    known = [name for names in WARDS.values() for name in names]
    if slug not in known:
        raise ValueError(f"The clinic has no patient '{slug}'. It has: {', '.join(known)}.")
    return importlib.import_module(f"torchcourse.lessons.troubleshooting.clinic.cases.{slug}").CASE
