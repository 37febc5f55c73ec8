"""Quizzes scored without running what was handed in: each answer is read as a value, and judged here.

A quiz asks for `answer_q3 = "AC"`: a literal. It is read by `ast`, and the teacher's check cell is given the value. A
notebook whose answers are anything else has to be run.
"""

import ast
import re
import traceback
from typing import Any

from nbformat.notebooknode import NotebookNode
from nbgrader import utils

from torchcourse import quiz

LONGEST = 10_000
"""Characters of an answer that is read here. A tree of Python's takes 500 times the memory of its text."""


def score(notebook: NotebookNode) -> bool:
    """Put the outputs of all check cells into a sanitized quiz notebook; False if it has to be run.

    The check cells have to be the teacher's, as they are after nbgrader's OverwriteCells.
    """
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    checks = [cell for cell in cells if utils.is_grade(cell)]
    if not checks or not all(_is_quiz_check(cell.source) for cell in checks):
        return False
    answers: dict[str, Any] = {}
    for cell in cells:
        if utils.is_solution(cell):
            found = _literals(cell.source)
            if found is None:
                return False
            answers |= found
        elif not utils.is_grade(cell) and re.search(r"\banswer_q", cell.source):
            return False  # a cell of the learner's own, which may change an answer
    for number, cell in enumerate(checks, start=1):
        cell.outputs, cell.execution_count = [_judged(cell.source, answers)], number
    return True


def _is_quiz_check(source: str) -> bool:
    """Whether a check cell asks `quiz.received` only, and so needs nothing but the answer."""
    tree = ast.parse(source)
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    if not all(isinstance(statement, ast.Assign | ast.Expr) for statement in tree.body):
        return False
    return {"quiz", "received"} <= names and all(re.fullmatch(r"quiz|received|answer_q\d+", name) for name in names)


def _literals(source: str) -> dict[str, Any] | None:
    """Return the values that a cell gives to names, or None if it does anything else or is too long."""
    if len(source) > LONGEST:
        return None
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    found: dict[str, Any] = {}
    for statement in body:
        if not (isinstance(statement, ast.Assign) and all(isinstance(name, ast.Name) for name in statement.targets)):
            return None
        try:
            value = ast.literal_eval(statement.value)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            return None
        found |= {name.id: value for name in statement.targets if isinstance(name, ast.Name)}
    return found


def _judged(source: str, answers: dict[str, Any]) -> NotebookNode:
    """Run a teacher's check cell on the answers; return its result, or its error, as an output."""
    body = ast.parse(source).body
    last = body.pop()
    names = {"quiz": quiz} | answers
    try:
        exec(compile(ast.Module(body, []), "<check>", "exec"), names)
        result = eval(compile(ast.Expression(last.value), "<check>", "eval"), names)  # type: ignore[attr-defined]
    except Exception as error:
        return NotebookNode(
            output_type="error",
            ename=type(error).__name__,
            evalue=str(error),
            traceback=traceback.format_exception_only(error),
        )
    data = NotebookNode({"text/plain": repr(result)})
    if hasattr(result, "_repr_html_"):
        data["text/html"] = result._repr_html_()
    return NotebookNode(output_type="execute_result", data=data, metadata={}, execution_count=None)
