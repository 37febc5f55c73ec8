"""The class at a glance: `python -m torchcourse.tools.classroom.class_page --folder FOLDER` writes a page and a table.

class.html and class.csv are made from the gradebook, grades.csv and the autograded notebooks. No code is run. The page
loads nothing and has no script; all that students wrote is escaped.
"""

import argparse
import csv
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat

from torchcourse.tools.classroom import gradebook, roster
from torchcourse.tools.classroom.roster import Grade
from torchcourse.tools.repository import ROOT

Exercise = tuple[str, str, str]
"""Lesson, notebook and grade cell."""

LONGEST = 160  # characters of what a check said


@dataclass
class Summary:
    """What a class page shows."""

    rows: list[Grade]
    scores: dict[Exercise, dict[str, float]] = field(default_factory=dict)
    """Points by student, of the notebooks that were handed in and graded."""
    most: dict[Exercise, float] = field(default_factory=dict)
    said: dict[Exercise, Counter[str]] = field(default_factory=dict)
    """What a check said to those who lost points, and to how many."""

    def hardest(self) -> list[tuple[Exercise, float]]:
        """Return the exercises with the mean share of their points, the lowest first."""
        shares = []
        for exercise, points in self.scores.items():
            if points and self.most[exercise] > 0:
                shares.append((exercise, sum(points.values()) / len(points) / self.most[exercise]))
        return sorted(shares, key=lambda one: (one[1], one[0]))


def summarize(folder: Path) -> Summary:
    """Read what grading left in the folder of a class.

    Raises:
        FileNotFoundError: when nothing was graded there.
    """
    table = roster.read(folder / "grades.csv")
    if not table or not gradebook.exists(folder):
        raise FileNotFoundError(f"Nothing was graded in {folder} yet; run make grade first.")
    summary = Summary([table[key] for key in sorted(table, key=lambda key: (key[1], key[0]))])
    graded = {(row.student, row.lesson) for row in summary.rows if row.score is not None}
    with gradebook.opened(folder) as book:
        for student, lesson in sorted(graded):
            for notebook in book.find_submission(lesson, student).notebooks:
                path = folder / "autograded" / student / lesson / f"{notebook.name}.ipynb"
                if path.exists():
                    said = _said(path)
                    for grade in notebook.grades:
                        _add(summary, (lesson, notebook.name, grade.name), student, grade, said.get(grade.name, ""))
    return summary


def _add(summary: Summary, exercise: Exercise, student: str, grade: Any, said: str) -> None:
    if grade.needs_manual_grade:  # which is no zero
        return
    summary.scores.setdefault(exercise, {})[student] = grade.score
    summary.most[exercise] = grade.max_score
    if said and grade.score < grade.max_score:
        summary.said.setdefault(exercise, Counter())[said] += 1


def _said(path: Path) -> dict[str, str]:
    """Return the first line that each graded cell printed or raised, by the cell's grade id."""
    found = {}
    try:
        cells = nbformat.read(path, as_version=4).cells
    except (OSError, ValueError, nbformat.ValidationError):
        return {}
    for cell in cells:
        name = cell.metadata.get("nbgrader", {}).get("grade_id")
        # An error decides about the points, whatever was said before it.
        outputs = sorted(cell.get("outputs", []), key=lambda output: output.output_type != "error")
        texts = [_text(output) for output in outputs]
        lines = [line.strip() for text in texts for line in text.splitlines() if line.strip()]
        if name and lines:
            found[name] = lines[0][:LONGEST]
    return found


def _text(output: nbformat.NotebookNode) -> str:
    if output.output_type == "stream":
        return str(output.text)
    if output.output_type == "error":
        return str(output.evalue)
    # A number alone is the score, which the page shows already; beside it a check of the course says why, as HTML.
    data = output.get("data", {})
    text = str(data.get("text/plain", ""))
    return _plain(str(data.get("text/html", ""))) if text.replace(".", "", 1).isdigit() else text


def _plain(html: str) -> str:
    """Return the words of a piece of HTML."""
    reader = _Words()
    reader.feed(html)
    return " ".join("".join(reader.words).split())


