"""One class's submissions as nbgrader grades them: sorted, run in sandboxes ahead of time, scored, and given feedback.

nbgrader's own steps do all that decides about points. Its converters would open the gradebook for each of them, check
the notebook's form after each, and write the notebook to a file and read it again twice.
"""

import contextlib
import copy
import hashlib
import logging
import os
import shutil
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import nbformat
import psutil
from nbformat.notebooknode import NotebookNode
from nbgrader.api import Gradebook, MissingEntry
from nbgrader.preprocessors import NbGraderPreprocessor, SaveCells
from nbgrader.utils import rmtree, setenv

from torchcourse.tools.build import notebooks
from torchcourse.tools.classroom import (
    class_final,
    elsewhere,
    execution,
    gradebook,
    late,
    own_time,
    per_student,
    staging,
)
from torchcourse.tools.classroom.cluster import Cluster
from torchcourse.tools.classroom.feedback_pages import FeedbackPages
from torchcourse.tools.classroom.preprocessors import RunInSandbox
from torchcourse.tools.classroom.roster import Grade, State, printable
from torchcourse.tools.classroom.sandbox.box import POSSIBLE
from torchcourse.tools.repository import nbgrader_config


@dataclass
class Work:
    """A submission on its way to its grade."""

    student: str
    lesson: str
    notebooks: dict[str, NotebookNode] = field(default_factory=dict)
    """What is graded, by name, with the teacher's check cells."""
    notes: list[str] = field(default_factory=list)
    """What a teacher has to know, a sentence each."""
    failed: str = ""
    """Why it cannot be graded."""
    runs: dict[str, Future[execution.Note]] = field(default_factory=dict)
    """What fills in the outputs of the notebooks, where that began ahead of time."""
    fingerprint: str = ""
    """What changes whenever a teacher changes a score or a comment by hand; empty before it is graded."""


