"""The gradebook of a class: where it is, and nbgrader's use of it, made quick and quiet.

It is `gradebook.db` in the folder of the class, unless `grading.toml` there names a server's database.
"""

import contextlib
import functools
import hashlib
import json
import uuid
import warnings
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import alembic.config
import alembic.script
import jsonschema
import nbgrader.api
from nbgrader import dbutil, nbgraderformat
from nbgrader.api import (
    BaseCell,
    Comment,
    Grade,
    Gradebook,
    MissingEntry,
    Notebook,
    SubmittedAssignment,
    SubmittedNotebook,
)
from sqlalchemy import insert, select, update
from sqlalchemy.exc import SAWarning
from sqlalchemy.orm import undefer

from torchcourse.tools.classroom import late

NAME = "gradebook.db"


def address(folder: Path) -> str:
    """Return the address of a class's gradebook, as SQLAlchemy reads it.

    Raises:
        ValueError: in a sentence, for rules of the class that cannot be read.
    """
    rules = late.read(folder)
    return rules.gradebook if rules and rules.gradebook else f"sqlite:///{folder.resolve() / NAME}"


def exists(folder: Path) -> bool:
    """Whether a class has a gradebook. One on a server is there from its first use on."""
    return not address(folder).startswith("sqlite:") or (folder / NAME).exists()


def opened(folder: Path) -> Gradebook:
    """Return the gradebook of a class, for a `with` block; a new one if there is none."""
    return Gradebook(address(folder), "torchcourse")


