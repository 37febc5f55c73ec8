"""Run a submission as it is graded: a quiz by its answers alone, what else there is in a sandbox, cell by cell."""

import atexit
import contextlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import nbformat
from nbformat.notebooknode import NotebookNode
from nbgrader import utils

from torchcourse.tools.classroom import literal_answers, plain_notebook
from torchcourse.tools.classroom.sandbox import judging
from torchcourse.tools.classroom.sandbox.box import PROCESSOR, WALL, WHOLE, Box, Died, Forged, Kind, Lost, Warm

Result = TypeVar("Result")

CLOCK = 3600.0
"""Seconds on the clock after which no more cells of a notebook are begun. Who sleeps takes no processor time."""
FILES = "beside"
"""Where the metadata of a notebook hold the files that it finds beside it; `HarmlessPages` lets them go."""
MOST_OUTPUT = 32 * 2**20
"""Characters of all outputs of a notebook."""


@dataclass(frozen=True)
class Note:
    """What a teacher has to know about a run, in a sentence; empty if nothing."""

    text: str = ""
    needs_person: bool = False


def execute(notebook: NotebookNode, trusted: bool = True, seed: str = "") -> Note:
    """Fill in the outputs of all code cells of a submission. What ended early keeps what it earned before.

    Args:
        notebook: the submission, sanitized: its check cells are the teacher's.
        trusted: False if they may be anything, as in a notebook that is validated and not graded.
        seed: what the inputs of judged tests are drawn from; `SEED` if there is none.

    Raises:
        Lost: when there was no sandbox, or it was lost, again and again. The work is not to blame, and is no zero.
    """
    if trusted and literal_answers.score(notebook):
        return Note()
    return patiently(lambda: _execute(notebook, trusted, seed or SEED))


def _execute(notebook: NotebookNode, trusted: bool, seed: str) -> Note:
    cells, room, end = [cell for cell in notebook.cells if cell.cell_type == "code"], _Room(), time.monotonic() + CLOCK
    with Box(warm()) as box, _Judge(box, seed) as judge:
        given = notebook.metadata.get(FILES)
        for number, cell in enumerate(cells, start=1):
            cell.execution_count = number
            if not cell.source.strip():
                cell.outputs = []
                continue
            try:
                if time.monotonic() > end:
                    raise Died(f"all cells together took more than {CLOCK:.0f} s on the clock")
                source, tests = (
                    judging.take_apart(cell.source) if trusted and utils.is_grade(cell) else (cell.source, [])
                )
                outputs = room.kept(box.run(source, PROCESSOR, WALL, WHOLE, given))
                given = None
                cell.outputs = [_output(one, number) for one in outputs]
                if not any(output.output_type == "error" for output in cell.outputs):
                    cell.outputs += [_error("HiddenTest", reason) for reason in map(judge.says, tests) if reason]
            except Forged as forged:
                return _nothing_counts(cells, str(forged))
            except Died as died:
                for left in cells[number - 1 :]:
                    left.outputs = [_not_run(str(died))]
                return Note(f"ended in code cell {number} of {len(cells)}: {died}")
        try:
            fails = _can_fail(box)
        except Forged as forged:
            return _nothing_counts(cells, str(forged))
        except Died as died:
            return Note(f"ended after the last cell: {died}")
    return Note() if fails else _nothing_counts(cells, "a check that must fail did not fail")


def _can_fail(box: Box) -> bool:
    """Whether a check that must fail does."""
    token = secrets.token_hex(16)
    answer = box.run(f"raise AssertionError({token!r})", 30, 300, WHOLE)
    return any(one["output_type"] == "error" and one["evalue"] == token for one in answer)


