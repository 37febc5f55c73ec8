"""The cells of a lesson's notebooks in the gradebook: put there at once, and read at once.

nbgrader's own steps ask the gradebook for each cell by itself, and commit after each.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from nbformat.notebooknode import NotebookNode
from nbgrader import utils
from nbgrader.api import Gradebook, GradeCell, MissingEntry, Notebook, SolutionCell, SourceCell
from nbgrader.preprocessors import SaveCells


@dataclass(frozen=True)
class Role:
    """What the gradebook holds of a cell. The course has no cells of nbgrader's kind "task"."""

    name: str
    cell_type: str
    locked: bool
    source: str
    checksum: str | None
    max_score: float | None
    """None for a cell that is not graded."""
    is_solution: bool


class LessonCells:
    """The cells of a notebook as the gradebook knows them. It answers nbgrader's steps as a gradebook does.

    They do not change while a lesson is graded.
    """

    def __init__(self, book: Gradebook, notebook: str, lesson: str) -> None:
        found = book.find_notebook(notebook, lesson)
        points = {cell.name: cell.max_score for cell in found.grade_cells}
        solutions = {cell.name for cell in found.solution_cells}
        self.kernelspec = found.kernelspec
        self.roles = {
            cell.name: Role(
                *(cell.name, cell.cell_type, cell.locked, cell.source, cell.checksum),
                points.get(cell.name),
                cell.name in solutions,
            )
            for cell in found.source_cells
        }

    def find_source_cell(self, name: str, *_place: str) -> Role:
        if name not in self.roles:
            raise MissingEntry(f"No such source cell: {name}")
        return self.roles[name]

    def find_graded_cell(self, name: str, *_place: str) -> Role:
        if name not in self.graded():
            raise MissingEntry(f"No such graded cell: {name}")
        return self.roles[name]

    def graded(self) -> list[str]:
        return [name for name, role in self.roles.items() if role.max_score is not None]


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
        if (known.kernelspec, known.roles) == (kernelspec, roles):
            return nb, resources
        return super().preprocess(nb, resources)


def _roles(notebook: NotebookNode) -> dict[str, Role]:
    """Return what the gradebook is to hold of a notebook's cells, by their names."""
    roles = {}
    for cell in notebook.cells:
        grade, solution, locked = utils.is_grade(cell), utils.is_solution(cell), utils.is_locked(cell)
        if grade or solution or locked:
            own = cell.metadata.nbgrader
            text = own["grade_id"], cell.cell_type, locked, cell.source, own.get("checksum")
            roles[own["grade_id"]] = Role(*text, float(own["points"]) if grade else None, solution)
    return roles


def _with_cells(notebook: Notebook, roles: Mapping[str, Role]) -> Notebook:
    for name, role in roles.items():
        text = {part: getattr(role, part) for part in ("cell_type", "locked", "source", "checksum")}
        SourceCell(name=name, notebook=notebook, **text)
        if role.max_score is not None:
            GradeCell(name=name, notebook=notebook, max_score=role.max_score, cell_type=role.cell_type)
        if role.is_solution:
            SolutionCell(name=name, notebook=notebook)
    return notebook
