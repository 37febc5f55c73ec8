"""A whole course of sixty days: forgetting, relapses, two notebooks at once, clocks that jump, days without work.

The learner is simulated, and so is the calendar: nothing waits. What they answer is written as the journal writes it.
"""

import json
import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest

from torchcourse import journal
from torchcourse.entry_times import in_order
from torchcourse.lessons.final.completion_page import completion
from torchcourse.lessons.final.final_quiz import final
from torchcourse.lessons.start_here.daily_page import retrospective
from torchcourse.lessons.start_here.progress_report import progress, progress_by_lesson
from torchcourse.quiz import bank, review
from torchcourse.quiz.reviews import PER_DAY, QuestionState, due_today, states

DAYS, NEW_PER_DAY = 60, 5
HOLIDAY = range(25, 36)
WRONG_CLOCK = {15: timedelta(days=3000), 40: timedelta(days=-20000), 50: timedelta(hours=-9)}
GONE = ("42_removed", "question-that-was-removed")

Idea = tuple[str, str]


@dataclass
class Learner:
    """Remembers each idea for a while, the longer the oftener it was recalled, and sometimes loses it all."""

    chance: random.Random
    strength: dict[Idea, float] = field(default_factory=dict)
    last_day: dict[Idea, int] = field(default_factory=dict)
    last_right: dict[Idea, bool] = field(default_factory=dict)
    written: list[dict] = field(default_factory=list)

    def knows(self, idea: Idea, day: int) -> bool:
        if idea not in self.strength:
            return self.chance.random() < 0.6
        if self.chance.random() < 0.03:
            self.strength[idea] = 1
            return False
        return self.chance.random() < 0.97 ** ((day - self.last_day[idea]) / self.strength[idea])

    def answer(self, idea: Idea, day: int, moment: datetime) -> None:
        lesson, question = idea
        right = self.knows(idea, day)
        self.strength[idea] = self.strength.get(idea, 1) * 2 if right else 1
        self.last_day[idea], self.last_right[idea] = day, right
        names = {"lesson": lesson, "question": question, "asked": question}
        result = {"form": "one", "answer": "A", "sure": self.chance.choice([1, 2, 3]), "right": right}
        slugs = [] if right else [f"slip-{question}"]
        time = (moment + WRONG_CLOCK.get(day, timedelta())).isoformat(timespec="seconds")
        self.written.append({"time": time, "kind": "quiz", **names, **result, "misconceptions": slugs})


@dataclass
class Course:
    learner: Learner
    loads: dict[int, int]
    left: dict[int, int]
    waited: dict[int, int]
    end: datetime


@pytest.fixture(scope="module")
def course() -> Course:
    learner = Learner(random.Random(20))
    ideas = [(lesson, question.id) for lesson in bank.lessons() for question in bank.lesson(lesson).questions]
    new = iter([GONE, *ideas])
    end = datetime.now().astimezone().replace(hour=12, minute=0) - timedelta(days=1)
    loads, left, waited = {}, {}, {}
    for day in range(DAYS):
        morning = end - timedelta(days=DAYS - 1 - day)
        if day in HOLIDAY or learner.chance.random() < 0.2:
            continue
        everything = states(in_order(learner.written, morning))
        due = due_today(everything, morning)
        loads[day] = len(due)
        reviews = [(state.lesson, state.question) for state in due]
        fresh = [idea for idea, _ in zip(new, range(NEW_PER_DAY), strict=False)]
        # Two notebooks at once: their lines take turns, and the seconds of one lag behind.
        for number, idea in enumerate([*reviews, *fresh]):
            lag = 40 * (number % 2)
            learner.answer(idea, day, morning + timedelta(minutes=number, seconds=-lag))
        late = [overdue(state, morning) for state in everything if state not in due]
        left[day], waited[day] = sum(days > 0 for days in late), max(late, default=0)
    # One relapse at the very end, whatever questions the banks hold: what was known first is lost.
    known = next(idea for idea, right in learner.last_right.items() if right and idea != GONE)
    learner.strength[known], learner.last_day[known] = 1e-9, 0
    learner.answer(known, DAYS - 1, end + timedelta(hours=1))
    return Course(learner, loads, left, waited, end)


def overdue(state: QuestionState, now: datetime) -> int:
    exists = state.lesson != GONE[0]
    return max(0, (now.date() - state.due.astimezone(now.tzinfo).date()).days) if exists else 0


@pytest.fixture
def written(course: Course) -> list[str]:
    """The journal of the course in the learner's folder, with a line cut off and one of another version."""
    lines = [json.dumps(entry, ensure_ascii=False) for entry in course.learner.written]
    lines.insert(100, '{"version": 9, "when": 1790000000, "event": "quiz"}')
    lines.insert(200, lines[200][:60])
    path = journal.path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return lines


@pytest.mark.slow
def test_no_day_is_too_full_and_nothing_waits_for_long(course: Course) -> None:
    assert len(course.loads) >= 35
    assert max(course.loads.values()) <= PER_DAY
    after = min(day for day in course.loads if day > HOLIDAY[-1])
    assert course.loads[after] == PER_DAY, "eleven days without work fill a day"
    assert course.left[after] > PER_DAY
    later = [course.waited[day] for day in course.waited if day > after + 14]
    assert max(later) < 7, "the backlog is gone in two weeks: what a day off leaves comes within a week"
    everything = states(in_order(course.learner.written, course.end))
    assert max(overdue(state, course.end) for state in everything) <= 14


def test_nothing_is_lost(course: Course, written: list[str]) -> None:
    assert len(journal.read()) == len(course.learner.written) == len(written) - 2
    everything = {(state.lesson, state.question): state for state in states()}
    assert everything.keys() == course.learner.last_right.keys()
    assert {idea: state.right for idea, state in everything.items()} == course.learner.last_right
    for state in everything.values():
        assert state.misconceptions == ([] if state.right else [f"slip-{state.question}"])
        assert state.last is not None
        assert state.last < course.end + timedelta(days=1)
        assert state.due < course.end + timedelta(days=400)
    unreadable, torn, clock = journal.problems()
    assert "Line 101 of" in unreadable
    assert "Line 201 of" in torn
    assert "written by a wrong clock" in clock


def test_relapses_are_told_from_what_is_known(course: Course, written: list[str]) -> None:
    counted = progress_by_lesson(journal.read())
    right = {(lesson.name, name) for lesson in counted for name, known in lesson.questions.last.items() if known}
    assert right == {idea for idea, is_right in course.learner.last_right.items() if is_right}
    once = {(lesson.name, name) for lesson in counted for name in lesson.questions.once}
    assert right < once, "somebody who forgets has been right before"


@pytest.mark.slow
@pytest.mark.usefixtures("written")
def test_every_page_can_be_made() -> None:
    assert "no longer in the course; your answers to it are kept" in review().lines[0]
    assert "42 removed" in repr(progress())
    assert "wrong clock" in progress()._repr_html_()
    days = sorted({journal.when(entry).astimezone().date() for entry in journal.read()})
    for day in days[::9]:
        assert "- [ ]" in retrospective(day).text
    assert len(final().cards) == 10
    assert "sha256sum" in completion("en").text
