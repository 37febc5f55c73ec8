"""From notebook to cluster: `export_script(train, "train.py")` writes a script for `torchrun`.

The script makes the same call as the notebook: `run_ranks(train, …)`. Under `torchrun` that call runs in place, in the
process group that the environment describes (NCCL when each rank has a GPU of its own, else gloo). Without `torchrun`
the script starts its ranks itself, as a notebook does.

A function that lives in a module is imported. A function of a cell is copied, with what it uses: modules become
imports, functions and classes of cells are copied too, plain constants are written down. What cannot be written
faithfully (a tensor, a model, an open file) is refused: a script that looks complete and computes something else would
be worse than none.
"""

import functools
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torchcourse.ranks.run import run_ranks
from torchcourse.ranks.source import CannotWrite, Source
from torchcourse.ranks.who import default_world_size

_HEAD = '''"""Runs {name}() on several ranks. Written by torchcourse's export_script.

{commands}
Each machine needs PyTorch, the package torchcourse, and this file under the same path.
"""'''
_MAIN = """\
if __name__ == "__main__":
    results = {call}
    if os.environ.get("RANK", "0") == "0":  # under torchrun every rank comes here, with the results of all
        for rank, result in enumerate(results):
            print(f"rank {{rank}} returned {{result}}")
"""


def export_script(fn: Callable[..., Any], path: str | Path, *args: Any, overwrite: bool = False) -> Path:
    """Write a script that runs `fn(*args)` on the ranks that `torchrun` starts, and print the commands that run it.

    Args:
        fn: a function of a module or of a cell; a `functools.partial` of it for keyword arguments.
        path: where to write, for example "train.py".
        *args: arguments of `fn` that can be written down: numbers, text, None, paths, torch's dtypes and devices, and
            lists, tuples, sets and dictionaries of them.
        overwrite: replace a file that is there and differs.

    Returns:
        The path of the script.

    Raises:
        TypeError: the function or an argument cannot be written into a script faithfully; the sentence names the object
            and says what to change.
        FileExistsError: there is a different file at `path`.

    Source of the command lines: https://docs.pytorch.org/docs/stable/elastic/run.html
    """
    path = Path(path)
    keywords: dict[str, Any] = {}
    while isinstance(fn, functools.partial):
        args, keywords, fn = (*fn.args, *args), {**fn.keywords, **keywords}, fn.func
    if not inspect.isfunction(fn) or fn.__name__ == "<lambda>":
        raise TypeError(f"export_script needs a function that is written with def, and got {fn!r}.")
    try:
        inspect.signature(fn).bind(*args, **keywords)
    except TypeError as error:
        raise TypeError(f"{fn.__name__}() cannot be called with these arguments: {error}.") from None

    source = Source(path.resolve().parent)
    try:
        call = _write_call(source, fn, args, keywords)
    except CannotWrite as error:
        raise TypeError(str(error)) from None
    commands = _commands("torchrun", Path(path.name), "this file's folder")
    escaped = commands.replace("\\", "\\\\").replace('"""', r"\"\"\"")
    head = [_HEAD.format(name=fn.__name__, commands=escaped), source.imports(), source.constants()]
    main = _MAIN.format(call=call)
    text = "\n\n\n".join(["\n\n".join(filter(None, head)), *source.copies(), main])
    if path.exists() and path.read_text(encoding="utf-8", errors="replace") != text and not overwrite:
        raise FileExistsError(
            f"{path} exists and differs. Choose a different name, or pass overwrite=True to replace it."
        )
    path.write_text(text, encoding="utf-8")
    print(f"Wrote {path}.\n{_commands(_torchrun_here(), path, 'the current folder')}", end="")
    return path


def _write_call(source: Source, fn: Callable[..., Any], args: tuple[Any, ...], keywords: dict[str, Any]) -> str:
    """Collect what the script needs, and return the call of run_ranks."""
    source.use("os", os)
    source.use("run_ranks", run_ranks)
    source.use(fn.__name__, fn)
    callee = fn.__name__
    if keywords:
        source.use("functools", functools)
        written = [f"{key}={source.literal(value, f'argument {key}')}" for key, value in keywords.items()]
        callee = f"functools.partial({', '.join([callee, *written])})"
    positional = [source.literal(value, f"argument {index}") for index, value in enumerate(args, 1)]
    return f"run_ranks({', '.join([callee, *positional])})"


def _commands(torchrun: str, script: Path, folder: str) -> str:
    """Return the command lines, each to be copied as it stands into a terminal that is in this folder."""
    name = str(script)
    shown = _quoted(os.path.join(".", name) if name.startswith("-") else name)  # else it would be an option
    job = re.sub(r"[^A-Za-z0-9_]+", "-", script.stem).strip("-") or "training"
    meeting = f"--rdzv-backend=c10d --rdzv-id={job} --rdzv-endpoint=FIRST_MACHINE:29500"
    return (
        f"One machine, from {folder}:\n"
        f"    {torchrun} --standalone --nproc-per-node={default_world_size()} {shown}\n"
        "Several machines, here two with 8 GPUs each. Put the name or address of the first instead of FIRST_MACHINE, "
        "and start the same line on both:\n"
        f"    {torchrun} --nnodes=2 --nproc-per-node=8 {meeting} {shown}\n"
    )


def _torchrun_here() -> str:
    """The command `torchrun` where a terminal finds that of this environment, else what it stands for."""
    found = shutil.which("torchrun")
    if found and Path(found).parent == Path(sys.executable).parent:
        return "torchrun"
    return f"{_quoted(sys.executable)} -m torch.distributed.run"


def _quoted(word: str) -> str:
    """Write a word for the shell of this system: a space or a Korean letter in it changes nothing."""
    return subprocess.list2cmdline([word]) if sys.platform == "win32" else shlex.quote(word)
