"""The whole way of a class on a real lesson: half of it done, handed in, autograded with stock nbgrader, feedback.

What all and nothing earn is known: every notebook is run done and untouched elsewhere.
"""

import nbformat
import pytest
from nbgrader.utils import is_grade, is_solution

from lesson_notebooks import RELEASES, filled_in, read
from torchcourse.tools.classroom.grade import grade_class

pytestmark = [pytest.mark.notebook, pytest.mark.slow, pytest.mark.timeout(600)]

LESSON = "00_start_here"
NOTEBOOKS = [path for path in RELEASES if path.parent.name == LESSON]


def worth() -> dict[str, float]:
    """Points of each automatically graded exercise, by the name of the exercise."""
    graded = [cell for path in NOTEBOOKS for cell in read(path).cells if is_grade(cell) and not is_solution(cell)]
    return {cell.id.removeprefix("check-"): cell.metadata.nbgrader.points for cell in graded}


def done() -> set[str]:
    """Every second exercise."""
    return set(list(worth())[::2])


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("class")
    handed_in = folder / "submitted" / "half" / LESSON
    handed_in.mkdir(parents=True)
    for path in NOTEBOOKS:
        nbformat.write(filled_in(path, lambda cell: is_solution(cell) and cell.id in done()), handed_in / path.name)
    (grade,) = grade_class(folder)
    return folder, grade


def test_half_of_the_work_earns_what_it_is_worth(graded):
    _, grade = graded
    points = worth()
    assert 2 <= len(done()) < len(points)
    assert grade.score == sum(points[name] for name in done())
    assert grade.score < sum(points.values())


def test_there_is_feedback_on_each_notebook(graded):
    folder, _ = graded
    pages = (folder / "feedback" / "half" / LESSON).glob("*.html")
    assert sorted(page.stem for page in pages) == sorted(path.stem for path in NOTEBOOKS)


def test_the_graders_run_leaves_no_journal_behind(graded):
    folder, _ = graded
    assert list(folder.rglob("journal.jsonl")) == []
    assert list(folder.rglob("retrospectives")) == []
