"""Run a submission as it is graded: a quiz by its answers alone, what else there is in a sandbox, cell by cell."""

import atexit
import secrets
import threading
from dataclasses import dataclass

from nbformat.notebooknode import NotebookNode

from torchcourse.tools.classroom import literal_answers
from torchcourse.tools.classroom.sandbox.box import Box, Died, Warm

PROCESSOR, WALL, WHOLE = 300.0, 1200.0, 1800.0
"""Seconds: of processor time per cell, on the clock per cell, and of processor time per notebook."""


@dataclass(frozen=True)
class Note:
    """What a teacher has to know about a run, in a sentence; empty if nothing."""

    text: str = ""
    needs_person: bool = False


def execute(notebook: NotebookNode) -> Note:
    """Fill in the outputs of all code cells of a sanitized submission.

    What ended early keeps what it earned before.
    """
    if literal_answers.score(notebook):
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
            except Died as died:
                for left in cells[number - 1 :]:
                    left.outputs = [_not_run(str(died))]
                return Note(f"ended in code cell {number} of {len(cells)}: {died}")
        try:
            answer = box.run(f"raise AssertionError({token!r})", 30, 300, WHOLE)
        except Died as died:
            return Note(f"ended after the last cell: {died}")
    if not any(one["output_type"] == "error" and one["evalue"] == token for one in answer):
        for cell in cells:
            cell.outputs = [_not_run("a check that must fail did not fail, so no result of this notebook counts")]
        return Note("a check that must fail did not fail: no result counts; look at this notebook", needs_person=True)
    return Note()


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


def _output(message: dict, number: int) -> NotebookNode:
    output = NotebookNode(message)
    if output.output_type == "execute_result":
        output.execution_count = number
    if "data" in output:
        output.data, output.metadata = NotebookNode(output.data), NotebookNode(output.metadata)
    return output


def _not_run(reason: str) -> NotebookNode:
    text = f"Not run: {reason}."
    return NotebookNode(output_type="error", ename="NotRun", evalue=text, traceback=[text])
