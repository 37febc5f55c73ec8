"""What all tests share: nothing is written into the learner's own folder, GPU tests wait for a GPU, the wheel.

The suite runs in two processes (`make test`; pytest-xdist's `--dist loadgroup`). The tests of a file stay together, as
they share fixtures that are dear; a test marked `alone` is dealt out by itself. What takes long begins first, so that
no process is left with a notebook when the other has nothing to do any more.
"""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(autouse=True, scope="session")
def journal_elsewhere(tmp_path_factory):
    """Lessons and checks write a journal: here into a folder of pytest's, also from processes that a test starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHCOURSE_WORK", str(tmp_path_factory.mktemp("work")))
        yield


def pytest_collection_modifyitems(items):
    for item in items:
        alone = item.get_closest_marker("alone") is not None
        item.add_marker(pytest.mark.xdist_group(item.nodeid if alone else str(item.path)))
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a GPU that torch can use"))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """The package as others install it, built from this repository."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    built = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return next(folder.glob("*.whl"))
