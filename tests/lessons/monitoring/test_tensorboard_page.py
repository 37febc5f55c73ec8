"""TensorBoard under a cell: it serves what a run wrote, and it ends with the process that started it."""

import json
import subprocess
import sys
import types
import urllib.request
from pathlib import Path

import pytest

from torchcourse.lessons.monitoring import tensorboard_page
from torchcourse.lessons.monitoring.tensorboard_page import show_tensorboard
from torchcourse.training.monitor import Monitor

PROGRAM = """
import sys, threading, time, urllib.request
from torchcourse.lessons.monitoring.tensorboard_page import show_tensorboard
frame, again = show_tensorboard(sys.argv[1], "histograms"), show_tensorboard(sys.argv[1], "scalars")
assert frame.src.rpartition("#")[0] == again.src.rpartition("#")[0], "one server a folder"
assert frame.src.endswith("#histograms")
address = frame.src.rpartition("#")[0]
deadline = time.monotonic() + 30
while time.monotonic() < deadline:
    tags = urllib.request.urlopen(address + "data/plugin/scalars/tags").read().decode()
    if "loss" in tags:
        break
    time.sleep(0.2)
print(address, tags)
"""


@pytest.mark.slow
def test_it_serves_a_run_and_ends_with_its_process(tmp_path):
    with Monitor(tmp_path / "run") as board:
        board.scalars(1, {"loss/train": 1.0})
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert result.returncode == 0, result.stderr
    address, _, tags = result.stdout.partition(" ")
    assert json.loads(tags) == {"run": {"loss/train": {"displayName": "loss/train", "description": ""}}}
    assert result.stderr == ""  # what is written there would cost a check its points
    with pytest.raises(OSError, match=r"refused"):
        urllib.request.urlopen(address, timeout=5)


def test_a_folder_that_there_is_not_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*nothing.* Train a run first"):
        show_tensorboard(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("variables", "address"),
    [
        ({}, "http://127.0.0.1:6006/"),
        ({"JUPYTERHUB_SERVICE_PREFIX": "/user/kim/"}, "/user/kim/proxy/6006/"),
        ({"JUPYTERHUB_SERVICE_PREFIX": "/user/kim/lab-1"}, "/user/kim/lab-1/proxy/6006/"),
        ({"TENSORBOARD_PROXY_URL": "/mine/%PORT%/x", "JUPYTERHUB_SERVICE_PREFIX": "/u/"}, "/mine/6006/x/"),
    ],
)
def test_behind_a_proxy_the_frame_points_to_where_the_browser_reaches_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], address: str
) -> None:
    for name in ("JUPYTERHUB_SERVICE_PREFIX", "TENSORBOARD_PROXY_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(tensorboard_page, "_start", lambda folder: "http://127.0.0.1:6006/")
    assert show_tensorboard(tmp_path, "scalars").src == f"{address}#scalars"


def test_on_colab_its_own_proxy_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def eval_js(script: str) -> str:
        asked.append(script)
        return "https://6006-colab.example/"

    output = types.SimpleNamespace(eval_js=eval_js)
    monkeypatch.setitem(sys.modules, "google.colab", types.SimpleNamespace(output=output))
    monkeypatch.delenv("TENSORBOARD_PROXY_URL", raising=False)
    monkeypatch.setattr(tensorboard_page, "_start", lambda folder: "http://127.0.0.1:6006/")
    assert show_tensorboard(tmp_path).src == "https://6006-colab.example/#scalars"
    assert "proxyPort(6006" in asked[0]


def test_the_name_of_a_host_alone_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JUPYTERHUB_SERVICE_PREFIX", "TENSORBOARD_PROXY_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release")  # set, but the page of this kernel has no proxy
    monkeypatch.setattr(tensorboard_page, "_start", lambda folder: "http://127.0.0.1:6006/")
    assert show_tensorboard(tmp_path).src == "http://127.0.0.1:6006/#scalars"


def test_where_the_frame_stays_empty_the_line_below_has_the_way_and_the_values(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard_page, "_start", lambda folder: "http://127.0.0.1:6006/")
    for run, values in {"slow <1>": [2.0, 1.5], "fast": [2.0, 0.25]}.items():
        with Monitor(tmp_path / run) as board:
            for step, value in enumerate(values):
                board.scalars(step, {"loss/train": value})
    shown = show_tensorboard(tmp_path)._repr_html_()
    assert shown.index("<iframe") < shown.index("<details") < shown.index("<summary>The frame stays empty?")
    assert "ssh -L 6006:127.0.0.1:6006" in shown
    assert "TENSORBOARD_PROXY_URL" in shown
    assert "<tr><td>fast</td><td>0.25</td></tr><tr><td>slow &lt;1&gt;</td><td>1.5</td></tr>" in shown


def test_a_folder_without_runs_has_the_way_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard_page, "_start", lambda folder: "http://127.0.0.1:6006/")
    assert "<table" not in show_tensorboard(tmp_path)._repr_html_()
