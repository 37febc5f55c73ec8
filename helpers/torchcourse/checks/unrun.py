"""The cell of an answer that did not run: Python found a SyntaxError in it, and its names stand for what they were.

A check then judges the skeleton, or the answer of before. The notebook's history knows better.
"""

import ast
import contextlib
import re
import sys
import warnings
from typing import Any

_BINDING = r"^[ \t]*(?:async[ \t]+def|def|class)[ \t]+({0})\b|^(?:%\w+[ \t]+)?({0})[ \t]*(?::[^=\n]*)?=(?!=)"


def sentence() -> str:
    """Say that a cell of an answer did not run when it was last tried; empty where all did, or nobody knows.

    It is asked while the check's cell runs. That cell names the answers.
    """
    ipython = sys.modules.get("IPython")
    shell: Any = ipython.get_ipython() if ipython else None
    history = getattr(shell, "history_manager", None)
    if history is None:
        return ""
    cells = list(enumerate(zip(history.input_hist_raw, history.input_hist_parsed, strict=False)))
    names: set[str] = set()
    with contextlib.suppress(SyntaxError):  # of the cell before: this one is not in the history
        names = {node.id for node in ast.walk(_read(cells.pop()[1][1])) if isinstance(node, ast.Name)}
    for number, (raw, parsed) in reversed(cells):  # below `%%time`, only what was typed shows a function
        if not names:
            break
        pattern = _BINDING.format("|".join(map(re.escape, names)))
        bound = {name for found in re.findall(pattern, raw, re.MULTILINE) for name in found if name}
        try:
            bound |= names & _bound(_read(parsed))
        except SyntaxError as error:
            if bound:
                which = " and ".join(f"`{name}`" for name in sorted(bound))
                line = f" in its line {error.lineno}" if error.lineno else ""
                return (
                    f"Your cell In[{number}], with {which}, did not run: {type(error).__name__}{line}, {error.msg}. "
                    "What came before it was checked."
                )
        names -= bound
    return ""


def _read(source: str) -> ast.AST:
    """Read a cell as Python does before it runs the first line.

    Raises:
        SyntaxError: if no line of it can run.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(source)
            compile(tree, "<cell>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        except (ValueError, RecursionError, MemoryError):  # of a cell that no learner writes
            return ast.Module([], [])
    return tree


def _bound(tree: ast.AST) -> set[str]:
    """The names that a cell may give a new meaning."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names
