"""The table of grades, `grades.csv`: one row for each student and lesson, kept from one grading to the next."""

import contextlib
import csv
import os
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Literal, TextIO, cast

State = Literal["graded", "needs manual grading", "could not be graded", "not graded yet", "not handed in"]


@dataclass(frozen=True)
class Grade:
    """What became of one submission. `score` is None when there is none: that is not a zero."""

    student: str
    lesson: str
    state: State
    score: float | None
    max_score: float | None
    note: str = ""


def read(path: Path) -> dict[tuple[str, str], Grade]:
    """Return the rows of a table that was written before, by student and lesson; none if there is no such file."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = [dict(row) for row in csv.DictReader(file)]
    names = {field.name for field in fields(Grade)}
    grades = []
    for row in rows:
        if names <= row.keys():
            state = cast(State, row["state"])
            score, most = _number(row["score"]), _number(row["max_score"])
            grades.append(Grade(_plain(row["student"]), _plain(row["lesson"]), state, score, most, _plain(row["note"])))
    return {(grade.student, grade.lesson): grade for grade in grades}


def write(path: Path, grades: dict[tuple[str, str], Grade]) -> None:
    """Write the table whole or not at all, sorted by lesson and student."""
    with replaced(path) as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(Grade)])
        for key in sorted(grades, key=lambda key: (key[1], key[0])):
            writer.writerow(["" if value is None else harmless(value) for value in astuple(grades[key])])


@contextlib.contextmanager
def replaced(path: Path, errors: str = "strict") -> Iterator[TextIO]:
    """Write a file of the class's folder whole or not at all: it takes the place of the old one after the block."""
    new = path.with_name(path.name + ".new")
    with new.open("w", newline="", encoding="utf-8", errors=errors) as file:
        yield file
    os.replace(new, path)


def printable(text: str) -> str:
    """Return a text of a student's, such as a file's name, that moves nothing around it, in a terminal or on a page."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def can_be_written(name: str) -> bool:
    """Whether a name is text; that of a folder from an old archive may be bytes in some encoding."""
    try:
        name.encode()
    except UnicodeError:
        return False
    return True


def _number(text: str) -> float | None:
    return float(text) if text else None


def _plain(text: str) -> str:
    """Undo `harmless`."""
    return text[1:] if text[:1] == "'" and text[1:2] in _FORMULA else text


_FORMULA = ("=", "+", "-", "@")


def harmless(value: object) -> object:
    """Keep a spreadsheet from taking a name for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in _FORMULA else value
