"""From lesson text to notebook: read a source in jupytext's percent format and give each marked cell its nbgrader role.

The marking is the title of a cell:

    # %% exercise: ring_all_reduce          the learner writes here; `### BEGIN SOLUTION` … `### END SOLUTION` go
    # %% check: ring_all_reduce             a locked, graded cell; its points are the `points=…` in its code
    # %% written: why_mean, 3 points [markdown]     graded by a person; the text is the model answer
    # %% setup                              replaced by the lines that install the course where it is missing

Everything else about nbgrader (ids, checksums, locks) follows from it. `folds` says which cells are folded away, and
splits a prediction or an outcome off the code before it. Two markings stand for several cells, the frame
of a patient of the clinic, whose broken program is `torchcourse/lessons/troubleshooting/clinic/programs/SLUG.py`:

    # %% patient: SLUG                      an empty cell; it becomes three: admit, evidence, hints
    # %% repair: SLUG                       the repaired parts; the release shows those of the program in their place.
                                            Its check (1 point, or `repair: SLUG, 2 points`) and the hidden test follow
                                            it, then the `<details>` texts that stand after it, then discharge

Where a text or a prediction belongs between admit, evidence and hints, these are ordinary cells. The cells use the
names `clinic` and `check`: `from torchcourse.lessons.troubleshooting import clinic` and
`from torchcourse.lessons.troubleshooting.checks import clinic as check`.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jupytext
import nbformat
from nbformat.notebooknode import NotebookNode
from nbformat.v4 import new_code_cell

from torchcourse.tools.build.folds import asks_unseen, fold, split
from torchcourse.tools.build.hidden_keys import hide_keys
from torchcourse.tools.build.hosts import badges, setup_lines
from torchcourse.tools.build.minutes import write_minutes

PROGRAMS = Path(__file__).parents[2] / "lessons" / "troubleshooting" / "clinic" / "programs"


_TITLE = re.compile(r"(exercise|repair|check|written|patient): ([A-Za-z][\w-]*)(?:, (\d+) points?)?")


class SourceError(ValueError):
    """A source that cannot be built; the message names the file, the cell and the remedy."""


@dataclass(frozen=True)
class Origin:
    """Where a notebook comes from: its source in the repository, and the address where the course is published."""

    path: str
    repository: str = ""
    published: bool = True
    """Whether the notebook is at that address too. One that a class has for itself is not."""

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
    cells = [
        (part, title, where)
        for cell, title, where in _with_frames(notebook.cells, origin.path)
        for part in ([cell] if title else split(cell))
    ]
    notebook.cells = [cell for cell, _, _ in cells]
    seen: set[str] = set()
    for position, (cell, title, where) in enumerate(cells):
        if cell.cell_type == "code" and asks_unseen(cell.source):
            raise SourceError(
                f"{where}: predict or outcome inside a block is not shown; put it after the block, or into display(…)."
            )
        cell.metadata = NotebookNode()
        cell.id = f"cell-{position:03d}"
        if title == "setup":
            cell.source, cell.id = setup_lines(origin.repository, origin.release_path), "setup"
        elif title:
            _mark(cell, title, where)
            if cell.id in seen:
                raise SourceError(
                    f"{where}: the name '{title}' is used twice; give each exercise and check one name, and a repair "
                    "no check, as it brings its own."
                )
            seen.add(cell.id)
        elif "BEGIN SOLUTION" in cell.source or "### SOLUTION" in cell.source or "BEGIN HIDDEN" in cell.source:
            raise SourceError(
                f"{where}: a solution or hidden test in an unmarked cell; add 'exercise: NAME' to its title."
            )
        if cell.cell_type == "code":
            cell.source = hide_keys(cell.source)
        fold(cell, title)
    write_minutes(notebook)
    if origin.repository and origin.published and notebook.cells:
        _add_badges(notebook.cells[0], origin)
    nbformat.validate(notebook)
    return notebook


_Cell = tuple[NotebookNode, str, str]
"""A cell, its title, and its place in the source."""


def _with_frames(cells: list[NotebookNode], path: str) -> Iterator[_Cell]:
    """Yield each cell, and in the place of the markings `patient` and `repair` the cells that they stand for."""
    patients: set[str] = set()
    discharge: _Cell | None = None
    for number, cell in enumerate(cells, start=1):
        where, title = f"{path}, cell {number}", cell.metadata.get("title", "")
        if discharge and not (cell.cell_type == "markdown" and cell.source.startswith("<details>")):
            yield discharge
            discharge = None
        if title.startswith("patient:"):
            if title in patients:
                raise SourceError(f"{where}: '{title}' is here twice; remove one of the two.")
            patients.add(title)
            yield from _patient_cells(cell, title, where)
            continue
        yield cell, title, where
        if title.startswith("repair:"):
            _, name, _ = _parsed(title, where)
            yield _check_of_repair(cell, title, where), f"check: {name}", where
            discharge = new_code_cell(f'clinic.discharge("{name}")'), "", where
    if discharge:
        yield discharge


def _patient_cells(cell: NotebookNode, title: str, where: str) -> Iterator[_Cell]:
    _, name, _ = _parsed(title, where)
    _program(name, title, where)
    if cell.source or cell.cell_type != "code":
        raise SourceError(f"{where}: '{title}' makes three cells; put its text into a cell after it.")
    for step in ("admit", "evidence", "hints"):
        yield new_code_cell(f'clinic.{step}("{name}")'), "", where


def _check_of_repair(repair: NotebookNode, title: str, where: str) -> NotebookNode:
    """Return the check of a repair, with its hidden test on two other sets of data."""
    _, name, points = _parsed(title, where)
    try:
        parts = ", ".join(_definitions(repair.source))
    except SyntaxError as error:
        raise SourceError(f"{where}: '{title}' is not Python; mend line {error.lineno}: {error.msg}.") from None
    return new_code_cell(f"""\
