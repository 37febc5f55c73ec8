"""course.py: what it checks, when it installs, how it says what is wrong, and that it never overwrites your work."""

import ast
import contextlib
import http.server
import importlib.metadata
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import course

SOURCE = Path(course.__file__).read_text(encoding="utf-8")


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A project of its own, so that no test touches the environment it runs in."""
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "constraints.txt").write_text("torch==2.13.0\n")
    monkeypatch.setattr(course, "ROOT", tmp_path)
    monkeypatch.setattr(course, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(course, "WORK", tmp_path / "work")
    monkeypatch.setattr(course, "has_nvidia_driver", lambda: False)
    return tmp_path


@pytest.fixture
def installs(project, monkeypatch) -> list[list[str]]:
    """Instead of installing, note with which extras; the environment's Python then 'works' as version 3.11."""
    calls = []

    def install(python, extras, create):
        calls.append(extras)
        python.parent.mkdir(parents=True, exist_ok=True)
        python.touch()

    monkeypatch.setattr(course, "install", install)
    monkeypatch.setattr(course, "python_version", lambda python: "3.11" if python.exists() else None)
    return calls


# ------------------------------------------------------------------------------------------------------------ Python


@pytest.mark.parametrize(("version", "refused"), [((3, 10, 12), True), ((2, 7, 18), True), ((3, 11, 0), False)])
def test_an_old_python_is_refused_in_one_sentence(version, refused):
    sentence = course.python_problem(version)
    assert bool(sentence) is refused
    if refused:
        assert "3.11" in sentence
        assert f"{version[0]}.{version[1]}" in sentence
        assert "\n" not in sentence


