"""Which cells of a notebook are folded away: those that install, import, ask, draw, check or grade.

A page is to be read, and code that tells the answer is not read by the way. A folded cell runs as any other. JupyterLab
shows its first line, Colab a title: so the first line is a title that tells nothing.
"""

import ast
import itertools
import re

from nbformat.notebooknode import NotebookNode
from nbformat.v4 import new_code_cell

TITLES = {
    "predict": "Your prediction",
    "outcome": "What came out",
    "card": "A question",
    "recall": "What do you still know?",
    "review": "What is due today",
    "explorer": "A picture to play with",
    "placement": "Where to begin",
    "final": "Ten questions",
    "final_result": "How it went",
}
"""What a cell is called that does nothing but call these functions, and import and define what it needs for that."""

_DRAWS = re.compile("(draw|describe)_")
"""How a function is called that only draws a picture, or says in words what is on it."""

ASKING = {"predict", "outcome"}


def split(cell: NotebookNode) -> list[NotebookNode]:
    """Return a cell in parts, where predictions and outcomes stand among code: each alone, and the code stays open.

    Only what a cell ends with is shown, so an outcome before other code would not be.
    """
    statements = _statements(cell.source) if cell.cell_type == "code" else []
    lines = cell.source.splitlines()
    cuts = {0, len(lines)}
    for place, statement in enumerate(statements):
        if _called(statement) in ASKING and len(statements) > 1:
            start = statement.lineno - 1
            # With the comment above it; the code of a cell comes before its first question.
            while start > 0 and lines[start - 1].startswith("#"):
                start -= 1
            end = statement.end_lineno if place + 1 < len(statements) else len(lines)
            cuts |= {start, end or start}
    edges = sorted(cuts)
    parts = ["\n".join(lines[start:end]).strip("\n") for start, end in itertools.pairwise(edges)]
    return [cell] if len(parts) <= 1 else [new_code_cell(part) for part in parts if part]


def asks_unseen(source: str) -> bool:
    """Whether a prediction or an outcome stands inside a block, where a notebook does not show it."""
    statements = _statements(source)
    inside = (node for statement in statements for node in ast.walk(statement) if node is not statement)
    return any(isinstance(node, ast.Expr) and _called(node) in ASKING for node in inside)


def fold(cell: NotebookNode, marking: str) -> None:
    """Fold a code cell if it is one of those, under a title. `marking` is its title in the source."""
    title = _title(cell.source, marking) if cell.cell_type == "code" else ""
    if title:
        cell.source = f"# @title {title}\n{cell.source}"
        cell.metadata["jupyter"] = {"source_hidden": True}
        cell.metadata["cellView"] = "form"


def _title(source: str, marking: str) -> str:
    if marking == "setup":
        return "Install the course where it is missing"
    if marking.startswith("check: "):
        return "Check"
    statements = _statements(source)
    if marking or not statements:
        return ""
    rest = [statement for statement in statements if not isinstance(statement, ast.Import | ast.ImportFrom)]
    called = [_called(statement) for statement in rest]
    drawing = [isinstance(statement, ast.FunctionDef) and bool(_DRAWS.match(statement.name)) for statement in rest]
    if rest and all(name in TITLES or draws for name, draws in zip(called, drawing, strict=True)):
        return TITLES.get(called[-1], "How the picture is drawn")
    simple = all(isinstance(statement, ast.Expr | ast.Assign) for statement in rest)
    if simple and len(statements) >= max(2, 4 * len(rest)):
        return "Imports"
    if re.match(r"figure, \w+ = (figures\.)?(new|canvas)\(", source) and _called(statements[-1]) == "show":
        return "The picture"
    return ""


def _statements(source: str) -> list[ast.stmt]:
    try:
        return ast.parse(source).body
    except SyntaxError:  # a magic of IPython
        return []


def _called(statement: ast.stmt) -> str:
    """Return the name of the function that a statement is a call of, such as "card" for `quiz.card(…)`."""
    if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Call):
        return ""
    function = statement.value.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
