"""Seconds of each solution notebook, the kernel's start included."""

import os
import tempfile
import time

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
        seconds = seconds_to_execute(notebook, timeout=300)
        cells = sum(cell.cell_type == "code" for cell in notebook.cells)
        rows.append([path.removeprefix("solutions/").removesuffix(".ipynb"), str(cells), f"{seconds:.1f} s"])
    return Table(
        "Solution notebooks",
        ["notebook", "code cells", "seconds"],
        rows,
        "Each run once from the first cell to the last in a kernel of its own.",
    )


def seconds_to_execute(notebook: NotebookNode, timeout: int) -> float:
    """Execute a notebook in an empty folder, with a journal of its own, and return the seconds it took.

    Args:
        notebook: receives its outputs.
        timeout: seconds for a cell.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
        nbclient.exceptions.CellTimeoutError: a cell took longer than the timeout.
    """
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        client = NotebookClient(notebook, timeout=timeout, resources={"metadata": {"path": folder}})
        client.execute(env={**os.environ, "TORCHCOURSE_WORK": folder})
        return time.perf_counter() - start