class Grader:
    """Grades into the folder of a class.

    Args:
        folder: the folder of the class.
        root: the repository with solutions/ and nbgrader_config.py.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder, self.root = folder, root
        self.rules = late.read(folder, notebooks.lessons(root))
        self._config = nbgrader_config(root, folder)
        self._address = gradebook.address(folder)
        self._messages = _Messages()
        self._sanitizing = self._steps(self._config.Autograde.sanitize_preprocessors)
        grading = self._steps(self._config.Autograde.autograde_preprocessors)
        self._running = [step for step in grading if isinstance(step, RunInSandbox)]
        self._scoring = [step for step in grading if step not in self._running]
        self._pages = FeedbackPages(self._config)
        self._known: dict[str, dict[str, NotebookNode]] = {}  # with solutions
        self._drawn: dict[str, per_student.Draws] = {}

    def register(self, lesson: str) -> str:
        """Put the cells of a lesson's solutions, and their points, into the gradebook, and return the lesson's digest.

        Raises:
            ValueError: in a sentence, if work was graded by other cells than the lesson has now.
        """
        texts = class_final.solutions(self.folder, self.root, lesson)
        self._known[lesson] = {Path(path).stem: nbformat.reads(text, as_version=4) for path, text in texts.items()}
        self._drawn[lesson] = per_student.read(self.folder, lesson)
        due = self.rules and self.rules.due.get(lesson)
        every = self._config.GenerateAssignment.preprocessors
        saving = next(number for number, step in enumerate(every) if issubclass(step, SaveCells))
        steps = self._steps(every[: saving + 1])
        with gradebook.at_once(self.folder) as book:
            assignment = book.update_or_create_assignment(lesson, **({"duedate": due.isoformat()} if due else {}))
            there, known = {one.name for one in assignment.notebooks}, self._known[lesson]
            try:
                if there != known.keys() and assignment.submissions:
                    raise RuntimeError(f"then it had the notebooks {', '.join(sorted(there))}")
                for gone in there - known.keys():
                    book.remove_notebook(gone, lesson)
                for name, notebook in known.items():
                    _apply(steps, copy.deepcopy(notebook), self._place(Work("", lesson), name))
            except RuntimeError as error:
                raise ValueError(f"{lesson} was graded by a different version of the course: {error}.") from error
        whole = "".join(texts[path] for path in sorted(texts)) + (f"{due} {self.rules}" if self.rules else "")
        return hashlib.blake2b(whole.encode(), digest_size=16).hexdigest()

    def drawn(self, student: str, lesson: str) -> str:
        """Return what a student was given to answer, as text; empty where that is what all were given."""
        given = {name: students.get(student) for name, students in self._drawn[lesson].items()}
        return repr(given) if any(given.values()) else ""

    def prepare(self, student: str, lesson: str) -> Work:
        """Sort what a student handed in, and bring it into the form in which it is run."""
        work = Work(student, lesson)
        self._messages.clear()
        try:
            with own_time.limited():
                staged = self._staged(student, lesson)
                work.notebooks, work.notes = staged.notebooks, staged.notes
                if not staged.notebooks:
                    work.failed = "; ".join(work.notes) or "there is no notebook in the folder"
                    work.notes = []
                for name, notebook in work.notebooks.items():
                    work.notebooks[name] = _apply(self._sanitizing, notebook, self._place(work, name))
                    work.notebooks[name].metadata[execution.FILES] = staged.files
        except (Exception, own_time.TooLong) as error:  # whatever a notebook can hold
            work.failed = self._reason(error)
        return work

    def grade(self, work: Work) -> Grade:
        """Score a submission, and write its feedback."""
        if work.failed:
            return _not_graded(work)
        self._messages.clear()
        try:
            notes = self._ran(work)
            with own_time.limited(), gradebook.at_once(self.folder) as book:
                gradebook.enter(book, work.lesson, work.student, self._timestamp(work), work.notebooks)
                for name, notebook in work.notebooks.items():
                    work.notebooks[name] = _apply(self._scoring, notebook, self._place(work, name))
                    nbformat.validate(work.notebooks[name], relax_add_props=True)
                self._write_autograded(work)
                return self._finish(book, work, any(note.needs_person for note in notes))
        except (Exception, own_time.TooLong) as error:  # the fault of one submission, which costs no other one anything
            work.failed = self._reason(error)
            return _not_graded(work)

    def _reason(self, error: BaseException) -> str:
        if isinstance(error, own_time.TooLong | staging.Refused):
            return str(error)
        return self._messages.reason() or f"{type(error).__name__}: {error}".splitlines()[0][:300]

    def follow(self, student: str, lesson: str) -> tuple[Grade, str]:
        """Return the grade of work that was graded before, and its fingerprint, and write its feedback again."""
        staged = self._staged(student, lesson)
        autograded = self.folder / "autograded" / student / lesson
        known = {name: nbformat.read(autograded / f"{name}.ipynb", as_version=4) for name in staged.notebooks}
        work = Work(student, lesson, known)
        with gradebook.at_once(self.folder) as book:
            return self._finish(book, work, needs_person=False), work.fingerprint

    def fingerprint(self, student: str, lesson: str) -> str:
        """Return what changes whenever a teacher changes a score or a comment by hand; empty without a submission."""
        with gradebook.opened(self.folder) as book:
            try:
                return gradebook.by_hand(book, book.find_submission(lesson, student))
            except MissingEntry:
                return ""

    def students(self) -> list[str]:
        """Return everybody whom the gradebook knows."""
        with gradebook.opened(self.folder) as book:
            return [student.id for student in book.students]

    def _staged(self, student: str, lesson: str) -> staging.Staged:
        staged = staging.stage(self.folder / "submitted" / student / lesson, self._known[lesson])
        for name, notebook in staged.notebooks.items():
            empty = self._config.ClearSolutions.text_stub
            staged.notes += [
                f"{name}.ipynb: {note}" for note in elsewhere.notes(notebook, self._known[lesson][name], empty)
            ]
        for name, given in self._drawn[lesson].items():
            if name in staged.notebooks:
                note = per_student.whose(staged.notebooks[name], given, student)
                staged.notes += [f"{name}.ipynb {note}"] if note else []
        return staged

    def _ran(self, work: Work) -> list[execution.Note]:
        """Wait until all notebooks are run, and return what there is to say about it."""
        notes = []
        for name, notebook in work.notebooks.items():
            if name in work.runs:
                notes.append(work.runs[name].result())
                work.notes += [f"{name} {notes[-1].text}"] if notes[-1].text else []
            else:
                with tempfile.TemporaryDirectory() as place, setenv(NBGRADER_EXECUTION="autograde"):
                    resources = self._place(work, name) | {"metadata": {"name": name, "path": place}}
                    work.notebooks[name] = _apply(self._running, notebook, resources)
        return notes

    def _timestamp(self, work: Work) -> datetime | None:
        try:
            text = staging.stamp(self.folder / "submitted" / work.student / work.lesson)
            return late.handed_in(text) if text else None
        except (OSError, ValueError, OverflowError):
            work.notes.append(f"{staging.TIMESTAMP} holds no time, so that this work counts as in time")
            return None

    def _write_autograded(self, work: Work) -> None:
        place = self._emptied("autograded", work)
        for name, notebook in work.notebooks.items():
            text = nbformat.versions[4].writes(notebook).rstrip("\n") + "\n"
            (place / f"{name}.ipynb").write_text(text, encoding="utf-8", newline="\n")
        for path in place.iterdir():
            path.chmod(0o444)

    def _finish(self, book: Gradebook, work: Work, needs_person: bool) -> Grade:
        """Return what the gradebook holds of the notebooks that were handed in, and write their feedback."""
        found = book.find_submission(work.lesson, work.student)
        parts = [part for name, part in gradebook.parts(book, found).items() if name in work.notebooks]
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
        work.fingerprint = gradebook.by_hand(book, found)
        notes = [*work.notes, f"{seconds / 3600:.1f} h late"] if seconds > 0 else work.notes
        missing = sorted(self._known[work.lesson].keys() - work.notebooks.keys())
        notes = [*notes, f"not handed in: {', '.join(missing)}"] if missing else notes
        place = self._emptied("feedback", work)
        for name, notebook in work.notebooks.items():
            page = self._pages.page(notebook, self._place(work, name))
            (place / f"{name}.html").write_text(page, encoding="utf-8", newline="\n")
        return Grade(work.student, work.lesson, state, score, most, _told(notes))

    def _emptied(self, step: str, work: Work) -> Path:
        """Return a folder for what one of nbgrader's steps makes of a submission, with nothing but its timestamp."""
        place = self.folder / step / work.student / work.lesson
        if place.exists():
            rmtree(place)
        place.mkdir(parents=True)
        with contextlib.suppress(OSError, ValueError):
            source = self.folder / "submitted" / work.student / work.lesson
            if staging.stamp(source):
                shutil.copyfile(source / staging.TIMESTAMP, place / staging.TIMESTAMP)
        return place

    def _place(self, work: Work, name: str) -> dict[str, Any]:
        """Return what nbgrader's steps are told about a notebook."""
        place = {"student": work.student, "assignment": work.lesson, "notebook": name, "db_url": self._address}
        metadata = {"name": name, "path": str(self.folder / "autograded" / work.student / work.lesson)}
        told = {"nbgrader": place, "unique_key": name, "metadata": metadata, "config_dir": str(self.folder)}
        return told | {"solution": self._known[work.lesson][name]}

    def _steps(self, kinds: list[type[NbGraderPreprocessor]]) -> list[NbGraderPreprocessor]:
        log = logging.Logger("nbgrader")
        log.addHandler(self._messages)
        return [kind(config=self._config, log=log) for kind in kinds]