class _Judge:
    """Judges what the sandbox of a submission computes, in a sandbox of its own that begins when it is needed."""

    def __init__(self, judged: Box, seed: str) -> None:
        self._judged, self._seed, self._own = judged, seed, ExitStack()
        self._box: Box | None = None

    def says(self, test: str) -> str:
        """Return why a test failed; nothing if it did not."""
        if self._box is None:
            self._box = self._own.enter_context(Box(warm()))
        return self._box.judge(test, self._seed, self._ask, WALL)

    def _ask(self, name: str, given: Any) -> dict[str, Any]:
        outputs = self._judged.run(judging.question(name, given), PROCESSOR, WALL, WHOLE)
        for output in outputs:
            if output["output_type"] == "error":
                return {"error": f"{output['ename']}: {output['evalue']}"}
        results = [
            output["data"].get("text/plain", "") for output in outputs if output["output_type"] == "execute_result"
        ]
        try:
            return {"value": json.loads(results[-1])}
        except (ValueError, IndexError, RecursionError):
            return {"error": f"{name} returned no value"}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._own.close()


SEED = secrets.token_hex(16)
"""Drawn per grading run, so that nobody knows the inputs of judged tests, and all students get the same."""


def _nothing_counts(cells: list[NotebookNode], reason: str) -> Note:
    for cell in cells:
        cell.outputs = [_not_run(f"{reason}, so that no result of this notebook counts")]
    return Note(f"no result counts, since {reason}; look at this notebook", needs_person=True)


_warm: Warm | None = None
_warm_lock = threading.Lock()
_stopped = threading.Event()


def warm() -> Warm:
    """Return this process's warm process, which is begun when it is first asked for, and again when it was killed.

    Raises:
        Lost: when it could not begin, or would protect less than the one before.
    """
    global _warm
    with _warm_lock:
        if _stopped.is_set():
            raise Lost("grading was stopped")
        if _warm is None:
            _warm = Warm()
        elif not _warm.lives:
            _warm.end()
            again = Warm((_warm.kind,))
            if again.kind != _warm.kind:
                again.end()
                raise Lost(f"this machine allows no {_warm.kind} any more: {again.reason}")
            _warm = again
        return _warm


@atexit.register
def _end_warm() -> None:
    if _warm is not None:
        _warm.end()


def patiently(work: Callable[[], Result]) -> Result:
    """Do what needs a sandbox; again where it was lost. A machine without room has some a moment later, as a rule.

    Raises:
        Lost: when that happens again and again.
    """
    for pause in _PAUSES:
        with contextlib.suppress(Lost):
            return work()
        if _stopped.wait(pause):
            break
    return work()


_PAUSES = (0.5, 2.0, 5.0)  # seconds


def is_stopped() -> bool:
    """Whether nothing more is to run."""
    return _stopped.is_set()


@contextlib.contextmanager
def stopped() -> Iterator[None]:
    """End all sandboxes of this process. Within the block none begins."""
    _stopped.set()
    try:
        with _warm_lock:
            if _warm is not None:
                _warm.end()
        yield
    finally:
        _stopped.clear()


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


class _Room:
    """What the outputs of one notebook may fill together: the grader holds those of several notebooks at a time."""

    def __init__(self) -> None:
        self._left = MOST_OUTPUT

    def kept(self, outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the outputs of a cell; of those that there is no room for, errors and results alone, in short."""
        self._left -= len(json.dumps(outputs))
        if self._left > 0:
            return outputs
        kept = [_in_short(one) for one in outputs if one["output_type"] in ("error", "execute_result")]
        return [{"output_type": "stream", "name": "stdout", "text": "… output left out here …\n"}, *kept]


def _in_short(output: dict[str, Any]) -> dict[str, Any]:
    if output["output_type"] == "error":
        short = {name: output[name][:_SHORT] for name in ("ename", "evalue")}
        return output | short | {"traceback": [line[:_SHORT] for line in output["traceback"][-1:]]}
    return output | {"data": {"text/plain": output["data"].get("text/plain", "")[:_SHORT]}}


_SHORT = 1000


def _output(message: dict, number: int) -> NotebookNode:
    output = nbformat.from_dict(plain_notebook.whole(message))
    if output.output_type == "execute_result":
        output.execution_count = number
    return output


def _not_run(reason: str) -> NotebookNode:
    return _error("NotRun", f"Not run: {reason}.")


def _error(name: str, text: str) -> NotebookNode:
    return NotebookNode(output_type="error", ename=name, evalue=text, traceback=[text])
