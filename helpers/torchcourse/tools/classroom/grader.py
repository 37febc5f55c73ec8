"""One class's submissions through nbgrader: sorted, run in sandboxes ahead of time, scored, and given feedback."""

import contextlib
import hashlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import nbformat
from nbformat.notebooknode import NotebookNode
from nbgrader.api import MissingEntry, SubmittedAssignment
from nbgrader.converters import Autograde, GenerateAssignment, GenerateFeedback
from nbgrader.converters.base import NbGraderException
from nbgrader.coursedir import CourseDirectory
from traitlets import Type
from traitlets.config import Config

from torchcourse.tools.build import notebooks
from torchcourse.tools.classroom import class_final, execution, gradebook, late, per_student, staging
from torchcourse.tools.classroom.cluster import Cluster
from torchcourse.tools.classroom.feedback_pages import QuickHTMLExporter
from torchcourse.tools.classroom.preprocessors import RunInSandbox
from torchcourse.tools.classroom.roster import Grade, State
from torchcourse.tools.classroom.sandbox.box import POSSIBLE
from torchcourse.tools.classroom.staging import Staged
from torchcourse.tools.repository import nbgrader_config


class Grader:
    """Grades into the folder of a class.

    Args:
        folder: the folder of the class.
        root: the repository with solutions/ and nbgrader_config.py.
        course: a temporary folder, into which the solutions are rendered and submissions are sorted.
    """

    def __init__(self, folder: Path, root: Path, course: Path) -> None:
        self.folder, self.root, self.course = folder, root, course
        self.rules = late.read(folder, notebooks.lessons(root))
        self._known: dict[str, dict[str, NotebookNode]] = {}
        self._staged: dict[tuple[str, str], Staged] = {}
        self._drawn: dict[str, per_student.Draws] = {}

    def register(self, lesson: str) -> str:
        """Render a lesson's solutions, put its cells and points into the gradebook, and return the lesson's digest."""
        texts = class_final.solutions(self.folder, self.root, lesson)
        for path, text in texts.items():
            notebooks.write_text(self.course / path, text)
        self._known[lesson] = {Path(path).stem: nbformat.reads(text, as_version=4) for path, text in texts.items()}
        self._drawn[lesson] = per_student.read(self.folder, lesson)
        self._converter(GenerateAssignment, lesson, "*").start()
        due = self.rules and self.rules.due.get(lesson)
        if due:
            with gradebook.opened(self.folder) as book:
                book.update_or_create_assignment(lesson, duedate=due.isoformat())
        whole = "".join(texts[path] for path in sorted(texts)) + (f"{due} {self.rules}" if self.rules else "")
        return hashlib.blake2b(whole.encode(), digest_size=16).hexdigest()

    def stage(self, student: str, lesson: str) -> Staged:
        """Sort what a student handed in, so that nbgrader finds it."""
        source = self.folder / "submitted" / student / lesson
        target = self._submitted / student / lesson
        staged = staging.stage(source, target, self._known[lesson])
        for name, given in self._drawn[lesson].items():
            if name in staged.notebooks:
                note = per_student.whose(nbformat.read(target / f"{name}.ipynb", as_version=4), given, student)
                staged.notes += [f"{name}.ipynb {note}"] if note else []
        self._staged[student, lesson] = staged
        return staged

    def drawn(self, student: str, lesson: str) -> str:
        """Return what a student was given to answer, as text; empty where that is what all were given."""
        given = {name: students.get(student) for name, students in self._drawn[lesson].items()}
        return repr(given) if any(given.values()) else ""

    def sanitized(self, student: str, lesson: str) -> dict[str, NotebookNode]:
        """Return a staged submission's notebooks as they will be run, by name; nbgrader names what fails here."""
        found = {}
        config = self._config(lesson, student)
        for name in self._staged[student, lesson].notebooks:
            place = {
                "student": student,
                "assignment": lesson,
                "notebook": name,
                "db_url": gradebook.address(self.folder),
            }
            resources = {"nbgrader": place, "unique_key": name, "metadata": {"name": name}}
            try:
                notebook = nbformat.read(self._submitted / student / lesson / f"{name}.ipynb", as_version=4)
                for mend in config.Autograde.sanitize_preprocessors:
                    notebook, resources = mend(config=config)(notebook, resources)
            except Exception:
                continue
            found[name] = notebook
        return found

    def grade(self, student: str, lesson: str) -> Grade:
        """Score a staged submission, and write its feedback."""
        staged = self._staged[student, lesson]
        notes = list(staged.notes)
        if not staged.notebooks:
            reason = "; ".join(notes) or "there is no notebook in the folder"
            return Grade(student, lesson, "could not be graded", None, None, reason)
        messages = _Messages()
        try:
            self._converter(_Autograde, lesson, student, messages).start()
            self.write_feedback(student, lesson)
        except NbGraderException:
            reason = messages.reason() or "nbgrader gave no reason"
            return Grade(student, lesson, "could not be graded", None, None, "; ".join([*notes, reason]))
        finally:
            ran = {key[2]: note for key, note in RunInSandbox.notes.items() if key[:2] == (student, lesson)}
            RunInSandbox.notes.clear()
        notes += [f"{name} {note.text}" for name, note in ran.items() if note.text]
        return self.result(student, lesson, notes, any(note.needs_person for note in ran.values()))

    def write_feedback(self, student: str, lesson: str) -> None:
        """Write the pages that a student gets, from what the gradebook holds."""
        self._converter(_Feedback, lesson, student).start()

    def result(self, student: str, lesson: str, notes: list[str], needs_person: bool = False) -> Grade:
        """Return what the gradebook holds, of the notebooks that were handed in."""
        staged = self._staged[student, lesson]
        with gradebook.opened(self.folder) as book:
            try:
                found = book.find_submission(lesson, student)
            except MissingEntry:
                return Grade(student, lesson, "could not be graded", None, None, "nbgrader kept no score")
            parts = [part for part in found.notebooks if part.name in staged.notebooks]
            manual = needs_person or any(part.needs_manual_grade for part in parts)
            state: State = "needs manual grading" if manual else "graded"
            seconds = found.total_seconds_late
            if self.rules:  # again, since points that were given by hand count too
                for part in parts:
                    part.late_submission_penalty = self.rules.penalty(part.score, seconds) or None
                book.db.commit()
            # The penalty for a late submission too, as nbgrader exports it.
            penalty = sum(part.late_submission_penalty or 0.0 for part in parts)
            score = max(0.0, sum(part.score for part in parts) - penalty)
            most = sum(part.max_score for part in parts)
        if seconds > 0:
            notes = [*notes, f"{seconds / 3600:.1f} h late"]
        missing = sorted(set(self._known[lesson]) - set(staged.notebooks))
        if missing:
            notes = [*notes, f"not handed in: {', '.join(missing)}"]
        return Grade(student, lesson, state, score, most, "; ".join(notes))

    def fingerprint(self, student: str, lesson: str) -> str:
        """Return what changes whenever a teacher changes a score or a comment by hand; empty without a submission."""
        with gradebook.opened(self.folder) as book:
            try:
                found = book.find_submission(lesson, student)
            except MissingEntry:
                return ""
            return hashlib.blake2b(repr(_by_hand(found)).encode(), digest_size=16).hexdigest()

    def students(self) -> list[str]:
        """Return everybody whom the gradebook knows."""
        with gradebook.opened(self.folder) as book:
            return [student.id for student in book.students]

    @cached_property
    def _submitted(self) -> Path:
        return self.course / "submitted"

    def _config(self, lesson: str, student: str) -> Config:
        config = nbgrader_config(self.root, self.folder)
        config.CourseDirectory.source_directory = str(self.course / "solutions")
        config.CourseDirectory.release_directory = str(self.course / "notebooks")
        config.CourseDirectory.submitted_directory = str(self._submitted)
        config.CourseDirectory.db_url = gradebook.address(self.folder)
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


