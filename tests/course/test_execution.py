"""Every notebook is run for real: the solutions without an error, the releases as a learner first meets them."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from torchcourse.tools.build.notebooks import ROOT

pytestmark = pytest.mark.slow

SOLUTIONS = sorted((ROOT / "solutions").glob("*/*.ipynb"))
RELEASES = sorted((ROOT / "notebooks").glob("*/*.ipynb"))


def execute(path: Path, folder: Path, *, allow_errors: bool) -> nbformat.NotebookNode:
    """Run a notebook in an empty folder of its own, as nothing of the repository may be needed."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=240,
        kernel_name="python3",
        allow_errors=allow_errors,
        resources={"metadata": {"path": folder}},
    )
    client.execute()
    return notebook


def errors(notebook: nbformat.NotebookNode) -> list[tuple[str, str, str]]:
    return [
        (cell.id, output.ename, output.evalue)
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type == "error"
    ]


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.fixture(autouse=True)
def own_journal(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHCOURSE_WORK", str(tmp_path))


@pytest.mark.parametrize("path", SOLUTIONS, ids=name)
def test_a_solution_runs_and_earns_all_points(path, tmp_path):
    notebook = execute(path, tmp_path, allow_errors=False)
    ran = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in ran if cell.source.strip())
    for cell in ran:
        role = cell.metadata.get("nbgrader", {})
        if role.get("grade"):
            scores = [output.data["text/plain"] for output in cell.outputs if output.output_type == "execute_result"]
            assert [float(score) for score in scores] == [role["points"]], cell.id


@pytest.mark.parametrize("path", RELEASES, ids=name)
def test_a_release_runs_with_not_done_yet_from_each_check(path, tmp_path):
    notebook = execute(path, tmp_path, allow_errors=True)
    exercises = {cell.id for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get("solution")}
    assert [error for error in errors(notebook) if error[1] != "NotImplementedError" or error[0] not in exercises] == []
    for cell in notebook.cells:
        if cell.metadata.get("nbgrader", {}).get("grade") and cell.cell_type == "code":
            (result,) = [output for output in cell.outputs if output.output_type == "execute_result"]
            assert float(result.data["text/plain"]) == 0
            assert "Not done yet" in result.data["text/html"] or "Not answered yet" in result.data["text/html"]
