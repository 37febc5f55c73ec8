"""Start ranks from a notebook cell, and ask which one this is. An engineer at work imports these names.

`run_ranks` starts functions on several ranks · `who` says which rank this is · `export_script` writes the same work as
a file for torchrun. Asking for `run_ranks` here starts the rank server, which imports PyTorch in the background;
nothing else does. Inside the package, import from `torchcourse.ranks.run`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchcourse.ranks.export import export_script
    from torchcourse.ranks.run import RankError, RankTimeout, run_ranks
    from torchcourse.ranks.who import default_world_size, device

__all__ = ["RankError", "RankTimeout", "default_world_size", "device", "export_script", "run_ranks"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, and with `run_ranks` start the server of the ranks."""
    import importlib

    if name == "run_ranks":
        from torchcourse.ranks import start

        start.warm_up()  # before the import of torch: the server imports it at the same time
    for module in ("run", "who", "export") if name in __all__ else ():
        found = getattr(importlib.import_module(f"{__name__}.{module}"), name, None)
        if found is not None:
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
