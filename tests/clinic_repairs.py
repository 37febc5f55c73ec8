"""Repairs of the clinic's programs for tests: the lesson's own, and others made from a text by replacing words."""

import linecache
import re
from collections.abc import Callable

from torchcourse.lessons.troubleshooting import clinic
from torchcourse.lessons.troubleshooting.clinic.program import Program
from torchcourse.tools.build.source import PROGRAMS
from torchcourse.tools.repository import ROOT


def reference(slug: str, *changes: tuple[str, str]) -> list[Callable]:
    """The repair that stands in the lesson's source, with each `(old, new)` replaced in its text."""
    for path in sorted((ROOT / "solutions").glob("*/*.py")):
        found = re.search(rf"^# %% repair: {slug}\n(.*?)(?=^# %%|\Z)", path.read_text("utf-8"), re.M | re.S)
        if found:
            return parts(slug, found[1], *changes)
    raise AssertionError(f"no lesson repairs '{slug}'")


def broken(slug: str, *changes: tuple[str, str]) -> list[Callable]:
    """The parts of the broken program, with each `(old, new)` replaced in the program's text."""
    return parts(slug, (PROGRAMS / f"{slug}.py").read_text("utf-8"), *changes)


def parts(slug: str, text: str, *changes: tuple[str, str]) -> list[Callable]:
    """The parts of the case that `text` defines, among the names that the program has."""
    for old, new in changes:
        assert old in text, f"'{old}' is not in the text of {slug}"
        text = text.replace(old, new)
    namespace = Program(slug).namespace
    name = f"<repair {hash(text)}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)  # as a notebook does for its cells
    exec(compile(text, name, "exec"), namespace)
    return [namespace[name] for name in clinic.find(slug).parts]
