"""Keep what came out from being read by the way: in a notebook an outcome's text and right choice stand as Base64.

A lesson's source says `outcome("01-1.what", f"They are {off:.0e} apart.", right="gradients")`. The notebook says
`outcome("01-1.what", told="VGhleSBhcmUgezouMGV9IGFwYXJ0Lg==", values=(off,), key="Z3JhZGllbnRz")`. Where the right
choice depends on what was measured, each of the choices is hidden, and the condition stays to be read.
"""

import ast
import base64
from collections.abc import Iterator

_Edit = tuple[ast.expr | ast.keyword, str]
"""A part of the code, and what is written in its place."""


def hide_keys(source: str) -> str:
    """Return the code of a cell in which no outcome tells by the way what came out.

    A text or a choice that is a value of the program stays as it is, such as `right=best`.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a magic of IPython
        return source
    lines = [line.encode() for line in source.split("\n")]  # ast counts columns in bytes
    for part, new in sorted(_edits(tree), key=lambda edit: (edit[0].lineno, edit[0].col_offset), reverse=True):
        before = lines[part.lineno - 1][: part.col_offset]
        after = lines[(part.end_lineno or 0) - 1][part.end_col_offset :]
        lines[part.lineno - 1 : part.end_lineno] = [before + new.encode() + after]
    return b"\n".join(lines).decode()


def _edits(tree: ast.AST) -> Iterator[_Edit]:
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and getattr(call.func, "id", getattr(call.func, "attr", "")) == "outcome":
            for text in call.args[1:2]:
                template, values = _template(text)
                if template not in ("", "{}"):
                    given = f", values=({', '.join(values)}{',' * (len(values) == 1)})" if values else ""
                    yield text, f'told="{_encoded(template)}"{given}'
            for keyword in call.keywords:
                hidden = _hidden(keyword.value) if keyword.arg == "right" else None
                if hidden:
                    yield keyword, f"key={hidden}"


def _template(text: ast.expr) -> tuple[str, list[str]]:
    """Return a text as `str.format` takes it, and the code of the values in it."""
    match text:
        case ast.Constant(value=str(words)):
            return words.replace("{", "{{").replace("}", "}}"), []
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            parts = [_template(left), _template(right)]
        case ast.JoinedStr(values=pieces):
            parts = [_template(piece) for piece in pieces]
        case ast.FormattedValue(value=value, conversion=conversion, format_spec=spec):
            how, inner = _template(spec) if spec else ("", [])
            form = (f"!{chr(conversion)}" if conversion > 0 else "") + (f":{how}" if how else "")
            return f"{{{form}}}", [ast.unparse(value), *inner]
        case _:
            return "{}", [ast.unparse(text)]
    return "".join(words for words, _ in parts), [value for _, values in parts for value in values]


def _hidden(choice: ast.expr) -> str | None:
    """Return the code of a choice with its words hidden; None where it is none of words, conditions and None."""
    match choice:
        case ast.Constant(value=str(words)):
            return f'"{_encoded(words)}"'
        case ast.Constant(value=None):
            return "None"
        case ast.IfExp(test=test, body=body, orelse=otherwise):
            one, other = _hidden(body), _hidden(otherwise)
            return one and other and f"{one} if {ast.unparse(test)} else {other}"
    return None


def _encoded(words: str) -> str:
    return base64.b64encode(words.encode()).decode()
