"""A release notebook with its outputs: run once, then kept by jupyter-cache until something that made them changes.

That is the notebook's code, the rooms of the package and the bank that it read, and PyTorch. A notebook runs as a
learner gets it, with nothing solved. A cell that raises an error does not end the run.
"""

import copy
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import nbformat
import torch
from nbformat.notebooknode import NotebookNode
from nbformat.v4 import new_code_cell

import torchcourse
from torchcourse.quiz import bank

CELL_SECONDS = 600
"""How long one cell may take."""

_PACKAGE = Path(torchcourse.__file__).parent
_WITH_FRAMES = "from torchcourse.tools.site import explorer_picture\n\nexplorer_picture.install()"
_QUIET = ["--IPKernelApp.log_level=ERROR"]
"""A kernel on this machine alone, which need not warn that others could listen."""
_LOADED = """\
import json, sys
print(json.dumps([m.__file__ for n, m in [*sys.modules.items()] if f"{n}.".startswith("torchcourse.") and m.__file__]))
"""


class NotRun(RuntimeError):
    """A notebook could not be run as the site needs it. The message says which one, and what to do."""


def with_outputs(path: Path, cache_folder: Path, *, again: bool = False) -> NotebookNode:
    """Return the notebook at `path` with outputs, out of the cache or from a run.

    Args:
        cache_folder: where jupyter-cache keeps what ran.
        again: run it even if nothing changed, as after a new version of a package other than PyTorch.

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
            known = cache.match_cache_notebook(notebook).data or {}
            if known == made_by(known, path.parent.name):
                return cache.merge_match_into_notebook(notebook)[1]
        except KeyError:
            pass
    start = time.perf_counter()
    name = f"{path.parent.name}/{path.name}"
    loaded = _run(notebook, name)
    print(f"  {name}: {time.perf_counter() - start:.0f} s", flush=True)
    kept = CacheBundleIn(notebook, str(path), data=made_by(loaded, path.parent.name))
    cache.cache_notebook_bundle(kept, check_validity=False, overwrite=True)
    return notebook


def made_by(modules: Iterable[str], lesson: str) -> dict[str, str]:
    """Return what a notebook's outputs depend on besides its code: digests by file, and the version of PyTorch.

    Args:
        modules: the modules that it loaded, by their paths in the package. All of their rooms count, since ranks and
            programs of their own load others. A name that is no module is left out.
        lesson: its bank of questions counts too.
    """
    files = {f"{lesson}.yaml": bank.folder() / f"{lesson}.yaml"}
    for room in {room_of(name) for name in modules if name.endswith(".py")}:
        place = _PACKAGE / room
        found = [place] if place.suffix == ".py" else place.rglob("*.py")
        files |= {path.relative_to(_PACKAGE).as_posix(): path for path in found}
    return {name: _digest(files[name]) for name in sorted(files)} | {"torch": torch.__version__}


def room_of(module: str) -> str:
    """Return the room of a module: a module or folder of the ground, or the wing of a lesson; a tool by itself.

    Of the tools, a kernel loads what makes explorers into pictures. The others, which make pages, change no output.
    """
    parts = module.split("/")
    if parts[0] == "tools":
        return module
    return "/".join(parts[:2] if parts[0] == "lessons" else parts[:1])


def _digest(file: Path) -> str:
    return hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest() if file.exists() else ""


def _run(notebook: NotebookNode, name: str) -> list[str]:
    """Run a notebook in a kernel, folder and journal of its own; return the modules of the course that it loaded.

    Of the run, the notebook gets what it shows alone: jupyter-cache finds it again by all that a cell says of itself,
    and a run writes its times there.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    ran = copy.deepcopy(notebook)
    ran.cells = [new_code_cell(_WITH_FRAMES), *ran.cells, new_code_cell(_LOADED)]
    with tempfile.TemporaryDirectory() as folder:
        # By its real name, as outputs show it.
        work = str(Path(folder).resolve())
        resources = {"metadata": {"path": work}}
        client = NotebookClient(
            ran, timeout=CELL_SECONDS, allow_errors=True, resources=resources, extra_arguments=_QUIET
        )
        try:
            client.execute(env=os.environ | {"TORCHCOURSE_WORK": work})
        except CellTimeoutError:
            raise NotRun(
                f"{name}: a cell took more than {CELL_SECONDS} s. Try again when the machine is idle."
            ) from None
        except DeadKernelError:
            raise NotRun(f"{name}: its kernel ended. Is the memory of this machine full? Then try again.") from None
    made, told = ran.cells.pop(0), ran.cells.pop()
    if faults := [output.evalue for output in made.outputs if output.output_type == "error"]:
        raise NotRun(f"{name}: its explorers cannot be made into pictures: {faults[0]}.")
    for cell, its_run in zip(notebook.cells, ran.cells, strict=True):
        if cell.cell_type == "code":
            cell.outputs = [_without_folder(output, work) for output in its_run.outputs]
            cell.execution_count = its_run.execution_count
    notebook.metadata["language_info"] = ran.metadata["language_info"]
    loaded = json.loads("".join(output.get("text", "") for output in told.outputs))
    if elsewhere := [file for file in loaded if not Path(file).is_relative_to(_PACKAGE)]:
        raise NotRun(f"{name}: its kernel has a different copy of the course, with {elsewhere[0]}.")
    return [Path(file).relative_to(_PACKAGE).as_posix() for file in loaded]


def _without_folder(output: NotebookNode, folder: str) -> NotebookNode:
    """Return an output that names the folder of the run `work`, as a learner's folder is called."""
    return nbformat.from_dict(_replaced(output, folder, "work"))


def _replaced(value: object, old: str, new: str) -> object:
    if isinstance(value, str):
        return value.replace(old, new)
    if isinstance(value, dict):
        return {key: _replaced(part, old, new) for key, part in value.items()}
    return [_replaced(part, old, new) for part in value] if isinstance(value, list) else value
