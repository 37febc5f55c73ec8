"""The final draws fairly, counts first answers, compares tries, and cannot be passed without knowing anything."""

import functools
import random
from collections import Counter
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path

import numpy as np
import pytest

from torchcourse import journal
from torchcourse.lessons.final import final_draw
from torchcourse.lessons.final.final_draw import for_class, for_learner, shares
from torchcourse.lessons.final.final_quiz import final, final_elsewhere, final_result
from torchcourse.lessons.start_here.final_results import PASSED, Asked, calibration, results, sittings
from torchcourse.quiz import answers, bank, choice_order
from torchcourse.quiz.questions import Question
from torchcourse.quiz.verdict import judge

LESSONS = bank.lessons()


def question(asked: Asked) -> Question:
    _first, shown = bank.lesson(asked.lesson).question(asked.wording)
    return choice_order.redrawn(shown, asked.draw)


def answered(lesson: str, name: str, asked: str, right: bool, ideas: list[str], day: int = 1) -> dict:
    return {
        "time": f"2026-03-{day:02}T12:00:00+00:00",
        "kind": "quiz",
        "lesson": lesson,
        "question": name,
        "asked": asked,
        "right": right,
        "sure": 2,
        "misconceptions": ideas,
    }


def right_answer(shown: Question) -> str | float:
    return shown.key[0] if isinstance(shown.key, list) else shown.key  # type: ignore[return-value]  # it has a key


def wrong_answer(shown: Question) -> str | float:
    if shown.kind == "order":
        return shown.letters if shown.key != shown.letters else shown.letters[::-1]
    if shown.letters:
        return next(letter for letter in shown.letters if letter not in str(shown.key))
    return -987.5 if shown.kind == "number" else "nonsense"


