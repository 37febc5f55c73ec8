"""setup/: how it installs with uv or pip, what it shows meanwhile, and the one sentence when a step fails."""

import http.server
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest
from setup import ROOT, WINDOWS, Problem, environment, steps
from setup.indexes import pip_settings, uv_variables

# --------------------------------------------------------------------------------------- with a stand-in for a step


class Steps(list):
    """The steps that were asked for, as (title, command); those whose title is in `failing` failed, saying `says`."""

    failing: tuple[str, ...] = ()
    says = "ERROR: something new"


@pytest.fixture
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Steps:
    """Instead of running the steps of an installation, note them, on a Linux without a driver."""
    noted = Steps()

    def step(venv, title, command, environment):
        noted.append((title, [str(part) for part in command]))
        (venv / "setup.log").write_text(f"\n== {title}: pip\n{noted.says}\n")
        return not any(word in title for word in noted.failing)

    (tmp_path / ".venv").mkdir()
    monkeypatch.setattr(environment, "step", step)
    monkeypatch.setattr(environment, "pip_settings", lambda python, variables: {"constraint": "/etc/a.txt /etc/b.txt"})
    monkeypatch.setattr(environment.platform, "system", lambda: "Linux")
    monkeypatch.setattr(environment, "has_nvidia_driver", lambda: False)
    monkeypatch.setattr(environment, "reachable", lambda url: True)
    return noted


def test_linux_without_a_driver_takes_the_cpu_build(noted, tmp_path):
    environment.install(tmp_path / ".venv", ["lab"], create=True)
    assert [title for title, _ in noted] == [
        "Making the environment",
        "uv, which installs the rest",
        "PyTorch for the CPU",
        "The course and its packages",
    ]
    uv, cpu, course = (command for _, command in noted[1:])
    assert uv[1:4] == ["-m", "pip", "install"]
    assert uv[uv.index("-c") + 1] == "constraints.txt"
    assert cpu[-4:] == ["--no-deps", "--index-url", environment.CPU_INDEX, "torch"]
    assert course[-2:] == ["-e", ".[lab]"]
    for command in (cpu, course):
        assert command[0] == str(environment.uv_program(tmp_path / ".venv"))
        # The tested set, and what this machine adds to it in pip's configuration.
        assert [word for word in command if word.startswith("--constraints=")] == [
            f"--constraints={file}" for file in ("constraints.txt", "/etc/a.txt", "/etc/b.txt")
        ]


@pytest.mark.parametrize("case", ["driver", "no answer", "macOS"])
def test_elsewhere_torch_comes_from_the_ordinary_index(noted, tmp_path, monkeypatch, case):
    if case == "driver":
        monkeypatch.setattr(environment, "has_nvidia_driver", lambda: True)
    elif case == "no answer":
        monkeypatch.setattr(environment, "reachable", lambda url: False)
    else:
        monkeypatch.setattr(environment.platform, "system", lambda: "Darwin")
    environment.install(tmp_path / ".venv", ["lab"], create=False)
    assert not any("--index-url" in command for _, command in noted)
    assert "-e" in noted[-1][1]


def test_a_failing_cpu_index_falls_back(noted, tmp_path, capsys):
    noted.failing = ("PyTorch for the CPU",)
    environment.install(tmp_path / ".venv", ["lab"], create=False)
    assert "-e" in noted[-1][1]
    assert "ordinary index" in capsys.readouterr().out


def test_where_there_is_no_uv_pip_installs(noted, tmp_path, capsys):
    noted.failing = ("uv, which",)
    noted.says = "ERROR: No matching distribution found for uv==0.13.9"
    environment.install(tmp_path / ".venv", ["lab"], create=False)
    command = noted[-1][1]
    assert command[1:4] == ["-m", "pip", "install"]
    assert command[command.index("-c") + 1] == "constraints.txt"
    assert command[-2:] == ["-e", ".[lab]"]
    assert "so pip installs" in capsys.readouterr().out


def test_without_a_network_pip_is_not_tried_too(noted, tmp_path):
    noted.failing = ("uv, which",)
    noted.says = "Temporary failure in name resolution\nERROR: No matching distribution found for u"
    with pytest.raises(Problem, match="could not be reached"):
        environment.install(tmp_path / ".venv", ["lab"], create=False)


