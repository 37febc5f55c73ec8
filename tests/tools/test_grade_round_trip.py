"""The whole way of a class on real lessons: release, hand in, autograde with stock nbgrader, feedback."""

from pathlib import Path

import nbformat
import pytest

from torchcourse.tools.build.notebooks import ROOT
from torchcourse.tools.classroom.grade import grade_class

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LESSONS = {"00_start_here": ["1_start_here", "quiz"], "04_monitoring_and_checkpoints": ["quiz"]}
"""Lesson → the notebooks that are handed in. Grading runs each of them for each student, so these are quick ones."""


def releases(lesson: str) -> list[Path]:
    return [ROOT / "notebooks" / lesson / f"{name}.ipynb" for name in LESSONS[lesson]]


def hand_in(folder: Path, student: str, lesson: str, solved: set[str] | None) -> None:
    """Hand in a lesson's release with the exercises named in `solved` filled in; all of them for None."""
    for release in releases(lesson):
        notebook = nbformat.read(release, as_version=4)
        answers = {
            cell.id: cell for cell in nbformat.read(ROOT / "solutions" / lesson / release.name, as_version=4).cells
        }
        for cell in notebook.cells:
            if cell.metadata.get("nbgrader", {}).get("solution") and (solved is None or cell.id in solved):
                cell.source = answers[cell.id].source
        target = folder / "submitted" / student / lesson / release.name
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, target)


def points(lesson: str) -> dict[str, float]:
    """Points of each automatically graded exercise that is handed in, by the name of the exercise."""
    cells = [cell for path in releases(lesson) for cell in nbformat.read(path, 4).cells]
    roles = [cell.metadata.nbgrader for cell in cells if "nbgrader" in cell.metadata]
    return {role.grade_id.removeprefix("check-"): role.points for role in roles if role.grade and not role.solution}


def first_half(lesson: str) -> set[str]:
    names = list(points(lesson))
    return set(names[: (len(names) + 1) // 2])


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("class")
    for lesson in LESSONS:
        hand_in(folder, "all", lesson, None)
        hand_in(folder, "nothing", lesson, set())
        hand_in(folder, "half", lesson, first_half(lesson))
    return folder, {(grade.student, grade.lesson): grade for grade in grade_class(folder)}


@pytest.mark.parametrize("lesson", LESSONS)
def test_each_gets_what_the_work_is_worth(results, lesson):
    _, grades = results
    worth = points(lesson)
    assert len(worth) >= 2
    assert grades["all", lesson].score == sum(worth.values())
    assert grades["nothing", lesson].score == 0
    assert grades["half", lesson].score == sum(worth[name] for name in first_half(lesson))


def test_open_questions_wait_for_the_teacher(results):
    _, grades = results
    assert grades["all", "04_monitoring_and_checkpoints"].state == "needs manual grading"
    assert grades["nothing", "04_monitoring_and_checkpoints"].state == "graded"


def test_everybody_gets_feedback(results):
    folder, _ = results
    for student in ("all", "nothing", "half"):
        for lesson in LESSONS:
            pages = list((folder / "feedback" / student / lesson).glob("*.html"))
            assert sorted(page.stem for page in pages) == LESSONS[lesson]
