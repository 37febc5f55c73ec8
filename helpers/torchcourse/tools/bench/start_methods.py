"""Seconds of each solution notebook with each way in which a system may start processes.

`fork` is the standard of Linux up to Python 3.13, `forkserver` that of Python 3.14, `spawn` that of macOS. Windows has
`spawn` alone. Every Python process of the notebook begins with the method, as it would there.
"""

import os
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from tqdm import tqdm

from torchcourse.tools.bench.report import Table
from torchcourse.tools.build.notebooks import solutions

WAYS = {
    "fork": "import multiprocessing\nmultiprocessing.set_start_method('fork')\n",
    "forkserver": "import multiprocessing\nmultiprocessing.set_start_method('forkserver')\n",
    "spawn": "import multiprocessing\nmultiprocessing.set_start_method('spawn')\n",
    "spawn alone": "import multiprocessing\nmultiprocessing.set_start_method('spawn')\n"
    "multiprocessing.get_all_start_methods = lambda: ['spawn']\n",
}
"""What each Python process does first."""


def table() -> Table:
    wanted = os.environ.get("TORCHCOURSE_BENCH_NOTEBOOKS", "")
    rows = []
    for path, text in tqdm(solutions().items(), desc="Notebooks"):
        if wanted in path:
            name = path.removeprefix("solutions/").removesuffix(".ipynb")
            rows.append([name, *(_shown(seconds_of(text, way)) for way in WAYS)])
    return Table(
        "Start methods",
        ["notebook", *WAYS],
        rows,
        "Each solution run once in a kernel of its own, its start included. `spawn alone` is a system without fork, as "
        "Windows. The rank server of `run_ranks` is the same in all. TORCHCOURSE_BENCH_NOTEBOOKS=06_ measures a part.",
    )


def seconds_of(text: str, way: str) -> float | str:
    """Return the seconds of a notebook, or the error that ended it."""
    notebook = nbformat.reads(text, as_version=4)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as first:
        Path(first, "sitecustomize.py").write_text(WAYS[way], encoding="utf-8")
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([first, *filter(None, [os.environ.get("PYTHONPATH")])])
        }
        client = NotebookClient(notebook, timeout=900, resources={"metadata": {"path": folder}})
        begin = time.perf_counter()
        try:
            client.execute(env=environment)
        except CellExecutionError as error:
            return f"{error.ename}: {error.evalue.splitlines()[0][:80]}" if error.evalue else error.ename
        return time.perf_counter() - begin


def _shown(seconds: float | str) -> str:
    return seconds if isinstance(seconds, str) else f"{seconds:.0f} s"
