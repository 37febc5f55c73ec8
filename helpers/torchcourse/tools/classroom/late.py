"""The rules of a class, in `grading.toml` in its folder: due dates, late work, who gets which quiz, the gradebook.

    late = "10% per day"
    quizzes = "per student"
    gradebook = "postgresql://teacher@server/algo"

    [due]
    00_start_here = 2027-04-01T23:59:00+02:00

A submission is late when its `timestamp.txt`, which nbgrader writes when it collects, is later than that. The rule is
"none" (the default), "zero", or a share of the points earned for each day that has begun. Quizzes are "the same" (the
default), or drawn "per student" (`per_student`).
"""

import math
import re
import time as clock
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any, cast
from zoneinfo import available_timezones

from nbgrader.plugins import LateSubmissionPlugin
from nbgrader.utils import parse_utc

NAME = "grading.toml"
TEMPLATE = """\
# Rules of this class, for `make class`, `make grade` and nbgrader's own commands in this folder.

# "none", "zero", or such as "10% per day": of the points earned, for each day that has begun.
late = "none"

# "the same" for all, or "per student": then run `make class` again, and hand out personal/STUDENT/ for the quizzes.
quizzes = "the same"

[due]
# 00_start_here = 2027-04-01T23:59:00+02:00
"""

_DAY = 24 * 3600


@dataclass(frozen=True)
class Rules:
    """When lessons are due, and what late work costs."""

    per_day: float = 0.0
    """The share of the points earned that each day costs; infinite if late work earns nothing."""
    due: Mapping[str, datetime] = field(default_factory=dict)
    per_student: bool = False
    """Whether `make class` draws each student's quizzes. What was drawn is graded so, whatever stands here."""
    gradebook: str = ""
    """The address of a gradebook on a server; empty for `gradebook.db` in the folder."""

    def penalty(self, score: float, seconds: float) -> float:
        """Return the points that work which is so many seconds late loses of its score."""
        if seconds <= 0 or not self.per_day:
            return 0.0
        return score * min(1.0, self.per_day * math.ceil(seconds / _DAY))


def read(folder: Path, lessons: Iterable[str] | None = None) -> Rules | None:
    """Return the rules of a class; None if it has no such file.

    Args:
        folder: the folder of the class.
        lessons: those that the course has, if these are to be checked.

    Raises:
        ValueError: in a sentence, for what is no rule, no date or no lesson.
    """
    path = folder / NAME
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error
    dates = found.pop("due", {})
    rule = found.pop("late", "none")
    quizzes = found.pop("quizzes", "the same")
    gradebook = found.pop("gradebook", "")
    if found or not isinstance(dates, dict):
        raise ValueError(
            f"{path} has {', '.join(found) or 'dates that are no table'}; "
            "it may have late, quizzes, gradebook and [due] only."
        )
    if quizzes not in ("the same", "per student"):
        raise ValueError(f'{path} has the quizzes {quizzes!r}; write "the same" or "per student".')
    known = None if lessons is None else set(lessons)
    for lesson in dates:
        if known is not None and lesson not in known:
            raise ValueError(f"{path} gives a date to '{lesson}', and the course has no such lesson.")
    if not isinstance(gradebook, str) or (gradebook and "://" not in gradebook):
        raise ValueError(f'{path} has the gradebook {gradebook!r}; write such as "postgresql://teacher@server/algo".')
    moments = {lesson: _moment(value, lesson, path) for lesson, value in dates.items()}
    return Rules(_per_day(rule, path), moments, quizzes == "per student", gradebook)


def handed_in(text: str) -> datetime:
    """Return the moment that a `timestamp.txt` holds, in UTC and without a zone, as nbgrader keeps it.

    nbgrader's own reader takes +0900 for 900 seconds, and a zone that it does not know, such as KST, for UTC.

    Raises:
        ValueError: if it holds no time, or one in a zone that is unknown here.
    """
    *moment, zone = text.split(" ")
    plain, local = " ".join(moment), False
    if len(moment) == 2 and re.fullmatch(r"[+-]\d\d:?\d\d", zone):
        text = plain + zone
    elif len(moment) == 2 and zone not in ("UTC", "GMT", "Z"):
        local = zone in clock.tzname
        if not local and zone not in available_timezones():
            raise ValueError(f"the zone {zone} is unknown here")
    try:
        read = cast(datetime, parse_utc(plain if local else text))
        return read.astimezone(UTC).replace(tzinfo=None) if local else read
    except OverflowError as error:
        raise ValueError(str(error)) from error


def _per_day(rule: Any, path: Path) -> float:
    if rule == "none":
        return 0.0
    if rule == "zero":
        return math.inf
    if isinstance(rule, str) and (share := re.fullmatch(r"(\d+(?:\.\d+)?) ?% per day", rule.strip())):
        return float(share[1]) / 100
    raise ValueError(f'{path} has the rule {rule!r}; write "none", "zero" or such as "10% per day".')


def _moment(value: Any, lesson: str, path: Path) -> datetime:
    """Return a date with its zone; without a zone it is this machine's, without a time it is the end of the day."""
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time(23, 59, 59))
    if not isinstance(value, datetime):
        raise ValueError(f"{path} gives {lesson} the date {value!r}; write it as 2027-04-01T23:59:00+02:00.")
    return value.astimezone(UTC)


class LatePenalty(LateSubmissionPlugin):
    """nbgrader's rule for late work, from the file of the class; without such a file, what nbgrader is set to."""

    def late_submission_penalty(self, student_id: str, score: float, total_seconds_late: float) -> float | None:
        rules = read(Path(self.config.get("CourseDirectory", {}).get("root", ".")))
        if rules is None:
            return super().late_submission_penalty(student_id, score, total_seconds_late)
        return rules.penalty(score, total_seconds_late) or None
