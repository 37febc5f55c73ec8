"""The whole course as files: built from its sources, complete, and without a solution in what learners get."""

import ast
import base64
import functools
import itertools
import json
import re
import shutil
import subprocess
from collections import Counter

import nbformat
import pytest
import yaml
from nbformat.notebooknode import NotebookNode

import small_course
from lesson_notebooks import RELEASES, name, read, solution
from torchcourse.tools.build import notebooks
from torchcourse.tools.build.hidden_keys import hide_keys
from torchcourse.tools.build.source import PROGRAMS
from torchcourse.tools.repository import ROOT

LESSONS = sorted({path.parent.name for path in RELEASES})


def marked_cells(notebook: NotebookNode) -> dict[str, NotebookNode]:
    return {cell.metadata.nbgrader.grade_id: cell for cell in notebook.cells if "nbgrader" in cell.metadata}


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


SECRET = re.compile(r"### BEGIN (?:SOLUTION|HIDDEN TESTS)\n.*?### END|^[^\n]*### SOLUTION$", re.DOTALL | re.MULTILINE)


def secret_lines(solved: NotebookNode) -> set[str]:
    """The lines of a solution notebook that no learner may see.

    Short lines, which occur by chance, and lines that the lesson itself shows elsewhere do not count.
    """
    secrets: set[str] = set()
    shown: set[str] = set()
    for cell in solved.cells:
        if cell.cell_type == "markdown" and "nbgrader" in cell.metadata:
            secrets |= set(lines(cell.source))
            continue
        if "torchcourse" in cell.metadata:  # a repair: its release shows the broken text
            secrets |= set(lines(cell.source)) - set(lines(cell.metadata.torchcourse.broken))
            shown |= set(lines(cell.metadata.torchcourse.broken))
            continue
        secrets |= {line for region in SECRET.findall(cell.source) for line in lines(region)}
        shown |= set(lines(SECRET.sub("", cell.source)))
    return {line for line in secrets - shown if len(line) >= 25}


def test_there_are_notebooks():
    assert {"00_start_here", "01_data_parallelism"} <= set(LESSONS)


@pytest.mark.slow
def test_committed_notebooks_equal_a_fresh_build():
    fresh = notebooks.release(notebooks.solutions())
    on_disk = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in RELEASES}
    assert sorted(on_disk) == sorted(fresh)
    assert [path for path in fresh if on_disk[path] != fresh[path]] == []


def test_no_solution_notebook_is_committed():
    solved = [f"solutions/{name(path)}.ipynb" for path in RELEASES]
    assert git("check-ignore", *solved).splitlines() == solved
    assert git("ls-files", "solutions/*.ipynb") == ""


def git(*arguments: str) -> str:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("this copy of the course is not a git repository")
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout


def test_the_release_holds_notebooks_only():
    files = [
        path for path in (ROOT / "notebooks").rglob("*") if path.is_file() and ".ipynb_checkpoints" not in path.parts
    ]
    assert [path for path in files if path.suffix != ".ipynb"] == []


@pytest.mark.parametrize("path", RELEASES, ids=name)
def test_a_release_has_no_output_and_no_secret(path):
    text = path.read_text(encoding="utf-8")
    notebook = json.loads(text)
    assert [cell for cell in notebook["cells"] if cell.get("outputs") or cell.get("execution_count")] == []
    for marker in ("BEGIN SOLUTION", "### SOLUTION", "HIDDEN TESTS", "MARK SCHEME"):
        assert marker not in text
    secrets = secret_lines(solution(path))
    assert secrets
    shown = {line for cell in notebook["cells"] for line in lines("".join(cell["source"]))}
    assert secrets & shown == set()


TELLING = ("why", "misconceptions", "model_answer", "rubric", "self_check", "mistakes")


def words(part, telling: bool, inside: bool = False) -> set[str]:
    """The English texts of a bank: those that tell an answer (reasons, misconceptions …), or all the others."""
    if isinstance(part, str):
        return {part.strip()} if inside == telling else set()
    if isinstance(part, list):
        return {text for item in part for text in words(item, telling, inside)}
    if isinstance(part, dict):
        inner = ((item, inside or key in TELLING) for key, item in part.items() if key != "ko")
        return {text for item, now_inside in inner for text in words(item, telling, now_inside)}
    return set()


