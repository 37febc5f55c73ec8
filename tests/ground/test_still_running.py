"""A cell that shows nothing says that it is running. The real kernel is in ranks/test_in_a_kernel.py."""

import time
from types import SimpleNamespace
from typing import Any

import IPython
import pytest
from IPython.core.events import EventManager, available_events

from torchcourse import still_running


class Shell:
    """A kernel's shell, with what the front end was sent."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.kernel = SimpleNamespace(session=SimpleNamespace(send=self._send))
        self.events = EventManager(self, available_events)  # type: ignore[arg-type]  # it only passes the shell on

    def _send(self, _socket: Any, message: Any, *_: Any, **__: Any) -> None:
        self.sent.append(message if isinstance(message, str) else message["header"]["msg_type"])

    def run(self, *pauses: float) -> None:
        """Run a cell that prints after each of these seconds."""
        self.events.trigger("pre_run_cell", None)
        for pause in pauses:
            time.sleep(pause)
            self.kernel.session.send(None, "stream")
        self.events.trigger("post_run_cell", None)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the line said, one state after the other."""
    said: list[str] = []

    def display(data: dict[str, str], **_: Any) -> SimpleNamespace:
        said.append(data["text/plain"])
        return SimpleNamespace(update=lambda data, **_: said.append(data["text/plain"]))

    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr(still_running, "QUIET_SECONDS", 0.5)
    return said


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Shell:
    shell = Shell()
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    for name in ("VSCODE_PID", "COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JPY_SESSION_NAME", "lesson.ipynb")
    return shell


@pytest.mark.slow
def test_a_silent_cell_says_that_it_runs_and_leaves_nothing_to_read(shell, lines):
    still_running.watch()
    shell.run(0.7)
    assert lines == ["This cell is still running: 1 s", ""]


@pytest.mark.slow
def test_a_cell_that_shows_something_in_time_is_left_alone(shell, lines):
    still_running.watch()
    shell.run(0.2, 0.2, 0.2)
    assert lines == []
    shell.run(0.1, 0.7)  # silent later on
    assert len(lines) == 2


@pytest.mark.slow
def test_a_second_call_watches_no_second_time(shell, lines):
    still_running.watch()
    still_running.watch()
    shell.run(0.7)
    assert len(lines) == 2
    assert shell.sent == ["stream"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "value"), [(None, ""), ("KAGGLE_KERNEL_RUN_TYPE", "Batch")])
def test_where_a_program_runs_the_notebook_nothing_is_added(shell, lines, monkeypatch, name, value):
    monkeypatch.delenv("JPY_SESSION_NAME")
    if name:
        monkeypatch.setenv(name, value)
    still_running.watch()
    shell.run(0.7)
    assert lines == []
