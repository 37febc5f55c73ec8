"""Whether `make grade` gives the scores of stock nbgrader, cell by cell: right and half-right work, a busy machine.

Of each notebook two students hand in a version: one with all answers, one where every second answer is missing.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbformat.notebooknode import NotebookNode
from nbgrader import utils

from torchcourse.tools.bench.grading import run_stock, wanted_lessons
from torchcourse.tools.bench.report import Table
from torchcourse.tools.build import notebooks
from torchcourse.tools.classroom import gradebook
from torchcourse.tools.classroom.grade import grade_class
from torchcourse.tools.repository import ROOT

BUSY = 4
"""Processes that do nothing but compute beside both graders."""

Scores = dict[tuple[str, str, str], float | None]
"""By student, notebook and cell."""


def table() -> Table:
    """Return for each of the `wanted_lessons` how many graded cells agree."""
    with _busy():
        rows = [_compared(lesson) for lesson in wanted_lessons()]
    return Table(
        "Scores beside stock nbgrader",
        ["lesson", "notebooks handed in", "graded cells", "of them full, part, none", "different", "make grade, stock"],
        rows,
        f"Each notebook twice, right and with every second answer missing, {BUSY} busy processes beside both.",
    )


def _compared(lesson: str) -> list[str]:
    scores, seconds = list[Scores](), list[float]()
    most: Scores = {}
    for run in (lambda folder: grade_class(folder, [lesson]), lambda folder: run_stock(folder, lesson)):
        with tempfile.TemporaryDirectory() as name:
            count, start = _hand_in(Path(name), lesson), time.perf_counter()
            run(Path(name))
            seconds.append(time.perf_counter() - start)
            found, most = _scores(Path(name), lesson)
            scores.append(found)
    ours, theirs = scores
    different = sorted(
        f"{key[0]}/{key[1]}/{key[2]}" for key in ours.keys() | theirs if ours.get(key) != theirs.get(key)
    )
    full = sum(score == most[key] for key, score in ours.items())
    none = sum(not score for score in ours.values())
    took = ", ".join(f"{each:.0f} s" for each in seconds)
    parts = f"{full}, {len(ours) - full - none}, {none}"
    return [lesson, str(count), str(len(ours)), parts, ", ".join(different) or "0", took]


def _hand_in(folder: Path, lesson: str) -> int:
    solved = notebooks.solutions(ROOT, lesson)
    for path, text in solved.items():
        name = Path(path).stem
        half = nbformat.reads(text, as_version=4)
        _forget_every_second(half, nbformat.read(ROOT / "notebooks" / lesson / f"{name}.ipynb", as_version=4))
        for kind, content in (("right", text), ("half", nbformat.writes(half))):
            notebooks.write_text(folder / "submitted" / f"{kind}-{name}" / lesson / f"{name}.ipynb", content)
    return 2 * len(solved)


def _forget_every_second(solved: NotebookNode, released: NotebookNode) -> None:
    empty = {cell.metadata.nbgrader.grade_id: cell.source for cell in released.cells if utils.is_solution(cell)}
    answers = [cell for cell in solved.cells if utils.is_solution(cell)]
    for cell in answers[::2]:
        cell.source = empty[cell.metadata.nbgrader.grade_id]


def _scores(folder: Path, lesson: str) -> tuple[Scores, Scores]:
    """Return the automatic score of each graded cell of each notebook that was handed in, and its points."""
    found, most = Scores(), Scores()
    with gradebook.opened(folder) as book:
        for submission in book.assignment_submissions(lesson):
            for notebook in submission.notebooks:
                if not submission.student.id.endswith(f"-{notebook.name}"):
                    continue
                for grade in notebook.grades:
                    key = (submission.student.id, notebook.name, grade.cell.name)
                    found[key], most[key] = grade.auto_score, grade.max_score
    return found, most


@contextlib.contextmanager
def _busy() -> Iterator[None]:
    busy = f"import os\nwhile os.getppid() == {os.getpid()}: pass"  # and no longer, where the bench is killed
    started = [subprocess.Popen([sys.executable, "-c", busy]) for _ in range(BUSY)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()
