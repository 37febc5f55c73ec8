"""Grade a class with nbgrader, several submissions at a time: `python -m torchcourse.tools.classroom.grade`.

The folder of the class holds what was handed in, as nbgrader collects it:

    submitted/STUDENT/LESSON/*.ipynb

Beside it appear gradebook.db (nbgrader's own, for manual grading in its formgrader), autograded/, feedback/ and
grades.csv. Each submission is graded by itself: one that fails is named with the reason, and the others go on.

What is handed in is code. It runs in a sandbox (`execution`), several notebooks at a time; one process alone writes
into the gradebook.
"""

import argparse
import csv
import logging
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import nbformat
from nbformat.notebooknode import NotebookNode
from nbgrader.api import Gradebook, MissingEntry
from nbgrader.converters import Autograde, GenerateAssignment, GenerateFeedback
from nbgrader.converters.base import NbGraderException
from nbgrader.coursedir import CourseDirectory
from tqdm import tqdm
from traitlets.config import Config

from torchcourse.tools.build import notebooks
from torchcourse.tools.classroom import execution
from torchcourse.tools.classroom.preprocessors import UNPROTECTED, RunInSandbox
from torchcourse.tools.classroom.sandbox.box import POSSIBLE
from torchcourse.tools.repository import ROOT, nbgrader_config

State = Literal["graded", "needs manual grading", "failed"]


