"""From lesson text to notebook: read a source in jupytext's percent format and give each marked cell its nbgrader role.

The marking is the title of a cell:

    # %% exercise: ring_all_reduce          the learner writes here; `### BEGIN SOLUTION` … `### END SOLUTION` go
    # %% repair: learns_then_forgets          the repaired parts of a broken program; the release shows the broken ones
    # %% check: ring_all_reduce             a locked, graded cell; its points are the `points=…` in its code
    # %% written: why_mean, 3 points [markdown]     graded by a person; the text is the model answer
    # %% setup                              replaced by the lines that install the course where it is missing

The broken program of a repair is the script of that name in `torchcourse/lessons/troubleshooting/clinic/programs`.
Everything else about nbgrader (ids, checksums, locks) follows from it.
"""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import jupytext
import nbformat
from nbformat.notebooknode import NotebookNode

PROGRAMS = Path(__file__).parents[2] / "lessons" / "troubleshooting" / "clinic" / "programs"


class SourceError(ValueError):
    """A source that cannot be built; the message names the file, the cell and the remedy."""


@dataclass(frozen=True)
class Origin:
    """Where a notebook comes from: its source in the repository, and the address where the course is published."""

    path: str
    repository: str = ""

    @property
    def release_path(self) -> str:
        return re.sub(r"^(solutions/.*)\.py$", r"\1.ipynb", self.path).replace("solutions/", "notebooks/", 1)


def to_notebook(text: str, origin: Origin) -> NotebookNode:
    """Return the solution notebook of a source: nbgrader metadata, ids that never change by themselves, no outputs.

    Raises:
        SourceError: for a marking that cannot be right (unknown kind, a check without points, a name used twice …).
    """
    notebook = jupytext.reads(text, fmt="py:percent")
    notebook.metadata = NotebookNode(
        kernelspec={"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"},
        language_info={"name": "python"},
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    seen: set[str] = set()
    for position, cell in enumerate(notebook.cells):
        where = f"{origin.path}, cell {position + 1}"
        title = cell.metadata.pop("title", "")
        cell.metadata = NotebookNode()
        cell.id = f"cell-{position:03d}"
        if title == "setup":
            cell.source, cell.id = setup_lines(origin.repository), "setup"
        elif title:
            _mark(cell, title, where)
            if cell.id in seen:
                raise SourceError(f"{where}: the name '{title}' is used twice; give each exercise and check one name.")
            seen.add(cell.id)
        elif "BEGIN SOLUTION" in cell.source or "### SOLUTION" in cell.source or "BEGIN HIDDEN" in cell.source:
            raise SourceError(
                f"{where}: a solution or hidden test in an unmarked cell; add 'exercise: NAME' to its title."
            )
    if origin.repository and notebook.cells:
        _add_badges(notebook.cells[0], origin)
    nbformat.validate(notebook)
    return notebook


def setup_lines(repository: str) -> str:
    """Return the code of a set-up cell. On a machine that has the course it does nothing."""
    default = f', "git+{repository}"' if repository else ""
    return f"""\
# Installs the course where it is missing (on Colab or Kaggle, say); otherwise does nothing.
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("torchcourse") is None:
    source = os.environ.get("TORCHCOURSE_SOURCE"{default})
    assert source, "Set TORCHCOURSE_SOURCE to the course's folder, wheel or address, then run this cell again."
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", source], check=True)
    importlib.invalidate_caches()"""


def _mark(cell: NotebookNode, title: str, where: str) -> None:
    match = re.fullmatch(r"(exercise|repair|check|written): ([A-Za-z][\w-]*)(?:, (\d+) points?)?", title)
    if match is None:
        raise SourceError(
            f"{where}: the title '{title}' is not understood; "
            "write 'exercise: NAME', 'repair: NAME', 'check: NAME', 'written: NAME, 3 points' or 'setup'."
        )
    kind, name, points = match.groups()
    if kind == "exercise":
        _role(cell, name, solution=True)
        if "BEGIN SOLUTION" not in cell.source and "### SOLUTION" not in cell.source:
            raise SourceError(f"{where}: the exercise '{name}' marks no solution, so all of it would be cut out.")
    elif kind == "repair":
        broken = _broken_parts(cell.source, name, where)
        _role(cell, name, solution=True)
        cell.metadata["torchcourse"] = NotebookNode(broken=broken)
    elif kind == "check":
        found = re.search(r"\bpoints=(\d+)", cell.source)
        if found is None:
            raise SourceError(f"{where}: the check '{name}' has no points; pass 'points=2' to the check function.")
        _role(cell, f"check-{name}", grade=True, locked=True, points=int(found[1]))
    else:
        if points is None or cell.cell_type != "markdown":
            raise SourceError(f"{where}: write '# %% written: {name}, 3 points [markdown]'.")
        _role(cell, name, grade=True, solution=True, points=int(points))


def _broken_parts(repaired: str, name: str, where: str) -> str:
    """Return the text that the broken program has in place of the functions and classes of a repair cell."""
    program = PROGRAMS / f"{name}.py"
    if not program.is_file():
        raise SourceError(
            f"{where}: the repair '{name}' has no broken program; write programs/{name}.py in the clinic."
        )
    source = program.read_text(encoding="utf-8")
    wanted = set(_definitions(repaired))
    parts = [part for part_name, part in _definitions(source).items() if part_name in wanted]
    if not parts or len(parts) < len(wanted):
        raise SourceError(f"{where}: the repair '{name}' must define functions or classes that its program has too.")
    return "\n\n\n".join(parts)


def _definitions(source: str) -> dict[str, str]:
    """Return the top-level functions and classes of a source, decorators included, by their names."""
    lines = source.splitlines()
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            found[node.name] = "\n".join(lines[first - 1 : node.end_lineno])
    return found


def _role(cell: NotebookNode, grade_id: str, *, grade=False, solution=False, locked=False, points: int = 0) -> None:
    role = {"grade": grade, "grade_id": grade_id, "locked": locked, "schema_version": 3, "solution": solution}
    role |= {"task": False} | ({"points": points} if grade else {})
    cell.metadata = NotebookNode(nbgrader=role)
    cell.id = grade_id


def _add_badges(cell: NotebookNode, origin: Origin) -> None:
    """Put links to Colab and Kaggle under the title of the first cell."""
    place = origin.repository.removeprefix("https://github.com/").rstrip("/")
    colab = f"https://colab.research.google.com/github/{place}/blob/main/{origin.release_path}"
    kaggle = f"https://kaggle.com/kernels/welcome?src=https://github.com/{place}/blob/main/{origin.release_path}"
    title, _, rest = cell.source.partition("\n")
    cell.source = f"{title}\n\n[Open in Colab]({colab}) · [Open in Kaggle]({kaggle})\n{rest}"
