"""The report on a machine: what machines that are not at hand would be told, and this one in earnest."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from torchcourse.lessons.start_here import machine_report
from torchcourse.lessons.start_here.machine_report import GIB, Finding, Report


def test_an_old_python_gets_a_remedy():
    assert machine_report.python((3, 11, 0)).state == "good"
    assert machine_report.python((4, 0, 0)).state == "good"
    old = machine_report.python((3, 9, 18))
    assert (old.state, old.found) == ("missing", "3.9.18")
    assert "3.11" in old.remedy


def test_a_cpu_build_beside_an_nvidia_driver_is_noticed():
    assert machine_report.pytorch("2.13.0", "", driver=False).state == "good"
    assert machine_report.pytorch("2.13.0", "CUDA 12.8", driver=True).state == "good"
    assert "pytorch.org" in machine_report.pytorch("2.13.0", "", driver=True).remedy


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
    finding = machine_report.devices(gpus, apple=apple)
    assert finding.found == found
    assert words in finding.meaning
    assert finding.state != "missing"


def test_cores_are_judged_by_the_ranks_that_want_one():
    assert machine_report.cores(2, 2, gpus=0).state == "good"
    single = machine_report.cores(1, 2, gpus=0)
    assert single.state == "fine without"
    assert "take turns" in single.meaning
    assert "feed the GPUs" in machine_report.cores(16, 8, gpus=8).meaning


def test_little_memory_gets_a_remedy():
    assert "about 8 ranks" in machine_report.memory(4.2 * GIB, 2, 0.5 * GIB).meaning
    assert machine_report.memory(1.0 * GIB, 2, 0.5 * GIB).state == "good"
    little = machine_report.memory(0.9 * GIB, 2, 0.5 * GIB)
    assert (little.state, little.meaning) == ("missing", "2 ranks need about 1.0 GiB.")


def test_packages_that_are_not_here():
    here = machine_report.package("PyYAML", "pyyaml", "It reads.", needed=True)
    assert here.state == "good"
    assert re.match(r"\d+\.\d+", here.found)
    assert machine_report.package("Nothing", "no-such-distribution", "It waits.").state == "fine without"
    assert "%pip install no-such" in machine_report.package("Nothing", "no-such-distribution", "", needed=True).remedy


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
    assert machine_report.place(environ, modules).found == found


def test_a_journal_that_cannot_be_written_is_missing(tmp_path, monkeypatch):
    assert machine_report.notes(tmp_path / "new" / "journal.jsonl").state == "good"
    asked = []
    monkeypatch.setattr(os, "access", lambda place, mode: asked.append(Path(place)))
    assert machine_report.notes(tmp_path / "new" / "journal.jsonl").state == "missing"
    assert asked == [tmp_path]


def test_ranks_that_lost_a_message_or_did_not_start():
    assert machine_report.ranks_answered([("cpu", "gloo", 1)] * 2, 0.1).state == "good"
    assert machine_report.ranks_answered([("cpu", "gloo", 0)] * 2, 0.1).state == "missing"
    assert "no port" in machine_report.ranks_failed(2, RuntimeError("no port")).meaning


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
    report = machine_report.report()
    assert [finding.name for finding in report.findings[:4]] == ["Python", "PyTorch", "Devices", "Ranks"]
    ranks = report.findings[3]
    assert ranks.state == "good", ranks
    assert "every message arrived" in ranks.meaning


def test_importing_the_module_does_not_import_torch():
    code = "import sys, torchcourse.lessons.start_here.machine_report; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