def test_an_old_python_gets_as_far_as_the_sentence():
    ast.parse(SOURCE, feature_version=(3, 6))
    script = "import sys, runpy; sys.version_info = (3, 9, 1); runpy.run_path(sys.argv[1], run_name='__main__')"
    result = subprocess.run([sys.executable, "-c", script, course.__file__], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.strip() == course.python_problem((3, 9, 1))


def test_course_py_needs_the_standard_library_only():
    imports = [node for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name.split(".")[0] for node in imports if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module.split(".")[0] for node in imports if isinstance(node, ast.ImportFrom)}
    assert names <= sys.stdlib_module_names


# ---------------------------------------------------------------------------------------------------------- commands


def test_every_make_target_is_one_line_that_calls_course_py():
    makefile = (course.ROOT / "Makefile").read_text(encoding="utf-8")
    lines = [line for line in makefile.splitlines() if re.match(r"[\w-]+:", line)]
    assert len(lines) == 7
    for line in lines:
        target = line.partition(":")[0]
        assert re.fullmatch(rf"{target}: ; @\$\(PYTHON\) course\.py {target}( \$\(ARGS\))?", line)


def test_help_names_the_commands_and_what_they_do(capsys):
    assert course.main([]) == 0
    said = capsys.readouterr().out
    for command in ("lab", "test", "build"):
        assert re.search(rf"^  {command} +[A-Z].*\.$", said, re.MULTILINE)


def test_a_command_whose_module_is_missing_is_not_offered(project, capsys):
    assert course.main(["bench"]) == 1
    assert "There is no command 'bench'; choose one of: lab, test, gpu-check." in capsys.readouterr().err


def test_an_unknown_command_is_one_sentence(capsys):
    assert course.main(["lba"]) == 1
    assert capsys.readouterr().err.startswith("There is no command 'lba'; choose one of: lab, test,")


def test_arguments_reach_pytest(project, monkeypatch):
    monkeypatch.setattr(course, "prepare", lambda extras: Path(sys.executable))
    monkeypatch.setattr(course, "find_chromium", lambda: "/usr/bin/chromium")
    ran = []
    monkeypatch.setattr(course, "run", lambda command, environment: ran.append((command, environment)) or 0)
    assert course.main(["test", "--", "-k", "ranks"]) == 0
    command, environment = ran[0]
    assert command[1:3] == ["-m", "pytest"]
    assert command[-2:] == ["-k", "ranks"]  # last, so that what the user says (-n 0, say) wins
    assert environment["TORCHCOURSE_CHROMIUM"] == "/usr/bin/chromium"


def test_no_gpu_is_one_sentence(project, capsys):
    assert course.main(["gpu-check"]) == 0
    assert "No NVIDIA driver was found" in capsys.readouterr().out


def test_ctrl_c_is_one_sentence(monkeypatch, capsys):
    def interrupt(extras):
        raise KeyboardInterrupt

    monkeypatch.setattr(course, "prepare", interrupt)
    assert course.main(["lab"]) == 130
    assert "Stopped" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_to_is_one_sentence(project, monkeypatch, capsys):
    monkeypatch.setattr(course, "prepare", lambda extras: Path(sys.executable))
    (project / "work").write_text("a file where the folder should be")
    assert course.main(["lab"]) == 1
    said = capsys.readouterr().err
    assert str(project / "work") in said
    assert said.count("\n") == 1


# -------------------------------------------------------------------------------------------- when it installs, and how


def test_a_second_run_installs_nothing(installs):
    course.prepare({"lab"})
    course.prepare({"lab"})
    assert installs == [["lab"]]


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_changed_requirement_is_installed_by_itself(installs, project, name):
    course.prepare({"lab"})
    with open(project / name, "a") as file:
        file.write("# changed\n")
    course.prepare({"lab"})
    course.prepare({"lab"})
    assert len(installs) == 2


def test_extras_are_added_up_so_that_lab_and_test_do_not_take_turns(installs):
    course.prepare({"lab"})
    course.prepare({"lab", "test"})
    course.prepare({"lab"})
    assert installs == [["lab"], ["lab", "test"]]


def test_an_environment_whose_folder_has_moved_is_made_afresh(installs, project, monkeypatch, capsys):
    course.prepare({"lab"})
    moved = project.rename(project.with_name("elsewhere"))
    monkeypatch.setattr(course, "ROOT", moved)
    monkeypatch.setattr(course, "VENV", moved / ".venv")
    (moved / ".venv" / "old").touch()
    course.prepare({"lab"})
    assert len(installs) == 2
    assert not (moved / ".venv" / "old").exists()
    assert "moved" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "interrupted", "step"),
    [
        ({}, False, "nothing"),
        ({}, True, "create"),
        ({"files": "other"}, False, "update"),
        ({"extras": ["lab", "test"]}, False, "update"),
        ({"python": "3.12"}, False, "create"),
        ({"python": None}, False, "create"),
        ({"folder": "/elsewhere"}, False, "create"),
    ],
)
def test_plan(change, interrupted, step):
    old = {"files": "abc", "folder": "/course", "python": "3.11", "extras": ["lab"]}
    assert course.plan(old, old | change, interrupted) == step


def test_an_environment_that_somebody_made_by_hand_is_completed_not_deleted(installs, project):
    python = course.venv_python(project / ".venv")
    python.parent.mkdir(parents=True)
    python.touch()
    course.prepare({"lab"})
    assert python.exists()
    assert installs == [["lab"]]


@pytest.mark.parametrize(
    ("log", "afresh"), [("Installing collected packages: torch", True), ("Collecting torch", False)]
)
def test_an_interrupted_installation_is_healed(installs, project, monkeypatch, log, afresh):
    course.prepare({"lab"})
    (project / ".venv" / "half-written").touch()
    (project / "constraints.txt").write_text("torch==2.14.0\n")

    def cut_off(python, extras, create):
        (course.VENV / "setup.log").write_text(f"\n== Packages: python -m pip install torch\n{log}\n")
        raise KeyboardInterrupt

    healthy = course.install
    monkeypatch.setattr(course, "install", cut_off)
    with pytest.raises(KeyboardInterrupt):
        course.prepare({"lab"})
    monkeypatch.setattr(course, "install", healthy)
    course.prepare({"lab"})
    assert len(installs) == 2
    assert (project / ".venv" / "half-written").exists() is not afresh
    course.prepare({"lab"})
    assert len(installs) == 2


