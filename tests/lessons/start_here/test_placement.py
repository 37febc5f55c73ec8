"""The placement quiz says which lessons to take, and leaves the reviews alone."""

import pytest

import example_bank as example
from torchcourse import journal
from torchcourse.lessons.start_here.placement_quiz import PlacementCard, chosen, placement, standings
from torchcourse.lessons.start_here.progress_report import progress
from torchcourse.quiz import bank, review
from torchcourse.quiz.questions import Question


def right_answer(question: Question) -> str | float:
    return question.key[0] if isinstance(question.key, list) else question.key  # type: ignore[return-value]  # it has a key


def test_two_questions_per_lesson_on_two_objectives() -> None:
    for name in bank.lessons():
        picked = chosen(bank.lesson(name))
        assert len(picked) == 2, name
        assert len({question.source.objective for question in picked if question.source}) == 2, name
        assert "open" not in {question.kind for question in picked}


def test_who_knows_nothing_answers_one_question_per_lesson() -> None:
    shown = placement()
    assert len(shown.cards) == len(bank.lessons()) - 1
    for card in shown.cards:
        card.answer(right_answer(card.question), sure=1)
    done = placement()
    assert done.cards == []
    assert repr(done).startswith("Take these lessons, in this order: 01 Data parallelism, 02 ")
    assert "may skip" not in repr(done), "a guess is no knowledge"


def test_who_knows_a_lesson_may_skip_it_and_no_review_is_planned() -> None:
    for _round in range(2):
        for card in placement().cards:
            wrong = card.lesson.startswith("02")
            card.answer(99999 if card.question.kind == "number" and wrong else right_answer(card.question), sure=3)
    second = {each.bank.lesson: each for each in standings(journal.read())}["02_model_parallelism"]
    assert second.known in ([False], [True, True], [True, False])
    assert second.waiting is None
    assert "may skip them: 01 Data parallelism" in repr(placement())
    assert "Nothing to review yet" in repr(review())
    assert "Nothing recorded yet." in repr(progress())


@pytest.mark.usefixtures("banks")
def test_a_question_can_be_answered_by_code_and_an_unknown_lesson_is_named() -> None:
    example.write(bank.folder(), example.bank(), "08_more")
    assert [card.lesson for card in placement().cards] == ["08_more"]
    assert 'placement()["08_more"].answer(' in repr(placement())
    with pytest.raises(KeyError, match="No question of lesson 09_x waits; these do: 08_more"):
        placement()["09_x"]


def test_a_wrong_answer_is_explained_at_once_and_says_what_to_do_next() -> None:
    lesson = bank.lesson("01_data_parallelism")
    question = next(each for each in lesson.questions if each.kind == "one")
    form = PlacementCard(lesson, question, question).widget()
    form.do("check", answer=[next(letter for letter in question.letters if letter != question.key)], sure=["3"])
    assert form.parts["reason"] == "", "a reasoning would be kept for a review that never comes"
    assert "Your first answer counts." in form.parts["actions"]
    assert "run this cell again" in form.parts["note"]
