"""Which questions a final asks: some from every lesson, a learner's open misconceptions first, in a wording of its own.

    for_learner(journal.read())     # for one learner, after what the journal says
    for_class("secret seed")        # the same for everybody who has the seed

Open questions are left out: only a person can grade them.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from torchcourse.journal import Entry
from torchcourse.lessons.start_here.final_results import Asked
from torchcourse.quiz import bank
from torchcourse.quiz.questions import Bank, ChoiceQuestion, OpenQuestion, Question, versions
from torchcourse.quiz.reviews import answers_in, states

QUESTIONS = 10


@dataclass
class Past:
    """What the draw takes from the journal."""

    open_ideas: dict[str, set[str]] = field(default_factory=dict)
    """The misconceptions that are still open, by lesson."""
    wrong: set[tuple[str, str]] = field(default_factory=set)
    """The questions whose last answer was wrong, as (lesson, question)."""
    right: set[tuple[str, str]] = field(default_factory=set)
    last_wordings: set[tuple[str, str]] = field(default_factory=set)
    """The wording in which each question was asked last, as (lesson, wording)."""
    tries: int = 0


def for_learner(entries: list[Entry], count: int = QUESTIONS) -> list[Asked]:
    """Draw questions for one learner. No question comes in the wording in which it was asked last."""
    past = past_of(entries)
    return _drawn(_banks(), past, f"learner {past.tries}", count, draw=past.tries + 1)


def for_class(seed: str, count: int = QUESTIONS) -> list[Asked]:
    """Draw questions from a seed alone: every student of a class gets the same ones."""
    return _drawn(_banks(), Past(), f"class {seed}", count, draw=1 + int(_digest("order", seed), 16) % 10**6)


def past_of(entries: list[Entry]) -> Past:
    """Return what a journal says about open misconceptions, wrong answers, and how each question was asked last."""
    past = Past()
    for state in states(entries):
        past.open_ideas.setdefault(state.lesson, set()).update(state.misconceptions)
        (past.right if state.right else past.wrong).add((state.lesson, state.question))
    wordings = {
        (entry["lesson"], entry["question"]): str(entry.get("asked", entry["question"]))
        for entry in answers_in(entries)
    }
    past.last_wordings = {(lesson, wording) for (lesson, _question), wording in wordings.items()}
    begun = [entry for entry in entries if entry["kind"] == "final" and entry.get("state") == "begun"]
    past.tries = len(begun)
    # What the last final asked is not asked again in the same words, answered or not.
    rows = begun[-1].get("questions") if begun else []
    past.last_wordings |= {(str(row[0]), str(row[2])) for row in _rows(rows) if len(row) == 4}
    return past


def shares(lessons: list[str], count: int, first: list[str]) -> dict[str, int]:
    """Return how many questions each lesson gives: the same number as far as `count` allows, then `first` gets more."""
    each, more = divmod(count, len(lessons))
    ordered = [*first, *(lesson for lesson in lessons if lesson not in first)]
    return {lesson: each + (place < more) for place, lesson in enumerate(ordered)}


def ideas_of(question: Question) -> set[str]:
    """Return the misconceptions that a wrong answer to the question would show."""
    parts = question.choices if isinstance(question, ChoiceQuestion) else question.mistakes
    return {part.misconception for part in parts if part.misconception}


def _drawn(banks: dict[str, Bank], past: Past, salt: str, count: int, draw: int) -> list[Asked]:
    weight = Counter({lesson: len(past.open_ideas.get(lesson, ())) for lesson in banks})
    first = sorted(banks, key=lambda lesson: (-weight[lesson], _digest(salt, lesson)))
    wanted = shares(sorted(banks), count, first)
    ranked = {lesson: _ranked(banks[lesson], past, salt) for lesson in banks}
    taken = {lesson: ranked[lesson][: wanted[lesson]] for lesson in banks}
    for lesson in first:  # a lesson with too few questions leaves its places to others
        short = count - sum(map(len, taken.values()))
        taken[lesson] += ranked[lesson][len(taken[lesson]) :][:short]
    return [
        Asked(lesson, question.id, wording.id, draw) for lesson in sorted(taken) for question, wording in taken[lesson]
    ]


def _ranked(bank: Bank, past: Past, salt: str) -> list[tuple[Question, Question]]:
    """Return each question of a bank with the best wording of it, the one to ask first in front."""
    open_ideas = past.open_ideas.get(bank.lesson, set())
    found = []
    for question in bank.questions:
        wordings = [
            wording for wording in versions(question) if not isinstance(wording, OpenQuestion) and wording.has_key
        ]
        if not wordings:
            continue
        wording = min(wordings, key=lambda each: _rank(bank.lesson, question, each, open_ideas, past, salt))
        found.append((_rank(bank.lesson, question, wording, open_ideas, past, salt), question, wording))
    found.sort(key=lambda each: each[0])
    return [(question, wording) for _rank_, question, wording in found]


def _rank(
    lesson: str, question: Question, wording: Question, open_ideas: Iterable[str], past: Past, salt: str
) -> tuple[bool | str, ...]:
    """Return what sorts the best to the front. A wording that was asked last comes only when a bank has no other."""
    return (
        (lesson, wording.id) in past.last_wordings,
        not ideas_of(wording) & set(open_ideas),
        (lesson, question.id) not in past.wrong,
        (lesson, question.id) in past.right,
        _digest(salt, lesson, wording.id),
    )


def _rows(value: object) -> list[list[object]]:
    return [row for row in value if isinstance(row, list)] if isinstance(value, list) else []


def _banks() -> dict[str, Bank]:
    return {name: bank.lesson(name) for name in bank.lessons()}


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
