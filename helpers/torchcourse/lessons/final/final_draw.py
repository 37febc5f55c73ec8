"""Which questions a final asks: some from every lesson, a learner's open misconceptions first, in a wording of its own.

    for_learner(journal.read())     # for one learner, after what the journal says
    for_class("secret seed")        # the same for everybody who has the seed

Open questions are left out: only a person can grade them.
"""

import hashlib
from dataclasses import dataclass, field

from torchcourse.journal import Entry
from torchcourse.lessons.start_here.final_results import Asked, sittings
from torchcourse.quiz import bank
from torchcourse.quiz.questions import Bank, Question, versions
from torchcourse.quiz.reviews import answers_in, states

QUESTIONS = 10


@dataclass
class Past:
    """What the draw takes from the journal."""

    open_ideas: dict[str, set[str]] = field(default_factory=dict)
    """The misconceptions that are still open, by lesson."""
    right: dict[tuple[str, str], bool] = field(default_factory=dict)
    """Whether the last answer was right, by lesson and question."""
    last_wordings: set[tuple[str, str]] = field(default_factory=set)
    """The wording in which each question was asked last, as (lesson, wording)."""
    tries: int = 0


def for_learner(entries: list[Entry], count: int = QUESTIONS) -> list[Asked]:
    """Draw questions for one learner. No question comes in the wording in which it was asked last."""
    past = past_of(entries)
    return _drawn(past, f"learner {past.tries}", count, draw=past.tries + 1)


def for_class(seed: str, count: int = QUESTIONS) -> list[Asked]:
    """Draw questions from a seed alone: every student of a class gets the same ones."""
    return _drawn(Past(), f"class {seed}", count, draw=1 + int(_digest("order", seed), 16) % 10**6)


def past_of(entries: list[Entry]) -> Past:
    """Return what a journal says about open misconceptions, wrong answers, and how each question was asked last."""
    past = Past()
    for state in states(entries):
        past.open_ideas.setdefault(state.lesson, set()).update(state.misconceptions)
        past.right[state.lesson, state.question] = state.right
    last = {(entry["lesson"], entry["question"]): entry for entry in answers_in(entries)}
    past.last_wordings = {(lesson, str(entry.get("asked", question))) for (lesson, question), entry in last.items()}
    tries = sittings(entries)
    past.tries = len(tries)
    if tries:  # what the last final asked is not asked again in the same words, answered or not
        past.last_wordings |= {(each.lesson, each.wording) for each in tries[-1].asked}
    return past


def shares(lessons: list[str], count: int, first: list[str]) -> dict[str, int]:
    """Return how many questions each lesson gives: the same number as far as `count` allows, then `first` gets more."""
    each, more = divmod(count, len(lessons))
    ordered = [*first, *(lesson for lesson in lessons if lesson not in first)]
    return {lesson: each + (place < more) for place, lesson in enumerate(ordered)}


def _drawn(past: Past, salt: str, count: int, draw: int) -> list[Asked]:
    banks = {name: bank.lesson(name) for name in bank.lessons()}
    first = sorted(banks, key=lambda lesson: (-len(past.open_ideas.get(lesson, ())), _digest(salt, lesson)))
    wanted = shares(sorted(banks), count, first)
    ranked = {lesson: _ranked(banks[lesson], past, salt) for lesson in banks}
    taken = {lesson: ranked[lesson][: wanted[lesson]] for lesson in banks}
    for lesson in first:  # a lesson with too few questions leaves its places to others
        short = count - sum(map(len, taken.values()))
        taken[lesson] += ranked[lesson][len(taken[lesson]) :][:short]
    return [
        Asked(lesson, question.id, wording.id, draw) for lesson in sorted(taken) for question, wording in taken[lesson]
    ]


def _ranked(lesson: Bank, past: Past, salt: str) -> list[tuple[Question, Question]]:
    """Return each question of a bank with the best wording of it, the one to ask first in front."""

    def rank(pair: tuple[Question, Question]) -> tuple[bool | int | str, ...]:
        """Sort the best to the front. A wording that was asked last comes only when a bank has no other."""
        question, wording = pair
        return (
            (lesson.lesson, wording.id) in past.last_wordings,
            wording.misconceptions.isdisjoint(past.open_ideas.get(lesson.lesson, ())),
            [False, None, True].index(past.right.get((lesson.lesson, question.id))),
            _digest(salt, lesson.lesson, wording.id),
        )

    asked = [
        [(question, each) for each in versions(question) if each.kind != "open" and each.has_key]
        for question in lesson.questions
    ]
    return sorted((min(pairs, key=rank) for pairs in asked if pairs), key=rank)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
