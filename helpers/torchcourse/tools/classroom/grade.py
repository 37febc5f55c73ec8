"""Grade a class with stock nbgrader: `python -m torchcourse.tools.classroom.grade`, or `make grade`.

The folder of the class holds what was handed in, as nbgrader collects it:

    submitted/STUDENT/LESSON/*.ipynb

Beside it appear gradebook.db (nbgrader's own, for manual grading in its formgrader), autograded/, feedback/ and
grades.csv. Each submission is graded by itself: one that fails is named with the reason, and the others go on.

What is handed in is code, and it runs as you. nbgrader is no security boundary: grade strangers' notebooks on a
machine, or under an account, that holds nothing else.
"""

import argparse
import csv
import logging
import os
import sys
import tempfile
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from nbgrader.api import Gradebook, MissingEntry
from nbgrader.converters import Autograde, GenerateAssignment, GenerateFeedback
from nbgrader.converters.base import NbGraderException
from nbgrader.coursedir import CourseDirectory
from tqdm import tqdm

from torchcourse.tools.build.notebooks import ROOT, nbgrader_config


@dataclass(frozen=True)
class Grade:
    """What became of one submission. `score` is None when it could not be graded: that is no zero."""

    student: str
    lesson: str
    state: Literal["graded", "needs manual grading", "failed"]
    score: float | None
    max_score: float | None
    note: str = ""


def grade_class(folder: Path, lessons: list[str] | None = None, root: Path = ROOT) -> list[Grade]:
    """Grade every submission below `folder`/submitted and write feedback and `grades.csv`.

    Args:
        folder: the folder of the class.
        lessons: grade only these; by default all that somebody handed in.
        root: the repository with solutions/ and nbgrader_config.py.

    Raises:
        FileNotFoundError: when there is nothing to grade, or a lesson does not exist; the message says what does.
    """
    submissions = find_submissions(folder, lessons, root)
    # nbgrader asks its database tool for a version by the name of its command, which lies beside this Python.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    for lesson in sorted({lesson for _, lesson in submissions}):
        _register(lesson, folder, root)
    progress = tqdm(submissions, desc="Grading", unit="submission", file=sys.stdout, disable=None)
    grades = [_grade(student, lesson, folder, root) for student, lesson in progress]
    with (folder / "grades.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(Grade)])
        writer.writerows(["" if value is None else value for value in astuple(grade)] for grade in grades)
    return grades


def find_submissions(folder: Path, lessons: list[str] | None, root: Path) -> list[tuple[str, str]]:
    """Return (student, lesson) for each folder below submitted/ whose lesson the course has."""
    known = sorted(path.name for path in (root / "solutions").iterdir() if any(path.glob("*.ipynb")))
    for lesson in lessons or []:
        if lesson not in known:
            raise FileNotFoundError(f"There is no lesson '{lesson}'. The lessons are {', '.join(known)}.")
    found = sorted((path.parent.name, path.name) for path in folder.glob("submitted/*/*") if path.is_dir())
    wanted = [(student, lesson) for student, lesson in found if lesson in (lessons or known)]
    if not wanted:
        raise FileNotFoundError(
            f"Nothing to grade below {folder / 'submitted'}. Put each notebook at submitted/STUDENT/LESSON/, "
            f"with LESSON one of {', '.join(known)}."
        )
    return wanted


def _register(lesson: str, folder: Path, root: Path) -> None:
    """Put the lesson's cells and points into the gradebook. Its release goes to a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as release:
        converter = _converter(GenerateAssignment, lesson, "*", folder, root, release=release)
        converter.start()


def _grade(student: str, lesson: str, folder: Path, root: Path) -> Grade:
    unknown = _unknown_notebooks(student, lesson, folder, root)
    note = f"ignored: {', '.join(unknown)}" if unknown else ""
    grader = _converter(Autograde, lesson, student, folder, root)
    try:
        grader.start()
        _converter(GenerateFeedback, lesson, student, folder, root).start()
    except NbGraderException:
        return Grade(student, lesson, "failed", None, None, _reason(grader.log) or "nbgrader gave no reason")
    with Gradebook(f"sqlite:///{folder.resolve()}/gradebook.db", "torchcourse") as book:
        try:
            result = book.find_submission(lesson, student)
        except MissingEntry:
            return Grade(student, lesson, "failed", None, None, "nbgrader kept no score")
        state = "needs manual grading" if result.needs_manual_grade else "graded"
        return Grade(student, lesson, state, result.score, result.max_score, note)


def _unknown_notebooks(student: str, lesson: str, folder: Path, root: Path) -> list[str]:
    known = {path.name for path in (root / "solutions" / lesson).glob("*.ipynb")}
    return sorted(
        path.name for path in (folder / "submitted" / student / lesson).glob("*.ipynb") if path.name not in known
    )


class _Memory(logging.Handler):
    """Keeps what nbgrader logs as an error, to name the cause; nbgrader itself raises only 'see above'."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def _reason(log: logging.Logger) -> str:
    """Return the last line of the first traceback in the log, which names the error."""
    messages = log.handlers[0].messages
    traces = [message for message in messages if message.startswith("Traceback")]
    lines = [line for message in traces or messages for line in message.splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else ""


def _converter(kind: type, lesson: str, student: str, folder: Path, root: Path, release: str | None = None) -> Any:
    config = nbgrader_config(root, folder)
    config.CourseDirectory.source_directory = str(root.resolve() / "solutions")
    config.CourseDirectory.db_url = f"sqlite:///{folder.resolve()}/gradebook.db"
    config.CourseDirectory.assignment_id = lesson
    config.CourseDirectory.student_id = student
    if release:
        config.CourseDirectory.release_directory = release
    log = logging.Logger(f"nbgrader-{lesson}-{student}")
    log.addHandler(_Memory())
    converter = kind(coursedir=CourseDirectory(config=config), config=config, log=log)
    converter.force = True
    return converter


def main() -> int:
    parser = argparse.ArgumentParser(description="Grade what a class handed in.")
    parser.add_argument("lessons", nargs="*", help="lessons to grade; all that were handed in if none is named")
    parser.add_argument("--folder", type=Path, default=ROOT, help="the folder that holds submitted/ (default: here)")
    arguments = parser.parse_args()
    try:
        grades = grade_class(arguments.folder, arguments.lessons or None)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    width = max(len(grade.student) for grade in grades)
    for grade in grades:
        score = "   –" if grade.score is None else f"{grade.score:4g} of {grade.max_score:g}"
        print(f"{grade.student:{width}}  {grade.lesson:28} {score:12} {grade.state}  {grade.note}")
    print(f"Scores: {arguments.folder / 'grades.csv'}. Feedback pages, which show the hidden tests: feedback/.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