def test_a_failing_installation_shows_the_end_of_its_log(noted, tmp_path):
    noted.failing = ("The course",)
    with pytest.raises(Problem, match="ERROR: something new") as problem:
        environment.install(tmp_path / ".venv", ["lab"], create=False)
    assert str(tmp_path / ".venv" / "setup.log") in str(problem.value)


@pytest.mark.parametrize(
    ("available", "commands"),
    [
        (["ensurepip", "uv", "pip"], ["-m venv"]),
        (["uv", "pip"], ["uv venv --seed"]),
        (["pip"], ["-m venv --without-pip", "-m pip --python"]),
        ([], []),
    ],
)
def test_the_environment_is_made_with_what_there_is(noted, tmp_path, monkeypatch, available, commands):
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: name if name in available else None)
    monkeypatch.setattr(environment.shutil, "which", lambda name: name if name in available else None)
    if not commands:
        with pytest.raises(Problem, match=r"lacks its module ensurepip.*python3-venv"):
            environment.make_environment(tmp_path / ".venv")
        return
    environment.make_environment(tmp_path / ".venv")
    assert len(noted) == len(commands)
    for (_, command), words in zip(noted, commands, strict=True):
        assert words in " ".join(command)


# ------------------------------------------------------------------------------------------------ what went wrong

UV_NO_VERSION = """error: No solution found when resolving dependencies
  cause: Because there is no version of tqdm==99.9 and torchcourse==0.1.0 depends on tqdm==99.9, we can conclude that
         torchcourse==0.1.0 cannot be used."""
UV_NO_NETWORK = """error: Request failed after 3 retries in 5.6s
  cause: Failed to fetch: https://index.example/simple/packaging/
  cause: failed to lookup address information: Temporary failure in name resolution"""
UV_FULL_DISK = """error: Failed to install: fonttools-4.68.0-py3-none-any.whl (fonttools==4.68.0)
  cause: failed to copy file from /home/ada/.cache/uv/a to /my folder/.venv/fontTools/x.py: No space left on device"""
UV_FULL_CACHE = """error: Failed to download `pillow==13.0.0`
  cause: failed to write to file `/cache/.tmp/PIL/a.so`: No space left on device (os error 28)"""
UV_CACHE = """error: Failed to initialize cache at `/nonexistent/.cache/uv`
  cause: failed to create directory `/nonexistent/.cache/uv`: Permission denied (os error 13)"""
PIP_GARBAGE = """ERROR: Invalid requirement: '<<<<<<< HEAD': Expected package name at the start of dependency specifier
    <<<<<<< HEAD
    ^ (from line 204 of constraints.txt)"""
PIP_CONFLICT = "ERROR: Cannot install uv because these package versions have conflicting dependencies."


@pytest.mark.parametrize(
    ("log", "sentence"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "The disk is full"),
        (UV_FULL_DISK, "no space left for /my folder/.venv/fontTools/x.py;"),
        (UV_FULL_CACHE, "no space left for /cache/.tmp/PIL/a.so;"),
        ("WARNING: Retrying ... NameResolutionError: Temporary failure in name resolution", "could not be reached"),
        (UV_NO_NETWORK, "https://index.example/simple/packaging/ could not be fetched; check the network"),
        ("error: Failed to download `torch==2.13.0`\n  cause: timed out", "torch==2.13.0 could not be fetched;"),
        ("SSLError(SSLCertVerificationError: CERTIFICATE_VERIFY_FAILED)", "certificate that is not trusted"),
        ("  cause: invalid peer certificate: UnknownIssuer", "certificate that is not trusted"),
        ("ERROR: No matching distribution found for torch==2.13.0", "There is no ready-made torch==2.13.0 for Python"),
        (UV_NO_VERSION, "there is no version of tqdm==99.9 and torchcourse==0.1.0 depends on"),
        (PIP_CONFLICT, "Cannot install uv because"),
        (
            "ERROR: Invalid requirement: 'a = 1' (from line 2 of constraints.txt)",
            "'a = 1' is no requirement (line 2 of",
        ),
        (PIP_GARBAGE, "'<<<<<<< HEAD' is no requirement (line 204 of constraints.txt); mend that line"),
        ("OSError: [Errno 13] Permission denied: '/opt/x'", "/opt/x cannot be written to"),
        (UV_CACHE, "/nonexistent/.cache/uv cannot be written to; make it yours, or set UV_CACHE_DIR"),
        ("/course/.venv/bin/python: No module named pip", "delete the folder .venv"),
    ],
)
def test_explain(tmp_path, log, sentence):
    (tmp_path / "setup.log").write_text(
        f"\n== An earlier step: pip\nNo space left on device? No.\n\n== This step: pip\n{log}\n"
    )
    explained = steps.explain(tmp_path)
    assert sentence in explained
    assert str(tmp_path / "setup.log") in explained
    assert "\n" not in explained


