"""The gradebook of a class: where it is, and nbgrader's use of it, made quick and quiet.

It is `gradebook.db` in the folder of the class, unless `grading.toml` there names a server's database.
"""

import contextlib
import functools
import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import nbgrader.api
from jsonschema.exceptions import best_match
from nbgrader import nbgraderformat
from nbgrader.api import Gradebook
from sqlalchemy.exc import SAWarning

from torchcourse.tools.classroom import late

NAME = "gradebook.db"


def address(folder: Path) -> str:
    """Return the address of a class's gradebook, as SQLAlchemy reads it.

    Raises:
        ValueError: in a sentence, for rules of the class that cannot be read.
    """
    rules = late.read(folder)
    return rules.gradebook if rules and rules.gradebook else f"sqlite:///{folder.resolve() / NAME}"


def exists(folder: Path) -> bool:
    """Whether a class has a gradebook. One on a server is there from its first use on."""
    return not address(folder).startswith("sqlite:") or (folder / NAME).exists()


def opened(folder: Path) -> Gradebook:
    """Return the gradebook of a class, for a `with` block; a new one if there is none."""
    return Gradebook(address(folder), "torchcourse")


@contextlib.contextmanager
def at_work() -> Iterator[None]:
    """Within the block, nbgrader finds its database tool, shares one engine per gradebook, and does not warn of itself.

    It asks the tool for a version by the name of its command, which lies beside this Python. It opens the gradebook
    eight times per notebook, and each new engine of SQLAlchemy's compiles every query again. It checks the schema of
    cells, its own, again for each cell.
    """
    beside = str(Path(sys.executable).parent)
    if beside not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join(filter(None, [beside, os.environ.get("PATH")]))
    create, checked = nbgrader.api.create_engine, nbgraderformat.common.jsonschema
    nbgrader.api.create_engine = functools.cache(create)
    nbgraderformat.common.jsonschema = SimpleNamespace(validate=_validate)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SAWarning)
            yield
    finally:
        nbgrader.api.create_engine, nbgraderformat.common.jsonschema = create, checked


def _validate(metadata: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    """Raise `jsonschema.ValidationError` as `jsonschema.validate` does."""
    error = best_match(_validator(json.dumps(schema)).iter_errors(metadata))
    if error is not None:
        raise error


@functools.cache
def _validator(schema: str) -> Any:
    parsed = json.loads(schema)
    return jsonschema.validators.validator_for(parsed)(parsed)
