"""Reviews are planned from the journal alone, and come back asked in a different way."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import example_bank as example
from torchcourse import journal
from torchcourse.quiz import bank, card, recall, review
from torchcourse.quiz.reviews import PER_DAY, due_today, review_days, states

START = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


def answered(
    *answers: tuple[float, bool, int | None], question: str = "q", lesson: str = "01_a", slugs=("slip",)
) -> list[dict]:
    """Return quiz entries from (days after the start, right, how sure)."""
    return [
        {
            "time": (START + timedelta(days=days)).isoformat(),
            "kind": "quiz",
            "lesson": lesson,
            "question": question,
            "right": right,
            "sure": sure,
            "misconceptions": [] if right else list(slugs),
        }
        for days, right, sure in answers
    ]


def days_until_due(*answers: tuple[float, bool, int | None]) -> float:
    [state] = states(answered(*answers))
    return (state.due - START) / timedelta(days=1) - answers[-1][0]


def test_the_surer_the_later() -> None:
    waits = [days_until_due((0, False, 3)), days_until_due((0, True, 1)), days_until_due((0, True, 2))]
    waits.append(days_until_due((0, True, 3)))
    assert waits[0] == waits[1] == 1
    assert waits[1] < waits[2] < waits[3]
    assert days_until_due((0, True, 2), (2, True, 2)) > waits[2], "what is known comes back ever later"
    assert days_until_due((0, True, 3), (8, False, 3)) == 1, "what is forgotten comes back soon"
    assert days_until_due((0, True, None)) == waits[2]


def test_a_second_try_from_the_fresh_feedback_does_not_count() -> None:
    minute = 1 / 24 / 60
    [state] = states(answered((0, False, 2), (2 * minute, True, 3), (11 * minute, True, 3)))
    assert (state.right, state.sittings, state.misconceptions) == (False, 1, ["slip"])
    [state] = states(answered((0, False, 2), (11 * minute, True, 3)))
    assert (state.right, state.sittings, state.misconceptions) == (True, 2, [])


def test_the_same_journal_gives_the_same_plan() -> None:
    entries = answered((0, False, 2), (1, True, 1), (2, True, 3)) + answered((0, True, 3), question="other")
    assert states(entries) == states(entries)
    assert [state.question for state in states(entries)] == ["q", "other"]


def test_entries_that_are_no_judged_answers_are_passed_over() -> None:
    odd = [entry | change for entry in answered((0, True, 2)) for change in ({"right": None}, {"lesson": 3})]
    assert states([*odd, {"time": START.isoformat(), "kind": "quiz"}]) == []


def test_a_journal_of_another_version_is_read_as_far_as_it_goes() -> None:
    odd = [
        entry | change
        for entry in answered((0, False, 2), (1, False, 2))
        for change in ({"misconceptions": None}, {"misconceptions": [3]}, {"sure": "very"}, {"sure": 9})
    ]
    [state] = states(odd)
    assert (state.right, state.sittings, state.misconceptions) == (False, 2, [])


def test_a_clock_that_was_set_back_a_little_is_no_second_try() -> None:
    [state] = states(answered((1, False, 2), (0.6, True, 2)))
    assert (state.right, state.sittings) == (True, 2)


def test_after_weeks_without_work_a_day_is_not_too_full() -> None:
    asked = [(name, question.id) for name in bank.lessons() for question in bank.lesson(name).questions][:70]
    entries = [
        entry
        for n, (lesson, question) in enumerate(asked)
        for entry in answered((n / 100, n % 7 > 0, 2), question=question, lesson=lesson)
    ]
    late = START + timedelta(days=30)
    due = due_today(states(entries), late)
    assert len(due) == PER_DAY
    assert all(state.misconceptions for state in due[:10])
    assert not any(state.misconceptions for state in due[10:])
    done = [
        entry for state in due[:15] for entry in answered((30, True, 2), question=state.question, lesson=state.lesson)
    ]
    assert len(due_today(states(entries + done), late)) == PER_DAY - 15
    days = review_days(states(entries), late)
    assert list(days.values())[:4] == [PER_DAY] * 3 + [10]
    assert next(iter(days)) == late.date()


def log(*entries: dict) -> None:
    for entry in entries:
        fields = {name: value for name, value in entry.items() if name not in ("time", "kind")}
        journal.record("quiz", **fields)
    lines = journal.path().read_text(encoding="utf-8").splitlines()
    kept, new = lines[: -len(entries)], lines[-len(entries) :]
    new = [line.replace(line.split('"')[3], entry["time"], 1) for line, entry in zip(new, entries, strict=True)]
    journal.path().write_text("\n".join([*kept, *new]) + "\n", encoding="utf-8")


@pytest.mark.usefixtures("banks")
def test_review_asks_what_is_due_in_another_way() -> None:
    assert "Nothing to review yet" in repr(review(START))
    log(*answered((0, False, 3), question="pick-one", lesson=example.LESSON, slugs=("odd",)))
    today = review(START + timedelta(hours=2))
    assert len(today.cards) == 0
    assert "Nothing is due today" in repr(today)
    assert (START + timedelta(days=1)).astimezone().date().isoformat() in repr(today)
    morning = (START + timedelta(days=1)).astimezone().replace(hour=0, minute=5)
    tomorrow = review(morning)
    assert tomorrow.lines[0] == "One review is due."
    assert [due.question.id for due in tomorrow.cards] == ["pick-one-again"]
    assert "Pick the even one" in repr(tomorrow)
    log(*answered((1, False, 3), question="pick-one", lesson=example.LESSON))
    assert [due.question.id for due in review(START + timedelta(days=3)).cards] == ["pick-one"], "in turn"


@pytest.mark.usefixtures("banks")
def test_review_shows_at_most_as_many_as_asked() -> None:
    names = [question["id"] for question in example.bank()["questions"]]
    log(*(entry for name in names for entry in answered((0, False, 2), question=name, lesson=example.LESSON)))
    deck = review(START + timedelta(days=2), count=2)
    assert len(deck.cards) == 2
    assert deck.lines[0] == f"{len(names)} reviews are due. Here are 2 of them; run this cell again for the next."
    assert deck.lines[0] in deck._repr_html_()
    assert "Pick several" in deck._repr_html_()


def test_recall_draws_on_earlier_lessons_and_on_wrong_answers(banks: Path) -> None:
    for lesson in ("05_before", "09_after"):
        example.write(banks, example.bank(), lesson)
    later = START + timedelta(days=30)
    assert repr(recall(example.LESSON, now=later)) == "Nothing to recall today. Read on."
    log(
        *answered((0, True, 3), question="pick-one", lesson="05_before"),
        *answered((0, True, 3), question="pick-one", lesson=example.LESSON),
        *answered((0, True, 3), question="pick-several", lesson="09_after"),
        *answered((29.9, False, 3), question="type-text", lesson=example.LESSON),
        *answered((29.9, False, 3), question="type-number", lesson="09_after"),
    )
    deck = recall(example.LESSON, now=later)
    assert [(due.lesson, due.first.id) for due in deck.cards] == [
        ("05_before", "pick-one"),
        (example.LESSON, "type-text"),
    ]
    assert len(recall(example.LESSON, count=1, now=later).cards) == 1
    assert all(due.number is None for due in deck.cards), "nothing to type for a grade here"
    assert [due.first.id for due in recall("05_before", now=later).cards] == []


def test_a_question_that_has_gone_is_passed_over(banks: Path) -> None:
    log(*answered((0, False, 2), question="gone", lesson=example.LESSON), *answered((0, False, 2), lesson="99_gone"))
    assert len(review(START + timedelta(days=2)).cards) == 0


@pytest.mark.usefixtures("banks")
def test_an_answer_given_now_is_planned_from_now() -> None:
    card(example.LESSON, "pick-one").answer("A", sure=3)
    [state] = states()
    assert timedelta(hours=23) < state.due - datetime.now(UTC) < timedelta(hours=25)
    assert len(review(datetime.now() + timedelta(days=1)).cards) == 1, "a time without a zone is local"
