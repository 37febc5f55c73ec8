"""All Python of the project is linted, formatted and typed as pyproject.toml says, and stays small enough to read."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = [ROOT / "course.py", *sorted((ROOT / "helpers").rglob("*.py"))]
LINES_OF_A_MODULE, LINES_OF_A_FUNCTION = 400, 60


def run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=["lint", "format"])
def test_ruff_has_nothing_to_say(command):
    result = run("ruff", *command, ".")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_type_checker_has_nothing_to_say():
    result = run("mypy", "--no-error-summary")
    assert result.returncode == 0, result.stdout + result.stderr


def test_no_module_is_longer_than_one_can_keep_in_mind():
    lines = {path.relative_to(ROOT).as_posix(): len(path.read_text("utf-8").splitlines()) for path in MODULES}
    assert {path: count for path, count in lines.items() if count > LINES_OF_A_MODULE} == {}


@pytest.mark.slow
def test_no_function_is_longer_than_a_screen():
    lengths = {
        f"{path.relative_to(ROOT).as_posix()}: {name}": lines
        for path in MODULES
        for name, lines in functions(path.read_text("utf-8"))
    }
    assert {name: lines for name, lines in lengths.items() if lines > LINES_OF_A_FUNCTION} == {}


def functions(source: str) -> list[tuple[str, int]]:
    """Return name and lines of each function, docstring included."""
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [(node.name, (node.end_lineno or node.lineno) - node.lineno + 1) for node in found]


def test_the_length_of_a_function_counts_all_its_lines():
    assert functions('def short():\n    """Say so."""\n\n    return 1\n\n\nx = 1\n') == [("short", 4)]
