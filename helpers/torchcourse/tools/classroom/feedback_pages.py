"""nbgrader's feedback pages, without compiling each template again per page."""

from typing import Any

import jinja2
from nbconvert.exporters import HTMLExporter


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
