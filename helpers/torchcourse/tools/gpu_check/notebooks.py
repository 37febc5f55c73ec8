"""The notebooks with all answers filled in, and those tests that need a GPU, on this machine."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from functools import partial

import nbformat
import torch
from nbclient.exceptions import CellExecutionError
from nbformat.notebooknode import NotebookNode

from torchcourse.tools.bench.notebooks import seconds_to_execute
from torchcourse.tools.build.notebooks import solutions
from torchcourse.tools.gpu_check.parts import Case, Finding, NotRun, Part
from torchcourse.tools.gpu_check.ranks import needs_gpus
from torchcourse.tools.repository import ROOT

SECONDS_PER_CELL = 600


def part(patterns: Sequence[str]) -> Part:
    """Return a case for each notebook whose name, such as 01_data_parallelism/1_averaging, fits one of the patterns."""
    texts = {path.removeprefix("solutions/").removesuffix(".ipynb"): text for path, text in solutions().items()}
    chosen = [name for name in texts if any(fnmatch(name, f"{pattern}*") for pattern in patterns)]
    left_out = len(texts) - len(chosen)
    cases = [Case(name, partial(execute, texts[name])) for name in chosen]
    if left_out:
        cases.append(Case(f"{left_out} of {len(texts)} notebooks", partial(_left_out, bool(chosen))))
    return Part(
        "Notebooks",
        "Each from its first cell to its last in a kernel of its own, with all answers filled in, its checks and its "
        f"hidden tests; no cell longer than {SECONDS_PER_CELL} seconds; several at a time where cores allow. In "
        "quotes: what it printed about the machine.",
        cases,
        at_once=max(1, (os.cpu_count() or 1) // 4),  # one notebook keeps up to four processes busy
    )


def gpu_tests() -> Part:
    return Part("Tests that need a GPU", "`pytest -m gpu`.", [Case("pytest -m gpu", run_gpu_tests)])


def execute(text: str) -> Finding:
    """Execute a notebook.

    Raises:
        RuntimeError: a cell failed; the text says which.
    """
    notebook = nbformat.reads(text, as_version=4)
    try:
        seconds = seconds_to_execute(notebook, SECONDS_PER_CELL)
    except CellExecutionError as error:
        raise RuntimeError(f"{_failed_cell(notebook)}: {error.ename}: {error.evalue}") from error
    used = used_hardware(notebook)
    return Finding(f"{seconds:.0f} s" + (f"; “{used}”" if used else ""), {"seconds": seconds})


def used_hardware(notebook: NotebookNode) -> str:
    """Return the first line that a notebook printed about ranks and GPUs, or nothing."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            for line in output.get("text", "").splitlines():
                if re.search(r"\d+ (GPUs|ranks by default)|on the (CPU|GPU)|cuda:\d", line):
                    return line.strip()
    return ""


def run_gpu_tests() -> Finding:
    """Run the tests that are marked with gpu.

    Raises:
        NotRun: there is no GPU.
        RuntimeError: a test failed.
    """
    needs_gpus(1)
    # Named one by one: to look through all tests for those few takes longer than to run them.
    files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text("utf-8")]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", *map(str, files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    if done.returncode != 0:
        failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        raise RuntimeError("; ".join([*failed, *lines[-1:]]) or done.stderr.strip()[-500:])
    return Finding(lines[-1])


def _failed_cell(notebook: NotebookNode) -> str:
    """Name the first cell with an error by its number and its first line."""
    for number, cell in enumerate(notebook.cells, 1):
        if any(output.output_type == "error" for output in cell.get("outputs", [])):
            return f"cell {number} ({cell.source.partition(chr(10))[0][:60]})"
    return "a cell"


def _left_out(some_chosen: bool) -> Finding:
    why = "not chosen" if some_chosen or torch.cuda.is_available() else "this machine has no GPU"
    raise NotRun(f"{why}; ARGS='--notebooks all' runs all")
