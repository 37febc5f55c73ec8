"""The front page: where it sends the learner, what it says of any journal, and that it never takes their words away."""

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from torchcourse.lessons.start_here import course_map, start_notebook
from torchcourse.lessons.start_here.front_page import where_was_i
from torchcourse.quiz import bank
from torchcourse.tools.repository import ROOT

NOW = datetime(2026, 3, 2, 9, 0).astimezone()
LESSON = "01_data_parallelism"


def code(source: str, name: str, graded: str = "") -> dict:
    role = {"nbgrader": {"grade": True, "grade_id": graded}} if graded else {}
    return {"cell_type": "code", "id": name, "metadata": role, "source": source, "outputs": [], "execution_count": None}


@pytest.fixture
def course(work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two notebooks of a lesson: a prediction and two exercises, then a quiz of two questions."""
    monkeypatch.setattr(start_notebook, "_trust", lambda path: None)  # which writes into the home folder
    first, second = (question.id for question in bank.lesson(LESSON).questions[:2])
    head = {"cell_type": "markdown", "id": "head", "metadata": {}, "source": "# Means\n\n**90 minutes** · one CPU"}
    cells = [
        code('predict("01-1.x", "?", ["a", "b"])', "ask"),
        code("def one(): ...", "one"),
        code("check.one(one)", "check-one", "check-one"),
        code("check.Two(Two)", "check-Two", "check-Two"),
    ]
    quiz = [code(f'quiz.card("{LESSON}", "{name}")', f"cell-{name}") for name in (first, second)]
    (work / LESSON).mkdir(parents=True)
    for name, body in (("1_means.ipynb", [head, *cells]), ("quiz.ipynb", quiz)):
        (work / LESSON / name).write_text(json.dumps({"cells": body, "nbformat": 4, "metadata": {}}))
    (work / LESSON / "0_torn.ipynb").write_text('{"cells": [')
    return work


def entry(kind: str, day: int = 0, **fields) -> dict:
    return {"time": (NOW - timedelta(days=day)).isoformat(timespec="seconds"), "kind": kind} | fields


def question(place: int, right: bool = True, day: int = 0, **more) -> dict:
    name = bank.lesson(LESSON).questions[place].id
    return entry("quiz", day, lesson=LESSON, question=name, asked=name, right=right, sure=3, answer="A", **more)


def place(work: Path, entries: list[dict]) -> str | None:
    step = course_map.next_step(course_map.read_notebooks(work), entries)
    return f"{step.notebook.partition('/')[2]}#{step.cell}" if step else None


def test_the_next_step_follows_what_was_done_last(course):
    passed = {name: entry("check", exercise=f"lesson01.{name}", state="right") for name in ("one", "two")}
    failed = entry("check", exercise="lesson01.one", state="wrong")
    predicted = entry("prediction", id="01-1.x", choice="a")
    names = [question.id for question in bank.lesson(LESSON).questions[:2]]
    assert place(course, []) == "1_means.ipynb#ask"
    assert place(course, [predicted]) == "1_means.ipynb#one"
    assert place(course, [predicted, failed]) == "1_means.ipynb#one"
    assert place(course, [passed["one"]]) == "1_means.ipynb#check-Two"
    assert place(course, [predicted, *passed.values()]) == f"quiz.ipynb#cell-{names[0]}"
    assert place(course, [question(0), passed["one"], question(0)]) == "1_means.ipynb#check-Two", (
        "a review moves nothing"
    )
    assert place(course, [passed["one"], question(1, final="a")]) == "1_means.ipynb#check-Two", "nor does a final"
    assert place(course, [question(0), question(1)]) == "1_means.ipynb#ask", "what was left out comes at the end"
    assert place(course, [predicted, *passed.values(), question(0), question(1, right=False)]) is None


@pytest.mark.slow
def test_the_page_says_what_is_due_what_is_open_and_how_long_it_takes(course):
    slug = next(iter(bank.lesson(LESSON).misconceptions))
    wrong = question(0, right=False, day=3, misconceptions=[slug])
    (course / "journal.jsonl").write_text(f"{json.dumps(wrong)}\n{{broken\n", encoding="utf-8")
    page = where_was_i(NOW)._repr_html_()
    for words in ("Continue here", "One review is due.", "1 of", "1.5", "Line 2 of", 'lang="ko"', "여기서 이어 하기"):
        assert words in page
    assert f'href="{LESSON}/quiz.ipynb#cell-id=cell-{bank.lesson(LESSON).questions[1].id}"' in page
    assert page.count("<img alt=") == 3
    assert 'alt=""' not in page
    assert "Continue here: 01 · quiz · Question 2" in repr(where_was_i(NOW))


@pytest.mark.parametrize("journal_text", ["", "{broken\n", json.dumps(question(0, day=-400)) + "\n"])
def test_a_fresh_a_broken_and_a_future_journal_give_a_page(course, journal_text):
    (course / "journal.jsonl").write_text(journal_text, encoding="utf-8")
    page = where_was_i(NOW)
    assert ("Continue here" if "quiz" in journal_text else "Begin here") in page._repr_html_()
    assert start_notebook.main() == 0


def test_a_folder_without_lessons_says_so():
    assert "This folder holds no lessons." in where_was_i(NOW)._repr_html_()


@pytest.mark.slow
def test_ten_thousand_lines_make_the_page_of_the_last_ones(course):
    lines = [json.dumps(question(number % 20, right=number % 3 > 0, day=number % 400)) for number in range(10_000)]
    (course / "journal.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert where_was_i(NOW)._repr_html_().count("<img") >= 2


def read(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def test_what_the_learner_wrote_stays_when_the_page_is_made_again(course):
    path = course / "start.ipynb"
    assert start_notebook.main() == 0
    cells = read(path)
    assert [cell["id"] for cell in cells] == ["where-was-i", "front-page", "due-today", "your-notes"]
    cells[2]["source"] += "\nreview(count=20)"
    cells[3]["source"] = "My own notes."
    mine = code("1 + 1", "sum") | {"outputs": [{"output_type": "stream", "name": "stdout", "text": "2"}]}
    notebook = json.loads(path.read_text(encoding="utf-8")) | {"cells": [mine, *cells], "metadata": {"mine": 1}}
    path.write_text(json.dumps(notebook), encoding="utf-8")
    for _ in range(2):
        assert start_notebook.main() == 0
        made = read(path)
        assert [cell["source"] for cell in made[3:]] == ["1 + 1", cells[2]["source"], "My own notes."]
        assert made[3] == mine
        assert len({cell["id"] for cell in made}) == len(made) == 6
        assert json.loads(path.read_text(encoding="utf-8"))["metadata"] == {"mine": 1}


def test_a_file_that_is_no_notebook_is_kept_beside_the_page(course, capsys):
    for number, text in enumerate(("words of mine", '{"cells": [1], "nbformat": 4}', "[]"), start=1):
        (course / "start.ipynb").write_text(text, encoding="utf-8")
        assert start_notebook.main() == 0
        assert (course / f"start-unreadable-{number}.ipynb").read_text(encoding="utf-8") == text
        assert f"kept as start-unreadable-{number}.ipynb" in capsys.readouterr().out
    assert read(course / "start.ipynb")[1]["id"] == "front-page"


def test_a_page_that_cannot_be_written_ends_in_one_sentence(course, capsys):
    (course / "start.ipynb").mkdir()
    assert start_notebook.main() == 1
    assert "The lessons open without it." in capsys.readouterr().out


def test_an_exercise_is_known_by_its_check(course):
    cells = [code("check.dataset(open_part, points=3)", "m1", "check-open_part")]
    cells += [code('check.repair("sawtooth", epoch, points=1)', "p1", "check-sawtooth")]
    (course / LESSON / "1_means.ipynb").write_text(json.dumps({"cells": cells, "nbformat": 4, "metadata": {}}))
    passed = entry("check", exercise="lesson01.dataset", state="right")
    assert place(course, [passed]) == "1_means.ipynb#p1"
    assert str(place(course, [passed, entry("check", exercise="lesson01.sawtooth", state="right")])).startswith("quiz")


def test_every_notebook_of_the_course_has_steps_and_minutes():
    notebooks = course_map.read_notebooks(ROOT / "notebooks")
    lessons = [notebook for notebook in notebooks if notebook.lesson < "09"]
    assert len(lessons) > 25
    assert [notebook.path for notebook in lessons if not notebook.steps or not notebook.minutes] == []
    assert all(step.cell for notebook in notebooks for step in notebook.steps)


@pytest.mark.parametrize(
    ("stated", "minutes"), [("**90 minutes**", 90), ("**About 30 minutes**", 30), ("**4 to 6 hours, over days**", 300)]
)
def test_the_time_that_a_notebook_states_is_read(course, stated, minutes):
    head = {"cell_type": "markdown", "id": "head", "metadata": {}, "source": f"# Means\n\n{stated}"}
    (course / LESSON / "1_means.ipynb").write_text(json.dumps({"cells": [head], "nbformat": 4, "metadata": {}}))
    assert course_map.read_notebooks(course)[0].minutes == minutes


def test_folders_without_a_bank_have_a_title_in_both_languages(course):
    for name in ("10_capstone", "11_final", "12_my_own"):
        (course / name).mkdir()
        (course / name / "1_x.ipynb").write_text(json.dumps({"cells": [], "nbformat": 4, "metadata": {}}))
    page = where_was_i(NOW)._repr_html_()
    for title in ("10 Capstone", "10 종합 과제", "11 Final", "11 최종 퀴즈", "12 my own"):
        assert title in page
