"""The cells of a lesson's notebooks in the gradebook: put there at once, and read at once.

nbgrader's own steps ask the gradebook for each cell by itself, and commit after each.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from nbformat.notebooknode import NotebookNode
from nbgrader import utils
from nbgrader.api import Gradebook, GradeCell, MissingEntry, Notebook, SolutionCell, SourceCell, TaskCell
from nbgrader.preprocessors import SaveCells

_SOURCE = ("cell_type", "locked", "source", "checksum")


class LessonCells:
    """The cells of a notebook as the gradebook knows them. It answers nbgrader's steps as a gradebook does.

    They do not change while a lesson is graded.
    """

    def __init__(self, book: Gradebook, notebook: str, lesson: str) -> None:
        found = book.find_notebook(notebook, lesson)
        self.kernelspec = found.kernelspec
        self.source_cells = [_plain(cell, "name", *_SOURCE) for cell in found.source_cells]
        self.grade_cells = [_plain(cell, "name", "max_score", "cell_type") for cell in found.grade_cells]
        self.solution_cells = [_plain(cell, "name") for cell in found.solution_cells]
        self.task_cells = [_plain(cell, "name", "max_score", "cell_type") for cell in found.task_cells]
        self.sources = {cell.name: cell for cell in self.source_cells}
        self.points = {cell.name: cell.max_score for cell in self.grade_cells}
        self.solutions = {cell.name for cell in self.solution_cells}
        self._graded = {cell.name: cell for cell in [*self.task_cells, *self.grade_cells]}

    def roles(self) -> "dict[str, _Role]":
        """Return what the gradebook holds of each cell."""
        tasks = {cell.name: cell.max_score for cell in self.task_cells}
        return {
            name: _Role(
                **{part: getattr(source, part) for part in _SOURCE},
                points=self.points.get(name),
                task_points=tasks.get(name),
                is_solution=name in self.solutions,
            )
            for name, source in self.sources.items()
        }

    def find_notebook(self, *_place: str) -> "LessonCells":
        return self

    def find_source_cell(self, name: str, *_place: str) -> SimpleNamespace:
        if name not in self.sources:
            raise MissingEntry(f"No such source cell: {name}")
        return self.sources[name]

    def find_graded_cell(self, name: str, *_place: str) -> SimpleNamespace:
        if name not in self._graded:
            raise MissingEntry(f"No such graded cell: {name}")
        return self._graded[name]


class KnownCells:
    """The cells of lessons' notebooks, each read when it is first asked for."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str], LessonCells] = {}

    def of(self, place: Mapping[str, str]) -> LessonCells:
        """Return the cells of a notebook.

        Args:
            place: which it is, as nbgrader's steps are told.
        """
        key = place["db_url"], place["notebook"], place["assignment"]
        if key not in self._known:
            with Gradebook(place["db_url"]) as book:
                self._known[key] = LessonCells(book, *key[1:])
        return self._known[key]


class SaveCellsAtOnce(SaveCells):
    """Put a notebook that the gradebook does not know into it by one commit; leave alone one that did not change."""

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        place, roles = resources["nbgrader"], _roles(nb)
        kernelspec = json.dumps(nb.metadata.get("kernelspec", {}))
        with Gradebook(place["db_url"]) as book:
            try:
                known = LessonCells(book, place["notebook"], place["assignment"])
            except MissingEntry:
                assignment = book.find_assignment(place["assignment"])
                notebook = Notebook(name=place["notebook"], assignment=assignment, kernelspec=kernelspec)
                book.db.add(_with_cells(notebook, roles))
                book.db.commit()
                return nb, resources
        if (known.kernelspec, known.roles()) == (kernelspec, roles):
            return nb, resources
        return super().preprocess(nb, resources)


@dataclass(frozen=True)
class _Role:
    """What the gradebook holds of a cell."""

    cell_type: str
    locked: bool
    source: str
    checksum: str | None
    points: float | None
    task_points: float | None
    is_solution: bool


def _roles(notebook: NotebookNode) -> dict[str, _Role]:
    """Return what the gradebook is to hold of a notebook's cells, by their names."""
    roles = {}
    for cell in notebook.cells:
        grade, solution, task = utils.is_grade(cell), utils.is_solution(cell), utils.is_task(cell)
        if grade or solution or task or utils.is_locked(cell):
            own = cell.metadata.nbgrader
            points = float(own["points"]) if grade or task else None
            text = cell.cell_type, utils.is_locked(cell), cell.source, own.get("checksum")
            roles[own["grade_id"]] = _Role(*text, points if grade else None, points if task else None, solution)
    return roles


def _with_cells(notebook: Notebook, roles: Mapping[str, _Role]) -> Notebook:
    for name, role in roles.items():
        text = {part: getattr(role, part) for part in _SOURCE}
        SourceCell(name=name, notebook=notebook, **text)
        if role.points is not None:
            GradeCell(name=name, notebook=notebook, max_score=role.points, cell_type=role.cell_type)
        if role.task_points is not None:
            TaskCell(name=name, notebook=notebook, max_score=role.task_points, cell_type=role.cell_type)
        if role.is_solution:
            SolutionCell(name=name, notebook=notebook)
    return notebook


def _plain(cell: Any, *names: str) -> SimpleNamespace:
    """Return a copy that outlives the session in which a cell was read."""
    return SimpleNamespace(**{name: getattr(cell, name) for name in names})