class _OneSubmission:
    """Finds a submission by its folder. nbgrader takes a name with brackets for a pattern."""

    def init_notebooks(self: Any) -> None:
        folder = self._format_source(self.coursedir.assignment_id, self.coursedir.student_id)
        found = sorted(map(str, Path(folder).glob("*.ipynb")))
        if not found:
            raise NbGraderException(f"There is no notebook in {folder}.")
        self.assignments = {folder: found}


class _Autograde(_OneSubmission, Autograde):
    """nbgrader's, for one submission."""


class _Feedback(_OneSubmission, GenerateFeedback):
    """nbgrader's, for one submission."""

    exporter_class = Type(QuickHTMLExporter)


def _by_hand(submission: SubmittedAssignment) -> list[tuple]:
    rows: list[tuple] = []
    for notebook in submission.notebooks:
        rows += [(one.name, one.manual_score, one.extra_credit, one.needs_manual_grade) for one in notebook.grades]
        rows += [(one.name, one.manual_comment) for one in notebook.comments]
    return sorted(rows, key=repr)


class Runs:
    """Runs submissions ahead of the one that is being written into the gradebook, here or on a cluster."""

    def __init__(self, grader: Grader, submissions: list[tuple[str, str]], cluster: Cluster | None = None) -> None:
        self._grader, self._submissions, self._begun = grader, submissions, 0
        self._execute = cluster.execute if cluster else execution.execute
        self._workers = cluster.workers if cluster else os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._workers)

    def begin(self, number: int) -> None:
        """Begin submission `number`, and those that come soon after it."""
        if not POSSIBLE:
            return
        ahead = self._submissions[self._begun : number + 1 + 2 * self._workers]
        for student, lesson in ahead:
            for name, notebook in self._grader.sanitized(student, lesson).items():
                run = self._pool.submit(self._execute, notebook)
                RunInSandbox.prepared[student, lesson, name] = (notebook, run)
        self._begun += len(ahead)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        # Who stops the grading does not wait for what runs, which may take half an hour yet.
        with execution.stopped() if error else contextlib.nullcontext():
            self._pool.shutdown()
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
