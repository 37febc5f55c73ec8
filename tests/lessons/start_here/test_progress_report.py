"""The dashboard counts what the journal says."""

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest

import example_bank as example
from torchcourse import journal
from torchcourse.lessons.final.final_quiz import final_elsewhere
from torchcourse.lessons.start_here.daily_page import retrospective
from torchcourse.lessons.start_here.progress_report import progress, progress_by_lesson
from torchcourse.quiz import card


@pytest.fixture
def study(banks: Path, work: Path) -> Path:
    """A learner who has passed one of two exercises, and has two of three answers right."""
    (work / "07_example").mkdir(parents=True)
    cells = [
        {"cell_type": "code", "metadata": {"nbgrader": {"grade": True, "solution": False}}, "source": ""},
        {"cell_type": "code", "metadata": {"nbgrader": {"grade": False, "solution": True}}, "source": ""},
        {"cell_type": "code", "metadata": {}, "source": ""},
        {"cell_type": "markdown", "metadata": {"nbgrader": {"grade": True}}, "source": ""},
    ]
    for name in ("1_first.ipynb", "2_second.ipynb"):
        (work / "07_example" / name).write_text(json.dumps({"cells": cells}))
    cells[0]["metadata"]["nbgrader"]["grade_id"] = "check-q1"
    (work / "07_example" / "quiz.ipynb").write_text(json.dumps({"cells": cells}))
    (work / "07_example" / "3_torn.ipynb").write_text('{"cells": [')
    for exercise, state in (("a", "wrong"), ("a", "right"), ("b", "wrong"), ("c", "not done")):
        journal.record("check", exercise=f"lesson07.{exercise}", state=state)
    card(example.LESSON, "pick-one").answer("B", sure=2)
    card(example.LESSON, "type-number").answer(4, sure=2)
    card(example.LESSON, "pick-several").answer("AB", sure=2)
    return work


def test_the_counts(study: Path) -> None:
    [lesson] = progress_by_lesson(journal.read())
    assert (lesson.title.en, lesson.title.ko) == ("07 Example", "07 한국어 Example")
    assert (lesson.exercises.last, lesson.exercises.total) == ({"a": True, "b": False}, 2)
    assert lesson.questions.last == {"pick-one": True, "type-number": True, "pick-several": False}
    assert lesson.questions.total == 6
    assert list(lesson.misconceptions) == ["odd"]
    assert lesson.due == 0
    assert progress_by_lesson(journal.read(), now=datetime.now() + timedelta(days=1))[0].due == 1


def test_the_dashboard_in_text_and_html(study: Path) -> None:
    shown = progress()
    assert "07 Example: Exercises 1/2, Quiz 3 of 6 answered, 2 right, Open misconceptions 1, Reviews due 0" in repr(
        shown
    )
    assert "Odd ones count." in repr(shown)
    html = shown._repr_html_()
    assert "</span></span> 1/2</td>" in html
    assert "width:50%" in html
    assert "3 of 6 answered, 2 right" in html
    assert "<p>07 Example</p><ul><li>Odd ones count.</li></ul>" in html
    assert "Odd ones count." in html
    assert str(journal.path()) in html


def test_a_misconception_is_closed_by_a_right_answer_of_another_day(study: Path) -> None:
    entries = journal.read()
    later = (journal.when(entries[-1]) + timedelta(days=1)).isoformat()
    right = next(entry for entry in entries if entry.get("question") == "pick-several")
    [lesson] = progress_by_lesson([*entries, right | {"time": later, "right": True, "misconceptions": []}])
    assert lesson.misconceptions == {}


def test_an_empty_journal_is_one_calm_sentence(banks: Path) -> None:
    assert "Nothing recorded yet." in repr(progress())
    assert "Nothing recorded yet." in progress()._repr_html_()


def test_what_cannot_be_read_is_named(study: Path) -> None:
    with journal.path().open("ab") as file:
        file.write(b"garbage\n")
    assert "cannot be read and is left out" in repr(progress())
    assert "cannot be read and is left out" in progress()._repr_html_()


def test_a_lesson_or_a_question_without_its_bank(banks: Path) -> None:
    journal.record("check", exercise="lesson42.x", state="right")
    journal.record("quiz", lesson="43_gone", question="q", right=False, sure=1, misconceptions=["big-is-slow"])
    names = {lesson.name: lesson for lesson in progress_by_lesson(journal.read())}
    assert names["42"].exercises.last == {"x": True}
    assert names["43_gone"].misconceptions["big-is-slow"].en == "big is slow"
    assert "43 gone" in repr(progress())


@pytest.mark.parametrize("entry", [{"exercise": None}, {"exercise": "no-dot", "state": "right"}, {}])
def test_odd_entries_do_not_stop_it(banks: Path, entry: dict) -> None:
    journal.record("check", **entry)
    progress()._repr_html_()


def test_what_was_right_and_then_wrong_is_not_known(study: Path) -> None:
    journal.record("check", exercise="lesson07.a", state="not done")
    assert progress_by_lesson(journal.read())[0].exercises.last["a"], "a notebook that is run again tries nothing"
    journal.record("check", exercise="lesson07.a", state="wrong")
    card(example.LESSON, "pick-one").answer("A", sure=2)
    [lesson] = progress_by_lesson(journal.read())
    assert (lesson.exercises.done, lesson.exercises.once) == (0, {"a"})
    assert (lesson.questions.done, lesson.questions.once) == (1, {"pick-one", "type-number"})
    shown = repr(progress())
    assert "Exercises 0/2 (1 at best), Quiz 3 of 6 answered, 1 right (2 at best)" in shown
    page = retrospective(language="en").text
    assert "  - [ ] Exercises (0/2) (1 at best)" in page
    assert "  - [ ] Quiz (1/6) (2 at best)" in page
    assert "[x] Answered" not in page


def test_finals_and_confidence_are_on_the_page(study: Path) -> None:
    final_elsewhere(5, 10, day="2023-09-14")
    final_elsewhere(8, 10, day="2024-09-14")
    shown = repr(progress())
    assert "Final: 5 of 10 then, 8 of 10 now (2024-09-14)." in shown
    assert "All answers, how sure and how many of them right: Fairly sure 2/3." in shown
    assert "- [x] 최종 퀴즈 (5/10) → (8/10)" in retrospective().text
