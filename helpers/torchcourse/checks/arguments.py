"""With what the learner's function stopped: a check calls it several times, with different inputs."""

import inspect
import linecache
import re
import sys
from types import CodeType, FrameType, TracebackType
from typing import Any

BEGINNING = "There, `"
"""What the sentence begins with."""

_MOST = 4  # arguments that are told
_LONGEST = 40  # characters of a value


def told(end: TracebackType | None, file: str, number: int) -> str:
    """Say what the arguments of the function in this line were when an error left it.

    Args:
        end: the error's traceback.
        file: the file of the line, as its code calls it.
        number: the line, from 1.

    Returns:
        a sentence, first of the arguments that the line names; empty where it stands in no function, or in one
        without arguments.
    """
    known: dict[str, Any] = {}
    named: set[str] = set()
    while end is not None:
        if (end.tb_frame.f_code.co_filename, end.tb_lineno) == (file, number):
            known = _arguments(end.tb_frame) or known  # those around a comprehension, which has none of its own
            named = set(re.findall(r"\w+", linecache.getline(file, number)))
        end = end.tb_next
    first = sorted(known, key=lambda name: name not in named)[:_MOST]
    texts = [f"`{name}` was {_described(value)}" for name, value in known.items() if name in first]
    return f"There, {', '.join(texts)}." if texts else ""


def _arguments(frame: FrameType) -> dict[str, Any]:
    code: CodeType = frame.f_code
    if not code.co_flags & inspect.CO_NEWLOCALS:  # a cell, or the body of a class
        return {}
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    values = frame.f_locals
    return {name: values[name] for name in names if name in values and name != "self" and not name.startswith(".")}


def _described(value: Any) -> str:
    try:
        return _short(value)
    except Exception:  # an object of the learner's own, whose repr or length is wrong
        return f"of type {type(value).__name__}"


def _short(value: Any) -> str:
    if value is None or isinstance(value, bool | int | float | str):
        text = repr(value)
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
    if _is(value, "torch", "Tensor") or _is(value, "numpy", "ndarray"):
        kind = "a tensor" if _is(value, "torch", "Tensor") else "an array"
        return f"{kind} of shape {list(value.shape)} ({str(value.dtype).removeprefix('torch.')})"
    if type(value) in (list, tuple, dict, set):
        return f"a {type(value).__name__} of length {len(value)}"
    if callable(value) and hasattr(value, "__name__"):
        return f"the function {value.__name__}" if not isinstance(value, type) else f"the class {value.__name__}"
    return f"of type {type(value).__name__}"


def _is(value: Any, module: str, name: str) -> bool:
    """Whether it is of a class of a library that may not have been imported."""
    library = sys.modules.get(module)
    return library is not None and isinstance(value, getattr(library, name))
