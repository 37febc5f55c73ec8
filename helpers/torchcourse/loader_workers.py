"""The worker processes of a DataLoader on systems that do not fork them: macOS, Windows, and Python 3.14 on Linux.

There a worker begins as a fresh Python. It imports PyTorch again, which takes seconds, and it does not have what the
cells of a notebook define. `prepare()` mends both. Call it once, early, before the first loader with workers:

    loader_workers.prepare()

Where workers are forked, it changes nothing. The start methods: https://docs.python.org/3/library/multiprocessing.html
"""

import functools
import importlib
import multiprocessing
import pickle
import sys
from multiprocessing.reduction import ForkingPickler
from types import FunctionType
from typing import Any

import cloudpickle

PRELOAD = ("torch", "torch.utils.data", "torchcourse.loader_workers")
"""What the server of "forkserver" imports, once for all workers."""


def prepare(start_server: bool = True) -> str:
    """Let the workers of this process start fast, and know what the notebook's cells define.

    * Where workers are forked, nothing changes.
    * Elsewhere "forkserver" starts them: its server imports PyTorch once, and forks each worker. macOS has it, too.
    * Windows has "spawn" alone. Workers start slowly there: use few loaders, and `persistent_workers=True`.

    From now on, what the cells define is pickled by value (cloudpickle), also on its way back from a worker.

    Args:
        start_server: whether the server begins to import at once, in the background; else with the first worker.

    Returns:
        The start method of the workers.
    """
    method = best(multiprocessing.get_start_method(), multiprocessing.get_all_start_methods())
    if method != "fork":
        carry_definitions()
        multiprocessing.set_start_method(method, force=True)
    if method == "forkserver":
        multiprocessing.set_forkserver_preload(list(PRELOAD))
        if start_server:
            importlib.import_module("multiprocessing.forkserver").ensure_running()  # a module that Windows lacks
    return method


def at_most(wanted: int) -> int:
    """Return how many workers a loader may have: none, with a sentence, where processes can share no memory.

    Some containers have no /dev/shm, through which workers hand over batches. Ranks do without it.
    """
    if wanted and not can_share_memory():
        print(
            "Processes can share no memory on this machine, so the loader has no workers. In a container, /dev/shm is "
            "missing: start it with --ipc=host or --shm-size."
        )
        return 0
    return wanted


@functools.cache
def can_share_memory() -> bool:
    """Whether this process can make what is shared with another one."""
    if sys.platform == "win32":
        return True
    try:
        # "fork" makes the lock alone, and "spawn" a process beside it.
        multiprocessing.get_context("fork").Lock()
    except OSError:
        return False
    return True


def best(current: str, possible: list[str]) -> str:
    """Return the start method for workers: "fork" where it is the current one, else the fastest that is possible."""
    return "forkserver" if current != "fork" and "forkserver" in possible else current


def carry_definitions() -> None:
    """Pickle by value what a fresh process cannot import, wherever `multiprocessing` pickles in this process.

    That is what `__main__` defines, and functions inside functions.
    """
    ForkingPickler.reducer_override = _by_value  # type: ignore  # as pickle allows; the stubs know it of instances only


def _by_value(_pickler: ForkingPickler, thing: Any) -> Any:
    if isinstance(thing, (type, FunctionType)) and not _can_be_imported(thing):
        return _load, (cloudpickle.dumps(thing),)
    return NotImplemented


def _can_be_imported(thing: type | FunctionType) -> bool:
    found: Any = None if thing.__module__ == "__main__" else sys.modules.get(thing.__module__)
    for name in thing.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is thing


def _load(pickled: bytes) -> Any:
    """In a worker: what it sends back may be of such a class too."""
    carry_definitions()
    return pickle.loads(pickled)
