"""A release notebook with its outputs: run once, then kept by jupyter-cache for as long as its code stays the same.

It runs as a learner gets it, with nothing solved. A cell that raises an error does not end the run.
"""

import os
import tempfile
import time
from pathlib import Path

import nbformat
from nbformat.notebooknode import NotebookNode
from nbformat.v4 import new_code_cell

CELL_SECONDS = 600
"""How long one cell may take."""

_WITH_FRAMES = "from torchcourse.tools.site import explorer_picture\n\nexplorer_picture.install()"


class NotRun(RuntimeError):
    """A notebook could not be run as the site needs it. The message says which one, and what to do."""


def with_outputs(path: Path, cache_folder: Path, *, again: bool = False) -> NotebookNode:
    """Return the notebook at `path` with outputs, out of the cache or from a run.

    Args:
        cache_folder: where jupyter-cache keeps what ran. The key is the code of the notebook.
        again: run it even if the cache has it, as after a change of the package.

    Raises:
        NotRun: if its kernel ended, a cell took too long, or explorers stay without pictures.
            Errors of cells are outputs, and end nothing.
    """
    from jupyter_cache import get_cache
    from jupyter_cache.base import CacheBundleIn

    notebook = nbformat.read(path, as_version=4)
    cache = get_cache(cache_folder)
    if not again:
        try:
            return cache.merge_match_into_notebook(notebook)[1]
        except KeyError:
            pass
    start = time.perf_counter()
    name = f"{path.parent.name}/{path.name}"
    _run(notebook, name)
    print(f"  {name}: {time.perf_counter() - start:.0f} s", flush=True)
    cache.cache_notebook_bundle(CacheBundleIn(notebook, str(path)), check_validity=False, overwrite=True)
    return notebook


def _run(notebook: NotebookNode, name: str) -> None:
    """Run a notebook in a kernel and a folder of its own, with a journal of its own."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    notebook.cells.insert(0, new_code_cell(_WITH_FRAMES))
    with tempfile.TemporaryDirectory() as folder:
        # By its real name, as outputs show it.
        work = str(Path(folder).resolve())
        resources = {"metadata": {"path": work}}
        client = NotebookClient(notebook, timeout=CELL_SECONDS, allow_errors=True, resources=resources)
        try:
            client.execute(env=os.environ | {"TORCHCOURSE_WORK": work})
        except CellTimeoutError:
            raise NotRun(
                f"{name}: a cell took more than {CELL_SECONDS} s. Try again when the machine is idle."
            ) from None
        except DeadKernelError:
            raise NotRun(f"{name}: its kernel ended. Is the memory of this machine full? Then try again.") from None
    made = notebook.cells.pop(0)
    if faults := [output.evalue for output in made.outputs if output.output_type == "error"]:
        raise NotRun(f"{name}: its explorers cannot be made into pictures: {faults[0]}.")
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [_without_folder(output, work) for output in cell.outputs]


def _without_folder(output: NotebookNode, folder: str) -> NotebookNode:
    """Return an output that names the folder of the run `work`, as a learner's folder is called."""
    return nbformat.from_dict(_replaced(output, folder, "work"))


def _replaced(value: object, old: str, new: str) -> object:
    if isinstance(value, str):
        return value.replace(old, new)
    if isinstance(value, dict):
        return {key: _replaced(part, old, new) for key, part in value.items()}
    return [_replaced(part, old, new) for part in value] if isinstance(value, list) else value
