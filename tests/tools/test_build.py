"""The build: one source to two notebooks, the same bytes every time, and never over a hand's work."""

import json
from pathlib import Path

import nbformat
import pytest

import small_course
from torchcourse.tools.build import notebooks as build_module
from torchcourse.tools.build.hosts import setup_lines
from torchcourse.tools.build.notebooks import build, lessons, release, solutions
from torchcourse.tools.build.source import PROGRAMS, Origin, SourceError, to_notebook

SOLUTION, RELEASE = "solutions/01_small/1_lesson.ipynb", "notebooks/01_small/1_lesson.ipynb"


@pytest.fixture
def course(tmp_path: Path) -> Path:
    return small_course.make(tmp_path)


def render(course: Path) -> dict[str, str]:
    texts = solutions(course)
    return texts | release(texts, course)


def cells(text: str) -> dict[str, nbformat.NotebookNode]:
    return {cell.id: cell for cell in nbformat.reads(text, as_version=4).cells}


def test_a_second_build_changes_no_byte_and_touches_no_file(course):
    first = build(course)
    assert sorted(first.written) == [RELEASE, SOLUTION]
    before = {path: (course / path).stat().st_mtime_ns for path in first.written}
    second = build(course)
    assert second.written == []
    assert {path: (course / path).stat().st_mtime_ns for path in before} == before


def test_another_day_gives_the_same_bytes(course, monkeypatch):
    first = render(course)
    monkeypatch.setattr("time.time", lambda: 4e9)
    assert render(course) == first


def test_the_stub_keeps_the_frame_and_loses_the_solution(course):
    stubs = cells(render(course)[RELEASE])
    assert stubs["double"].source == (
        'def double(number):\n    """Return twice the number."""\n'
        '    raise NotImplementedError("Write your code here, then run this cell again.")'
    )
    assert stubs["color"].source == "answer = ..."
    assert stubs["check-double"].source.endswith('print("Not done yet")\nscore')
    assert stubs["why"].source == "*Write your answer here.*"
    text = render(course)[RELEASE]
    for secret in ("twice =", "green", "model answer", "HIDDEN", "hidden words"):
        assert secret not in text


def test_a_repair_cell_shows_the_broken_part_of_the_program(course):
    lesson = course / "solutions/01_small/2_clinic.py"
    lesson.write_text(
        "# %% repair: learns_then_forgets\ndef train_epoch(model, loader, optimizer):\n    return 'the cure'\n",
        encoding="utf-8",
    )
    texts = render(course)
    solved, stubs = (cells(texts[f"{folder}/01_small/2_clinic.ipynb"]) for folder in ("solutions", "notebooks"))
    assert "the cure" in solved["learns_then_forgets"].source
    assert "the cure" not in texts["notebooks/01_small/2_clinic.ipynb"]
    broken = stubs["learns_then_forgets"]
    assert broken.source.startswith("def train_epoch(")
    assert broken.source.endswith("return total / count")
    assert broken.metadata.nbgrader.solution
    assert broken.source in (PROGRAMS / "learns_then_forgets.py").read_text(encoding="utf-8")


def test_marked_cells_get_their_role(course):
    solution = cells(render(course)[SOLUTION])
    assert solution["double"].metadata.nbgrader.solution
    check = solution["check-double"].metadata.nbgrader
    assert (check.grade, check.locked, check.points) == (True, True, 2)
    written = solution["why"].metadata.nbgrader
    assert (written.grade, written.solution, written.points) == (True, True, 3)
    assert "TORCHCOURSE_SOURCE" in solution["setup"].source


def test_a_notebook_edited_by_hand_is_named_and_left_alone(course):
    build(course)
    target = course / RELEASE
    edited = target.read_text(encoding="utf-8").replace("Some text.", "Better text.")
    target.write_text(edited, encoding="utf-8")
    report = build(course)
    assert report.edited == [RELEASE]
    assert target.read_text(encoding="utf-8") == edited
    assert build(course, force=True).written == [RELEASE]
    assert "Better text." not in target.read_text(encoding="utf-8")


