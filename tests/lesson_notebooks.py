"""The lessons' notebooks for tests: the releases as they are committed, the solutions as their sources say."""

import functools
import os
from collections.abc import Callable
from pathlib import Path

import nbformat
from nbformat.notebooknode import NotebookNode
from nbgrader.utils import determine_grade, is_grade

from torchcourse.tools.build import notebooks
from torchcourse.tools.repository import ROOT

RELEASES = sorted((ROOT / "notebooks").glob("*/*.ipynb"))


def _in_the_browser(release: Path) -> bool:
    """Whether a notebook is done in the browser: the first of each lesson, and one of the quizzes, which are alike.

    A page and a kernel of JupyterLab take three times as long as a sandbox: so the others are done there, unless
    TORCHCOURSE_EVERY_NOTEBOOK=1 asks for all. The final has nothing to check.
    """
    if release.parent.name == "11_final":
        return False
    first = release.name.startswith("1_") or release.parent.name == "00_start_here"
    return first or os.environ.get("TORCHCOURSE_EVERY_NOTEBOOK") == "1"


DONE_IN_THE_BROWSER = [release for release in RELEASES if _in_the_browser(release)]
DONE_IN_A_SANDBOX = [
    release for release in RELEASES if not _in_the_browser(release) and release.parent.name != "11_final"
]


def name(release: Path) -> str:
    """Return how a test calls a notebook: 01_data_parallelism/1_averaging."""
    return f"{release.parent.name}/{release.stem}"


def read(release: Path) -> NotebookNode:
    return nbformat.read(release, as_version=4)


def outputs(cell: NotebookNode, kind: str) -> list[NotebookNode]:
    """Return a cell's outputs of one kind: "error", "execute_result" …"""
    return [output for output in cell.get("outputs", []) if output.output_type == kind]


def solution(release: Path) -> NotebookNode:
    """Return the notebook that the release was made from, with all answers and hidden tests."""
    return nbformat.reads(_solutions()[f"solutions/{name(release)}.ipynb"], as_version=4)


def filled_in(release: Path, wanted: Callable[[NotebookNode], bool]) -> NotebookNode:
    """Return the release with the solution's text in those marked cells for which `wanted` is true."""
    notebook, answers = read(release), {cell.id: cell for cell in solution(release).cells}
    for cell in notebook.cells:
        if "nbgrader" in cell.metadata and wanted(cell):
            cell.source = answers[cell.id].source
    return notebook


def assert_all_points(cells: list[NotebookNode]) -> None:
    """As stock nbgrader scores a cell, for which a single line on stderr is an error."""
    for cell in filter(is_grade, cells):
        points, of = determine_grade(cell)
        # A written answer waits for the teacher: no points yet, and not the zero of an empty one.
        assert points == (None if cell.cell_type == "markdown" else of), (cell.id, cell.get("outputs"))


@functools.cache
def _solutions() -> dict[str, str]:
    return notebooks.solutions()
