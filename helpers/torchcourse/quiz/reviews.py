"""Bring questions back before they are forgotten: wrong answers soon, sure right ones late, often asked in another way.

    review()                        # what is due today, as cards
    recall("01_data_parallelism")   # two or three at the start of a notebook

Nothing is stored for this. The state of each question is computed from the journal by the scheduler FSRS
(https://github.com/open-spaced-repetition/py-fsrs), with intervals of whole days:

| answer                | rating for FSRS |
|-----------------------|-----------------|
| wrong or partly wrong | again           |
| right, by guessing    | hard            |
| right, fairly sure    | good            |
| right, certain        | easy            |

A second try within ten minutes, fresh from the feedback, is practice and does not count. At most `PER_DAY` questions
come back on one day, those with an open misconception first; the others wait until the next.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import fsrs

from torchcourse import journal
from torchcourse.journal import Entry
from torchcourse.quiz import bank, choice_order, texts
from torchcourse.quiz.answers import how_sure
from torchcourse.quiz.cards import Card, Deck
from torchcourse.quiz.questions import versions

SAME_SITTING = timedelta(minutes=10)
PER_DAY = 20
"""How many questions come back on one day at most, also after weeks without work."""


@dataclass
class QuestionState:
    """Where the learner stands with one question and its variants, after the answers that count."""

    lesson: str
    question: str
    card: fsrs.Card
    tried: datetime
    """When the question was answered last, whether that counts or not."""
    right: bool = False
    """Whether the last answer that counts was right: what was right and then wrong is not known."""
    sittings: int = 0
    last: datetime | None = None
    """When the last answer that counts was given."""
    misconceptions: list[str] = field(default_factory=list)
    """Those of the last wrong answer; empty once the idea has been answered correctly in a later sitting."""

    @property
    def due(self) -> datetime:
        return self.card.due


def review(now: datetime | None = None, *, count: int = 5) -> Deck:
    """Show the questions that are due, the longest due first.

    Args:
        now: the moment that counts as now; without a zone it is local time.
        count: how many to show at most.
    """
    now = (now or datetime.now()).astimezone()
    answered = states()
    everything = existing(answered)
    due = due_today(everything, now)
    waiting = sum(is_due(state, now) for state in everything) - len(due)
    cards = _cards(due[:count])
    if cards:
        said = [texts.say("due_1" if len(due) == 1 else "due", count=len(due))]
        if len(cards) < len(due):
            said.append(texts.say("due_now", count=len(cards)))
        if waiting:
            said.append(texts.say("due_tomorrow", count=waiting))
    elif waiting:
        said = [texts.say("enough_today", count=waiting)]
    elif everything:
        said = [texts.say("nothing_due", day=min(_day(state, now) for state in everything))]
    else:
        said = [texts.say("nothing_yet")]
    if gone := len(answered) - len(everything):
        said.append(texts.say("gone_1" if gone == 1 else "questions_gone", count=gone))
    return Deck([" ".join(said), *journal.problems()], cards)


def recall(lesson: str, count: int = 3, now: datetime | None = None) -> Deck:
    """Show at most `count` questions to warm up with: due ones from earlier lessons, then wrong answers, due or not.

    Args:
        lesson: the lesson whose notebook is opened. Of its own questions only wrongly answered ones come.
        now: the moment that counts as now; without a zone it is local time.
    """
    now = (now or datetime.now()).astimezone()
    known = [state for state in existing(states()) if state.lesson <= lesson]
    due = [state for state in known if is_due(state, now) and (state.lesson < lesson or not state.right)]
    wrong = [state for state in known if not state.right and state not in due]
    cards = _cards((due + wrong)[:count])
    return Deck([texts.say("recall" if cards else "nothing_to_recall"), *journal.problems()], cards)


def is_due(state: QuestionState, now: datetime) -> bool:
    """Whether the question's day has come: what was answered yesterday noon is due this morning."""
    return _day(state, now) <= now.date()


