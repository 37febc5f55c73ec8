"""Keep the right choice of a prediction from being read by the way: in a notebook it stands as Base64.

A lesson's source says `outcome("01-1.what", "…", right="gradients")`; the notebook says `key="Z3JhZGllbnRz"` instead.
A choice that is computed from what was measured stays as it is: it tells nothing beforehand.
"""

import ast
import base64


def hide_keys(source: str) -> str:
    """Return the code of a cell in which each literal `right=` of an outcome is a `key=`."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a magic of IPython
        return source
    lines = [line.encode() for line in source.split("\n")]  # ast counts columns in bytes
    for keyword in sorted(_keys(tree), key=lambda each: (each.lineno, each.col_offset), reverse=True):
        value = keyword.value
        assert isinstance(value, ast.Constant)
        assert isinstance(value.value, str)
        key = f'key="{base64.b64encode(value.value.encode()).decode()}"'.encode()
        before = lines[keyword.lineno - 1][: keyword.col_offset]
        after = lines[(keyword.end_lineno or 0) - 1][keyword.end_col_offset :]
        lines[keyword.lineno - 1 : keyword.end_lineno] = [before + key + after]
    return b"\n".join(lines).decode()


def _keys(tree: ast.AST) -> list[ast.keyword]:
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [
        keyword
        for call in calls
        if getattr(call.func, "id", getattr(call.func, "attr", "")) == "outcome"
        for keyword in call.keywords
        if keyword.arg == "right" and isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, str)
    ]
