"""Each release is run for real, as a learner first meets it: every cell runs, and only exercises say what is missing.

The same notebook done, with all answers, runs in browser/test_lessons.py.
"""

from pathlib import Path

import pytest
from nbclient import NotebookClient
from nbformat.notebooknode import NotebookNode

from lesson_notebooks import RELEASES, name, outputs, read

pytestmark = [pytest.mark.notebook, pytest.mark.slow]


def execute(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Run a notebook in an empty folder of its own, as nothing of the repository may be needed."""
    resources = {"metadata": {"path": folder}}
    NotebookClient(notebook, timeout=240, kernel_name="python3", allow_errors=True, resources=resources).execute()
    return notebook


@pytest.mark.parametrize("release", RELEASES, ids=name)
def test_a_release_runs_with_not_done_yet_from_each_check(release, tmp_path):
    notebook = execute(read(release), tmp_path)
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
