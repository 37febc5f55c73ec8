"""On a machine that has its own torch, numpy and an old ipywidgets, as Colab has, the course installs beside them.

The host is a virtual environment that sees this environment's packages, except for those that a host brings itself:
an ipywidgets 7.7 and another numpy are really installed; of torch only the version in its metadata is another, which
is what pip goes by. The course is missing, and so is one package that it needs. Then one notebook lies alone in an
empty folder, and is run from top to bottom.
"""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "04_monitoring_and_checkpoints" / "1_monitoring.ipynb"
HOST_TORCH = "2.6.0+host"
HOST_PACKAGES = ["ipywidgets==7.7.1", "widgetsnbextension==3.6.10", "jupyterlab-widgets==1.1.11", "numpy==2.2.6"]
HOST_PACKAGES += ["ipython-genutils==0.2.0"]
ITS_OWN = ("ipywidgets", "widgetsnbextension", "jupyterlab_widgets", "numpy", "torch-", "pip", "torchcourse", "fsrs")

pytestmark = [pytest.mark.notebook, pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def host(tmp_path_factory) -> Path:
    """Return the Python of such a machine."""
    folder = tmp_path_factory.mktemp("host")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    python = folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    purelib = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    site = Path(subprocess.run([python, "-c", purelib], check=True, capture_output=True, text=True).stdout.strip())
    # Links in a folder outside the host's environment: pip uninstalls nothing there, whatever it may decide.
    stock = folder / "stock"
    stock.mkdir()
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not entry.name.startswith(ITS_OWN) and entry.suffix != ".pth":
            (stock / entry.name).symlink_to(entry)
    (site / "stock.pth").write_text(f"{stock}\n")
    metadata = site / f"torch-{HOST_TORCH}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {HOST_TORCH}\n")
    (metadata / "INSTALLER").write_text("conda\n")
    command = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--retries", "1", *HOST_PACKAGES]
    installed = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if installed.returncode != 0:
        if os.environ.get("CI") == "true":
            pytest.fail(installed.stderr)
        pytest.skip("the packages of the host cannot be downloaded: no network")
    return python


def versions(python: Path) -> dict[str, str]:
    code = (
        "import json; from importlib.metadata import distributions; "
        "print(json.dumps({d.metadata['Name'].lower(): d.version for d in distributions()}))"
    )
    return json.loads(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout)


def run_alone(notebook: Path, python: Path, folder: Path, monkeypatch) -> nbformat.NotebookNode:
    """Run a copy of the notebook in an empty folder, with the host's Python as its kernel."""
    kernel = folder / "jupyter" / "kernels" / "host"
    kernel.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "host", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
    alone = folder / "alone"
    alone.mkdir()
    copy = nbformat.read(notebook, as_version=4)
    client = NotebookClient(
        copy, kernel_name="host", timeout=600, allow_errors=True, resources={"metadata": {"path": str(alone)}}
    )
    client.execute()
    return copy


def test_a_notebook_alone_installs_the_course_and_runs_to_its_end(host, wheel, tmp_path, monkeypatch):
    before = versions(host)
    assert (before["torch"], before["ipywidgets"], before["numpy"]) == (HOST_TORCH, "7.7.1", "2.2.6")
    assert not {"torchcourse", "fsrs"} & before.keys()
    monkeypatch.setenv("TORCHCOURSE_SOURCE", str(wheel))
    monkeypatch.delenv("TORCHCOURSE_WORK")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    # Should the course ever ask for another torch, pip should say so here, and not download gigabytes.
    (tmp_path / "constraints.txt").write_text(f"torch=={HOST_TORCH}\n")
    monkeypatch.setenv("PIP_CONSTRAINT", str(tmp_path / "constraints.txt"))

    notebook = run_alone(NOTEBOOK, host, tmp_path, monkeypatch)

    ran = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    assert [cell.source for cell in ran if cell.execution_count is None] == []
    errors = [output for cell in ran for output in cell.outputs if output.output_type == "error"]
    assert [f"{error.ename}: {error.evalue}" for error in errors if error.ename != "NotImplementedError"] == []
    after = versions(host)
    assert {name: version for name, version in after.items() if name in before} == before
    assert after.keys() - before.keys() == {"torchcourse", "fsrs"}
