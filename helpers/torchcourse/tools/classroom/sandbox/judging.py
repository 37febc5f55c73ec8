"""Tests that are judged apart from what was handed in (`torchcourse.checks.values`): found, and run.

The judge is a sandbox of its own, forked from the warm process, in which nothing that was handed in ever runs. The
grader stands between it and the sandbox of the submission, and passes on plain data only.
"""

import ast
import json
import random
import traceback
from collections.abc import Callable
from typing import Any

from torchcourse.checks import values

Receive = Callable[[], dict[str, Any] | None]
Send = Callable[[dict[str, Any]], None]


def take_apart(source: str) -> tuple[str, list[str]]:
    """Return a check cell without its judged tests, and these tests. The cell has to be the teacher's."""
    try:
        body = ast.parse(source).body
    except SyntaxError:  # as a line of IPython's own
        return source, []
    tests, lines = [], source.splitlines()
    for statement in reversed(body):
        if isinstance(statement, ast.FunctionDef) and any(map(_is_mark, statement.decorator_list)):
            tests.append(ast.unparse(statement))
            del lines[statement.decorator_list[0].lineno - 1 : statement.end_lineno]
    return ("\n".join(lines), tests[::-1]) if tests else (source, [])


def _is_mark(decorator: ast.expr) -> bool:
    return isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Name) and decorator.func.id == "judged"


def question(name: str, given: Any) -> str:
    """Return a cell that asks the sandbox of a submission for a value."""
    asked = f"{name!r}, {json.dumps(given)!r}, globals()"
    return f"__import__('importlib').import_module({__name__!r}).answer({asked})"


class Answer:
    """A value as text, which a cell shows as it is."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def answer(name: str, given: str, names: dict[str, Any]) -> Answer:
    """In the sandbox of a submission: call the function of that name, and return its value as JSON."""
    arguments, named = values.decode(json.loads(given))
    text = json.dumps(values.encode(names[name](*arguments, **named)))
    if len(text) > values.MOST:
        raise ValueError(f"The result of {name} is too large for a test: {len(text):,} characters.")
    return Answer(text)


def serve(test: str, seed: str, receive: Receive, send: Send) -> None:
    """In the judge: run a test, and send the reason why it failed, or nothing."""
    (function,) = ast.parse(test).body
    assert isinstance(function, ast.FunctionDef)
    (mark,) = (decorator for decorator in function.decorator_list if _is_mark(decorator))
    assert isinstance(mark, ast.Call)
    asked = [_asking(ast.unparse(name), receive, send) for name in mark.args]
    function.decorator_list = []
    try:
        names: dict[str, Any] = {}
        exec(compile(ast.Module([function], []), "<hidden test>", "exec"), names)
        names[function.name](*asked, random.Random(f"{seed} {test}"))
    except Exception as error:
        send({"failed": _told(error, test)})
    else:
        send({"failed": ""})


def _told(error: Exception, source: str) -> str:
    """Return the line of a test that failed, and the error."""
    lines = source.splitlines()
    places = [place.lineno for place in traceback.extract_tb(error.__traceback__) if place.filename == "<hidden test>"]
    found = lines[places[0] - 1].strip() if places and places[0] and places[0] <= len(lines) else ""
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"{said}, at `{found}`, on inputs that were drawn"[:1000]


def _asking(name: str, receive: Receive, send: Send) -> Callable:
    def ask(*given: Any, **named: Any) -> Any:
        send({"call": name, "given": values.encode((given, named))})
        reply = receive()
        if reply is None or "value" not in reply:
            raise RuntimeError(str(reply and reply.get("error")))
        return values.decode(reply["value"])

    return ask
