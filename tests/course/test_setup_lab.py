"""course.py: the port and the JupyterLab that it starts, and the browser that it finds for the tests."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import course


def test_the_next_free_port_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert course.free_port(None, first=port, count=50) > port


def test_no_free_port_is_one_sentence():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(course.Problem, match=f"Port {port} is in use or not allowed; name another one"):
            course.free_port(port)
        with pytest.raises(course.Problem, match=f"All ports from {port} to {port} are in use"):
            course.free_port(None, first=port, count=1)


def test_a_port_that_cannot_be_is_one_sentence():
    with pytest.raises(course.Problem, match="Port 99999 is in use or not allowed"):
        course.free_port(99999)


@pytest.mark.slow
def test_lab_opens_the_first_lesson_in_the_learners_folder_behind_a_token(tmp_path):
    work = tmp_path / "work"
    (work / course.FIRST_LESSON).parent.mkdir(parents=True)
    (work / course.FIRST_LESSON).write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
    port = course.free_port(None, first=18888)
    script = (
        "import sys; from pathlib import Path; import course; "
        "course.start_lab(Path(sys.executable), Path(sys.argv[1]), int(sys.argv[2]), browser=False)"
    )
    environment = os.environ | {"JUPYTER_TOKEN": "secret", "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime")}
    server = subprocess.Popen(
        [sys.executable, "-c", script, str(work), str(port)],
        cwd=course.ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_it_answers(url + "/api")
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(url + "/api/contents")
        with urllib.request.urlopen(url + "/api/contents?token=secret") as answer:
            assert [entry["name"] for entry in json.load(answer)["content"]] == ["00_start_here"]
        with urllib.request.urlopen(url + "/?token=secret") as answer:
            assert f"/lab/tree/{course.FIRST_LESSON}?" in answer.url
    finally:
        server.terminate()
        said = server.communicate(timeout=30)[0]
    assert f"Your work is in {work}" in said
    assert "nbgrader" not in said


def test_lab_opens_the_front_page_where_there_is_one(tmp_path):
    (tmp_path / course.FRONT_PAGE).write_text("{}")
    assert "--LabApp.default_url=/lab/tree/start.ipynb" in course.lab_command(Path("python"), tmp_path, 8888)
    assert "--LabApp.default_url=/lab" in course.lab_command(Path("python"), tmp_path / "empty", 8888)


def wait_until_it_answers(url: str, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.2)
    raise AssertionError(f"no answer from {url}")


# ---------------------------------------------------------------------------------------------- the browser for tests


def browser_stand_in(folder: Path, status: int) -> Path:
    path = folder / f"browser{status}"
    path.write_text(f"#!/bin/sh\nexit {status}\n")
    path.chmod(0o755)
    return path


@pytest.mark.skipif(course.WINDOWS, reason="the stand-in is a shell script")
def test_a_browser_that_does_not_start_is_passed_over(tmp_path, monkeypatch):
    good, bad = browser_stand_in(tmp_path, 0), browser_stand_in(tmp_path, 1)
    monkeypatch.setenv("TORCHCOURSE_CHROMIUM", str(good))
    assert course.find_chromium() == str(good)
    monkeypatch.setenv("TORCHCOURSE_CHROMIUM", str(bad))
    assert course.find_chromium() != str(bad)


@pytest.mark.parametrize("ci", ["true", ""])
def test_without_a_browser_ci_fails_and_others_are_told(monkeypatch, capsys, ci):
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(course, "prepare", lambda extras: Path(sys.executable))
    monkeypatch.setattr(course, "find_chromium", lambda: None)
    monkeypatch.setattr(course, "install_chromium", lambda: None)
    monkeypatch.setattr(course, "run", lambda command, environment: 0)
    assert course.main(["test"]) == (1 if ci else 0)
    said = capsys.readouterr()
    assert "No Chromium or Chrome was found" in (said.err if ci else said.out)


class Programs:
    """Every program is there; `asked` notes what is run instead of running it, and what holds `failing` fails."""

    def __init__(self):
        self.asked: list[list[str]] = []
        self.failing = ""

    def run(self, command, **options):
        self.asked.append(command)
        return subprocess.CompletedProcess(command, int(self.failing in command))


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    programs = Programs()
    monkeypatch.setattr(course, "VENV", tmp_path)
    monkeypatch.setattr(course.shutil, "which", lambda name: "/usr/bin/" + name)
    monkeypatch.setattr(course, "find_chromium", lambda: "/usr/bin/chromium")
    monkeypatch.setattr(course.subprocess, "run", programs.run)
    return programs


@pytest.mark.skipif(course.WINDOWS, reason="apt is for Debian and its kin")
def test_no_password_is_ever_asked_for(programs, monkeypatch):
    monkeypatch.setattr(course.os, "geteuid", lambda: 1000)
    programs.failing = "sudo"
    assert course.install_chromium() is None
    assert programs.asked == [["sudo", "-n", "true"]]


@pytest.mark.skipif(course.WINDOWS, reason="apt is for Debian and its kin")
@pytest.mark.parametrize(("failing", "installed"), [("", True), ("install", False)])
def test_chromium_is_installed_through_apt(programs, monkeypatch, capsys, failing, installed):
    monkeypatch.setattr(course.os, "geteuid", lambda: 0)
    programs.failing = failing
    assert course.install_chromium() == ("/usr/bin/chromium" if installed else None)
    assert [command[-1] for command in programs.asked] == ["update", "fonts-nanum"]
    assert ("apt-get install failed" in capsys.readouterr().out) is not installed
