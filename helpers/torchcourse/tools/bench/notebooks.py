"""Seconds of each solution notebook, the kernel's start included."""

import tempfile
import time

import nbformat
from nbclient import NotebookClient
from tqdm import tqdm

from torchcourse.tools.bench.report import Table
from torchcourse.tools.build.notebooks import solutions


def table() -> Table:
    rows = []
    for path, text in tqdm(solutions().items(), desc="Notebooks"):
        notebook = nbformat.reads(text, as_version=4)
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            NotebookClient(notebook, timeout=300, resources={"metadata": {"path": folder}}).execute()
            seconds = time.perf_counter() - start
        cells = sum(cell.cell_type == "code" for cell in notebook.cells)
        rows.append([path.removeprefix("solutions/").removesuffix(".ipynb"), str(cells), f"{seconds:.1f} s"])
    return Table(
        "Solution notebooks",
        ["notebook", "code cells", "seconds"],
        rows,
        "Each run once from the first cell to the last in a kernel of its own.",
    )