def test_a_changed_source_changes_its_two_notebooks_only(course):
    source = course / "solutions/01_small/1_lesson.py"
    other = course / "solutions/01_small/2_other.py"
    other.write_text("# %% [markdown]\n# # Other\n", encoding="utf-8")
    build(course)
    source.write_text(source.read_text(encoding="utf-8").replace("Some text.", "More text."), encoding="utf-8")
    assert sorted(build(course).written) == [RELEASE, SOLUTION]


def test_notebooks_whose_source_is_gone_are_removed_unless_edited(course):
    other = course / "solutions/01_small/2_other.py"
    other.write_text("# %% [markdown]\n# # Other\n", encoding="utf-8")
    build(course)
    other.unlink()
    kept = course / "notebooks/01_small/2_other.ipynb"
    kept.write_text(kept.read_text(encoding="utf-8").replace("# Other", "# Mine"), encoding="utf-8")
    report = build(course)
    assert report.removed == ["solutions/01_small/2_other.ipynb"]
    assert report.edited == ["notebooks/01_small/2_other.ipynb"]
    assert kept.exists()


def test_one_lesson_is_rendered_alone(course):
    other = course / "solutions/02_other/1_other.py"
    other.parent.mkdir()
    other.write_text("# %% [markdown]\n# # Other\n", encoding="utf-8")
    assert lessons(course) == ["01_small", "02_other"]
    assert list(solutions(course, "02_other")) == ["solutions/02_other/1_other.ipynb"]
    assert list(solutions(course)) == [SOLUTION, "solutions/02_other/1_other.ipynb"]


def test_the_lesson_source_is_not_copied_into_the_release(course):
    build(course)
    assert [path.name for path in (course / "notebooks").rglob("*.*") if path.is_file()] == ["1_lesson.ipynb"]


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("# %% exercise: a\nx = 1\n", "marks no solution"),
        ("# %% check: a\nx\n", "no points"),
        ("# %% exersise: a\nx = 1  ### SOLUTION\n", "not understood"),
        ("# %%\nx = 1  ### SOLUTION\n", "unmarked cell"),
        ("# %% exercise: a\nx = 1  ### SOLUTION\n\n# %% exercise: a\nx = 1  ### SOLUTION\n", "used twice"),
        ("# %% written: a [markdown]\n# text\n", "3 points"),
    ],
)
def test_a_marking_that_cannot_be_right_is_one_clear_sentence(source, part):
    with pytest.raises(SourceError, match=part) as error:
        to_notebook(source, Origin("solutions/01_small/1_lesson.py"))
    assert "solutions/01_small/1_lesson.py, cell" in str(error.value)


def test_badges_are_built_from_the_one_address_and_left_out_without_it():
    text = "# %% [markdown]\n# # Title\n# Text\n"
    origin = Origin("solutions/01_small/1_lesson.py", "https://github.com/someone/course")
    first = to_notebook(text, origin).cells[0].source.splitlines()
    assert first[0] == "# Title"
    assert "github/someone/course/blob/main/notebooks/01_small/1_lesson.ipynb" in first[2]
    assert "Colab" not in json.dumps(to_notebook(text, Origin(origin.path)))
    assert "git+https://github.com/someone/course" in setup_lines(origin.repository)


@pytest.mark.parametrize(
    ("path", "text", "part"),
    [
        ("solutions/01_small/1_lesson.py", "# %% exercise: a\nx = 1\n", "marks no solution"),
        ("quizzes/01_small.yaml", "title: [broken\n", "01_small.yaml"),
    ],
)
def test_what_cannot_be_built_is_one_sentence_on_the_command_line(course, monkeypatch, capsys, path, text, part):
    (course / path).write_text(text, encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["build"])
    monkeypatch.setattr(build_module, "build", lambda force: build(course, force=force))
    assert build_module.main() == 1
    message = capsys.readouterr().err
    assert message.startswith("Not built: ")
    assert part in message
    assert "Traceback" not in message
