"""Run a submission as it is graded: a quiz by its answers alone, what else there is in a sandbox, cell by cell."""

import atexit
import secrets
import threading
from dataclasses import dataclass
from typing import Any

import nbformat
from nbformat.notebooknode import NotebookNode

from torchcourse.tools.classroom import literal_answers
from torchcourse.tools.classroom.sandbox.box import PROCESSOR, WALL, WHOLE, Box, Died, Forged, Kind, Warm


@dataclass(frozen=True)
class Note:
    """What a teacher has to know about a run, in a sentence; empty if nothing."""

    text: str = ""
    needs_person: bool = False


def execute(notebook: NotebookNode, trusted: bool = True) -> Note:
    """Fill in the outputs of all code cells of a submission. What ended early keeps what it earned before.

    Args:
        notebook: the submission, sanitized: its check cells are the teacher's.
        trusted: False if they may be anything, as in a notebook that is validated and not graded.
    """
    if trusted and literal_answers.score(notebook):
        return Note()
    token = secrets.token_hex(16)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    with Box(warm()) as box:
        for number, cell in enumerate(cells, start=1):
            cell.execution_count = number
            if not cell.source.strip():
                cell.outputs = []
                continue
            try:
                cell.outputs = [_output(one, number) for one in box.run(cell.source, PROCESSOR, WALL, WHOLE)]
            except Forged as forged:
                return _nothing_counts(cells, str(forged))
            except Died as died:
                for left in cells[number - 1 :]:
                    left.outputs = [_not_run(str(died))]
                return Note(f"ended in code cell {number} of {len(cells)}: {died}")
        try:
            answer = box.run(f"raise AssertionError({token!r})", 30, 300, WHOLE)
        except Forged as forged:
            return _nothing_counts(cells, str(forged))
        except Died as died:
            return Note(f"ended after the last cell: {died}")
    if not any(one["output_type"] == "error" and one["evalue"] == token for one in answer):
        return _nothing_counts(cells, "a check that must fail did not fail")
    return Note()


def _nothing_counts(cells: list[NotebookNode], reason: str) -> Note:
    for cell in cells:
        cell.outputs = [_not_run(f"{reason}, so that no result of this notebook counts")]
    return Note(f"no result counts, since {reason}; look at this notebook", needs_person=True)


_warm: Warm | None = None
_warm_lock = threading.Lock()


def warm() -> Warm:
    """Return this process's warm process, which is begun when it is first asked for."""
    global _warm
    with _warm_lock:
        if _warm is None:
            _warm = Warm()
            atexit.register(_warm.__exit__, None, None, None)
        return _warm


def is_isolated() -> bool:
    """Whether what runs here can reach nothing else."""
    return warm().isolated


PROTECTION: dict[Kind, str] = {
    "namespaces": "Each notebook ran in namespaces of its own: without network, and with none of your files.",
    "bubblewrap": "Each notebook ran in bubblewrap, without network, and with none of your files. A machine that "
    "allows namespaces without it is quicker.",
    "limits": "This machine allows no namespaces, nor bubblewrap, so what was handed in ran with limits only: it could "
    "read and change all that you can. Grade strangers' notebooks on a machine, or under an account, that holds "
    "nothing else.",
}
UNPROTECTED = PROTECTION["limits"]


def _output(message: dict, number: int) -> NotebookNode:
    output = nbformat.from_dict(_writable(message))
    if output.output_type == "execute_result":
        output.execution_count = number
    return output


def _writable(value: Any) -> Any:
    """Replace half characters (surrogates), which no file can hold."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, dict):
        return {_writable(name): _writable(item) for name, item in value.items()}
    return [_writable(item) for item in value] if isinstance(value, list) else value


def _not_run(reason: str) -> NotebookNode:
    text = f"Not run: {reason}."
    return NotebookNode(output_type="error", ename="NotRun", evalue=text, traceback=[text])
