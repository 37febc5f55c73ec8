"""What a student typed where grading does not look for it: named, so that a teacher can, and nothing is lost unseen."""

import re
from collections import defaultdict
from collections.abc import Iterator

from nbformat.notebooknode import NotebookNode
from nbgrader import utils

_LONGEST = 100_000
"""Characters of a cell that are looked at."""


def notes(handed_in: NotebookNode, lesson: NotebookNode, empty: str) -> list[str]:
    """Return what there is to look at in a notebook before its check cells are replaced, a sentence each.

    Args:
        handed_in: as it was handed in.
        lesson: the teacher's, with all roles.
        empty: what stands in the place of an answer in words before it is written.
    """
    own = {cell.metadata["nbgrader"]["grade_id"]: cell for cell in lesson.cells if "nbgrader" in cell.metadata}
    found = defaultdict[str, list[int]](list)
    for place, cell in enumerate(handed_in.cells):
        found[_name(cell)].append(place)
    return [
        note
        for name, cell in own.items()
        if name in found
        for note in _of_cell(name, cell, found[name], handed_in, lesson, empty)
    ]


def _of_cell(
    name: str, cell: NotebookNode, places: list[int], handed_in: NotebookNode, lesson: NotebookNode, empty: str
) -> Iterator[str]:
    texts = [handed_in.cells[place].source.strip() for place in places]
    if utils.is_grade(cell) and not utils.is_solution(cell):
        defined = sorted(_defined(texts[0]) - _defined(cell.source))
        if defined:
            yield (
                f"the check cell {name} defines {', '.join(defined[:3])}, which did not run, since the lesson's check "
                "was put there again"
            )
    elif utils.is_solution(cell) and len(set(texts)) > 1:
        yield f"the cell {name} stands there {len(texts)} times with different texts, and counts as the first of them"
    elif utils.is_grade(cell) and texts[0] in ("", empty) and _has_own_below(places[0], handed_in, lesson):
        yield f"the answer {name} is empty, but cells of the student's own are below it"


def _has_own_below(place: int, handed_in: NotebookNode, lesson: NotebookNode) -> bool:
    """Whether cells that are not the lesson's come before its next marked one."""
    marked = {_name(cell) for cell in lesson.cells if "nbgrader" in cell.metadata}
    names, texts = set(map(_name, lesson.cells)), {cell.source.strip() for cell in lesson.cells} | {""}
    for cell in handed_in.cells[place + 1 :]:
        if _name(cell) in marked:
            return False
        if _name(cell) not in names and cell.source.strip() not in texts:
            return True
    return False


def _name(cell: NotebookNode) -> str:
    """Return what the lesson calls a cell: its grade id, which the build made its id too."""
    return str(cell.metadata.get("nbgrader", {}).get("grade_id", cell.get("id", "")))


def _defined(source: str) -> set[str]:
    """Return the names that get a value at the beginning of a line."""
    found = _DEFINITION.findall(source[:_LONGEST])
    return {name for names in found for name in names if name}


_DEFINITION = re.compile(r"^(?:def|class)[ \t]+(\w+)|^(\w+)[ \t]*(?::[^=\n]+)?=(?!=)", re.MULTILINE)