checked = check.repair("{name}", {parts}, points={points or 1})
### BEGIN HIDDEN TESTS
for _seed in (7, 12):
    assert clinic.symptom("{name}", {parts}, seed=_seed) is None
### END HIDDEN TESTS
checked""")


def _parsed(title: str, where: str) -> tuple[str, str, str | None]:
    """Return the kind, the name and the points of a cell's title."""
    match = _TITLE.fullmatch(title)
    if match is None:
        raise SourceError(
            f"{where}: the title '{title}' is not understood; write 'exercise: NAME', 'check: NAME', "
            "'written: NAME, 3 points', 'patient: SLUG', 'repair: SLUG' or 'setup'."
        )
    kind, name, points = match.groups()
    return kind, name, points


def _mark(cell: NotebookNode, title: str, where: str) -> None:
    kind, name, points = _parsed(title, where)
    if kind == "exercise":
        _role(cell, name, solution=True)
        if "BEGIN SOLUTION" not in cell.source and "### SOLUTION" not in cell.source:
            raise SourceError(f"{where}: the exercise '{name}' marks no solution, so all of it would be cut out.")
    elif kind == "repair":
        broken = _broken_parts(cell.source, _program(name, title, where), title, where)
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


def _program(name: str, title: str, where: str) -> str:
    """Return the text of a patient's broken program."""
    program = PROGRAMS / f"{name}.py"
    if not program.is_file():
        raise SourceError(f"{where}: '{title}' has no broken program; write programs/{name}.py in the clinic.")
    return program.read_text(encoding="utf-8")


def _broken_parts(repaired: str, program: str, title: str, where: str) -> str:
    """Return the text that the broken program has instead of the functions and classes of a repair cell."""
    wanted = set(_definitions(repaired))
    parts = [part for part_name, part in _definitions(program).items() if part_name in wanted]
    if not parts or len(parts) < len(wanted):
        raise SourceError(f"{where}: '{title}' must define functions or classes that its program has too.")
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
    title, _, rest = cell.source.partition("\n")
    cell.source = f"{title}\n\n{badges(origin.repository, origin.release_path)}\n{rest}"
