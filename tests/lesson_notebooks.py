"""The lessons' notebooks for tests: the releases as they are committed, the solutions as their sources say."""

import functools
import os
import symtable
from collections.abc import Callable
from pathlib import Path

import nbformat
from nbformat.notebooknode import NotebookNode
from nbgrader.utils import determine_grade, is_grade

from torchcourse.tools.build import notebooks
from torchcourse.tools.repository import ROOT

RELEASES = sorted((ROOT / "notebooks").glob("*/*.ipynb"))
EVERY_NOTEBOOK = os.environ.get("TORCHCOURSE_EVERY_NOTEBOOK") == "1"
NO_BROWSER = os.environ.get("TORCHCOURSE_NO_BROWSER") == "1"
FIRST_TRY = "-as-released"  # after the id of a cell that runs as it is released, before it runs as it is done


def _in_the_browser(release: Path) -> bool:
    """Whether a notebook is done in the browser: the first of each lesson, and one of the quizzes, which are alike.

    A page and a kernel of JupyterLab take three times as long as a sandbox: so the others are done there, unless
    TORCHCOURSE_EVERY_NOTEBOOK=1 asks for all, and TORCHCOURSE_NO_BROWSER=1 for none. The final has nothing to check.
    """
    if NO_BROWSER or release.parent.name == "11_final":
        return False
    return EVERY_NOTEBOOK or release.name.startswith("1_") or release.parent.name == "00_start_here"


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


def tried_then_done(release: Path) -> NotebookNode:
    """Return the notebook as a learner goes through it: each exercise is checked as released, answered, checked again.

    One run of it shows what each check says of the release and what of the answer, and runs once what stands between
    the exercises, which is the same in both unless it reads an answer. The ids of the first try's cells end with
    FIRST_TRY. What is RUN_AS_RELEASED comes back with its answers alone.
    """
    if release in RUN_AS_RELEASED:
        return filled_in(release, lambda _: True)
    released, done = read(release).cells, filled_in(release, lambda _: True)
    cells: list[NotebookNode] = []
    answered: list[NotebookNode] = []
    for first, cell in zip(released, done.cells, strict=True):
        if is_exercise(first) or is_check(first):
            cells.append(_first_try(first))
            answered.append(cell)
        else:
            assert not answered, f"{first.id} stands between an exercise and its check"
            cells.append(cell)
        if is_check(first):
            cells += answered
            answered = []
    done.cells = cells
    return done


def is_exercise(cell: NotebookNode) -> bool:
    return cell.cell_type == "code" and cell.metadata.get("nbgrader", {}).get("solution", False)


def is_check(cell: NotebookNode) -> bool:
    return cell.cell_type == "code" and is_grade(cell)


def reads_answers(notebook: NotebookNode) -> list[str]:
    """Return the ids of cells, beside exercises and checks, that read a name which an exercise before them defines."""
    answers: set[str] = set()
    reading = []
    for cell in notebook.cells:
        if cell.cell_type != "code" or is_check(cell):
            continue
        defined, used = _names(cell.source)
        if is_exercise(cell):
            answers |= defined
        elif answers & used:
            reading.append(cell.id)
            answers |= defined
        else:
            answers -= defined
    return reading


def tries_and_rest(notebook: NotebookNode) -> tuple[list[NotebookNode], list[NotebookNode]]:
    """Return the cells of the first tries, under the ids that they have in the release, and all others."""
    tries = [
        NotebookNode(cell, id=cell.id.removesuffix(FIRST_TRY)) for cell in notebook.cells if cell.id.endswith(FIRST_TRY)
    ]
    rest = [cell for cell in notebook.cells if not cell.id.endswith(FIRST_TRY)]
    return tries, rest


def assert_not_done_yet(cells: list[NotebookNode]) -> None:
    """Every cell ran, only exercises said what is missing, and each check gave no points and said why."""
    errors = [(cell, output) for cell in cells for output in outputs(cell, "error")]
    assert [
        f"{cell.id}: {output.ename}: {output.evalue}"
        for cell, output in errors
        if output.ename != "NotImplementedError" or not is_exercise(cell)
    ] == []
    for cell in cells:
        if not cell.id.startswith("check-"):
            continue
        (result,) = outputs(cell, "execute_result")
        assert float(result.data["text/plain"]) == 0
        assert "Not done yet" in result.data["text/html"] or "Not answered yet" in result.data["text/html"]


def assert_all_points(cells: list[NotebookNode]) -> None:
    """As stock nbgrader scores a cell, for which a single line on stderr is an error."""
    for cell in filter(is_grade, cells):
        points, of = determine_grade(cell)
        # A written answer waits for the teacher: no points yet, and not the zero of an empty one.
        assert points == (None if cell.cell_type == "markdown" else of), (cell.id, cell.get("outputs"))


def _first_try(cell: NotebookNode) -> NotebookNode:
    tags = ["raises-exception"]  # by which JupyterLab goes on after the error of an exercise
    metadata = {"nbgrader": cell.metadata.nbgrader, "tags": tags}
    return nbformat.v4.new_code_cell(cell.source, id=f"{cell.id}{FIRST_TRY}", metadata=metadata)


def _names(source: str) -> tuple[set[str], set[str]]:
    """Return the names that a cell's text defines for other cells, and those that it reads, in functions too."""
    plain = "\n".join("pass" if line.startswith(("%", "!")) else line for line in source.splitlines())
    module = symtable.symtable(plain, "cell", "exec")
    defined = {symbol.get_name() for symbol in module.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    used = {symbol.get_name() for symbol in module.get_symbols() if symbol.is_referenced()}
    inner = list(module.get_children())
    while inner:
        table = inner.pop()
        inner += table.get_children()
        used |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global() and symbol.is_referenced()}
    return defined, used


@functools.cache
def _solutions() -> dict[str, str]:
    return notebooks.solutions()


DONE_IN_THE_BROWSER = [release for release in RELEASES if _in_the_browser(release)]
DONE_IN_A_SANDBOX = [
    release for release in RELEASES if not _in_the_browser(release) and release.parent.name != "11_final"
]
# What has to run as it is released too, since its one run with tries and answers would not show it.
RUN_AS_RELEASED = [
    release
    for release in RELEASES
    if EVERY_NOTEBOOK or release.parent.name == "11_final" or reads_answers(read(release))
]
