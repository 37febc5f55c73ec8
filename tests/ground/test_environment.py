"""What a lesson's start says of this machine, and who reads a notebook."""

import os
import re
from pathlib import Path

import pytest

from torchcourse import environment


@pytest.mark.parametrize("name", ["JPY_SESSION_NAME", "VSCODE_PID", "VSCODE_CWD", "COLAB_RELEASE_TAG"])
def test_who_opens_a_notebook_reads_it(name):
    assert environment.has_reader({name: "x"})
    assert not environment.has_reader({"VSCODE_GIT_IPC_HANDLE": "x"})  # as a terminal of VS Code has it


def test_a_container_limits_the_cores(monkeypatch):
    limit = {"cpu.max": "150000 100000"}
    monkeypatch.setattr(environment, "_first_line", lambda path: limit[Path(path).name])
    assert environment.usable_cores() == 1
    limit["cpu.max"] = "max 100000"
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 5}, raising=False)
    assert environment.usable_cores() == 3


def test_one_line_about_the_hardware(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    found = r"No GPU, \d+ CPU cores, [\d.]+ GiB free, PyTorch [\w.+]+: 2 ranks on the CPU\."
    assert re.fullmatch(found, environment.hardware())
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert environment.hardware().startswith("1 GPU, ")
    assert environment.hardware().endswith(": 2 ranks on the CPU, a single process on the GPU.")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    assert environment.hardware().endswith(": 8 ranks on a GPU each.")
    assert environment.hardware().startswith("8 GPUs, ")


def test_a_copy_of_lesson_00_finds_the_report():
    assert environment.report.__module__ == "torchcourse.lessons.start_here.machine_report"
