"""What finals came to: how many were right, how long they took, how sure the learner was. All of it from the journal.

sittings(entries)       # every final that was begun, with its answers
results(entries)        # every final that was finished, also one taken elsewhere, the oldest first
calibration(answers)    # {sure: (right, answered)}
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, timedelta

from torchcourse import journal
from torchcourse.journal import Entry
from torchcourse.quiz import bank, texts
from torchcourse.quiz.answers import how_sure

PASSED = 0.7
"""The share of right answers with which a final is passed."""
LONGEST_PAUSE = timedelta(minutes=10)
"""A longer gap between two answers is a pause, or a clock that was set, and counts as this."""


@dataclass(frozen=True)
class Asked:
    """One question as it was drawn: the lesson, the question, the wording, and the order of the choices."""

    lesson: str
    question: str
    wording: str
    draw: int


@dataclass
class Sitting:
    """One final: what was asked, and the first answer to each question."""

    name: str
    begun: Entry
    asked: list[Asked]
    answers: dict[tuple[str, str], Entry] = field(default_factory=dict)
    """By lesson and wording."""

    @property
    def gone(self) -> list[Asked]:
        """The questions without an answer that the banks no longer have: they do not count."""
        return [each for each in self._open if not bank.find(each.lesson, each.wording)]

    @property
    def waiting(self) -> list[Asked]:
        """The questions without an answer that can be answered."""
        return [each for each in self._open if bank.find(each.lesson, each.wording)]

    @property
    def _open(self) -> list[Asked]:
        return [each for each in self.asked if (each.lesson, each.wording) not in self.answers]

    @property
    def total(self) -> int:
        return len(self.asked) - len(self.gone)

    @property
    def right(self) -> int:
        return sum(entry["right"] for entry in self.answers.values())

    @property
    def seconds(self) -> int:
        """The time spent, without long pauses."""
        moments = [journal.when(entry) for entry in (self.begun, *self.answers.values())]
        gaps = (max(after - before, timedelta()) for before, after in itertools.pairwise(moments))
        return round(sum((min(gap, LONGEST_PAUSE) for gap in gaps), timedelta()).total_seconds())


@dataclass(frozen=True)
class Result:
    """A finished final. `seconds` is None where nobody measured; `sure` is what `calibration` gives."""

    day: date
    right: int
    total: int
    seconds: int | None = None
    sure: dict[int, tuple[int, int]] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return self.total > 0 and self.right >= PASSED * self.total


def sittings(entries: list[Entry]) -> list[Sitting]:
    """Return every final that was begun, the oldest first. Entries that say something else are passed over."""
    found: dict[str, Sitting] = {}
    for entry in entries:
        if entry["kind"] == "final" and entry.get("state") == "begun":
            rows = entry.get("questions")
            rows = [row for row in rows if isinstance(row, list)] if isinstance(rows, list) else []
            asked = [Asked(*row) for row in rows if list(map(type, row)) == [str, str, str, int]]
            if asked and isinstance(entry.get("final"), str):
                found.setdefault(entry["final"], Sitting(entry["final"], entry, asked))
        elif entry["kind"] == "quiz" and isinstance(entry.get("right"), bool) and str(entry.get("final")) in found:
            sitting, place = found[str(entry["final"])], (str(entry.get("lesson")), str(entry.get("asked")))
            if place in [(each.lesson, each.wording) for each in sitting.asked]:
                sitting.answers.setdefault(place, entry)
    return list(found.values())


def results(entries: list[Entry]) -> list[Result]:
    """Return every finished final, the oldest first, with those that were taken elsewhere."""
    found = [
        Result(_day(each.begun), each.right, each.total, each.seconds, calibration(each.answers.values()))
        for each in sittings(entries)
        if each.answers and not each.waiting
    ]
    for entry in entries:
        if entry["kind"] == "final" and entry.get("state") == "elsewhere":
            right, total = entry.get("right"), entry.get("total")
            if isinstance(right, int) and isinstance(total, int) and 0 <= right <= total and total:
                found.append(Result(_elsewhere_day(entry), right, total))
    return sorted(found, key=lambda result: result.day)


def calibration(answers: Iterable[Entry]) -> dict[int, tuple[int, int]]:
    """Return how many answers were right, and how many were given, for each degree of confidence that occurs."""
    found: dict[int, tuple[int, int]] = {}
    for entry in answers:
        sure = how_sure(entry.get("sure"))
        if sure is not None and isinstance(entry.get("right"), bool):
            right, count = found.get(sure, (0, 0))
            found[sure] = (right + entry["right"], count + 1)
    return dict(sorted(found.items()))


def result_lines(tries: list[Result]) -> list[str]:
    """Return what finals came to: the last against the one before, the best, the time, how sure against how right."""
    if not tries:
        return []
    last, best = tries[-1], max(tries, key=lambda each: each.right / each.total)
    lines = [texts.say("final_last", right=last.right, total=last.total, day=last.day)]
    if len(tries) > 1:
        *before, now = [texts.say("final_count", right=each.right, total=each.total) for each in tries]
        lines = [texts.say("final_compare", before=", ".join(before), now=now, day=last.day)]
    if best.right * last.total > last.right * best.total:
        lines.append(texts.say("final_best", right=best.right, total=best.total, day=best.day))
    lines.append(texts.say("final_passed" if last.passed else "final_not_passed"))
    if last.seconds is not None:
        lines.append(texts.say("final_time", minutes=max(1, round(last.seconds / 60))))
    return lines + ([sure_line(last.sure)] if last.sure else [])


def sure_line(sure: dict[int, tuple[int, int]], name: str = "final_sure") -> str:
    """Return in words what `calibration` gives: how many answers of each degree of confidence were right."""
    said = [f"{texts.say(f'sure_{level}')} {right}/{count}" for level, (right, count) in sure.items()]
    return texts.say(name, said=", ".join(said))


def _day(entry: Entry) -> date:
    return journal.when(entry).astimezone().date()


def _elsewhere_day(entry: Entry) -> date:
    try:
        return date.fromisoformat(str(entry.get("day")))
    except ValueError:
        return _day(entry)
