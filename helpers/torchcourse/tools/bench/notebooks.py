"""Seconds of each solution notebook, the kernel's start included, and how long its cells are silent at most."""

import os
import tempfile
import time
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat.notebooknode import NotebookNode
from tqdm import tqdm

from torchcourse.tools.bench.report import Table
from torchcourse.tools.build.notebooks import solutions


def table() -> Table:
    rows = []
    for path, text in tqdm(solutions().items(), desc="Notebooks"):
        notebook = nbformat.reads(text, as_version=4)
        seconds, listener = _executed(notebook, 300, {"JPY_SESSION_NAME": path})  # as JupyterLab, where one reads
        cells = sum(cell.cell_type == "code" for cell in notebook.cells)
        name = path.removeprefix("solutions/").removesuffix(".ipynb")
        rows.append([name, str(cells), f"{seconds:.1f} s", f"{listener.silence:.1f} s, {listener.silent_cell}"])
    return Table(
        "Solution notebooks",
        ["notebook", "code cells", "seconds", "longest silence, and its cell"],
        rows,
        "Each run once from the first cell to the last in a kernel of its own, which is told that somebody reads. "
        "Silence: no text, no picture, no bar that moves; after 2 seconds of it, `still_running` speaks.",
    )


class Listener(NotebookClient):
    """Runs a notebook, and notes how long it shows nothing within a cell.

    Args:
        notebook: receives its outputs.
        folder: where it runs.
        timeout: seconds for a cell.
    """

    def __init__(self, notebook: NotebookNode, folder: str, timeout: int) -> None:
        super().__init__(notebook, timeout=timeout, resources={"metadata": {"path": folder}})
        self.silence, self.silent_cell = 0.0, ""
        self._shown = 0.0

    def process_message(self, msg: dict[str, Any], cell: NotebookNode, cell_index: int) -> Any:
        kind, content = msg["msg_type"], msg["content"]
        ends = kind == "status" and content["execution_state"] == "idle"
        empty = content.get("data", {}).get("text/plain") == ""  # a line that is there for later
        now = time.monotonic()
        if ends or (kind in _SHOWN and not empty):
            if now - self._shown > self.silence:
                self.silence, self.silent_cell = now - self._shown, cell.id
            self._shown = now
        if kind == "execute_input":
            self._shown = now
        return super().process_message(msg, cell, cell_index)


_SHOWN = {"stream", "display_data", "update_display_data", "execute_result", "error", "comm_open", "comm_msg"}


def seconds_to_execute(notebook: NotebookNode, timeout: int) -> float:
    """Execute a notebook in an empty folder, with a journal of its own, and return the seconds it took.

    Args:
        notebook: receives its outputs.
        timeout: seconds for a cell.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
        nbclient.exceptions.CellTimeoutError: a cell took longer than the timeout.
    """
    return _executed(notebook, timeout, {})[0]


def _executed(notebook: NotebookNode, timeout: int, variables: dict[str, str]) -> tuple[float, Listener]:
    with tempfile.TemporaryDirectory() as folder:
        listener, start = Listener(notebook, folder, timeout), time.perf_counter()
        listener.execute(env={**os.environ, "TORCHCOURSE_WORK": folder, **variables})
        return time.perf_counter() - start, listener