def test_two_installations_at_once_are_refused(installs, project):
    (project / ".venv").mkdir()
    with open(project / ".venv" / "installing", "w") as file:
        course.lock(file)
        with pytest.raises(course.Problem, match="another window"):
            course.prepare({"lab"})
    course.prepare({"lab"})
    assert installs == [["lab"]]


def test_a_full_disk_is_one_sentence(installs, monkeypatch):
    monkeypatch.setattr(course.shutil, "disk_usage", lambda path: Usage(3.2e9))
    with pytest.raises(course.Problem, match=r"needs about 4 GB of free disk, and 3\.2 GB are free") as problem:
        course.prepare({"lab"})
    assert "\n" not in str(problem.value)
    assert installs == []


class Usage:
    def __init__(self, free: float):
        self.free = int(free)


@pytest.fixture
def steps(project, monkeypatch) -> list[tuple[str, list[str]]]:
    """Instead of running the steps of an installation, note them; those whose title is in `.failing` fail."""

    class Steps(list):
        failing = ()

    noted = Steps()

    def run_step(title, command, log):
        noted.append((title, [str(part) for part in command]))
        log.write_text(f"\n== {title}: pip\nERROR: something new\n")
        return not any(word in title for word in noted.failing)

    (project / ".venv").mkdir()
    monkeypatch.setattr(course, "run_step", run_step)
    monkeypatch.setattr(course.platform, "system", lambda: "Linux")
    monkeypatch.setattr(course, "reachable", lambda url: True)
    return noted


def test_linux_without_a_driver_takes_the_cpu_build(steps):
    course.install(Path("python"), ["lab"], create=True)
    assert [re.sub(r"\[\d/\d\] ", "", title) for title, _ in steps] == [
        "Making the environment",
        "Build tools",
        "PyTorch for the CPU",
        "The course and its packages",
    ]
    cpu, course_itself = steps[2][1], steps[3][1]
    assert cpu[-4:] == ["--no-deps", "--index-url", course.CPU_INDEX, "torch"]
    assert course_itself[-2:] == ["-e", ".[lab]"]
    assert all(command[command.index("-c") + 1] == "constraints.txt" for _, command in steps[1:])


@pytest.mark.parametrize("case", ["driver", "no answer", "macOS"])
def test_elsewhere_torch_comes_from_the_ordinary_index(steps, monkeypatch, case):
    if case == "driver":
        monkeypatch.setattr(course, "has_nvidia_driver", lambda: True)
    elif case == "no answer":
        monkeypatch.setattr(course, "reachable", lambda url: False)
    else:
        monkeypatch.setattr(course.platform, "system", lambda: "Darwin")
    course.install(Path("python"), ["lab"], create=False)
    assert not any("--index-url" in command for _, command in steps)
    assert "-e" in steps[-1][1]


def test_a_failing_cpu_index_falls_back(steps, capsys):
    steps.failing = ("PyTorch for the CPU",)
    course.install(Path("python"), ["lab"], create=False)
    assert "-e" in steps[-1][1]
    assert "ordinary index" in capsys.readouterr().out


def test_a_failing_installation_shows_the_end_of_its_log(steps, project):
    steps.failing = ("The course",)
    with pytest.raises(course.Problem, match="ERROR: something new") as problem:
        course.install(Path("python"), ["lab"], create=False)
    assert str(project / ".venv" / "setup.log") in str(problem.value)