def _apply(steps: list[NbGraderPreprocessor], notebook: NotebookNode, resources: dict[str, Any]) -> NotebookNode:
    for step in steps:
        notebook, resources = step(notebook, resources)
    return notebook


def _not_graded(work: Work) -> Grade:
    return Grade(work.student, work.lesson, "could not be graded", None, None, _told([work.failed, *work.notes]))


def _told(notes: list[str]) -> str:
    """Return notes as one text for a cell of a table, the first of them where there are too many."""
    text = printable("; ".join(note for note in notes if note))
    return text if len(text) <= _MOST_TOLD else f"{text[:_MOST_TOLD]} …"


_MOST_TOLD = 2000  # characters


def at_a_time() -> int:
    """Return how many notebooks run at once on this machine: three per core, if there is memory for so many.

    They also wait, for processes that they start and for the clock.
    """
    return max(1, min(3 * (os.cpu_count() or 1), psutil.virtual_memory().available // _NEEDED))


_NEEDED = 2816 * 2**20
"""Bytes of memory that a notebook with its ranks takes at most: lesson 01's second one, measured."""


class Runs:
    """Runs submissions ahead of the one that is being written into the gradebook, here or on a cluster."""

    def __init__(self, grader: Grader, submissions: list[tuple[str, str]], cluster: Cluster | None = None) -> None:
        self._grader, self._submissions, self._begun = grader, submissions, dict[int, Work]()
        self._execute = cluster.execute if cluster else execution.execute
        self._workers = cluster.workers if cluster else at_a_time()
        self._pool = ThreadPoolExecutor(self._workers)

    def take(self, number: int) -> Work:
        """Return submission `number`, and begin those that come soon after it. Each is taken once, in their order."""
        first = max(self._begun, default=number - 1) + 1
        for ahead in range(first, min(len(self._submissions), number + 1 + 2 * self._workers)):
            work = self._begun[ahead] = self._grader.prepare(*self._submissions[ahead])
            if POSSIBLE and not work.failed:
                work.runs = {
                    name: self._pool.submit(self._execute, notebook) for name, notebook in work.notebooks.items()
                }
        return self._begun.pop(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        # Who stops the grading does not wait for what runs, which may take half an hour yet.
        with execution.stopped() if error else contextlib.nullcontext():
            self._pool.shutdown()


class _Messages(logging.Handler):
    """Keeps what nbgrader's steps log as an error, to name the cause; some raise no more than that they failed."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._kept: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._kept.append(record.getMessage())

    def clear(self) -> None:
        self._kept.clear()

    def reason(self) -> str:
        """Return the last line of the first traceback, which names the error."""
        traces = [message for message in self._kept if message.startswith("Traceback")]
        lines = [line for message in traces for line in message.splitlines() if line.strip()]
        return lines[-1].strip()[:300] if lines else ""
