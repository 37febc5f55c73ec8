"""The line of the user's code, and the layer of the model, in which an operation runs."""

import linecache
import os
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_COURSE = str(Path(__file__).parents[2])
_TRACKING = ("_where.py", "tracking.py", "simulated_device.py", "gpu_device.py")
_OURS = {str(Path(__file__).with_name(name)) for name in _TRACKING}
_LIBRARIES = ("<frozen", *{sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


@dataclass(frozen=True, slots=True)
class Place:
    """A line of source, and the layer of a watched model around it, if there is one."""

    file: str
    line: int
    layer: str = ""

    @property
    def source(self) -> str:
        """The text of the line."""
        return linecache.getline(self.file, self.line).strip()

    def __str__(self) -> str:
        layer = f"layer {self.layer}, " if self.layer else ""
        return f"{layer}{name_of(self.file)}, line {self.line}: {self.source}"


def find_place(names: Mapping[int, str]) -> Place:
    """Return where the code is now: the innermost frame that belongs to no library, and the innermost watched layer.

    Args:
        names: the names of the modules of watched models, by `id`.
    """
    frame, layer, at = sys._getframe(1), "", ("", 0)
    while frame is not None and not (at[0] and (layer or not names)):
        code = frame.f_code
        if not layer and code.co_name == "_call_impl":
            layer = names.get(id(frame.f_locals.get("self")), "")
        if not at[0] and is_users(code.co_filename):
            at = (code.co_filename, frame.f_lineno)
        frame = frame.f_back
    return Place(*at, layer)


def name_of(file: str) -> str:
    """Return how people call the file: the number of a notebook's cell, or the file's own name."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    known = hasattr(getattr(shell, "compile", None), "format_code_name")  # from IPython 8 on
    name = shell.compile.format_code_name(file) if known else None
    return " ".join(name) if name else Path(file).name


def is_users(file: str) -> bool:
    """Whether the file is the user's (or a lesson's), and neither a library's nor the tracker's own."""
    if file in _OURS:
        return False
    if file.startswith(_COURSE):
        return True
    return not file.startswith(_LIBRARIES) and not any(folder in file for folder in _INSTALLED)