def test_without_a_network_the_sentence_comes_soon(project, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(course, "CPU_INDEX", "http://127.0.0.1:9")
    with pytest.raises(course.Problem, match="could not be reached: check the network") as problem:
        course.prepare({"lab"})
    assert str(problem.value).count("\n") == 0
    assert course.plan(course.read_stamp(course.VENV), {"python": "3.11"}, interrupted=False) == "update"
    assert not (project / ".venv" / "installing").exists()
    assert not (project / ".venv" / "tmp").exists()


@pytest.mark.parametrize(
    ("log", "sentence"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "The disk is full"),
        ("WARNING: Retrying ... NameResolutionError: Temporary failure in name resolution", "could not be reached"),
        ("SSLError(SSLCertVerificationError: CERTIFICATE_VERIFY_FAILED)", "certificate that is not trusted"),
        ("ERROR: No matching distribution found for torch==2.13.0", "There is no torch==2.13.0 for this Python"),
        ("The virtual environment was not created because ensurepip is not available.", "python3-venv"),
        ("OSError: [Errno 13] Permission denied: '/opt/x'", "/opt/x cannot be written to"),
    ],
)
def test_explain(tmp_path, log, sentence):
    file = tmp_path / "setup.log"
    file.write_text(f"\n== An earlier step: pip\nNo space left on device? No.\n\n== This step: pip\n{log}\n")
    explained = course.explain(file)
    assert sentence in explained
    assert str(file) in explained
    assert "\n" not in explained


@pytest.mark.parametrize(
    ("log", "status"),
    [
        ("", "12 MB so far"),
        ("Collecting numpy>=1.26 (from torchcourse==0.1.0)\n", "looking for numpy · 12 MB so far"),
        (
            "Collecting torch\n  Downloading torch-2.13.0-cp311-linux.whl.metadata (26 kB)\n"
            "Downloading https://host/packages/py-rattler-0.28.0-cp311.whl (9.1 MB)\n",
            "downloading py-rattler (9.1 MB) · 12 MB so far",
        ),
        ("Collecting a\nInstalling collected packages: a, b, c\n", "unpacking package 3 of 3"),
    ],
)
def test_progress_says_what_pip_is_at(log, status):
    assert course.pip_status(log, megabytes=12.3, installed=2) == status


def test_a_step_shows_progress_and_keeps_its_output_in_the_log(project, capsys):
    (project / ".venv").mkdir()
    log = project / ".venv" / "setup.log"
    log.write_text("")
    assert course.run_step("[1/1] Talk", [sys.executable, "-c", "print('to the log')"], log)
    assert not course.run_step("[1/1] Fail", [sys.executable, "-c", "raise SystemExit(3)"], log)
    said = capsys.readouterr().out
    assert "[1/1] Talk · done in 0:0" in said
    assert "[1/1] Fail · failed in 0:0" in said
    assert "to the log" in log.read_text()
    assert "to the log" not in said


def test_reachable():
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert course.reachable(f"http://127.0.0.1:{server.server_port}/")
        server.shutdown()
    assert not course.reachable("http://127.0.0.1:9/")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert not course.reachable(f"http://127.0.0.1:{silent.getsockname()[1]}/", seconds=0.5)


def test_an_environment_of_conda_that_has_the_course_is_used(installs, project, monkeypatch, tmp_path):
    (tmp_path / "conda-meta").mkdir()
    monkeypatch.setattr(course.sys, "prefix", str(tmp_path))
    versions = {"torchcourse": "0.1.0"}

    def version(name):
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert course.prepare({"lab"}) == Path(sys.executable)
    assert installs == []
    versions.clear()
    assert course.prepare({"lab"}) == course.venv_python(project / ".venv")