def test_each_lesson_gives_the_same_number_as_far_as_ten_allows() -> None:
    for drawn in (for_learner([]), for_class("a")):
        assert len(drawn) == 10
        counts = Counter(asked.lesson for asked in drawn)
        assert set(counts.values()) <= {10 // len(LESSONS), 10 // len(LESSONS) + 1}
        assert len({(asked.lesson, asked.question) for asked in drawn}) == 10
        assert "open" not in {question(asked).kind for asked in drawn}
    assert shares(["a", "b", "c"], 10, ["c", "a"]) == {"c": 4, "a": 3, "b": 3}
    assert shares(list("abcdefghijkl"), 10, ["l"])["l"] == 1


def test_an_open_misconception_comes_first_and_in_other_words() -> None:
    checked = 0
    for lesson in LESSONS:
        found = bank.lesson(lesson)
        for first in found.questions:
            ideas = sorted(first.misconceptions)[:1] if first.kind != "open" else []
            elsewhere = [
                wording
                for other in found.questions
                for wording in (other, *other.variants)
                if wording.id != first.id and wording.kind != "open" and ideas and ideas[0] in wording.misconceptions
            ]
            if elsewhere and checked < 12:
                checked += 1
                entries = [answered(lesson, first.id, first.id, False, ideas)]
                drawn = [asked for asked in for_learner(entries) if asked.lesson == lesson]
                assert first.id not in {asked.wording for asked in drawn}
                assert ideas[0] in {idea for asked in drawn for idea in question(asked).misconceptions}
    assert checked == 12


@pytest.mark.slow
def test_two_finals_share_no_wording() -> None:
    seen: set[tuple[str, str]] = set()
    for _try in range(4):
        sitting = final(again=True).sitting
        wordings = {(asked.lesson, asked.wording) for asked in sitting.asked}
        assert not wordings & seen
        seen = wordings
        assert final(again=True).sitting.name == sitting.name, "an open final goes on"
        for card in final().cards:
            card.answer(right_answer(card.question), sure=3)


def test_a_class_has_one_draw_and_another_seed_another() -> None:
    assert for_class("2026 spring") == for_class("2026 spring")
    assert for_class("2026 spring") != for_class("2026 autumn")


@pytest.mark.slow
def test_first_answers_count_and_tries_are_compared() -> None:
    assert "No final is finished yet." in repr(final_result())
    final_elsewhere(5, 10, day="2023-09-14")
    assert "Final on 2023-09-14: 5 of 10." in repr(final_result())
    exam = final()
    for number, card in enumerate(exam.cards, start=1):
        if number > 8:
            card.answer(wrong_answer(card.question), sure=3)
        card.answer(right_answer(card.question), sure=1 if number <= 2 else 3)
        left = 10 - number
        assert f"10 questions, {left} to answer" in repr(final()).splitlines()[0]
    shown = repr(final_result())
    assert "Final: 5 of 10 then, 8 of 10 now" in shown
    assert "Passed." in shown
    assert "How sure, and how many of them right: Guessing 2/2, Certain 6/8." in shown
    final_elsewhere(5, 10, day="2023-09-14")
    counts = [(result.right, result.total) for result in results(journal.read())]
    assert counts == [(5, 10), (8, 10)], "what was taken elsewhere is written down once"
    assert "final(again=True)" in repr(final())


def test_the_best_and_the_last_try_are_told_apart() -> None:
    final_elsewhere(9, 10, day="2023-09-14")
    final_elsewhere(6, 10, day="2024-09-14")
    shown = repr(final_result())
    assert "9 of 10 then, 6 of 10 now" in shown
    assert "Best: 9 of 10 on 2023-09-14." in shown
    assert "Not passed yet" in shown


@pytest.mark.parametrize(
    ("right", "total", "day"),
    [
        (11, 10, "2023-09-14"),
        (1, 0, "2023-09-14"),
        (True, 10, "2023-09-14"),
        (5, 10, "autumn"),
        (5, 10, None),
        (5, 10, "2999-01-01"),
    ],
)
def test_what_is_no_result_is_refused(right: int, total: int, day: str) -> None:
    with pytest.raises(ValueError, match=r"no result|no day"):
        final_elsewhere(right, total, day)
    assert journal.read() == []


def test_a_number_in_quotes_is_shown_as_it_was_given() -> None:
    with pytest.raises(ValueError, match=r"^'5' of '10' is no result: .*, as whole numbers\.$"):
        final_elsewhere("5", "10", day="2023-09-14")


@pytest.mark.parametrize("day", ["20230914", "2023-W37-4", date(2023, 9, 14), datetime(2023, 9, 14, 8)])
def test_a_day_is_kept_in_one_form_and_an_exam_once(day: str | date) -> None:
    final_elsewhere(5, 10, day="2023-09-14")
    final_elsewhere(np.int64(5), 10, day=day)
    assert [entry["day"] for entry in journal.read()] == ["2023-09-14"]


def test_a_question_that_is_gone_is_named_and_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    exam = final()
    for card in exam.cards[1:]:
        card.answer(right_answer(card.question), sure=2)
    gone = exam.sitting.asked[0]
    real = bank.lesson

    def without(name: str) -> object:
        if name == gone.lesson:
            raise bank.BankError("gone")
        return real(name)

    monkeypatch.setattr(bank, "lesson", without)
    assert f"No longer in the course, and not counted: {gone.wording}." in repr(final())
    assert results(journal.read())[0].total == 9


@pytest.mark.parametrize("questions", [None, 7, [], [["a"]], [[1, 2, 3, 4]], [["a", "b", "c", True]]])
def test_a_final_of_another_version_is_passed_over(questions: object) -> None:
    journal.record("final", state="begun", final="x", questions=questions)
    journal.record("final", state="elsewhere", right="5", total=10, day=3)
    assert sittings(journal.read()) == []
    assert len(final().cards) == 10


@functools.cache
def many_finals() -> list[list[Question]]:
    """Questions without choices are left out: they are beyond every player."""
    drawn = [[question(asked) for asked in for_class(f"players {seed}")] for seed in range(60)]
    return [[each for each in shown if each.letters] for shown in drawn]


def plays(play: Callable[[Question, random.Random], str]) -> list[int]:
    """Return the right answers of a player in many finals."""
    chance = random.Random(0)
    return [sum(bool(judge(each, play(each, chance)).right) for each in shown) for shown in many_finals()]


def longest(shown: Question, _chance: random.Random) -> str:
    by_length = sorted(zip(shown.options, shown.letters, strict=True), key=lambda each: -len(each[0].en))
    letters = "".join(letter for _text, letter in by_length)
    return letters if shown.kind == "order" else letters[:1] if shown.kind == "one" else "".join(sorted(letters[:2]))


def chosen(shown: Question, chance: random.Random) -> str:
    if shown.kind == "several":
        return "".join(letter for letter in shown.letters if chance.random() < 0.5) or "A"
    letters = "".join(chance.sample(shown.letters, len(shown.letters)))
    return letters if shown.kind == "order" else letters[0]


PLAYERS: dict[str, Callable[[Question, random.Random], str]] = {
    "random": chosen,
    "all": lambda shown, _chance: shown.letters if shown.kind != "one" else shown.letters[0],
    "longest": longest,
    "first": lambda shown, _chance: shown.letters if shown.kind == "order" else shown.letters[0],
    "always B": lambda shown, _chance: shown.letters if shown.kind == "order" else "B",
    "last": lambda shown, _chance: shown.letters[::-1] if shown.kind == "order" else shown.letters[-1],
}


@pytest.mark.parametrize("player", PLAYERS)
def test_who_knows_nothing_fails_the_final(player: str) -> None:
    counts = plays(PLAYERS[player])
    assert max(counts) < 10 * PASSED
    assert sum(counts) / len(counts) < 10 / 3


def test_calibration_counts_by_confidence() -> None:
    entries = [{"sure": sure, "right": right} for sure, right in ((3, True), (3, False), (1, True), (None, True))]
    assert calibration([*entries, {"sure": 3, "right": None}, {"sure": "3", "right": True}]) == {1: (1, 1), 3: (1, 2)}


def test_letters_of_a_final_stay_readable() -> None:
    card = next(card for card in final().cards if card.question.kind == "one")
    card.answer(right_answer(card.question), sure=2)
    entry = journal.read()[-1]
    again = bank.lesson(entry["lesson"]).question(entry["asked"])[1]
    assert answers.score("one", choice_order.answer_now(again, entry), again.key) == 1
    assert entry["final"] == sittings(journal.read())[0].name
    assert final_draw.QUESTIONS == 10


def test_a_card_of_the_final_says_what_counts_and_what_is_left() -> None:
    exam = final()
    form = exam[3].widget()
    assert "3 of 10 · " in form.parts["head"]
    form.do("check", answer=[str(wrong_answer(exam[3].question))], sure=["3"])
    assert form.parts["note"].count("left") == 0, "first the reasoning"
    form.do("why", reason=["so it is"])
    assert "Your first answer counts." in form.parts["actions"]
    assert "Questions of this final that are left: 9." in form.parts["note"]
    for card in exam.cards[:2] + exam.cards[3:]:
        card.answer(right_answer(card.question), sure=3)
    assert 'Run the cell "How it went" below.' in exam[3].note()


def test_an_answered_card_of_the_final_shows_the_answer_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr("IPython.display.display", lambda *parts, **_: shown.extend(str(part.data) for part in parts))
    first = final()[1]
    first.answer(wrong_answer(first.question), sure=3)
    first.answer(right_answer(first.question), sure=3)
    final()[1]._ipython_display_()
    assert "This answer counts in the final." in shown[0]
    assert answers.show(wrong_answer(first.question), first.question.kind) in shown[0]
    assert "Not right yet." in shown[0]


def test_a_final_goes_on_in_memory_where_the_journal_cannot_be_written(work: Path) -> None:
    work.write_text("in the way")
    first = final()[1]
    first.answer(right_answer(first.question), sure=1)
    assert len(final().cards) == 10
    assert len(sittings(journal.read())[0].answers) == 1