class _Words(HTMLParser):
    """Keeps what is no tag."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.words += [" "] if tag in ("br", "p", "div", "td", "tr", "li") else []

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def write(folder: Path, names: bool = True) -> None:
    """Write class.html and class.csv; without names, students are numbered and nothing links to their work."""
    summary = summarize(folder)
    students = sorted({row.student for row in summary.rows})
    shown = {student: student if names else f"Student {number}" for number, student in enumerate(students, start=1)}
    with roster.replaced(folder / "class.html", errors="replace") as file:
        file.write(_page(summary, shown, names, folder))
    with roster.replaced(folder / "class.csv") as file:
        writer = csv.writer(file)
        writer.writerow(["student", "lesson", "notebook", "exercise", "score", "max_score"])
        for (lesson, notebook, cell), points in sorted(summary.scores.items()):
            for student, score in sorted(points.items()):
                row = [shown[student], lesson, notebook, cell, score, summary.most[lesson, notebook, cell]]
                writer.writerow([roster.harmless(value) for value in row])


def _page(summary: Summary, shown: dict[str, str], names: bool, folder: Path) -> str:
    parts = [HEAD, "<h1>The class at a glance</h1>"]
    for lesson in sorted({row.lesson for row in summary.rows}):
        rows = [row for row in summary.rows if row.lesson == lesson]
        exercises = sorted((one for one in summary.scores if one[0] == lesson), key=_by_number)
        heads = [f"{notebook}: {cell}" for _, notebook, cell in exercises]
        body = []
        for row in rows:
            who = _linked(row, shown[row.student], names, folder)
            total = "–" if row.score is None else f"{row.score:g} of {row.max_score:g}"
            points = [summary.scores[one].get(row.student) for one in exercises]
            cells = [escape(row.state), total, *("–" if point is None else f"{point:g}" for point in points)]
            body.append([who, *cells])
        parts += [f"<h2>{escape(lesson)}</h2>", _table(["student", "state", "score", *heads], body)]
    parts += [
        "<h2>Hardest exercises</h2>",
        _table(["exercise", "mean share", "what checks said most"], _hard(summary, names)),
    ]
    failed = [row for row in summary.rows if row.state == "could not be graded"]
    reasons = [[escape(shown[row.student]), escape(row.lesson), escape(row.note) if names else "–"] for row in failed]
    parts += ["<h2>Could not be graded</h2>", _table(["student", "lesson", "reason"], reasons)]
    absent = [row for row in summary.rows if row.state == "not handed in"]
    parts += ["<h2>Not handed in</h2>"]
    parts += [_table(["student", "lesson"], [[escape(shown[row.student]), escape(row.lesson)] for row in absent])]
    return "\n".join(parts) + "\n"


def _by_number(exercise: Exercise) -> list[str]:
    """Sort q2 before q10."""
    return [re.sub(r"\d+", lambda digits: digits[0].zfill(6), part) for part in exercise]


def _hard(summary: Summary, names: bool) -> list[list[str]]:
    rows = []
    for exercise, share in summary.hardest()[:10]:
        # What a check said may quote a student, so a projector does not show it.
        said = summary.said.get(exercise, Counter()).most_common(3) if names else []
        words = "<br>".join(f"{count} × {escape(text)}" for text, count in said)
        rows.append([escape(" / ".join(exercise)), f"{share:.0%}", words])
    return rows


def _linked(row: Grade, name: str, names: bool, folder: Path) -> str:
    """Return a name with a link to each feedback page, if there are some."""
    pages = sorted((folder / "feedback" / row.student / row.lesson).glob("*.html")) if names else []
    links = [
        f'<a href="{escape(quote(page.relative_to(folder).as_posix()))}">{escape(page.stem)}</a>' for page in pages
    ]
    return " ".join([escape(name), *links])


def _table(heads: list[str], rows: list[list[str]]) -> str:
    """Return a table; the heads are escaped here, the cells are HTML already."""
    if not rows:
        return "<p>None.</p>"
    lines = ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    first = "".join(f"<th>{escape(head)}</th>" for head in heads)
    return "<table>\n" + "\n".join(f"<tr>{line}</tr>" for line in [first, *lines]) + "\n</table>"


HEAD = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>The class at a glance</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>body{font-family:sans-serif;margin:2em}table{border-collapse:collapse}
td,th{border:1px solid #999;padding:.2em .5em;text-align:left}</style>"""


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the class at a glance: class.html and class.csv.")
    parser.add_argument("--folder", type=Path, default=ROOT, help="the folder of the class (default: here)")
    parser.add_argument("--no-names", action="store_true", help="number the students, for a projector")
    options = parser.parse_args()
    try:
        write(options.folder, names=not options.no_names)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"The class at a glance: {options.folder / 'class.html'}; as a table: {options.folder / 'class.csv'}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
