"""nbgrader's own work, without what it does anew for each submission: an engine per query, a template per page."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import jinja2
import nbgrader.api
from nbconvert.exporters import HTMLExporter


@contextlib.contextmanager
def one_engine() -> Iterator[None]:
    """Within the block, let all of nbgrader's gradebooks of one address share SQLAlchemy's engine.

    nbgrader opens the gradebook eight times per notebook, and each new engine compiles every query again.
    """
    create = nbgrader.api.create_engine
    nbgrader.api.create_engine = functools.cache(create)
    try:
        yield
    finally:
        nbgrader.api.create_engine = create


class QuickHTMLExporter(HTMLExporter):
    """nbconvert's, which compiles each template once per process instead of once per page."""

    def _create_environment(self) -> Any:
        environment = super()._create_environment()
        environment.bytecode_cache = _compiled
        return environment


class _Compiled(jinja2.BytecodeCache):
    """Compiled templates, by name and text."""

    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}

    def load_bytecode(self, bucket: jinja2.bccache.Bucket) -> None:
        if bucket.key in self._kept:
            bucket.bytecode_from_string(self._kept[bucket.key])

    def dump_bytecode(self, bucket: jinja2.bccache.Bucket) -> None:
        self._kept[bucket.key] = bucket.bytecode_to_string()


_compiled = _Compiled()
