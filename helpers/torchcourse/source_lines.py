"""Lines of source: what is written there, whose file it is, and what a notebook calls its cell.

The user's code is what a learner or a lesson writes: cells, scripts, and the course's own modules. Not the user's are
Python, the installed libraries, and instruments that look at the user's code from outside: such a module calls
`hide(__file__)` when it is imported.
"""

import functools
import linecache
import os
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

_COURSE = str(Path(__file__).parent) + os.sep
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_hidden: set[str] = set()


@dataclass(frozen=True, slots=True)
class Line:
    """A line of source: its file, its number from 1, and the function that it stands in."""

    file: str
    number: int
    function: str = "<module>"

    @property
    def text(self) -> str:
        """What the line says; empty if the source is not known."""
        return linecache.getline(self.file, self.number).strip()

    def __str__(self) -> str:
        return f"line {self.number} of {name_of(self.file)}: {self.text}"


def name_of(file: str) -> str:
    """Return how people call the file: the number of a notebook's cell ("Cell In[3]"), or the file's own name."""
    return cell_name(file) or Path(file).name


def cell_name(file: str) -> str | None:
    """Return what IPython calls the cell in this file, such as "Cell In[3]".

    None for other files, outside IPython, and under an IPython older than 8.
    """
    ipython = sys.modules.get("IPython")
    compiler = getattr(ipython.get_ipython() if ipython else None, "compile", None)
    name = compiler.format_code_name(file) if hasattr(compiler, "format_code_name") else None
    return " ".join(name) if name else None


def is_cell(file: str) -> bool:
    """Whether the file's name is one that IPython gives to a notebook cell."""
    return "ipykernel_" in file or file.startswith(("<ipython-input", "<cell"))


def hide(file: str) -> None:
    """Say that a module is an instrument: its lines are not the user's."""
    _hidden.add(file)


def is_users(file: str) -> bool:
    """Whether the file is the user's or a lesson's: neither a library's nor an instrument's."""
    return file not in _hidden and not is_library(file)


@functools.cache
def is_library(file: str) -> bool:
    """Whether the file belongs to Python or to an installed package other than the course."""
    if file.startswith(_COURSE):
        return False
    return file.startswith((*_LIBRARIES, "<frozen ", "<string>")) or any(folder in file for folder in _INSTALLED)


def user_lines(limit: int) -> tuple[Line, ...]:
    """Return where the running code is in the user's files: at most `limit` lines, innermost first."""
    lines: list[Line] = []
    frame = sys._getframe(1)
    while frame is not None and len(lines) < limit:
        code = frame.f_code
        if is_users(code.co_filename):
            lines.append(Line(code.co_filename, frame.f_lineno, code.co_name))
        frame = frame.f_back
    return tuple(lines)


hide(__file__)
