"""Grading: what a class hands in, whole, broken and odd, each graded by itself."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbgrader.nbgraderformat import MetadataValidator, ValidationError

import small_course
from torchcourse.tools.classroom import grade, gradebook, grader, roster

LESSON = small_course.LESSON_NAME
hand_in = small_course.hand_in


@pytest.fixture(scope="module")
def course(tmp_path_factory) -> Path:
    return small_course.released(tmp_path_factory.mktemp("course"))


def half(cells, _notebook):
    cells["double"].source = "def double(number):\n    return number * 2"


def duplicate(_cells, notebook):
    copies = [nbformat.from_dict(cell) for cell in notebook.cells if cell.id in ("double", "check-double")]
    for copy in copies:
        copy.id += "-copy"
    notebook.cells += copies


def delete_checks(_cells, notebook):
    notebook.cells = [cell for cell in notebook.cells if not cell.id.startswith("check-")]


def delete_exercise_and_check(_cells, notebook):
    notebook.cells = [cell for cell in notebook.cells if cell.id not in ("double", "check-double")]


def delete_exercise(_cells, notebook):
    notebook.cells = [cell for cell in notebook.cells if cell.id != "double"]


def borrow(cells, notebook):
    foreign = nbformat.from_dict(cells["check-double"])
    foreign.id = foreign.metadata.nbgrader.grade_id = "check-elsewhere"
    notebook.cells.append(foreign)


def type_again(_cells, notebook):
    """As who copies all cells into a notebook of the learner's own: no cell has a role or its id."""
    for number, cell in enumerate(notebook.cells):
        cell.id = f"own-{number}"
        cell.metadata.pop("nbgrader", None)


def type_exercises_again(_cells, notebook):
    type_again(None, notebook)
    notebook.cells = [cell for cell in notebook.cells if "points=" not in cell.source]


def strip_metadata(_cells, notebook):
    for cell in notebook.cells:
        cell.metadata.pop("nbgrader", None)


def warn(cells, _notebook):
    cells["double"].source += WARNING


def cheat(cells, _notebook):
    cells["check-double"].source = "99"
    cells["double"].source = IMPOSTOR


WARNING = """
quiet_double = double
def double(number):
    import sys
    print("careful", file=sys.stderr)
    return quiet_double(number)
"""

IMPOSTOR = """
class Number(int):
    __hash__ = int.__hash__
    def __eq__(self, other):
        return Number(9)
    def __rmul__(self, other):
        return 99
def double(number):
    return Number(1)
"""


def flood(cells, _notebook):
    cells["setup"].source += "\nprint('x' * 3_000_000)"


@pytest.fixture(scope="module")
def grades(course, tmp_path_factory):
    folder = tmp_path_factory.mktemp("class")
    hand_in(course, folder, "all", solved=True)
    hand_in(course, folder, "nothing", solved=False)
    hand_in(course, folder, "half", half, solved=False)
    hand_in(course, folder, "duplicate", duplicate, solved=True)
    hand_in(course, folder, "deleted", delete_checks, solved=True)
    hand_in(course, folder, "one gone", delete_exercise, solved=True)
    hand_in(course, folder, "two gone", delete_exercise_and_check, solved=True)
    hand_in(course, folder, "borrowed", borrow, solved=True)
    hand_in(course, folder, "own cells", type_again, solved=True)
    hand_in(course, folder, "own exercises", type_exercises_again, solved=True)
    hand_in(course, folder, "stripped", strip_metadata, solved=True)
    hand_in(course, folder, "warns", warn, solved=True)
    hand_in(course, folder, "cheat", cheat, solved=False)
    hand_in(course, folder, "flood", flood, solved=True)
    garbage = folder / "submitted" / "garbage" / LESSON / "1_lesson.ipynb"
    garbage.parent.mkdir(parents=True)
    garbage.write_text("<html>not found</html>", encoding="utf-8")
    return folder, {result.student: result for result in grade.grade_class(folder, root=course)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("student", "score"),
    [
        ("all", 3),
        ("nothing", 0),
        ("half", 2),
        ("duplicate", 3),
        ("deleted", 3),
        ("one gone", 1),
        ("two gone", 1),
        ("borrowed", 3),
        ("own cells", 3),
        ("own exercises", 3),
        ("stripped", 3),
        ("warns", 3),
        ("flood", 3),
    ],
)
def test_each_gets_what_the_work_is_worth(grades, student, score):
    _, results = grades
    assert (results[student].score, results[student].max_score) == (score, 6), results[student].note


@pytest.mark.slow
def test_a_written_answer_waits_for_the_teacher_unless_it_is_empty(grades):
    _, results = grades
    assert {results[name].state for name in ("all", "own cells", "two gone")} == {"needs manual grading"}
    assert results["nothing"].state == "graded"


def test_no_score_is_above_the_points(grades):
    _, results = grades
    assert results["cheat"].score <= 3


