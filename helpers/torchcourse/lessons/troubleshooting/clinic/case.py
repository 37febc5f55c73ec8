"""What a case is made of, and how to find one."""

import functools
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchcourse.lessons.troubleshooting.clinic import cases
from torchcourse.lessons.troubleshooting.clinic.program import Program
from torchcourse.quiz import yaml_text


@dataclass(frozen=True)
class Case:
    """One patient; the package's docstring says how to write one.

    Attributes:
        slug: the name of its module and of its program.
        title: a few words for the board, which do not give the fault away.
        complaint: what the user reports, in the little Markdown of `torchcourse.quiz.markup`.
        parts: names of the functions or classes of the program that the learner repairs.
        hints: where to look; what to measure; what to look for.
        diagnosis: what it was and where one meets it, shown when the patient is healed.
        evidence: shows figures or numbers of the broken program, and returns those that a lesson speaks of, by name.
        judge: `judge(program, seed)` returns the sentence for success or raises `torchcourse.checks.Wrong`.
        log: `log(program, **arguments)` returns what a user sees of a run of `main(**arguments)`; by default what it
            prints, and its error if any.
    """

    slug: str
    title: str
    complaint: str
    parts: Sequence[str]
    hints: Sequence[str]
    diagnosis: str
    evidence: Callable[[Program], dict[str, float] | None]
    judge: Callable[[Program, int], str]
    log: Callable[..., str] = Program.log


def find(slug: str) -> Case:
    """Return the case of this name.

    Raises:
        ValueError: if there is none; names those that there are.
    """
    known = [name for names in cases.WARDS.values() for name in names]
    if slug not in known:
        raise ValueError(f"The clinic has no patient '{slug}'. It has: {', '.join(known)}.")
    module = importlib.import_module(f"{cases.__name__}.{slug}")
    functions = {name: vars(module)[name] for name in ("evidence", "judge", "log") if name in vars(module)}
    return Case(slug, **_texts()[slug], **functions)


@functools.cache
def _texts() -> dict[str, dict[str, Any]]:
    return yaml_text.parse(Path(cases.__file__).with_name("texts.yaml").read_text(encoding="utf-8"))
