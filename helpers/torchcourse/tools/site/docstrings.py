"""A Sphinx extension: docstrings as they are read in the source, where Sphinx would see markup that is none.

The course's docstrings are plain text with code between single backticks. A paragraph that is set in columns, or with
lines further in, stays as it stands; elsewhere signs such as * and | mean themselves. Sections such as "Args:" are
napoleon's, which reads what comes from here.
"""

import re
from typing import Any

_SECTION = re.compile(r"(Args|Returns|Raises|Yields|Example|Examples|Source|Attributes|Note):$")
_CODE = re.compile(r"(`[^`]*`)")
_ARGUMENT = re.compile(r"\s*\*{0,2}\w+:")
_MARKUP = re.compile(r"\*|\||(?<=\w)_(?=\W|$)")
_COLUMNS = re.compile(r"\S {2,}\S")


def setup(app: Any) -> dict[str, bool]:
    """Put this before napoleon, as Sphinx asks extensions to."""
    app.connect("autodoc-process-docstring", _process, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _process(_app: Any, what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    # Of a value's first line napoleon takes what stands before a colon for its type.
    first = [""] if what in ("attribute", "data", "property") else []
    lines[:] = [*first, *readable(lines)]


def readable(lines: list[str]) -> list[str]:
    """Return the lines of a docstring as reStructuredText that shows what they show."""
    made: list[str] = []
    in_section = False
    for paragraph in _paragraphs(lines):
        in_section = bool(_SECTION.match(paragraph[0])) or (in_section and paragraph[0][:1] in (" ", ""))
        if in_section or not paragraph[0]:
            made += map(_escaped, paragraph)
        elif made and made[-2:-1] and made[-2].endswith("::"):
            made += paragraph  # a literal block already
        elif _is_set(paragraph):
            made += ["::", "", *(f"    {line}" for line in paragraph)]
        else:
            made += map(_escaped, paragraph)
    return made


def _paragraphs(lines: list[str]) -> list[list[str]]:
    """Return runs of lines with text, and each empty line by itself."""
    found: list[list[str]] = []
    for line in lines:
        if line.strip() and found and found[-1][0].strip():
            found[-1].append(line)
        else:
            found.append([line if line.strip() else ""])
    return found


def _is_set(paragraph: list[str]) -> bool:
    """Whether lines mean their places: columns, a table, code, or lines further in than the first."""
    first = _indent(paragraph[0])
    further_in = any(_indent(line) != first for line in paragraph)
    return (
        first > 0
        or further_in
        or paragraph[0].startswith("|")
        or sum(bool(_COLUMNS.search(line)) for line in paragraph) > 1
    )


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _escaped(line: str) -> str:
    """Escape markup outside of code, and not in the name of an argument, which napoleon reads."""
    name = _ARGUMENT.match(line)
    start = name.end() if name else 0
    parts = _CODE.split(line[start:])
    for place, part in enumerate(parts):
        if place % 2 == 0:
            parts[place] = _MARKUP.sub(lambda sign: f"\\{sign[0]}", part)
        elif parts[place + 1][:1].isalnum():  # as in `state_dict`s
            parts[place] = f"{part}\\ "
    return line[:start] + "".join(parts)
