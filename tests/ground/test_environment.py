"""The environment check: what machines that are not at hand would be told, and this one in earnest."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from torchcourse import environment
from torchcourse.environment import GIB, Finding, Report


def test_an_old_python_gets_a_remedy():
    assert environment.python((3, 11, 0)).state == "good"
    assert environment.python((4, 0, 0)).state == "good"
    old = environment.python((3, 9, 18))
    assert (old.state, old.found) == ("missing", "3.9.18")
    assert "3.11" in old.remedy


def test_a_cpu_build_beside_an_nvidia_driver_is_noticed():
    assert environment.pytorch("2.13.0", "", driver=False).state == "good"
    assert environment.pytorch("2.13.0", "CUDA 12.8", driver=True).state == "good"
    assert "pytorch.org" in environment.pytorch("2.13.0", "", driver=True).remedy


@pytest.mark.parametrize(
    ("gpus", "apple", "found", "words"),
    [
        ([], False, "CPU only", "Nothing is missing"),
        ([], True, "Apple GPU", "on the CPU"),
        (["H100"], False, "H100", "on the CPU"),
        (["H100"] * 8, False, "8 × H100", "a GPU of its own"),
    ],
)
def test_devices(gpus, apple, found, words):
    finding = environment.devices(gpus, apple=apple)
    assert finding.found == found
    assert words in finding.meaning
    assert finding.state != "missing"


def test_cores_are_judged_by_the_ranks_that_want_one():
    assert environment.cores(2, 2, gpus=0).state == "good"
    single = environment.cores(1, 2, gpus=0)
    assert single.state == "fine without"
    assert "take turns" in single.meaning
    assert "feed the GPUs" in environment.cores(16, 8, gpus=8).meaning


def test_little_memory_gets_a_remedy():
    assert "about 8 ranks" in environment.memory(4.2 * GIB, 2, 0.5 * GIB).meaning
    assert environment.memory(1.0 * GIB, 2, 0.5 * GIB).state == "good"
    little = environment.memory(0.9 * GIB, 2, 0.5 * GIB)
    assert (little.state, little.meaning) == ("missing", "2 ranks need about 1.0 GiB.")


def test_packages_that_are_not_here():
    here = environment.package("PyYAML", "pyyaml", "It reads.", needed=True)
    assert here.state == "good"
    assert re.match(r"\d+\.\d+", here.found)
    assert environment.package("Nothing", "no-such-distribution", "It waits.").state == "fine without"
    assert "%pip install no-such" in environment.package("Nothing", "no-such-distribution", "", needed=True).remedy


@pytest.mark.parametrize(
    ("environ", "modules", "found"),
    [
        ({"COLAB_RELEASE_TAG": "r", "JPY_SESSION_NAME": "x"}, [], "Google Colab"),
        ({}, ["google.colab", "ipykernel"], "Google Colab"),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}, ["ipykernel"], "Kaggle"),
        ({"JPY_SESSION_NAME": "a.ipynb", "VSCODE_PID": "1"}, ["ipykernel"], "JupyterLab"),
        ({"VSCODE_PID": "1"}, ["ipykernel"], "VS Code"),
        ({"VSCODE_CWD": "/home"}, ["ipykernel"], "VS Code"),
        ({}, ["ipykernel"], "run by a program"),
        ({}, [], "none"),
    ],
)
def test_the_place_is_recognised(environ, modules, found):
    assert environment.place(environ, modules).found == found


@pytest.mark.parametrize("name", ["JPY_SESSION_NAME", "VSCODE_PID", "VSCODE_CWD", "COLAB_RELEASE_TAG"])
def test_who_opens_a_notebook_reads_it(name):
    assert environment.has_reader({name: "x"})
    assert not environment.has_reader({"VSCODE_GIT_IPC_HANDLE": "x"})  # as a terminal of VS Code has it


def test_a_journal_that_cannot_be_written_is_missing(tmp_path, monkeypatch):
    assert environment.notes(tmp_path / "new" / "journal.jsonl").state == "good"
    asked = []
    monkeypatch.setattr(os, "access", lambda place, mode: asked.append(Path(place)))
    assert environment.notes(tmp_path / "new" / "journal.jsonl").state == "missing"
    assert asked == [tmp_path]


def test_ranks_that_lost_a_message_or_did_not_start():
    assert environment.ranks_answered([("cpu", "gloo", 1)] * 2, 0.1).state == "good"
    assert environment.ranks_answered([("cpu", "gloo", 0)] * 2, 0.1).state == "missing"
    assert "no port" in environment.ranks_failed(2, RuntimeError("no port")).meaning


def test_a_container_limits_the_cores(monkeypatch):
    limit = {"cpu.max": "150000 100000"}
    monkeypatch.setattr(environment, "_first_line", lambda path: limit[Path(path).name])
    assert environment.usable_cores() == 1
    limit["cpu.max"] = "max 100000"
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 5}, raising=False)
    assert environment.usable_cores() == 3


def test_the_table_escapes_and_says_in_words_what_colours_say():
    report = Report((Finding("A<b>", "1", "Good & well."), Finding("C", "0", "Gone.", "missing", "Fetch it.")))
    html = report._repr_html_()
    assert "A&lt;b&gt;" in html
    assert "Good &amp; well." in html
    assert re.search(r"missing</b></td><th scope=[^>]*>C</th>", html)
    assert "Do this:</b> Fetch it." in html
    assert not re.search(r'[";]color:', html), "a colored word is too faint on one of the grounds, light or dark"
    assert "></th>" not in html
    assert report.verdict == "Look at: C."
    assert "[missing] C: 0. Gone. Fetch it." in repr(report)


def test_this_machine():
    report = environment.report()
    assert [finding.name for finding in report.findings[:4]] == ["Python", "PyTorch", "Devices", "Ranks"]
    ranks = report.findings[3]
    assert ranks.state == "good", ranks
    assert "every message arrived" in ranks.meaning


def test_importing_the_module_does_not_import_torch():
    code = "import sys, torchcourse.environment; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


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