@contextlib.contextmanager
def at_work() -> Iterator[None]:
    """Within the block, nbgrader opens each gradebook once, runs no program of its own, and does not warn of itself.

    It opens the gradebook eight times per notebook, and looks each time which tables there are. For a new one it asks
    alembic for a version, by the name of its command. It checks the schema of cells, its own, again for each cell.
    """
    begin, known, courses = Gradebook.__init__, dict[str, tuple[Any, Any]](), set[tuple[str, str]]()

    def open_again(book: Any, db_url: str, course_id: str = "default_course", authenticator: Any = None) -> None:
        if db_url not in known:
            begin(book, db_url, course_id, authenticator)
            known[db_url] = book.engine, book.db
        book.engine, book.db = known[db_url]
        book.course_id, book.authenticator = course_id, authenticator
        if (db_url, course_id) not in courses:
            book.check_course(course_id=course_id)
            courses.add((db_url, course_id))

    with (
        _replaced(Gradebook, "__init__", open_again),
        _replaced(Gradebook, "close", lambda book: book.db.remove()),
        _replaced(nbgrader.api, "get_alembic_version", _version),
        _replaced(nbgraderformat.common, "jsonschema", SimpleNamespace(validate=_validate)),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", SAWarning)
        try:
            yield
        finally:
            for engine, session in known.values():
                session.remove()
                engine.dispose()


@contextlib.contextmanager
def at_once(folder: Path) -> Iterator[Gradebook]:
    """Open the gradebook of a class; what changes in it within the block is written by one commit at the end.

    nbgrader commits for each cell. To be used `at_work`, when whatever opens this gradebook gets the same one. Others
    have to wait until it is written, so nothing within should take long. After an error, nothing is written.
    """
    with opened(folder) as book:
        session, commit = book.db, book.db.commit
        with _replaced(session, "commit", session.flush), _replaced(session, "remove", lambda: None):
            try:
                yield book
                commit()
            except BaseException:
                session.rollback()
                raise


def enter(book: Gradebook, lesson: str, student: str, timestamp: datetime | None, handed_in: Collection[str]) -> None:
    """Put a submission into a gradebook, or bring it up to date, as nbgrader does.

    Args:
        book: the gradebook, open `at_once`.
        lesson: of which.
        student: of whom; made known if the gradebook does not have them.
        timestamp: when it was handed in, if that is known.
        handed_in: names of its notebooks. The others of the lesson have no points, and wait for nobody.
    """
    book.update_or_create_student(student)
    try:
        submission = book.find_submission(lesson, student)
        if timestamp:
            submission.timestamp = timestamp
    except MissingEntry:
        submission = SubmittedAssignment(assignment_id=book.find_assignment(lesson).id, student_id=student)
        submission.timestamp = timestamp
        book.db.add(submission)
        book.db.flush()
        _add_cells(book, submission)
    absent = select(SubmittedNotebook.id).join(Notebook, Notebook.id == SubmittedNotebook.notebook_id)
    absent = absent.where(SubmittedNotebook.assignment_id == submission.id, Notebook.name.not_in(handed_in))
    no_points = update(Grade).where(Grade.notebook_id.in_(absent)).values(auto_score=0, needs_manual_grade=False)
    book.db.execute(no_points, execution_options={"synchronize_session": False})


def _add_cells(book: Gradebook, submission: SubmittedAssignment) -> None:
    """Add a grade and a comment for each cell that has one. `Gradebook.add_submission` adds them one by one."""
    of_lesson = select(Notebook.id).where(Notebook.assignment_id == submission.assignment_id)
    own = {one: {"id": uuid.uuid4().hex, "notebook_id": one} for one in book.db.scalars(of_lesson)}
    cells = book.db.execute(
        select(BaseCell.id, BaseCell.notebook_id, BaseCell.type).where(BaseCell.notebook_id.in_(own))
    )
    rows = [({"cell_id": cell, "notebook_id": own[notebook]["id"]}, kind) for cell, notebook, kind in cells]
    for table, entries in (
        (SubmittedNotebook, [one | {"assignment_id": submission.id} for one in own.values()]),
        (Grade, [row for row, kind in rows if kind == "GradeCell"]),
        (Comment, [row for row, kind in rows if kind == "SolutionCell"]),
    ):
        if entries:
            book.db.execute(insert(table), entries)


def parts(book: Gradebook, submission: SubmittedAssignment) -> dict[str, SubmittedNotebook]:
    """Return the notebooks of a submission by their names, with their points."""
    found = book.db.query(Notebook.name, SubmittedNotebook).join(Notebook, Notebook.id == SubmittedNotebook.notebook_id)
    points = (SubmittedNotebook.score, SubmittedNotebook.max_score, SubmittedNotebook.needs_manual_grade)
    found = found.filter(SubmittedNotebook.assignment_id == submission.id).options(*map(undefer, points))
    return dict(found.populate_existing().all())


def by_hand(book: Gradebook, submission: SubmittedAssignment) -> str:
    """Return what changes whenever a teacher changes a score or a comment of a submission by hand."""
    rows: list[Any] = []
    for kind, parts in (
        (Grade, (Grade.manual_score, Grade.extra_credit, Grade.needs_manual_grade)),
        (Comment, (Comment.manual_comment,)),
    ):
        found = book.db.query(BaseCell.name, *parts).select_from(kind).join(BaseCell, BaseCell.id == kind.cell_id)
        found = found.join(SubmittedNotebook, SubmittedNotebook.id == kind.notebook_id)
        rows += map(tuple, found.filter(SubmittedNotebook.assignment_id == submission.id))
    return hashlib.blake2b(repr(sorted(rows, key=repr)).encode(), digest_size=16).hexdigest()


class Marks:
    """The grades and comments of a submitted notebook, read at once. Who changes them commits."""

    db = SimpleNamespace(commit=lambda: None)

    def __init__(self, book: Gradebook, place: Mapping[str, str]) -> None:
        self.notebook = book.find_submission_notebook(place["notebook"], place["assignment"], place["student"])
        self._grades, self._comments = (
            dict(
                book.db.query(BaseCell.name, kind)
                .join(BaseCell, BaseCell.id == kind.cell_id)
                .filter(kind.notebook_id == self.notebook.id)
                .options(*map(undefer, parts))
                .populate_existing()
                .all()
            )
            for kind, parts in ((Grade, [Grade.max_score]), (Comment, []))
        )

    def find_grade(self, name: str, *_place: str) -> Grade:
        return _found(self._grades, name)

    def find_comment(self, name: str, *_place: str) -> Comment:
        return _found(self._comments, name)


def _found(known: Mapping[str, Any], name: str) -> Any:
    if name not in known:
        raise MissingEntry(f"No such cell: {name}")
    return known[name]


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Give an attribute a different value within the block, which hides what an object has from its class."""
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        delattr(owner, name) if before is None else setattr(owner, name, before)


def _version() -> str:
    """Return the newest version of nbgrader's tables, as `alembic heads` does, without a process for it."""
    config = alembic.config.Config()
    config.set_main_option("script_location", dbutil.ALEMBIC_DIR)
    return str(alembic.script.ScriptDirectory.from_config(config).get_current_head())


def _validate(metadata: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    """Raise `jsonschema.ValidationError` as `jsonschema.validate` does. The metadata of most cells are the same."""
    error = _invalid(json.dumps(metadata), json.dumps(schema))
    if error is not None:
        raise error


@functools.lru_cache(4096)
def _invalid(metadata: str, schema: str) -> jsonschema.ValidationError | None:
    try:
        jsonschema.validate(json.loads(metadata), json.loads(schema))
    except jsonschema.ValidationError as error:
        return error
    return None
