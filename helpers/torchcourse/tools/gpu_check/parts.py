"""What the report is made of: a part has cases, and each case becomes one row, whatever happens in it."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

from torchcourse.ranks.errors import RankError

State = Literal["done", "FAILED", "not run"]
DONE: State = "done"
FAILED: State = "FAILED"
NOT_RUN: State = "not run"


class NotRun(Exception):
    """This machine lacks what a case needs. The text says what, and what was found without it."""


@dataclass(frozen=True)
class Finding:
    """What a case found: in words, and the numbers that the picture is drawn from."""

    text: str
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One thing to try.

    Args:
        what: what is tried, in a few words.
        measure: does it. It raises `NotRun` where the machine lacks something, and any other exception is a failure.
    """

    what: str
    measure: Callable[[], Finding]


@dataclass(frozen=True)
class Part:
    """Cases that belong together, under a title, with a sentence on how they are measured."""

    title: str
    how: str
    cases: Iterable[Case]
    at_once: int = 1
    """How many cases run at the same time; more than one where nothing is timed closely."""


@dataclass(frozen=True)
class Row:
    """What became of a case."""

    what: str
    state: State
    result: str
    numbers: Mapping[str, float] = field(default_factory=dict)


def row_of(case: Case) -> Row:
    """Try a case. A failure becomes a row with its reason, so that the next case has its turn."""
    try:
        finding = case.measure()
    except NotRun as reason:
        return Row(case.what, NOT_RUN, str(reason))
    except Exception as error:  # whatever a driver, a library or a notebook raises belongs in the report
        return Row(case.what, FAILED, reason_of(error))
    return Row(case.what, DONE, finding.text, finding.numbers)


def rows_of(part: Part) -> Iterator[tuple[Row, float]]:
    """Try the cases of a part, several at a time if it allows that; give each row in turn, with its seconds."""

    def timed(case: Case) -> tuple[Row, float]:
        start = time.perf_counter()
        return row_of(case), time.perf_counter() - start

    with ThreadPoolExecutor(part.at_once) as pool:
        yield from pool.map(timed, part.cases)


def reason_of(error: Exception) -> str:
    """Return what an error says in one line: of a rank, its own error and not the whole traceback."""
    if isinstance(error, RankError):
        text = str(RankError(error.rank, error.kind, _first_line(error.message)))
    else:
        text = f"{type(error).__name__}: {_first_line(str(error))}"
    return text.rstrip(": ")


def require(condition: bool, sentence: str) -> None:
    """Fail the case with this sentence where the condition is false.

    Raises:
        ArithmeticError: the result is not what it should be.
    """
    if not condition:
        raise ArithmeticError(sentence)


def require_close(found: float, expected: float, relative: float, what: str) -> None:
    """Fail the case where two numbers differ by more than this part of the expected one, or where one is no number.

    Raises:
        ArithmeticError: the result is not what it should be.
    """
    near = math.isfinite(found) and abs(found - expected) <= relative * abs(expected)
    require(near, f"{what} is {found:.6g} instead of {expected:.6g}.")


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
