"""Each release is run for real, as a learner first meets it: every cell runs, and only exercises say what is missing.

With all answers, the first notebook of each lesson runs in browser/test_lessons.py, in a kernel of JupyterLab's, and
the others here.
"""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.notebooknode import NotebookNode

from lesson_notebooks import DONE_IN_A_SANDBOX, RELEASES, assert_all_points, filled_in, name, outputs, read
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


@pytest.mark.parametrize("release", RELEASES, ids=name)
def test_a_release_runs_with_not_done_yet_from_each_check(release, execute):
    notebook = execute(read(release))
    exercises = {cell.id for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get("solution")}
    errors = [(cell.id, output) for cell in notebook.cells for output in outputs(cell, "error")]
    assert [
        f"{cell}: {output.ename}: {output.evalue}"
        for cell, output in errors
        if output.ename != "NotImplementedError" or cell not in exercises
    ] == []
    for cell in notebook.cells:
        if cell.metadata.get("nbgrader", {}).get("grade") and cell.cell_type == "code":
            (result,) = outputs(cell, "execute_result")
            assert float(result.data["text/plain"]) == 0
            assert "Not done yet" in result.data["text/html"] or "Not answered yet" in result.data["text/html"]


@pytest.mark.parametrize("release", DONE_IN_A_SANDBOX, ids=name)
def test_a_notebook_done_earns_all_points(release, execute):
    done = execute(filled_in(release, lambda _: True))
    assert [cell.id for cell in done.cells if outputs(cell, "error")] == []
    assert any(cell.metadata.get("nbgrader", {}).get("grade") for cell in done.cells)
    assert_all_points(done.cells)
