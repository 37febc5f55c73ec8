"""Where the choices stand: every place alike, the same for card, notebook, key and journal, and anew in a review."""

import re
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import pytest

import example_bank as example
from torchcourse import journal
from torchcourse.quiz import bank, card, choice_order, reviews
from torchcourse.quiz.questions import Bank, ChoiceQuestion, SeveralQuestion
from torchcourse.tools.build import quiz_notebook

NAMES = ["w", "x", "y", "z"]


def question(name: str, right: str = "w", kind: str = "one") -> dict:
    """A question whose file lists the choices w to z."""
    choices = [example.choice(text, None if text in right else "odd") for text in NAMES]
    return {
        "id": name,
        "kind": kind,
        "source": {"objective": "know-it"},
        "text": example.both(f"Which of {name}?"),
        "choices": choices,
    }


def written(folder: Path, *questions: dict) -> Bank:
    data = example.bank() | {"questions": list(questions), "misconceptions": {"odd": example.both("Odd ones count.")}}
    example.write(folder, data)
    return bank.lesson(example.LESSON)


def texts(asked) -> list[str]:
    return [choice.text.en for choice in asked.choices]


def places(questions) -> Counter:
    return Counter(letter for asked in questions for letter in asked.key)


@pytest.mark.parametrize(("kind", "right"), [("one", "w"), ("several", "wx")])
def test_each_place_is_right_as_often_as_the_others(tmp_path: Path, banks: Path, kind: str, right: str) -> None:
    questions = [question(f"q{number}", right, kind) for number in range(12)]
    found = written(banks, *questions)
    assert set(places(found.questions).values()) == {12 * len(right) // 4}
    assert len({tuple(texts(asked)) for asked in found.questions}) > 4
    more = written(banks, *questions, question("added"))
    assert more.questions[:12] == found.questions, "a question added at the end moved others"
    assert all([text.en for text in choice_order.in_file_order(asked).options] == NAMES for asked in found.questions)


def test_a_fixed_order_stays(banks: Path) -> None:
    found = written(banks, *(question(f"q{number}") | {"fixed_order": True} for number in range(4)))
    for asked in found.questions:
        assert texts(asked) == NAMES
        assert choice_order.redrawn(asked, 3) == asked


def test_nobody_writes_the_order_into_a_bank(banks: Path) -> None:
    with pytest.raises(bank.BankError, match="q1, field order: is drawn by the course"):
        written(banks, question("q1") | {"order": "ABCD"})
    choices = [{"text": example.both(name)} for name in NAMES]
    given = {"id": "q1", "kind": "one", "text": example.both("?"), "order": "AB", "choices": choices}
    example.write(banks, {"title": example.both("x"), "stripped": True, "questions": [given]})
    with pytest.raises(bank.BankError, match="q1, field order: must hold each letter from A to D once, not 'AB'"):
        bank.lesson(example.LESSON)


@pytest.mark.parametrize(
    ("reason", "named"),
    [
        ({"en": "B confuses the two.", "ko": "둘을 헷갈렸습니다."}, "B"),
        ({"en": "See choice A.", "ko": "왼쪽을 보세요."}, "choice A"),
        ({"en": "Unlike (C), it stays.", "ko": "그대로입니다."}, "C"),
        ({"en": "It is the other one.", "ko": "보기 A와 같습니다."}, "보기 A"),
        ({"en": "It is the other one.", "ko": "B는 다릅니다."}, "B"),
        ({"en": "It is the other one.", "ko": "3번이 아니라 A번입니다."}, "A번"),
    ],
)
def test_a_reason_that_names_a_choice_by_its_letter_is_refused(banks: Path, reason: dict, named: str) -> None:
    asked = question("q1")
    asked["choices"][1]["why"] = reason
    with pytest.raises(bank.BankError, match=f"choices, B, why, (en|ko): '{named}' names a choice by its letter"):
        written(banks, asked)
    assert written(banks, asked | {"fixed_order": True})


@pytest.mark.parametrize(
    "reason",
    ["A rank has one.", "`B` is code, and so is `x[C]`.", "2·B and B×T are sizes.", "In C++ too.", "A's is not."],
)
def test_other_letters_may_stand_in_a_reason(banks: Path, reason: str) -> None:
    asked = question("q1")
    asked["choices"][1]["why"] = example.both(reason)
    assert written(banks, asked)


def test_a_letter_of_the_question_itself_may_be_named(banks: Path) -> None:
    asked = question("q1") | {"text": example.both("Is method B better than method A?")}
    asked["choices"][1]["why"] = example.both("B won with each seed.")
    assert written(banks, asked)


@pytest.fixture
def moved(banks: Path) -> SeveralQuestion:
    """A question that does not stand as in its file: its right choices, w and y, are not at A and C."""
    for number in range(20):
        [asked] = written(banks, question(f"q{number}", "wy", "several")).questions
        if isinstance(asked, SeveralQuestion) and asked.key != "AC":
            return asked
    raise AssertionError("no order was drawn")


def test_card_notebook_key_and_feedback_agree(moved: ChoiceQuestion) -> None:
    listed = dict(zip(texts(moved), moved.letters, strict=True))
    assert moved.key == "".join(sorted(listed[text] for text in "wy"))
    source = quiz_notebook.quiz_source(bank.lesson(example.LESSON))
    for text, letter in listed.items():
        assert f"- **{letter}.** {text}" in source
        assert f"  {letter}  {text}" in repr(card(example.LESSON, moved.id, order=moved.order))
    assert f'received.grade(key="{moved.key}")' in source
    assert f'quiz.card("{example.LESSON}", "{moved.id}", order="{moved.order}")' in source
    assert f'order="{moved.order}").answer(' in repr(card(example.LESSON, moved.id, order=moved.order))
    feedback = card(example.LESSON, moved.id, order=moved.order).answer(listed["x"], sure=2)
    assert f"{listed['x']}  x (" in repr(feedback)
    assert card(example.LESSON, moved.id, order=moved.order).answer(moved.key, sure=2).right is True


def test_a_card_follows_its_notebook_when_the_bank_has_changed(moved: SeveralQuestion, banks: Path) -> None:
    """A notebook from before the draw gives no order, and shows that of the file; a later one gives its own."""
    assert texts(card(example.LESSON, moved.id).question) == NAMES
    changed = question(moved.id, "wy", "several")
    changed["choices"].append(example.choice("added", "odd"))
    written(banks, question("put before it"[:3]), changed)
    shown = card(example.LESSON, moved.id, order=moved.order).question
    assert texts(shown) == [*texts(moved), "added"]
    assert shown.key == moved.key
    shorter = card(example.LESSON, moved.id, order=f"H{moved.order[:2]}").question
    assert texts(shorter)[:2] == texts(moved)[:2]


def test_a_journal_from_before_the_draw_keeps_its_meaning(moved: ChoiceQuestion) -> None:
    """There the letters are those of the file: AC was right, and so it stays; AB was w and x."""
    old = {"lesson": example.LESSON, "question": moved.id, "asked": moved.id, "form": "several", "sure": 2}
    journal.record("quiz", **old, answer="AB", right=False, score=0.0, misconceptions=["odd"])
    listed = dict(zip(texts(moved), moved.letters, strict=True))
    assert f"you answered {', '.join(sorted([listed['w'], listed['x']]))}, not right" in repr(
        card(example.LESSON, moved.id, order=moved.order)
    )
    journal.record("quiz", **old, answer="AC", right=True, score=1.0, misconceptions=[])
    told = card(example.LESSON, moved.id, order=moved.order)._repr_html_()
    assert f"you answered: {', '.join(moved.key)}" in told
    assert "tc-verdict tc-right" in told


def test_an_answer_says_what_its_letters_meant(moved: ChoiceQuestion) -> None:
    wrong = moved.letters[texts(moved).index("x")]
    card(example.LESSON, moved.id, order=moved.order).answer(wrong, sure=2, reasoning="It looked so.")
    entry, reason = journal.read()
    assert entry["order"] == reason["order"] == moved.order != "ABCD"
    assert entry["order"][moved.letters.index(wrong)] == "B"
    for draw in range(5):
        other = choice_order.redrawn(moved, draw)
        now = choice_order.answer_now(other, entry)
        assert texts(other)[other.letters.index(str(now))] == "x"


@pytest.mark.parametrize(
    "entry",
    [
        {"answer": "E"},
        {"answer": "E", "order": "ABCDE"},
        {"answer": "A", "order": "AABC"},
        {"answer": "D", "order": "CAB"},
        {"answer": "A", "order": ["A", "B"]},
        {"answer": 4.5, "order": "ABCD"},
        {"answer": None},
    ],
)
def test_letters_that_mean_nothing_any_more_are_not_judged(moved: ChoiceQuestion, entry: dict) -> None:
    assert choice_order.as_answered(moved, entry) is None
    assert choice_order.answer_now(moved, entry) is None
    names = {"lesson": example.LESSON, "question": moved.id, "asked": moved.id, "form": "several"}
    journal.record("quiz", **names, **entry, right=False, misconceptions=[])
    assert 'class="tc-verdict' not in card(example.LESSON, moved.id, order=moved.order)._repr_html_()


def test_a_choice_added_later_leaves_older_answers_readable(moved: ChoiceQuestion) -> None:
    entry = {"answer": "A", "order": "CAB"}
    then = choice_order.as_answered(moved, entry)
    assert isinstance(then, ChoiceQuestion)
    assert texts(then) == ["y", "w", "x", "z"]


def test_a_review_draws_anew_and_no_place_wins(banks: Path) -> None:
    found = written(banks, *(question(f"q{number}") for number in range(40)))
    for draw in (1, 2, 3):
        again = [choice_order.redrawn(asked, draw) for asked in found.questions]
        assert max(places(again).values()) <= 18, "a place of four is right in nearly half of forty"
        stay = sum(new.key == old.key for new, old in zip(again, found.questions, strict=True))
        assert stay <= 20
    now = datetime.now().astimezone()
    wrong = next(letter for letter in "ABCD" if letter != found.questions[0].key)
    card(example.LESSON, "q0").answer(wrong, sure=2)
    [asked] = reviews.review(now + timedelta(days=3)).cards
    assert asked.question == choice_order.redrawn(found.questions[0], 1)
    assert "draw=1" in repr(asked)
    assert asked.answer(asked.question.key, sure=3).right is True
    by_code = re.search(r'card\(".*?", "q0", draw=1\)', repr(asked))
    assert by_code
    assert eval(by_code[0], {"card": card}).question == asked.question


def test_a_class_without_keys_sees_the_letters_of_the_notebook(moved: ChoiceQuestion, banks: Path) -> None:
    example.write(banks, bank.strip(bank.lesson(example.LESSON)))
    [given] = bank.lesson(example.LESSON).questions
    assert isinstance(given, SeveralQuestion)
    assert (given.options, given.order) == (moved.options, moved.order)
    card(example.LESSON, moved.id, order=moved.order).answer("A", sure=1)
    [entry] = journal.read()
    assert entry["order"] == moved.order


def surplus(questions: list[ChoiceQuestion], place: int) -> float:
    """How much oftener a place, counted from the front or from the end, is right than chance would have it."""
    long = [asked for asked in questions if place < len(asked.letters)]
    right = [asked.letters[place] in asked.key for asked in long]
    chance = [len(asked.key) / len(asked.letters) for asked in long]
    return sum(right) - sum(chance)


@pytest.mark.parametrize("lesson", bank.lessons())
def test_in_the_course_no_place_is_right_oftener_than_by_chance(lesson: str) -> None:
    found = bank.lesson(lesson).questions
    for group in (found, [variant for first in found for variant in first.variants]):
        drawn = [each for each in group if isinstance(each, ChoiceQuestion) and not each.fixed_order]
        assert all(abs(surplus(drawn, place)) <= 2.5 for place in (0, 1, 2, 3, -1)), lesson
