"""Write scores into a table of Moodle or Canvas: `python -m torchcourse.tools.classroom.scores TABLE --lesson LESSON`.

    make scores ARGS="Grades-Algo.csv --lesson 04_monitoring_and_checkpoints --folder ~/algo-2027"

TABLE is what the system exports: Moodle's grading worksheet (in the assignment: View all submissions, Download grading
worksheet), or Canvas's gradebook (Export, Entire gradebook). FOLDER/scores/TABLE gets the same rows with the scores in,
to be uploaded there; the file given stays as it is. Only a finished score is written: who handed in nothing, could not
be graded or waits for a grade by hand keeps what the table holds, and is named.
"""

import argparse
import csv
import io
import re
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from torchcourse.tools.build import notebooks
from torchcourse.tools.classroom import downloads, roster
from torchcourse.tools.classroom.roster import Grade
from torchcourse.tools.repository import ROOT


@dataclass(frozen=True)
class Layout:
    """Where a system's table holds what is needed, as numbers of columns."""

    ids: tuple[int, ...]
    """Columns by which a student is known, the surest first."""
    score: int
    most: int | None
    """The column of the maximum; None where a row of its own holds it."""


def fill(table: Path, lesson: str, folder: Path, column: str | None = None) -> list[str]:
    """Write `folder`/scores/TABLE, and return what was done, a line each.

    Args:
        table: a CSV file as Moodle or Canvas exports it.
        lesson: whose scores are written.
        folder: the folder of the class, graded.
        column: the assignment's column in Canvas's table, or the part of its name that no other has.

    Raises:
        ValueError: in a sentence, for a table of neither system, or a column that is not clear.
        FileNotFoundError: where nothing was graded.
    """
    grades = {student: grade for (student, name), grade in roster.read(folder / "grades.csv").items() if name == lesson}
    if not grades:
        raise FileNotFoundError(f"No scores of {lesson} are in {folder / 'grades.csv'}; run make grade first.")
    rows, dialect = _read(table)
    layout = _layout(rows[0], lesson, column)
    who = _finder(folder, grades)
    possible = _points_possible(rows, layout)
    lines, found = [], set[str]()
    for row in rows[1:]:
        if len(row) <= max(layout.ids) or _is_no_student(row):
            continue
        student = next(filter(None, (who(row[place]) for place in layout.ids)), None)
        shown = next((row[place] for place in layout.ids[::-1] if row[place]), "a row without a name")
        if student is None:
            lines.append(f"{shown} is not in the class, and was left as it is")
            continue
        found.add(student)
        written = possible if layout.most is None else row[layout.most]
        score = _score(grades[student], written)
        if score is None:
            lines.append(f"{student} was left as it is: {grades[student].state}")
        else:
            row += [""] * (layout.score + 1 - len(row))
            row[layout.score] = score
    lines += [f"{student} is not in {table.name}" for student in sorted(set(grades) - found)]
    target = folder / "scores" / table.name
    target.parent.mkdir(exist_ok=True)
    with target.open("w", newline="", encoding="utf-8-sig" if dialect.marked else "utf-8") as file:
        csv.writer(file, delimiter=dialect.delimiter, lineterminator=dialect.ending).writerows(rows)
    return [*lines, f"Upload {target}: {len(rows) - 1} rows, those above left as they are."]


@dataclass(frozen=True)
class _Dialect:
    delimiter: str
    ending: str
    marked: bool  # by a byte-order mark


def _read(table: Path) -> tuple[list[list[str]], _Dialect]:
    try:
        text = table.expanduser().read_bytes().decode("utf-8")
    except OSError as error:
        raise ValueError(f"{table} cannot be read: {error.strerror}.") from error
    except UnicodeError as error:
        raise ValueError(f"{table} is no CSV file in UTF-8; download it again, and change nothing in it.") from error
    marked, text = text.startswith("\ufeff"), text.removeprefix("\ufeff")
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row]
    if not rows:
        raise ValueError(f"{table} is empty.")
    return rows, _Dialect(delimiter, "\r\n" if head.endswith("\r") else "\n", marked)


