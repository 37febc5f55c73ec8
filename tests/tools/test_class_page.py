"""The class at a glance: every score, whoever is missing, what checks said; nothing a student wrote runs there."""

import csv

import nbformat
import pytest

import small_course
from torchcourse.checks import Checked
from torchcourse.tools.classroom import class_page, grade
from torchcourse.tools.classroom.preprocessors import HarmlessPages

LESSON = small_course.LESSON_NAME
HOSTILE = "<img src=x onerror=alert(1)>"


def shout(cells, _notebook):
    cells["double"].source = "def double(number):\n    raise ValueError('<script>alert(2)</script>')"


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    course = small_course.released(tmp_path_factory.mktemp("course"))
    folder = tmp_path_factory.mktemp("class")
    small_course.hand_in(course, folder, "all", solved=True)
    small_course.hand_in(course, folder, HOSTILE, shout, solved=True)
    garbage = folder / "submitted" / "garbage" / LESSON / "1_lesson.ipynb"
    garbage.parent.mkdir(parents=True)
    garbage.write_text("<html>", encoding="utf-8")
    grade.grade_class(folder, root=course)
    return folder


@pytest.mark.slow
def test_the_page_escapes_names_and_outputs_and_links_to_feedback(graded):
    class_page.write(graded)
    page = (graded / "class.html").read_text(encoding="utf-8")
    assert "<img" not in page
    assert "<script" not in page
    assert "&lt;img" in page
    assert "1 × &lt;script&gt;alert(2)" in page
    assert f'href="feedback/all/{LESSON}/1_lesson.html"' in page
    assert page.count("could not be read") == 1


@pytest.mark.slow
def test_the_table_has_each_score(graded):
    class_page.write(graded)
    with (graded / "class.csv").open(newline="", encoding="utf-8") as file:
        rows = {(row["student"], row["exercise"]): float(row["score"]) for row in csv.DictReader(file)}
    assert rows["all", "check-double"] == 2
    assert rows[HOSTILE, "check-double"] == 0


def test_what_a_check_of_the_course_said_is_read_from_its_box(tmp_path):
    wrong = Checked("double", "wrong", "Yours is <2> times\ntoo large.", 2)
    made = nbformat.v4.new_notebook()
    for number, failed in enumerate((False, True)):
        cell = nbformat.v4.new_code_cell(metadata={"nbgrader": {"grade_id": f"check-{number}"}})
        data = {"text/plain": repr(wrong), "text/html": wrong._repr_html_()}
        cell.outputs = [nbformat.v4.new_output("execute_result", data)]
        cell.outputs += [nbformat.v4.new_output("error", ename="HiddenTest", evalue="not on these inputs")] * failed
        made.cells.append(cell)
    made, _ = HarmlessPages().preprocess(made, {})
    nbformat.write(made, tmp_path / "1.ipynb")
    said = class_page._said(tmp_path / "1.ipynb")
    assert said == {"check-0": "Not yet. Yours is <2> times too large.", "check-1": "not on these inputs"}


@pytest.mark.slow
def test_for_a_projector_no_name_is_shown(graded):
    class_page.write(graded, names=False)
    page = (graded / "class.html").read_text(encoding="utf-8")
    table = (graded / "class.csv").read_text(encoding="utf-8")
    assert "Student 1" in page
    assert not any(word in page + table for word in ("garbage", "onerror", "href=", "alert"))


def test_an_ungraded_class_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="run make grade first"):
        class_page.summarize(tmp_path)