def test_programs_of_another_python_do_not_leak_in(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/another/python")
    environment = course.clean_environment(Path("/course/.venv/bin/python"))
    assert "PYTHONPATH" not in environment
    assert environment["PATH"].split(os.pathsep)[0] == str(Path("/course/.venv/bin"))


# ---------------------------------------------------------------------------------------------- the learner's copies


@pytest.fixture
def release(tmp_path) -> Path:
    folder = tmp_path / "notebooks"
    (folder / "00_start" / ".ipynb_checkpoints").mkdir(parents=True)
    (folder / "00_start" / "1_start.ipynb").write_text("release")
    (folder / "00_start" / ".ipynb_checkpoints" / "1_start-checkpoint.ipynb").write_text("stray")
    return folder


def test_lessons_are_copied_once(release, tmp_path):
    work = tmp_path / "work"
    lines = course.copy_lessons(release, work)
    assert (work / "00_start" / "1_start.ipynb").read_text() == "release"
    assert not (work / "00_start" / ".ipynb_checkpoints").exists()
    assert lines == [f"Copied into {work}: 1 files, of 00_start."]
    assert course.copy_lessons(release, work) == []


def test_what_the_learner_wrote_is_never_overwritten(release, tmp_path):
    work = tmp_path / "work"
    course.copy_lessons(release, work)
    mine = work / "00_start" / "1_start.ipynb"
    mine.write_text("my answers")
    assert course.copy_lessons(release, work) == []
    (release / "00_start" / "1_start.ipynb").write_text("a newer release")
    lines = course.copy_lessons(release, work)
    assert mine.read_text() == "my answers"
    assert len(lines) == 1
    assert "00_start/1_start.ipynb" in lines[0]
    assert "stay as they are" in lines[0]


def test_a_renamed_copy_makes_room_for_the_new_one(release, tmp_path):
    work = tmp_path / "work"
    course.copy_lessons(release, work)
    (release / "00_start" / "1_start.ipynb").write_text("a newer release")
    (work / "00_start" / "1_start.ipynb").rename(work / "00_start" / "mine.ipynb")
    course.copy_lessons(release, work)
    assert (work / "00_start" / "1_start.ipynb").read_text() == "a newer release"
    assert (work / "00_start" / "mine.ipynb").read_text() == "release"
    assert course.copy_lessons(release, work) == []


def test_a_file_of_the_same_name_that_was_never_copied_is_left_alone(release, tmp_path):
    work = tmp_path / "work"
    (work / "00_start").mkdir(parents=True)
    (work / "00_start" / "1_start.ipynb").write_text("mine before")
    (work / ".copied.json").write_text("not JSON")
    assert course.copy_lessons(release, work) == []
    assert (work / "00_start" / "1_start.ipynb").read_text() == "mine before"
    assert json.loads((work / ".copied.json").read_text()) == {}


def test_without_lessons_there_is_nothing_to_copy(tmp_path):
    assert course.copy_lessons(tmp_path / "notebooks", tmp_path / "work") == []
    assert (tmp_path / "work").is_dir()


# -------------------------------------------------------------------------------------------------------- JupyterLab


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
def test_without_a_browser_ci_fails_and_others_are_told(project, monkeypatch, capsys, ci):
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(course, "prepare", lambda extras: Path(sys.executable))
    monkeypatch.setattr(course, "find_chromium", lambda: None)
    monkeypatch.setattr(course, "install_chromium", lambda: None)
    monkeypatch.setattr(course, "run", lambda command, environment: 0)
    assert course.main(["test"]) == (1 if ci else 0)
    said = capsys.readouterr()
    assert "No Chromium or Chrome was found" in (said.err if ci else said.out)


def test_no_password_is_ever_asked_for(project, monkeypatch):
    monkeypatch.setattr(course.shutil, "which", lambda name: "/usr/bin/" + name)
    monkeypatch.setattr(course.os, "geteuid", lambda: 1000)
    asked = []

    class Refused:
        returncode = 1

    monkeypatch.setattr(course.subprocess, "run", lambda command, **_: asked.append(command) or Refused)
    assert course.install_chromium() is None
    assert asked == [["sudo", "-n", "true"]]


@pytest.mark.parametrize(("failing", "installed"), [((), True), (("install",), False)])
def test_chromium_is_installed_through_apt(steps, monkeypatch, failing, installed):
    monkeypatch.setattr(course.shutil, "which", lambda name: "/usr/bin/" + name)
    monkeypatch.setattr(course.os, "geteuid", lambda: 0)
    monkeypatch.setattr(course, "find_chromium", lambda: "/usr/bin/chromium")
    steps.failing = failing
    assert course.install_chromium() == ("/usr/bin/chromium" if installed else None)
    assert [command[-1] for _, command in steps] == ["update", "fonts-nanum"]