def _layout(head: list[str], lesson: str, column: str | None) -> Layout:
    """Find out whose table this is, by its first line."""
    names = [name.strip() for name in head]
    if "Identifier" in names and "Grade" in names:
        most = names.index("Maximum grade") if "Maximum grade" in names else None
        return Layout(_places(names, "Email address", "ID number", "Username", "Full name"), names.index("Grade"), most)
    if "Student" in names and "ID" in names:
        known = _places(names, "SIS User ID", "SIS Login ID", "Integration ID", "Student")
        return Layout(known, _assignment(names, lesson, column), None)
    raise ValueError(
        "This is neither Moodle's grading worksheet (with the columns Identifier and Grade) nor Canvas's gradebook "
        "(with Student and ID)."
    )


def _places(names: list[str], *wanted: str) -> tuple[int, ...]:
    return tuple(names.index(name) for name in wanted if name in names)


def _assignment(names: list[str], lesson: str, column: str | None) -> int:
    """Return the column of an assignment in Canvas's table, which is called `Name (number)`."""
    wanted = downloads.key(column or lesson.partition("_")[2] or lesson)
    every = [place for place, name in enumerate(names) if re.search(r"\(\d+\)$", name)]
    found = [place for place in every if wanted in downloads.key(names[place])]
    if len(found) != 1:
        some = ", ".join(repr(names[place]) for place in every) or "none"
        raise ValueError(f"Which assignment is meant is not clear; name one with --column. The table has {some}.")
    return found[0]


def _points_possible(rows: list[list[str]], layout: Layout) -> str:
    named = (row[layout.score] for row in rows[1:] if _is_no_student(row) and len(row) > layout.score)
    return next((text for text in named if _number(text)), "")


def _is_no_student(row: list[str]) -> bool:
    """Whether this is one of the rows below the head of Canvas's table."""
    return row[0].strip() in ("Points Possible", "Student, Test") or (not row[0].strip() and not any(row[1:4]))


def _finder(folder: Path, graded: Collection[str]) -> Callable[[str], str | None]:
    """Return what finds a student by an id, an email address or a name that no other has."""
    known = downloads.students_by_name(folder)
    for student in graded:
        known[downloads.key(student)].add(student)

    def find(text: str) -> str | None:
        found = known.get(downloads.key(text), set()).intersection(graded) if text.strip() else set()
        return next(iter(found)) if len(found) == 1 else None

    return find


def _score(grade: Grade, most: str) -> str | None:
    """Return what is written for a grade, scaled to the table's maximum; None where there is no finished score."""
    if grade.state != "graded" or grade.score is None:
        return None
    points = _number(most)
    scale = points / grade.max_score if points and grade.max_score else 1.0
    score = f"{grade.score * scale:.2f}"
    return score.replace(".", ",") if "," in most else score


def _number(text: str) -> float | None:
    try:
        return float(text.strip().replace(",", "."))
    except ValueError:
        return None


def main() -> int:
    parser = argparse.ArgumentParser(description="Write scores into a table that Moodle or Canvas exported.")
    parser.add_argument("table", type=Path, help="the CSV file, as it was downloaded")
    parser.add_argument("--lesson", required=True, help="whose scores, such as 00_start_here")
    parser.add_argument("--folder", type=Path, required=True, help="the folder of the class")
    parser.add_argument("--column", help="Canvas: the assignment's column, or a part of its name")
    options = parser.parse_args()
    if options.lesson not in (lessons := notebooks.lessons(ROOT)):
        print(f"There is no lesson '{options.lesson}'. The lessons are {', '.join(lessons)}.", file=sys.stderr)
        return 1
    try:
        lines = fill(options.table, options.lesson, options.folder.expanduser(), options.column)
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
