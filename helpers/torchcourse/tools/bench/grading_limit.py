"""How near `make grade` comes to the limit that the graded cells set: their processor time, spread over all cores.

All else is overhead: starting sandboxes, imports, the lesson's registration, the gradebook, feedback pages.
"""

import ast
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torchcourse.tools.bench.grading import wanted_lessons
from torchcourse.tools.bench.report import Table
from torchcourse.tools.build import notebooks
from torchcourse.tools.classroom import execution
from torchcourse.tools.classroom.grade import grade_class
from torchcourse.tools.classroom.sandbox import processes
from torchcourse.tools.classroom.sandbox.box import Box
from torchcourse.tools.repository import ROOT

STUDENTS, NOTEBOOKS = 4, 32  # at least: where few notebooks are run, the last ones, which run alone, count too much


def table() -> Table:
    """Return for each of the `wanted_lessons` the share of the limit."""
    cores = os.cpu_count() or 1
    execution.warm()  # once per class
    rows = []
    for lesson in wanted_lessons():
        with tempfile.TemporaryDirectory() as folder, _measured() as spent:
            students = _hand_in(Path(folder), lesson)
            start = time.perf_counter()
            grades = grade_class(Path(folder), [lesson])
            took = time.perf_counter() - start
        full = sum(grade.score == grade.max_score for grade in grades)
        cells = sum(spent)
        share = cells / cores / took
        rows.append([lesson, f"{took:.0f} s", f"{cells / students:.1f} s", f"{share:.0%}", f"{full} of {students}"])
    columns = ["lesson, without its quiz", "all submissions", "graded cells per submission", "share of the limit"]
    return Table(
        "Grading and its limit",
        [*columns, "full marks"],
        rows,
        f"{STUDENTS} submissions or more and {NOTEBOOKS} notebooks or more per lesson, all solved, {cores} cores. The "
        "limit is the processor time of the cells over the cores; cells that only import count as overhead. Measure on "
        "an idle machine.",
    )


def _hand_in(folder: Path, lesson: str) -> int:
    """Write the submissions, and return how many they are."""
    solved = {Path(path).name: text for path, text in notebooks.solutions(ROOT, lesson).items()}
    solved.pop("quiz.ipynb", None)
    students = max(STUDENTS, -(-NOTEBOOKS // max(1, len(solved))))
    for number in range(students):
        for name, text in solved.items():
            notebooks.write_text(folder / "submitted" / f"student-{number}" / lesson / name, text)
    return students


@contextmanager
def _measured() -> Iterator[list[float]]:
    """Collect the processor time of each cell that a sandbox runs within the block."""
    spent, lock, run = list[float](), threading.Lock(), Box.run
    so_far = dict[Box, float]()  # between two cells a sandbox computes nothing: to look once per cell is enough

    def measured(box: Box, source: str, *options: Any, **named: Any) -> list[dict[str, Any]]:
        try:
            return run(box, source, *options, **named)
        finally:
            after = processes.usage(box._process).seconds
            with lock:
                if not _imports_alone(source):
                    spent.append(max(0.0, after - so_far.get(box, 0.0)))  # none of one that ended
                so_far[box] = after

    with patch.object(Box, "run", measured):
        yield spent


def _imports_alone(source: str) -> bool:
    try:
        body = ast.parse(source).body
    except SyntaxError:  # magics
        return False
    return all(isinstance(statement, ast.Import | ast.ImportFrom) for statement in body)
