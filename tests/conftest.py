"""What all tests share: nothing is written into the learner's own folder, GPU tests wait for a GPU, the wheel.

The suite runs in three processes (`make test`, by pytest-xdist). The tests of a file stay together, as they share
fixtures that are expensive, and those of the browser too, for which there is one JupyterLab and one Chromium. Only
whole notebooks in the sandbox are dealt out one by one. What takes long begins first, so that no process is left with a
notebook when the others have nothing to do any more.
"""

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import cloudpickle
import pytest
import torch
from xdist.scheduler import LoadScopeScheduling

import example_bank
from torchcourse import journal
from torchcourse.quiz import bank, texts

TOGETHER = "tests/course/browser"
ONE_BY_ONE = "tests/course/test_execution.py"


class ByFile(LoadScopeScheduling):
    """Which tests go to one process together: those of a file, but for TOGETHER and ONE_BY_ONE."""

    # Private to xdist: no option says what a scope is, and the public hook wants a whole scheduler, which this one is
    # but for these lines.
    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        if path.startswith(TOGETHER):
            return TOGETHER
        return nodeid if path == ONE_BY_ONE else path


def pytest_configure(config):
    """Compute on the CPU: the tests have its numbers. Those for a GPU, by `-m gpu`, alone see one.

    The stop button works also where the suite was started in the background of a shell, which ignores it.
    """
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_make_scheduler(config, log):
    # xdist's own "loadgroup" deals the tests of a group apart under pytest 9.2.
    return ByFile(config, log)


@pytest.fixture(autouse=True, scope="session")
def journal_elsewhere(tmp_path_factory):
    """Lessons and checks write a journal: here into a folder of pytest's, also from processes that a test starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHCOURSE_WORK", str(tmp_path_factory.mktemp("work")))
        yield


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The learner's folder of this test, with no journal in it yet; nothing is kept in memory from an earlier test."""
    folder = tmp_path / "work"
    monkeypatch.setenv("TORCHCOURSE_WORK", str(folder))
    monkeypatch.setattr(journal, "_unsaved", [])
    monkeypatch.setattr(journal, "_warned", set())
    monkeypatch.setattr(texts, "_chosen", None)
    return folder


@pytest.fixture
def banks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of banks instead of the course's own, with the example bank in it."""
    folder = tmp_path / "banks"
    folder.mkdir()
    example_bank.write(folder, example_bank.bank())
    monkeypatch.setattr(bank, "folder", lambda: folder)
    return folder


@pytest.fixture(autouse=True, scope="session")
def one_thread_in_kernels():
    """The kernels of notebooks compute on one thread, as the tests do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(autouse=True)
def one_thread():
    """Three processes test on few cores, and the networks are tiny: a second thread only waits, and burns a core at it.

    For each test again, as one that asks for two threads would slow down all that come after it in its process.
    """
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a GPU that torch can use, and `-m gpu`"))


def pytest_collection_finish(session):
    """Let tests' functions travel to ranks as a cell's do, and leave the suite's own objects out of collections.

    By its name, a rank would find a function only after importing its test module, and pytest with it: 0.1 s per rank.
    What is tested for leaks collects garbage over and over, which the suite's million objects would make slow.
    """
    for module in {item.module for item in session.items if hasattr(item, "module")}:
        cloudpickle.register_pickle_by_value(module)
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """The package as others install it, built from this repository."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    built = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return next(folder.glob("*.whl"))