# --------------------------------------------------------------------------------------------------------- one step


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """What there is of an environment before the first package comes."""
    folder = tmp_path / ".venv"
    packages = folder / ("Lib/site-packages" if WINDOWS else "lib/python3.11/site-packages")
    packages.mkdir(parents=True)
    return folder


def test_a_step_shows_progress_and_keeps_its_output_in_the_log(venv, capsys):
    variables = dict(os.environ)
    assert steps.step(venv, "Talk", [sys.executable, "-c", "print('to the log')"], variables)
    assert not steps.step(venv, "Fail", [sys.executable, "-c", "raise SystemExit(3)"], variables)
    said = capsys.readouterr().out
    assert "Talk · 0:00 · done" in said
    assert "Fail · 0:00 · failed" in said
    assert "to the log" in (venv / "setup.log").read_text()
    assert steps.last_step(venv).startswith("Fail: ")


@pytest.mark.slow
def test_what_a_step_is_at_is_shown(venv, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    talk = "import time; print('Downloading torch (181.0MiB)', flush=True); time.sleep(1.2)"
    assert steps.step(venv, "Packages", [sys.executable, "-c", talk], dict(os.environ))
    assert re.search(r"\rPackages · 0:0\d · Downloading torch \(181.0MiB\)", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("code", "whole"),
    [
        ("raise SystemExit(1)", True),
        ("import os; os.mkdir('.venv/PACKAGES/half'); raise SystemExit(1)", False),
        ("import os; os.mkdir('.venv/PACKAGES/half')", True),
    ],
)
def test_what_was_left_half_written_is_remembered(venv, code, whole):
    code = code.replace("PACKAGES", steps.packages_folder(venv).relative_to(venv).as_posix())
    steps.step(venv, "Packages", [sys.executable, "-c", code], dict(os.environ))
    assert (venv / "unfinished").exists() is not whole


# ----------------------------------------------------------------------------------------- whole, with a fake of uv

posix = pytest.mark.skipif(WINDOWS, reason="the stand-in for uv is a script, and signals are sent")

INSTALL = """
import json, os, sys
from pathlib import Path
packages = next(Path(sys.prefix).glob("lib/python*/site-packages"))
(packages / "_editable_impl_torchcourse.pth").write_text(str(Path("helpers").absolute()))
settings = {name: value for name, value in os.environ.items() if name.startswith(("UV_", "SSL_"))}
Path("asked.json").write_text(json.dumps({"arguments": sys.argv[1:], "settings": settings}))
"""
HANG = """
import sys, time
from pathlib import Path
(next(Path(sys.prefix).glob("lib/python*/site-packages")) / "half-written").mkdir()
Path("hanging").touch()
time.sleep(60)
"""


@pytest.fixture(scope="module")
def empty_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What takes longest, once: an environment with pip, to be copied."""
    folder = tmp_path_factory.mktemp("empty") / ".venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return folder


@pytest.fixture
def project(tmp_path: Path, empty_environment: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A course below a folder that ASCII cannot spell, and a folder of wheels with a uv that runs `uv.py` there."""
    folder = tmp_path / "한글 폴더"

    def make_environment(venv: Path) -> None:
        shutil.copytree(empty_environment, venv, symlinks=True, dirs_exist_ok=True)

    monkeypatch.setattr(environment, "make_environment", make_environment)
    make_environment(folder / ".venv")
    (folder / "helpers" / "torchcourse").mkdir(parents=True)
    (folder / "helpers" / "torchcourse" / "__init__.py").touch()
    (folder / "pyproject.toml").write_text("[project]\n")
    (folder / "constraints.txt").write_text("uv==0.0.1\n")
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "uv-0.0.1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("fake_uv.py", "def main():\n    exec(open('uv.py').read())\n")
        wheel.writestr("uv-0.0.1.dist-info/entry_points.txt", "[console_scripts]\nuv = fake_uv:main\n")
        wheel.writestr("uv-0.0.1.dist-info/METADATA", "Metadata-Version: 2.1\nName: uv\nVersion: 0.0.1\n")
        wheel.writestr("uv-0.0.1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("uv-0.0.1.dist-info/RECORD", "")
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_", "SSL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setattr(environment, "reachable", lambda url: False)
    return folder


@pytest.mark.slow
@posix
def test_uv_is_asked_for_the_tested_set_where_pip_would_look_for_it(project, tmp_path, capfd):
    (project / "uv.py").write_text(INSTALL)
    python = environment.prepare({"lab"}, project)
    asked = (project / "asked.json").read_text()
    for words in ('"pip", "install"', '"--constraints=constraints.txt", "-e", ".[lab]"'):
        assert words in asked
    assert f'"UV_FIND_LINKS": "{tmp_path / "wheels"}"' in asked
    # The locale of a bare server cannot read the folder's name; the environment works all the same.
    where = "import torchcourse; print(ascii(torchcourse.__file__))"
    said = subprocess.run([python, "-c", where], env={"LC_ALL": "C"}, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert ascii(str(project / "helpers" / "torchcourse" / "__init__.py")) in said.stdout
    (project / "uv.py").write_text("raise SystemExit('asked twice')")
    assert environment.prepare({"lab"}, project) == python


@pytest.mark.slow
@posix
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_an_installation_cut_off_in_the_middle_is_healed(project, ending, capfd):
    (project / "uv.py").write_text(HANG)
    code = (
        "import pathlib, signal, sys, setup.environment as e\n"
        # A shell lets its background jobs ignore Ctrl-C, and so would all that this suite starts.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "e.prepare({'lab'}, pathlib.Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, str(project)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    end = time.monotonic() + 60
    while not (project / "hanging").exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    os.killpg(process.pid, ending)
    assert process.wait() != 0
    half = steps.packages_folder(project / ".venv") / "half-written"
    assert half.exists()
    (project / "uv.py").write_text(INSTALL)
    environment.prepare({"lab"}, project)
    assert not half.exists()
    assert "again: the last installation did not finish" in capfd.readouterr().out


@pytest.mark.slow
@posix
def test_a_failure_before_anything_is_unpacked_keeps_the_environment(project, capfd):
    (project / "uv.py").write_text("raise SystemExit('error: Failed to fetch: https://index.example/torch')")
    with pytest.raises(Problem, match=r"index\.example/torch could not be fetched; check the network"):
        environment.prepare({"lab"}, project)
    (project / ".venv" / "mine").touch()
    (project / "uv.py").write_text(INSTALL)
    environment.prepare({"lab"}, project)
    assert (project / ".venv" / "mine").exists()


@pytest.mark.slow
@posix
def test_without_a_network_the_sentence_comes_soon(project, monkeypatch, capfd):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(Problem, match="could not be reached; check the network") as problem:
        environment.prepare({"lab"}, project)
    assert "\n" not in str(problem.value)
    assert not (project / ".venv" / "unfinished").exists()


# -------------------------------------------------------------------------------------------- what the machine says


def test_settings_of_pip_are_handed_over_to_uv(tmp_path, monkeypatch):
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = https://mirror.example/simple\nextra-index-url = https://a.example\n  https://b.example\n"
        "find-links = /file\ncert = /my cert.pem\n[install]\ntrusted-host = a.example\n[download]\nproxy = not.this\n"
    )
    variables = {
        "PIP_CONFIG_FILE": str(tmp_path / "pip.conf"),
        "PIP_FIND_LINKS": "/one /two",
        "PATH": os.environ["PATH"],
    }
    settings = pip_settings(Path(sys.executable), variables | {"HOME": str(tmp_path)})
    given = uv_variables(settings)
    assert given["UV_INDEX_URL"] == "https://mirror.example/simple"
    assert "https://a.example https://b.example" in given["UV_EXTRA_INDEX_URL"]
    assert given["UV_FIND_LINKS"] == "/one,/two"
    assert given["SSL_CERT_FILE"] == "/my cert.pem"
    assert given["UV_INSECURE_HOST"] == "a.example"
    assert "ALL_PROXY" not in given


@pytest.mark.slow
def test_reachable():
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert environment.reachable(f"http://127.0.0.1:{server.server_port}/")
        server.shutdown()
    assert not environment.reachable("http://127.0.0.1:9/")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert not environment.reachable(f"http://127.0.0.1:{silent.getsockname()[1]}/", seconds=0.5)
