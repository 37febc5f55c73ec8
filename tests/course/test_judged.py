"""Hidden tests that judge values (`torchcourse.checks.values`): each lesson has one, and each stands alone."""

import ast
import builtins
import symtable

import pytest

from torchcourse.tools.build import notebooks
from torchcourse.tools.classroom.sandbox.judging import take_apart
from torchcourse.tools.repository import ROOT


def _name(test: str) -> str:
    """The name of the one function in a test."""
    (function,) = ast.parse(test).body
    assert isinstance(function, ast.FunctionDef)
    return function.name


TESTS = {
    f"{path.parent.name}: {_name(test)}": test
    for path in sorted((ROOT / "solutions").glob("*/*.py"))
    for cell in path.read_text(encoding="utf-8").split("\n# %%")
    for test in (take_apart(cell.partition("\n")[2])[1] if "\n@judged" in cell else [])
}


def test_each_lesson_has_one():
    lessons = {name.partition(":")[0] for name in TESTS}
    assert {lesson for lesson in notebooks.lessons(ROOT) if lesson < "09"} <= lessons


@pytest.mark.parametrize("test", TESTS.values(), ids=TESTS)
def test_it_uses_nothing_of_the_notebook(test):
    """The judge has no notebook."""
    (function,) = ast.parse(test).body
    function.decorator_list = []
    table = symtable.symtable(ast.unparse(function), "<test>", "exec")
    scopes = [table]
    for scope in scopes:
        scopes += scope.get_children()
    used = {symbol.get_name() for scope in scopes[1:] for symbol in scope.get_symbols() if symbol.is_global()}
    assert used <= set(dir(builtins))
