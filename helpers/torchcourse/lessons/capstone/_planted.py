"""What is in `planted.bin`: the colleague's program with its failures, and runs that were trained with it.

It is packed, and this module is private, so that nobody meets the answer by the way. Whoever looks for it finds it.
`python -m torchcourse.tools.make_data.capstone_failures` makes the file.
"""

import functools
import json
import zlib
from pathlib import Path
from typing import Any

from torchcourse.lessons.capstone.records import Records, from_ranks

PLANTED = Path(__file__).parent / "planted.bin"


def drawn(name: str) -> str:
    """Return the failure that a name draws."""
    return _program()["_drawn"](name)


def train(failure: str, folder: Path, seed: int) -> dict[str, Any]:
    """Train in a rank with a failure, on the delivery in `folder`; return what this rank noted."""
    return _program()["train"](failure, folder, seed)


def known_runs(name: str) -> list[tuple[str, Records]]:
    """Return the runs that were trained before: "own" (the failure that the name draws), "healthy" or "other", each."""
    runs = []
    for failure, ranks in _content()["runs"]:
        kind = "healthy" if not failure else "own" if failure == drawn(name) else "other"
        runs.append((kind, from_ranks(ranks)))
    return runs


@functools.cache
def _content() -> dict[str, Any]:
    return json.loads(zlib.decompress(PLANTED.read_bytes()))


@functools.cache
def _program() -> dict[str, Any]:
    program: dict[str, Any] = {"__name__": "planted"}
    exec(compile(_content()["program"], "the colleague's program", "exec"), program)
    return program
