"""Grading keeps what nbgrader's own converters keep: rows of the gradebook, files and their modes, feedback pages."""

import shutil
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbgrader.api import Gradebook
from nbgrader.converters import Autograde, GenerateAssignment, GenerateFeedback
from nbgrader.coursedir import CourseDirectory

import small_course
from torchcourse.tools.build.notebooks import solutions, write_text
from torchcourse.tools.classroom import execution, gradebook, late
from torchcourse.tools.classroom.grade import grade_class
from torchcourse.tools.repository import nbgrader_config

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")

LESSON = small_course.LESSON_NAME
STAMP = "2027-03-02 09:00:00 UTC"
RULES = f'late = "25% per day"\n[due]\n{LESSON} = 2027-03-01T09:00:00+00:00\n'
OUTPUTS = [
    {"output_type": "stream", "name": "stderr", "text": "careful"},
    {
        "output_type": "display_data",
        "data": {"text/html": '<img src="x.png"><p>seen', "image/png": "eA=="},
        "metadata": {},
    },
    {"output_type": "execute_result", "data": {"text/plain": "1"}, "metadata": {}, "execution_count": 1},
]


def odd(cells, notebook):
    cells["color"].source = "answer = 'red'  # <b>"
    notebook.cells = [cell for cell in notebook.cells if cell.id != "check-double"]


def grade_with_converters(course: Path, folder: Path) -> None:
    """Grade as `nbgrader generate_assignment`, `autograde` and `generate_feedback` do in the folder of a class."""
    for path, text in solutions(course).items():
        write_text(folder / path, text)
    config = nbgrader_config(course, folder)
    config.CourseDirectory.assignment_id = LESSON
    config.CourseDirectory.db_url = gradebook.address(folder)
    for converter in (GenerateAssignment, Autograde, GenerateFeedback):
        converter(coursedir=CourseDirectory(config=config), config=config).start()
        if converter is GenerateAssignment:
            with Gradebook(gradebook.address(folder)) as book:
                book.update_or_create_assignment(LESSON, duedate="2027-03-01 09:00:00 UTC")


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """The folders of two classes with the same work: graded by `make grade`, and by nbgrader's converters."""
    course = small_course.released(tmp_path_factory.mktemp("course"))
    ours, theirs = (tmp_path_factory.mktemp(name) for name in ("ours", "theirs"))
    small_course.hand_in(course, ours, "all", solved=True)
    small_course.hand_in(course, ours, "odd", odd, solved=True)
    place = small_course.hand_in(course, ours, "late", solved=False).parent
    (place / "timestamp.txt").write_text(STAMP, encoding="utf-8")
    (ours / late.NAME).write_text(RULES, encoding="utf-8")
    shutil.copytree(ours, theirs, dirs_exist_ok=True)

    def execute(notebook, trusted=True, seed=""):
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [nbformat.from_dict(one) for one in OUTPUTS], 1
        return execution.Note()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nbgrader.api.get_alembic_version", lambda: "1")  # which it starts a process for
        patch.setattr(execution, "execute", execute)
        patch.setattr(execution, "is_isolated", lambda: True)
        grade_class(ours, root=course)
        grade_with_converters(course, theirs)
    return ours, theirs


def rows(folder: Path) -> list[tuple]:
    """All that a gradebook holds, without the ids that it gives to rows."""
    found: list[tuple] = []
    with gradebook.opened(folder) as book:
        assignment = book.find_assignment(LESSON)
        found += [("lesson", assignment.duedate, [student.id for student in book.students])]
        for notebook in assignment.notebooks:
            found += [(notebook.name, notebook.kernelspec)]
            found += [
                (cell.name, cell.cell_type, cell.locked, cell.source, cell.checksum) for cell in notebook.source_cells
            ]
            found += sorted((cell.name, cell.max_score, cell.cell_type) for cell in notebook.grade_cells)
            found += sorted((cell.name, "solution") for cell in notebook.solution_cells)
        for work in sorted(assignment.submissions, key=lambda work: work.student.id):
            for part in work.notebooks:
                found += [(work.student.id, work.timestamp, part.name, part.score, part.late_submission_penalty)]
                found += sorted(
                    (grade.name, grade.auto_score, grade.manual_score, grade.extra_credit, grade.needs_manual_grade)
                    for grade in part.grades
                )
                found += sorted((note.name, note.auto_comment, note.manual_comment) for note in part.comments)
    return found


def files(folder: Path, step: str) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in (folder / step).rglob("*") if path.is_file()}


@pytest.mark.slow
def test_the_gradebook_holds_the_same_rows(graded):
    ours, theirs = map(rows, graded)
    assert ours == theirs
    assert len(ours) > 30


@pytest.mark.slow
@pytest.mark.parametrize("step", ["autograded", "feedback"])
def test_files_have_the_same_names_modes_and_contents(graded, step):
    ours, theirs = (files(folder, step) for folder in graded)
    assert sorted(ours) == sorted(theirs)
    assert len(ours) == 4
    for name, path in ours.items():
        text = path.read_text(encoding="utf-8")
        if name.endswith(".html"):  # nbconvert reads and writes each page once more
            text = str(BeautifulSoup(text, "html.parser"))
        assert text == theirs[name].read_text(encoding="utf-8"), name
        assert path.stat().st_mode == theirs[name].stat().st_mode