@pytest.mark.parametrize("path", sorted((ROOT / "quizzes").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_quiz_release_holds_no_feedback(path):
    bank = yaml.safe_load(path.read_text(encoding="utf-8"))
    # A misconception may be worded like the choice, or the quotation in a question, that shows it.
    asked = "\n".join(words(bank, telling=False))
    telling = {text for text in words(bank, telling=True) if len(text) > 30 and text not in asked}
    assert len(telling) > 20
    text = "\n".join(cell.source for cell in read(ROOT / "notebooks" / path.stem / "quiz.ipynb").cells)
    assert [secret for secret in telling if secret in text] == []


@pytest.mark.parametrize("path", RELEASES, ids=name)
def test_every_line_of_a_stub_comes_from_its_solution(path):
    solved = marked_cells(solution(path))
    for grade_id, cell in marked_cells(read(path)).items():
        if cell.cell_type != "code" or not cell.metadata.nbgrader.solution:
            continue
        ast.parse(cell.source)
        known = set(lines(solved[grade_id].source))
        program = PROGRAMS / f"{grade_id}.py"
        if program.is_file():
            known |= set(lines(program.read_text(encoding="utf-8")))
        extra = [line for line in lines(cell.source) if line not in known]
        assert [line for line in extra if not re.search(r"= \.\.\.$|^raise NotImplementedError\(", line)] == []


@pytest.mark.parametrize("path", RELEASES, ids=name)
def test_code_cells_are_short(path):
    cells = read(path).cells
    # Imports stand one in a line, and folded.
    code = [cell for cell in cells if cell.cell_type == "code" and not cell.source.startswith("# @title Imports")]
    length = {cell.id: cell.source.count("\n") + 1 for cell in code}
    assert {cell: count for cell, count in length.items() if count > 40} == {}


@pytest.mark.parametrize("path", RELEASES, ids=name)
def test_no_line_of_an_open_cell_runs_out_of_sight(path):
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    shown = [cell for cell in cells if not cell.metadata.get("jupyter", {}).get("source_hidden")]
    assert [line for cell in shown for line in cell.source.splitlines() if len(line) > 88] == []


@pytest.mark.parametrize("path", RELEASES, ids=name)
def test_what_draws_is_folded_away(path):
    """A call that shows a ready picture may stay open; the code that makes one, or has sliders, hides its idea."""
    for cell in read(path).cells:
        if cell.cell_type == "code" and not cell.metadata.get("jupyter", {}).get("source_hidden"):
            drawing = {"new", "canvas", "explorer"} & {called(call) for call in calls_in(cell.source)}
            assert not drawing, cell.source


@pytest.mark.parametrize("path", RELEASES, ids=name)
@pytest.mark.parametrize("heading", [r"### Exercise (\d+) · ", r"## (\d+) · "])
def test_sections_and_exercises_are_numbered_one_by_one(path, heading):
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    numbers = [int(number) for number in re.findall(rf"(?m)^{heading}", text)]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("lesson", LESSONS)
def test_grade_ids_are_unique_in_a_lesson(lesson):
    notebooks = [solution(path) for path in RELEASES if path.parent.name == lesson]
    ids = Counter(grade_id for notebook in notebooks for grade_id in marked_cells(notebook))
    assert [grade_id for grade_id, count in ids.items() if count > 1] == []


@pytest.mark.parametrize("path", RELEASES, ids=name)
def test_local_links_lead_somewhere(path):
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    targets = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text)
    # `make lab` makes the front page, in the learner's folder.
    assert "../start.ipynb" in targets
    known = {"../start.ipynb"}
    assert [target for target in targets if target not in known and not (path.parent / target).exists()] == []


READ = sorted((ROOT / "notebooks").glob("*/[0-9]*.ipynb"))
"""The notebooks in the order of the course, without the quizzes."""


@pytest.mark.parametrize(
    ("path", "following"), list(itertools.pairwise(READ)), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_the_next_line_leads_where_the_order_goes(path, following):
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    target = following.name if following.parent == path.parent else f"../{following.parent.name}/{following.name}"
    (next_line,) = re.findall(r"(?m)^.*\*\*Next.*(?:\n.+)*", text)
    assert f"]({target})" in next_line


@pytest.mark.parametrize("path", RELEASES, ids=name)
def test_no_outcome_tells_its_answer_by_the_way(path):
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert [cell.source for cell in cells if hide_keys(cell.source) != cell.source] == []
    calls = [node for cell in cells for node in calls_in(cell.source)]
    offered = {
        texts_in(call)[0]: set(texts_in(call)[2:]) for call in calls if called(call) == "predict" and len(call.args) > 2
    }
    told = {texts_in(call)[0]: set(texts_in(call)[1:]) for call in calls if called(call) == "outcome"}
    assert {name: told[name] & offered[name] for name in told if told[name] & offered.get(name, set())} == {}


@pytest.mark.parametrize("path", READ, ids=name)
def test_a_right_choice_that_is_written_down_was_offered(path):
    """What is measured may come out as none of the choices; what an author wrote may not."""
    calls = [node for cell in read(path).cells if cell.cell_type == "code" for node in calls_in(cell.source)]
    listed = [call for call in calls if called(call) == "predict" and isinstance(call.args[-1], ast.List)]
    offered = {texts_in(call)[0]: texts_in(call)[2:] for call in listed}
    keys = {
        texts_in(call)[0]: written_keys(each.value)
        for call in calls
        if called(call) == "outcome"
        for each in call.keywords
        if each.arg == "key"
    }
    assert {name: keys[name] for name in keys if not set(keys[name]) <= set(offered.get(name, keys[name]))} == {}


@functools.cache
def of_the_package() -> set[str]:
    """The names of all modules, public functions and classes."""
    files = list((ROOT / "helpers" / "torchcourse").rglob("*.py"))
    text = "".join(file.read_text("utf-8") for file in files)
    return {file.stem for file in files} | set(re.findall(r"(?m)^(?:def|class) ([A-Za-z]\w*)", text))


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_call_that_the_text_quotes_is_one_that_its_reader_can_make(lesson):
    """What the package defines is in a notebook's code in this lesson, or the text says where it is."""
    cells = [cell for path in READ if path.parent.name == lesson for cell in read(path).cells]
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    quoted = re.findall(r"`([A-Za-z]\w*)(?:\.\w+)?\([^`\n]*\)`", text)
    told = re.findall(r"(?:import (?=\w+`)|`(?=\w+` is in\s`torchcourse))(\w+)", text)
    known = {*re.findall(r"\w+", code), *told}
    assert sorted({*quoted} & of_the_package() - known) == []


def written_keys(key: ast.expr) -> list[str]:
    """Return the texts that an expression can come to, out of Base64."""
    if isinstance(key, ast.IfExp):
        return [*written_keys(key.body), *written_keys(key.orelse)]
    text = key.value if isinstance(key, ast.Constant) else None
    return [base64.b64decode(text).decode()] if isinstance(text, str) else []


def calls_in(source: str) -> list[ast.Call]:
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a magic of IPython
        return []
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def called(call: ast.Call) -> str:
    return getattr(call.func, "id", getattr(call.func, "attr", ""))


def texts_in(call: ast.Call) -> list[str]:
    """Return all texts in a call, in the order of the page."""
    constants = [node for node in ast.walk(call) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [str(node.value) for node in sorted(constants, key=lambda node: (node.lineno, node.col_offset))]


def test_the_search_for_secrets_finds_them(tmp_path):
    root = small_course.make(tmp_path)
    (text,) = notebooks.solutions(root).values()
    found = secret_lines(nbformat.reads(text, as_version=4))
    assert 'assert twice(-1) == -2, "hidden words"' in found
    assert "Because the model answer says so." in found
