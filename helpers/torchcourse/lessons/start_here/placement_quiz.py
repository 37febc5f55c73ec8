"""Where to begin: two questions per lesson say which lessons to take first.

    placement()     # the next questions; when all are answered, which lessons to take

The second question of a lesson comes only after a right answer to the first, so whoever is new here answers few. The
answers are lines of the journal of a kind of their own: they plan no reviews and count for no lesson.
"""

import hashlib
import os
from dataclasses import dataclass, field
from typing import Any, cast

from torchcourse import journal
from torchcourse.journal import Entry
from torchcourse.quiz import bank, texts
from torchcourse.quiz.answers import how_sure
from torchcourse.quiz.cards import Card, Deck, NotShown
from torchcourse.quiz.questions import Bank, Question

PER_LESSON = 2


@dataclass
class Standing:
    """What a learner has shown of one lesson: for each of its questions in turn, whether it was known."""

    bank: Bank
    questions: list[Question]
    known: list[bool] = field(default_factory=list)

    @property
    def waiting(self) -> Question | None:
        """The question to ask next; None where it is clear what to advise."""
        decided = not all(self.known) or len(self.known) == len(self.questions)
        return None if decided else self.questions[len(self.known)]

    @property
    def take(self) -> bool:
        """Whether the lesson is to be taken: one answer was wrong, or guessed."""
        return not all(self.known)


def placement() -> "Placement":
    """Show the questions that are next, or which lessons to take."""
    if "NBGRADER_EXECUTION" in os.environ:
        return cast(Placement, NotShown())
    return Placement(standings(journal.read()))


def standings(entries: list[Entry]) -> list[Standing]:
    """Return where a learner stands in each lesson but the first, which shows how the course works."""
    answered: dict[tuple[str, str], Entry] = {}
    for entry in entries:
        if entry["kind"] == "placement" and isinstance(entry.get("right"), bool):
            answered.setdefault((str(entry.get("lesson")), str(entry.get("asked"))), entry)
    found = []
    for name in bank.lessons()[1:]:
        lesson = bank.lesson(name)
        standing = Standing(lesson, chosen(lesson))
        for question in standing.questions:
            if (name, question.id) not in answered:
                break
            first = answered[name, question.id]
            standing.known.append(first["right"] and how_sure(first.get("sure")) != 1)
        found.append(standing)
    return found


def chosen(lesson: Bank) -> list[Question]:
    """Return the questions that stand for a lesson: on different objectives, and none that a person must grade."""
    able = [question for question in lesson.questions if question.kind != "open" and question.has_key]
    able.sort(key=lambda question: hashlib.sha256(f"placement {question.id}".encode()).hexdigest())
    picked: list[Question] = []
    for question in able:
        objectives = {each.source.objective for each in picked if each.source}
        if len(picked) < PER_LESSON and (question.source is None or question.source.objective not in objectives):
            picked.append(question)
    return picked


class PlacementCard(Card):
    """A card whose answers stay out of the reviews; so its reasoning is not asked for. Its first answer counts."""

    asks_reasoning = False
    after_wrong = "first_counts"

    def note(self) -> str:
        return texts.say("placement_note")

    def _record(self, _kind: str, *parts: Any) -> None:
        super()._record("placement", *parts)

    def _line(self) -> str:
        call = f'placement()["{self.lesson}"].answer({self._example()}, sure=2)'
        return f"from torchcourse.lessons.start_here.placement_quiz import placement; {call}"


class Placement(Deck):
    """The cards that are next, or the advice."""

    def __init__(self, found: list[Standing]) -> None:
        cards = [PlacementCard(each.bank, each.waiting, each.waiting) for each in found if each.waiting]
        super().__init__([texts.say("placement_next", count=len(cards))] if cards else _advice(found), cards)

    def __getitem__(self, lesson: str) -> Card:
        cards = {card.lesson: card for card in self.cards}
        if lesson not in cards:
            raise KeyError(f"No question of lesson {lesson} waits; these do: {', '.join(cards) or 'none'}.")
        return cards[lesson]


def _advice(found: list[Standing]) -> list[str]:
    """Return which lessons to take and which to skip."""
    lines = []
    for name, take in (("placement_take", True), ("placement_skip", False)):
        titles = [f"{each.bank.lesson.partition('_')[0]} {each.bank.title}" for each in found if each.take is take]
        if titles:
            lines.append(texts.say(name, names=", ".join(titles)))
    return [*lines, texts.say("placement_first")]
