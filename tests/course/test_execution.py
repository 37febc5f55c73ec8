"""Each notebook is run for real, as a learner goes through it: tried as released, answered, and checked with answers.

A release is the same as the notebook that is done but for exercises and their checks, and nothing else reads what an
exercise defines: so what stands between them runs once, and each check twice. Where a cell does read an answer, the
release runs as it is beside it; with TORCHCOURSE_EVERY_NOTEBOOK=1 every release does.

The first notebook of each lesson runs in browser/test_lessons.py, in a kernel of JupyterLab's, the others here.
"""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.notebooknode import NotebookNode
from nbgrader.utils import is_grade

from lesson_notebooks import (
    DONE_IN_A_SANDBOX,
    RELEASES,
    RUN_AS_RELEASED,
    assert_all_points,
    assert_not_done_yet,
    is_check,
    is_exercise,
    name,
    outputs,
    read,
    reads_answers,
    tried_then_done,
    tries_and_rest,
)
from torchcourse.tools.classroom.sandbox.box import ENVIRONMENT, POSSIBLE, Box, Warm
from torchcourse.tools.repository import ROOT

pytestmark = [pytest.mark.notebook, pytest.mark.slow]


@pytest.fixture(scope="module")
def execute(tmp_path_factory):
    """Run a notebook's cells where nothing of the repository can be read, forked from a process that is warm."""
    if not POSSIBLE:
        yield lambda notebook: in_a_kernel(notebook, tmp_path_factory.mktemp("work"))
        return
    with Warm() as warm:
        yield lambda notebook: in_a_sandbox(notebook, warm)


def in_a_sandbox(notebook: NotebookNode, warm: Warm) -> NotebookNode:
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "NBGRADER_EXECUTION"}
    with Box(warm, readable=[ROOT / "quizzes"], environment=environment) as box:
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = [nbformat.from_dict(output) for output in box.run(cell.source, 240, 480)]
    return notebook


def in_a_kernel(notebook: NotebookNode, folder: Path) -> NotebookNode:
    resources = {"metadata": {"path": folder}}
    NotebookClient(notebook, timeout=240, kernel_name="python3", allow_errors=True, resources=resources).execute()
    return notebook


@pytest.mark.parametrize("release", RUN_AS_RELEASED, ids=name)
def test_a_release_runs_with_not_done_yet_from_each_check(release, execute):
    assert_not_done_yet(execute(read(release)).cells)


@pytest.mark.parametrize("release", DONE_IN_A_SANDBOX, ids=name)
def test_a_notebook_done_earns_all_points(release, execute):
    tries, done = tries_and_rest(execute(tried_then_done(release)))
    assert_not_done_yet(tries)
    assert any(map(is_grade, done))
    assert [cell.id for cell in done if outputs(cell, "error")] == []
    assert_all_points(done)


@pytest.mark.parametrize("release", sorted({*RELEASES} - {*RUN_AS_RELEASED}), ids=name)
def test_what_is_run_once_tries_each_check_as_released(release):
    cells = read(release).cells
    tries, done = tries_and_rest(tried_then_done(release))
    assert [cell.source for cell in tries] == [cell.source for cell in cells if is_exercise(cell) or is_check(cell)]
    assert [cell.id for cell in done] == [cell.id for cell in cells]


@pytest.mark.parametrize(
    ("between", "reads"),
    [
        ("trained = fit(model)", False),
        ("trained = fit(double)", True),
        ("def use():\n    return [double(x) for x in data]", True),
        ("def use(double):\n    return double(1)", False),
        ("double = 1", False),
    ],
)
def test_a_cell_that_reads_an_answer_is_found(between, reads):
    cell, exercise = nbformat.v4.new_code_cell, {"nbgrader": {"solution": True, "grade": False}}
    first = cell("def double(x):\n    raise NotImplementedError", metadata=exercise)
    after = cell(between)
    assert reads_answers(nbformat.v4.new_notebook(cells=[first, after])) == ([after.id] if reads else [])