def existing(everything: list[QuestionState]) -> list[QuestionState]:
    """Return the questions that the banks still have."""
    return [state for state in everything if bank.find(state.lesson, state.question)]


def due_today(everything: list[QuestionState], now: datetime) -> list[QuestionState]:
    """Return the questions to review on this day: open misconceptions first, then the longest due; `PER_DAY` at most.

    What was reviewed on this day already counts. Questions that the banks no longer have are left out.
    """
    done = sum(
        state.sittings > 1 and state.last is not None and state.last.astimezone(now.tzinfo).date() == now.date()
        for state in everything
    )
    due = [state for state in existing(everything) if is_due(state, now)]
    due.sort(key=lambda state: (not state.misconceptions, state.due, state.lesson, state.question))
    return due[: max(0, PER_DAY - done)]


def review_days(everything: list[QuestionState], now: datetime) -> dict[date, int]:
    """Return how many questions come back on which day, from today on, if nothing else happens: `PER_DAY` at most."""
    first, today = len(due_today(everything, now)), now.date()
    days = {today: first} if first else {}
    falls = sorted(max(_day(state, now), today) for state in existing(everything))[first:]
    day = today
    for due in falls:
        day = max(day, due, today + timedelta(days=1))
        while days.get(day, 0) >= PER_DAY:
            day += timedelta(days=1)
        days[day] = days.get(day, 0) + 1
    return days


def states(entries: list[Entry] | None = None) -> list[QuestionState]:
    """Replay the journal and return the state of every question answered so far, the longest due first.

    Args:
        entries: what to replay; by default the whole journal.
    """
    # Whole days: a lesson is no flash-card session. No fuzz: the same journal gives the same plan.
    scheduler = fsrs.Scheduler(learning_steps=(), relearning_steps=(), enable_fuzzing=False)
    found: dict[tuple[str, str], QuestionState] = {}
    for entry in answers_in(journal.read() if entries is None else entries):
        idea = (entry["lesson"], entry["question"])
        moment = journal.when(entry).astimezone(UTC)
        if idea not in found:
            found[idea] = QuestionState(*idea, fsrs.Card(card_id=len(found) + 1, due=moment), moment)
        state = found[idea]
        repeat = state.sittings and abs(moment - state.tried) < SAME_SITTING
        # A clock that was set back a little: the scheduler knows no answer before the last one.
        moment = state.tried = max(moment, state.tried)
        if repeat:
            continue
        rating = fsrs.Rating.Again
        if entry["right"]:
            ratings = {1: fsrs.Rating.Hard, 3: fsrs.Rating.Easy}
            rating = ratings.get(how_sure(entry.get("sure")) or 2, fsrs.Rating.Good)
        state.card, _log = scheduler.review_card(state.card, rating, moment)
        state.right, state.last = entry["right"], moment
        slugs = entry.get("misconceptions")
        named = [slug for slug in slugs if isinstance(slug, str)] if isinstance(slugs, list) else []
        state.misconceptions = [] if state.right else named
        state.sittings += 1
    return sorted(found.values(), key=lambda state: (state.due, state.lesson, state.question))


def answers_in(entries: list[Entry]) -> list[Entry]:
    """Return the entries that are judged answers to quiz questions."""
    return [
        entry
        for entry in entries
        if entry["kind"] == "quiz"
        and isinstance(entry.get("right"), bool)
        and isinstance(entry.get("lesson"), str)
        and isinstance(entry.get("question"), str)
    ]


def _day(state: QuestionState, now: datetime) -> date:
    return state.due.astimezone(now.tzinfo).date()


def _cards(wanted: Iterable[QuestionState]) -> list[Card]:
    """Return for each question that the banks have the variant whose turn it is, its choices in a new order."""
    cards = []
    for state in wanted:
        if found := bank.find(state.lesson, state.question):
            lesson, first, _same = found
            asked = versions(first)
            shown = choice_order.redrawn(asked[state.sittings % len(asked)], state.sittings)
            cards.append(Card(lesson, first, shown, draw=state.sittings))
    return cards