@dataclass(frozen=True)
class Grade:
    """What became of one submission. `score` is None when it could not be graded: that is not a zero."""

    student: str
    lesson: str
    state: State
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
    grades: list[Grade] = []
    # nbgrader asks its database tool for a version by the name of its command, which lies beside this Python.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    with tempfile.TemporaryDirectory() as course:
        grader = _Grader(folder, root, Path(course))
        for lesson in sorted({lesson for _, lesson in submissions}):
            grader.register(lesson)
        progress = tqdm(submissions, desc="Grading", unit="submission", file=sys.stdout, disable=None)
        with _Runs(grader, submissions) as runs:
            for number, (student, lesson) in enumerate(progress):
                runs.begin(number)
                grades.append(grader.grade(student, lesson))
    with (folder / "grades.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(Grade)])
        writer.writerows(["" if value is None else value for value in astuple(grade)] for grade in grades)
    return grades


def find_submissions(folder: Path, lessons: list[str] | None, root: Path) -> list[tuple[str, str]]:
    """Return (student, lesson) for each folder below submitted/ whose lesson the course has."""
    known = notebooks.lessons(root)
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


@dataclass(frozen=True)
class _Grader:
    """Grades into `folder`, the folder of the class; the solutions are rendered into `course`, a temporary one."""

    folder: Path
    root: Path
    course: Path

    def register(self, lesson: str) -> None:
        """Render the lesson's solutions, and put its cells and points into the gradebook."""
        for path, text in notebooks.solutions(self.root, lesson).items():
            notebooks.write_text(self.course / path, text)
        self._converter(GenerateAssignment, lesson, "*").start()

    def grade(self, student: str, lesson: str) -> Grade:
        unknown = self._unknown_notebooks(student, lesson)
        note = f"ignored: {', '.join(unknown)}" if unknown else ""
        messages = _Messages()
        try:
            self._converter(Autograde, lesson, student, messages).start()
            self._converter(GenerateFeedback, lesson, student).start()
        except NbGraderException:
            RunInSandbox.notes.clear()
            return Grade(student, lesson, "failed", None, None, messages.reason() or "nbgrader gave no reason")
        notes = {notebook: RunInSandbox.notes[key] for key in list(RunInSandbox.notes) for notebook in key[2:]}
        RunInSandbox.notes.clear()
        with Gradebook(self._database, "torchcourse") as book:
            try:
                result = book.find_submission(lesson, student)
            except MissingEntry:
                return Grade(student, lesson, "failed", None, None, "nbgrader kept no score")
            manual = result.needs_manual_grade or any(one.needs_person for one in notes.values())
            state: State = "needs manual grading" if manual else "graded"
            note = "; ".join([note] * bool(note) + [f"{name} {one.text}" for name, one in notes.items() if one.text])
            return Grade(student, lesson, state, result.score, result.max_score, note)

    def sanitized(self, student: str, lesson: str) -> dict[str, NotebookNode]:
        """Return a submission's notebooks as they will be run, by name; those that cannot be read are left out."""
        found = {}
        config = self._config(lesson, student)
        for path in sorted((self.folder / "submitted" / student / lesson).glob("*.ipynb")):
            if path.name in self._unknown_notebooks(student, lesson):
                continue
            place = {"student": student, "assignment": lesson, "notebook": path.stem, "db_url": self._database}
            resources = {"nbgrader": place, "unique_key": path.stem, "metadata": {"name": path.stem}}
            try:
                notebook = nbformat.read(path, as_version=4)
                for mend in config.Autograde.sanitize_preprocessors:
                    notebook, resources = mend(config=config)(notebook, resources)
            except Exception:
                continue  # nbgrader meets the same error, and names it
            found[path.stem] = notebook
        return found

    @property
    def _database(self) -> str:
        return f"sqlite:///{self.folder.resolve()}/gradebook.db"

    def _unknown_notebooks(self, student: str, lesson: str) -> list[str]:
        known = {path.name for path in (self.course / "solutions" / lesson).glob("*.ipynb")}
        handed_in = {path.name for path in (self.folder / "submitted" / student / lesson).glob("*.ipynb")}
        return sorted(handed_in - known)

    def _config(self, lesson: str, student: str) -> Config:
        config = nbgrader_config(self.root, self.folder)
        config.CourseDirectory.source_directory = str(self.course / "solutions")
        config.CourseDirectory.release_directory = str(self.course / "notebooks")
        config.CourseDirectory.db_url = self._database
        config.CourseDirectory.assignment_id = lesson
        config.CourseDirectory.student_id = student
        return config

    def _converter(self, kind: type, lesson: str, student: str, handler: logging.Handler | None = None) -> Any:
        config = self._config(lesson, student)
        log = logging.Logger(f"nbgrader-{lesson}-{student}")
        log.addHandler(handler or logging.NullHandler())
        converter = kind(coursedir=CourseDirectory(config=config), config=config, log=log)
        converter.force = True
        return converter


class _Runs:
    """Runs submissions ahead of the one that is being written into the gradebook."""

    def __init__(self, grader: _Grader, submissions: list[tuple[str, str]]) -> None:
        self._grader, self._submissions, self._begun = grader, submissions, 0
        self._workers = os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._workers)

    def begin(self, number: int) -> None:
        """Begin submission `number`, and those that come soon after it."""
        if not POSSIBLE:
            return
        ahead = self._submissions[self._begun : number + 1 + 2 * self._workers]
        for student, lesson in ahead:
            for name, notebook in self._grader.sanitized(student, lesson).items():
                run = self._pool.submit(execution.execute, notebook)
                RunInSandbox.prepared[student, lesson, name] = (notebook, run)
        self._begun += len(ahead)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        RunInSandbox.prepared.clear()


class _Messages(logging.Handler):
    """Keeps what nbgrader logs as an error, to name the cause; nbgrader itself raises only 'see above'."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._kept: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._kept.append(record.getMessage())

    def reason(self) -> str:
        """Return the last line of the first traceback, which names the error."""
        traces = [message for message in self._kept if message.startswith("Traceback")]
        lines = [line for message in traces or self._kept for line in message.splitlines() if line.strip()]
        return lines[-1].strip()[:300] if lines else ""


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
    if not (POSSIBLE and execution.is_isolated()):
        print(UNPROTECTED)
    width = max(len(grade.student) for grade in grades)
    for grade in grades:
        score = "   –" if grade.score is None else f"{grade.score:4g} of {grade.max_score:g}"
        print(f"{grade.student:{width}}  {grade.lesson:28} {score:12} {grade.state}  {grade.note}")
    print(f"Scores: {arguments.folder / 'grades.csv'}. Feedback pages, which show the hidden tests: feedback/.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