def test_a_file_that_is_not_a_notebook_fails_alone_and_is_not_a_zero(grades):
    folder, results = grades
    assert results["garbage"].state == "could not be graded"
    assert results["garbage"].score is None
    assert results["garbage"].note
    with (folder / "grades.csv").open(encoding="utf-8") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    assert rows["garbage"]["score"] == ""
    assert rows["nothing"]["score"] == "0.0"


def test_a_role_that_nbgrader_refuses_is_refused_as_quickly_checked():
    role = {"grade_id": "a", "grade": False, "solution": True, "locked": False, "schema_version": 3, "task": False}
    cells = [nbformat.v4.new_code_cell(metadata={"nbgrader": {**role, "grade_id": one}}) for one in ("a", "b c!")]
    with gradebook.at_work():
        MetadataValidator().validate_cell(cells[0])
        with pytest.raises(ValidationError, match="b c!"):
            MetadataValidator().validate_cell(cells[1])


def test_feedback_is_a_page_for_each_that_could_be_graded(grades):
    folder, results = grades
    pages = {path.parts[-3] for path in (folder / "feedback").rglob("*.html")}
    assert pages == {student for student, result in results.items() if result.state != "could not be graded"}


def test_a_flood_of_output_is_cut(grades):
    folder, _ = grades
    text = (folder / "autograded" / "flood" / LESSON / "1_lesson.ipynb").read_text(encoding="utf-8")
    assert "output cut here" in text
    assert len(text) < 300_000


def test_the_repository_is_untouched(grades, course):
    assert [path.name for path in (course / "solutions" / LESSON).iterdir()] == ["1_lesson.py"]
    notebook = json.loads((course / "notebooks" / LESSON / "1_lesson.ipynb").read_text(encoding="utf-8"))
    assert "digest" in notebook["metadata"]["torchcourse"]


@pytest.mark.parametrize(("lessons", "part"), [(["07_nothing"], "no lesson '07_nothing'"), (None, "Nothing to grade")])
def test_nothing_to_grade_is_one_sentence(course, tmp_path, lessons, part):
    with pytest.raises(FileNotFoundError, match=part) as error:
        grade.grade_class(tmp_path, lessons, root=course)
    assert LESSON in str(error.value)


def test_it_says_where_scores_and_pages_lie_and_what_is_left_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["grade", "--folder", str(tmp_path)])
    monkeypatch.setattr(grade, "POSSIBLE", False)
    for state, left in (("needs manual grading", True), ("graded", False)):
        row = grade.Grade("ada", LESSON, state, 9.0, 20.0)
        monkeypatch.setattr(grade, "grade_class", lambda *_wanted, row=row, **_cluster: [row])
        assert grade.main() == 0
        said = capsys.readouterr().out
        assert f"{tmp_path / 'grades.csv'}" in said
        assert f"{tmp_path / 'feedback'}" in said
        assert ("TEACHING.md, step 5" in said) == left


@pytest.mark.parametrize(("cores", "gib", "count"), [(2, 24, 6), (8, 16, 5), (2, 8, 2), (1, 1, 1)])
def test_more_notebooks_than_cores_run_at_once_where_memory_holds_them(cores, gib, count, monkeypatch):
    monkeypatch.setattr(grader.os, "cpu_count", lambda: cores)
    monkeypatch.setattr(grader.psutil, "virtual_memory", lambda: SimpleNamespace(available=gib * 2**30))
    assert grader.at_a_time() == count


def test_who_waits_when_grading_stops_is_not_said_to_have_handed_in_nothing(course, tmp_path, monkeypatch):
    for student in ("ada", "bo"):
        hand_in(course, tmp_path, student, solved=False).write_text("{}")
    with monkeypatch.context() as patched:
        patched.setattr(grader.Grader, "grade", interrupted)
        with pytest.raises(KeyboardInterrupt):
            grade.grade_class(tmp_path, root=course)
    table = roster.read(tmp_path / "grades.csv")
    assert {row.state for row in table.values()} == {"not graded yet"}
    assert {row.state for row in grade.grade_class(tmp_path, root=course)} == {"could not be graded"}


def test_a_score_of_before_the_work_changed_does_not_stand_where_grading_stops(course, tmp_path, monkeypatch):
    paths = [hand_in(course, tmp_path, student, solved=False) for student in ("ada", "bo")]
    with monkeypatch.context() as patched:
        patched.setattr(
            grader.Grader, "grade", lambda _, work: roster.Grade(work.student, work.lesson, "graded", 1.0, 2.0)
        )
        grade.grade_class(tmp_path, root=course)
    paths[0].write_text("{}")
    for again in (False, True):  # what did not change keeps its score
        with monkeypatch.context() as patched:
            patched.setattr(grader.Grader, "grade", interrupted)
            with pytest.raises(KeyboardInterrupt):
                grade.grade_class(tmp_path, root=course, again=again)
        ada, bo = roster.read(tmp_path / "grades.csv").values()
        assert (ada.state, ada.score) == ("not graded yet", None)
        assert (bo.state, bo.score) == ("graded", 1.0)


def interrupted(*_arguments):
    raise KeyboardInterrupt
