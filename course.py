"""Set the course up and run its commands: `python3 course.py lab`, or `make lab`; on Windows `py course.py lab`.

This file uses the standard library only, because it runs before anything is installed. `lab` and `test` bring the
environment in `.venv` up to date by themselves: a second run finds a stamp that matches and installs nothing.
Everything foreseeable that goes wrong ends in one sentence: what, where, what to try.

Read on in the order of a run: the commands, the environment, the learner's copies, JupyterLab, the browser for tests.
"""

import argparse
import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path


def python_problem(version):
    """Return the sentence for a Python that is too old, or an empty string. `version` is like `sys.version_info`."""
    if tuple(version[:2]) >= (3, 11):
        return ""
    return (
        "This course needs Python 3.11 or newer, and this is Python {}.{}: install a newer one (python.org has it), "
        "then name it, for example: make lab PYTHON=python3.12".format(*version[:2])
    )


# Before any newer syntax or annotation below is evaluated: an old Python shall print the sentence, not a traceback.
if python_problem(sys.version_info):
    sys.exit(python_problem(sys.version_info))

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
WORK = ROOT / "work"
FIRST_LESSON = "00_start_here/1_start_here.ipynb"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
WINDOWS = os.name == "nt"

# Gigabytes that an installation needs while it runs: packages and their downloads. On Linux with an NVIDIA driver,
# pip takes PyTorch's CUDA build.
DISK_GB = 4
DISK_GB_CUDA = 12


class Problem(Exception):
    """Something foreseeable; its text is the one sentence that the user reads."""


# ---------------------------------------------------------------------------------------------------- the commands


def main(arguments: list[str]) -> int:
    """Run one command and return its exit status."""
    commands = {"lab": lab, "test": test, "build": build, "grade": grade, "bench": bench, "gpu-check": gpu_check}
    commands = {name: command for name, command in commands.items() if name not in MODULES or has_module(name)}
    name, rest = (arguments[0], arguments[1:]) if arguments else ("help", [])
    rest = rest[1:] if rest[:1] == ["--"] else rest
    if name in ("help", "--help", "-h"):
        print("Usage: make COMMAND, or python3 course.py COMMAND\n")
        for command, function in commands.items():
            print(f"  {command:10} {function.__doc__.splitlines()[0]}")
        return 0
    try:
        if name not in commands:
            raise Problem(f"There is no command '{name}'; choose one of: {', '.join(commands)}.")
        return commands[name](rest)
    except Problem as problem:
        print(problem, file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f"{error.strerror}: {error.filename} (does it belong to another user, or is the disk full?)",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("\nStopped. Run the same command again to go on.", file=sys.stderr)
        return 130


def lab(arguments: list[str]) -> int:
    """Open the course in JupyterLab (options: --no-browser, --port 8900)."""
    parser = argparse.ArgumentParser(prog="course.py lab", description="Open the course in JupyterLab.")
    parser.add_argument("--no-browser", action="store_true", help="print the address instead of opening a browser")
    parser.add_argument("--port", type=int, help="the port to listen on (default: the first free one from 8888)")
    options = parser.parse_args(arguments)
    port = free_port(options.port)
    python = prepare({"lab"})
    for line in copy_lessons(ROOT / "notebooks", WORK):
        print(line)
    return start_lab(python, WORK, port, browser=not options.no_browser)


def test(arguments: list[str]) -> int:
    """Run the whole test suite (one part of it: python3 course.py test -- -k ranks)."""
    python = prepare({"lab", "test"})
    environment = clean_environment(python)
    chromium = find_chromium() or install_chromium()
    if chromium:
        environment["TORCHCOURSE_CHROMIUM"] = chromium
    elif os.environ.get("CI") == "true":
        raise Problem(f"{NO_CHROMIUM} With CI=true this is a failure.")
    else:
        print(f"{NO_CHROMIUM} The browser tests are skipped.", flush=True)
    # Two processes, since many tests wait; without reordering, so that tests/conftest.py decides what begins first.
    pytest = [python, "-m", "pytest", "--durations=15", "-n", "2", "--dist", "loadscope", "--no-loadscope-reorder"]
    return run([*pytest, *arguments], environment)


def build(arguments: list[str]) -> int:
    """Make the notebooks again from lesson sources and question banks."""
    return run_module("build", arguments, {"lab"})


def grade(arguments: list[str]) -> int:
    """Grade the submissions of a class (what it needs: python3 course.py grade -- --help)."""
    return run_module("grade", arguments, {"lab"})


def bench(arguments: list[str]) -> int:
    """Print the speed tables, beside other tools of the same kind."""
    return run_module("bench", arguments, {"lab", "bench"})


def gpu_check(arguments: list[str]) -> int:
    """Run the tests that need GPUs, on a machine that has some."""
    if not has_nvidia_driver():
        print("No NVIDIA driver was found on this machine, so there is nothing to check; run this on a GPU machine.")
        return 0
    python = prepare({"lab", "test"})
    return run([python, "-m", "pytest", "-m", "gpu", *arguments], clean_environment(python))


# The commands that are modules of the package.
MODULES = {
    "build": "torchcourse.tools.build",
    "grade": "torchcourse.tools.classroom.grade",
    "bench": "torchcourse.tools.bench",
}


def has_module(command: str) -> bool:
    path = ROOT / "helpers" / MODULES[command].replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__main__.py").exists()


def run_module(command: str, arguments: list[str], extras: set[str]) -> int:
    python = prepare(extras)
    return run([python, "-m", MODULES[command], *arguments], clean_environment(python))


def run(command: list, environment: dict[str, str]) -> int:
    return subprocess.run([str(part) for part in command], cwd=ROOT, env=environment).returncode


# ------------------------------------------------------------------------------------------------- the environment


def prepare(extras: set[str]) -> Path:
    """Return the Python that has the course with these extras, after installing what is missing or out of date."""
    if conda_has_course():
        return Path(sys.executable)
    python = venv_python(VENV)
    if locked(VENV / "installing"):
        raise Problem("The course is being set up in another window; wait until that has finished, then try again.")
    interrupted = (VENV / "installing").exists()
    old = read_stamp(VENV)
    new = {
        "files": digest(ROOT / "pyproject.toml", ROOT / "constraints.txt"),
        "folder": str(ROOT),
        "python": python_version(python),
        "extras": sorted(extras | set(old.get("extras", []))),
    }
    step = plan(old, new, interrupted)
    if step == "nothing":
        return python
    check_disk(shutil.disk_usage(ROOT).free, DISK_GB_CUDA if has_nvidia_driver() else DISK_GB)
    if not os.access(ROOT, os.W_OK):
        raise Problem(f"The folder {ROOT} cannot be written to; move the course to a folder of your own.")
    if step == "create" and VENV.exists():
        print("Making the environment in .venv afresh: " + why_afresh(old, new, interrupted))
        shutil.rmtree(VENV)
    VENV.mkdir(exist_ok=True)
    (VENV / "stamp.json").unlink(missing_ok=True)
    with open(VENV / "installing", "a") as marker:
        lock(marker)
        try:
            install(python, new["extras"], create=step == "create")
            whole = True
        except BaseException:
            whole = nothing_unpacked(VENV / "setup.log")
            raise
        finally:
            shutil.rmtree(VENV / "tmp", ignore_errors=True)
            marker.close()
            if whole:
                (VENV / "installing").unlink()
    new["python"] = python_version(python)
    write_atomically(VENV / "stamp.json", json.dumps(new, indent=1))
    return python


def plan(old: dict, new: dict, interrupted: bool) -> str:
    """Compare the stamp of the last installation with what is wanted: 'nothing', 'update' or 'create'.

    An environment is made afresh when its last installation ended while packages were being unpacked (to pip, a
    half-written package looks installed), when its Python is gone or another, or when the folder has moved. Without a
    stamp it is somebody's own work: it is completed.
    """
    if new["python"] is None or interrupted:
        return "create"
    if old and (old["python"] != new["python"] or old["folder"] != new["folder"]):
        return "create"
    return "nothing" if old == new else "update"


def why_afresh(old: dict, new: dict, interrupted: bool) -> str:
    if interrupted:
        return "the last installation did not finish."
    if old and old["folder"] != new["folder"]:
        return "the course was moved here from another folder."
    return "its Python is gone or was replaced."


def install(python: Path, extras: list[str], create: bool) -> None:
    """Install the course into the environment, showing each step; raise `Problem` when one fails."""
    cpu_build = platform.system() == "Linux" and not has_nvidia_driver() and reachable(CPU_INDEX + "/torch/")
    steps = []
    if create:
        steps.append(("Making the environment", [sys.executable, "-m", "venv", VENV]))
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    pip += ["-c", "constraints.txt"]
    # Small and first: without a network this says so within seconds, before anything big has begun.
    steps.append(("Build tools", [*pip, "--retries", "1", "--timeout", "15", "hatchling", "editables"]))
    if cpu_build:
        # Without its dependencies, so that those come from the ordinary index in the tested versions.
        steps.append(("PyTorch for the CPU", [*pip, "--no-deps", "--index-url", CPU_INDEX, "torch"]))
    course = f".[{','.join(extras)}]"
    steps.append(("The course and its packages", [*pip, "--no-build-isolation", "-e", course]))

    if create:
        print(f"Setting up the course in {VENV} (once; this takes some minutes).")
    else:
        print(f"Bringing the environment in {VENV} up to date: the list of its packages has changed.")
    (VENV / "tmp").mkdir(exist_ok=True)
    for number, (title, command) in enumerate(steps, start=1):
        log = VENV / "setup.log"
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"\n== {title}: {' '.join(map(str, command))}\n")
        if run_step(f"[{number}/{len(steps)}] {title}", command, log):
            continue
        if "--index-url" in command:
            print("PyTorch's CPU packages could not be had; taking PyTorch from the ordinary index instead.")
            continue
        raise Problem(explain(log))


def nothing_unpacked(log: Path) -> bool:
    """Whether the last step in the log was a pip command that ended before it touched the environment."""
    step = last_step(log)
    return " -m pip install " in step and "Installing collected packages" not in step


def last_step(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace").rpartition("\n== ")[2] if log.exists() else ""


def run_step(title: str, command: list, log: Path) -> bool:
    """Run one step with its output in the log, showing what it is at and for how long; return whether it worked."""
    begin, start = log.stat().st_size, time.monotonic()
    environment = clean_environment(venv_python(VENV))
    # pip unpacks downloads of gigabytes here: beside the environment, where the disk was checked. /tmp may be small.
    if (VENV / "tmp").is_dir():
        environment.update(dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(VENV / "tmp")))
    installed_before = count_installed()
    line = StatusLine(title)
    with open(log, "ab") as output:
        process = subprocess.Popen(
            [str(part) for part in command], cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        while process.poll() is None:
            text = log.read_bytes()[begin:].decode(errors="replace")
            megabytes = folder_size(VENV / "tmp") / 1e6
            line.show(pip_status(text, megabytes, count_installed() - installed_before), time.monotonic() - start)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    line.close("done" if process.returncode == 0 else "failed", time.monotonic() - start)
    return process.returncode == 0


def pip_status(log: str, megabytes: float, installed: int) -> str:
    """Say in a few words what pip is at, from its log so far, the megabytes that it unpacks, the packages it added."""
    unpacking = re.findall(r"^Installing collected packages: (.+)$", log, re.MULTILINE)
    if unpacking:
        total = len(unpacking[-1].split(","))
        return f"unpacking package {min(installed + 1, total)} of {total}"
    loaded = f" · {megabytes:.0f} MB so far" if megabytes >= 1 else ""
    happened = re.findall(
        r"^(?:Collecting ([\w.-]+)|\s*Downloading (?:\S+/)?(\w[\w.-]*?)-\d\S* \((.+)\))", log, re.MULTILINE
    )
    if not happened:
        return loaded.removeprefix(" · ")
    wanted, name, size = happened[-1]
    return (f"looking for {wanted}" if wanted else f"downloading {name} ({size})") + loaded


class StatusLine:
    """One line that rewrites itself in a terminal; elsewhere (a CI log) a line now and then."""

    def __init__(self, title: str):
        self.title, self.live, self.printed_at = title, sys.stdout.isatty(), 0.0
        if not self.live:
            print(f"{title} …", flush=True)

    def show(self, status: str, seconds: float) -> None:
        if self.live:
            self._rewrite(f"{self.title} · {clock(seconds)}" + (f" · {status}" if status else ""))
        elif seconds - self.printed_at >= 20:
            self.printed_at = seconds
            print(f"{self.title} · {clock(seconds)} · {status}", flush=True)

    def close(self, word: str, seconds: float) -> None:
        text = f"{self.title} · {word} in {clock(seconds)}"
        if self.live:
            self._rewrite(text)
            print()
        else:
            print(text, flush=True)

    def _rewrite(self, text: str) -> None:
        width = shutil.get_terminal_size().columns - 1
        print("\r" + text[:width].ljust(width), end="", flush=True)


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


EXPLANATIONS = (
    (r"ensurepip is not available", "This Python lacks its venv module: on Debian or Ubuntu install python3-venv"),
    (r"No space left on device|Errno 28", "The disk is full; free some space"),
    (r"CERTIFICATE_VERIFY_FAILED", "The package index shows a certificate that is not trusted here (a company proxy?)"),
    (
        r"NewConnectionError|ConnectTimeout|ReadTimeout|ProxyError|Connection(Reset|Refused)?Error|IncompleteRead"
        r"|Temporary failure in name resolution|Network is unreachable|getaddrinfo failed",
        "The package index could not be reached: check the network connection and the proxy settings",
    ),
    (r"No matching distribution found for (\S+)", "There is no {0} for this Python ({python}) on this kind of machine"),
    (r"Failed building wheel for (\S+)", "{0} has no ready-made package for this Python ({python}) on this machine"),
    (r"Permission denied: '(\S+)'", "{0} cannot be written to"),
)


def explain(log: Path) -> str:
    """Turn the log of a failed installation into one sentence; where the cause is not known, show the log's end."""
    text = last_step(log)
    for pattern, sentence in EXPLANATIONS:
        found = re.search(pattern, text)
        if found:
            cause = sentence.format(*found.groups(), python=platform.python_version())
            return f"{cause}, then run the same command again (details: {log})."
    tail = "\n".join("    " + line for line in text.strip().splitlines()[-15:])
    return f"{tail}\nThe installation failed; the lines above are the end of {log}."


def check_disk(free_bytes: int, needed_gb: float) -> None:
    if free_bytes < needed_gb * 1e9:
        raise Problem(
            f"Setting up needs about {needed_gb} GB of free disk, and {free_bytes / 1e9:.1f} GB are free "
            f"at {ROOT}: free some space, or move the course to a larger disk."
        )


def has_nvidia_driver() -> bool:
    places = ("/proc/driver/nvidia/version", "/usr/lib/wsl/lib/nvidia-smi")
    return shutil.which("nvidia-smi") is not None or any(Path(place).exists() for place in places)


def reachable(url: str, seconds: float = 5) -> bool:
    """Whether a web address answers within some seconds (name look-up included, which has no time limit of its own)."""
    answered = []

    def ask() -> None:
        with contextlib.suppress(OSError, ValueError), urllib.request.urlopen(url, timeout=seconds) as answer:
            answered.append(answer.status)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(answered)


def conda_has_course() -> bool:
    """Whether this Python is a conda environment that has the course: environment.yml was used, nothing is missing."""
    if not Path(sys.prefix, "conda-meta").is_dir():
        return False
    import importlib.metadata

    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return bool(importlib.metadata.version("torchcourse"))
    return False


def venv_python(venv: Path) -> Path:
    return venv / "Scripts" / "python.exe" if WINDOWS else venv / "bin" / "python"


def python_version(python: Path) -> str | None:
    """Return the version of a Python that works, like '3.12', else None."""
    try:
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        return subprocess.run([str(python), "-ISc", code], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def clean_environment(python: Path) -> dict[str, str]:
    """Return the variables for a program of the environment: its own programs first, nothing from another Python."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    environment["PATH"] = str(python.parent) + os.pathsep + environment.get("PATH", "")
    environment["PIP_USER"] = "0"
    return environment


def digest(*files: Path) -> str:
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def read_stamp(venv: Path) -> dict:
    try:
        return json.loads((venv / "stamp.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def count_installed() -> int:
    pattern = "Lib/site-packages" if WINDOWS else "lib/python*/site-packages"
    return sum(1 for _ in VENV.glob(pattern + "/*.dist-info"))


def folder_size(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.path.getsize(os.path.join(parent, name))
    return total


def lock(file) -> None:
    """Hold a lock on an open file until it is closed, or the process ends in whatever way; raise OSError if held."""
    if WINDOWS:
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def locked(path: Path) -> bool:
    try:
        with open(path) as file:
            lock(file)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


# --------------------------------------------------------------------------------------------- the learner's copies


def copy_lessons(release: Path, work: Path) -> list[str]:
    """Copy what `work` lacks of the release, never touching what is there; return the lines to tell the learner.

    `work/.copied.json` keeps the digest of each file as it was copied. With it, a lesson that was updated since is
    named; the learner's copy stays.
    """
    work.mkdir(exist_ok=True)
    record_file = work / ".copied.json"
    try:
        record = json.loads(record_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        record = {}
    new, updated = [], []
    for source in sorted(path for path in release.rglob("*") if path.is_file()):
        name = source.relative_to(release).as_posix()
        if ".ipynb_checkpoints" in source.parts:
            continue
        target = work / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(target.name + ".part")
            shutil.copyfile(source, temporary)
            os.replace(temporary, target)
            record[name] = digest(source)
            new.append(name)
        elif name in record and record[name] != digest(source):
            updated.append(name)
    write_atomically(record_file, json.dumps(record, indent=1, sort_keys=True))
    lines = []
    if new:
        lessons = sorted({name.split("/")[0] for name in new})
        lines.append(f"Copied into {work}: {len(new)} files, of {', '.join(lessons)}.")
    if updated:
        lines.append(
            f"Newer in the course than in your folder: {', '.join(updated)}. Your copies stay as they are; "
            "to have a new one, rename yours and run this again."
        )
    return lines


# ------------------------------------------------------------------------------------------------------ JupyterLab


def free_port(asked: int | None, first: int = 8888, count: int = 100) -> int:
    """Return the port asked for, or the first free one of a range.

    Raises:
        Problem: when it, or every one of the range, is in use or not allowed.
    """
    for port in [asked] if asked is not None else range(first, first + count):
        with socket.socket() as probe:
            if not WINDOWS:
                # As the server will: a port that was closed a moment ago counts as free.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError, OverflowError):
                probe.bind(("127.0.0.1", port))
                probe.listen(1)
                return port
    which = f"Port {asked} is" if asked is not None else f"All ports from {first} to {first + count - 1} are"
    raise Problem(f"{which} in use or not allowed; name another one, for example: python3 course.py lab --port 9999")


def start_lab(python: Path, work: Path, port: int, browser: bool) -> int:
    """Start JupyterLab in the learner's folder, at the first lesson. It keeps its own token authentication."""
    work.mkdir(exist_ok=True)
    command = lab_command(python, work, port) + ([] if browser else ["--no-browser"])
    environment = clean_environment(python) | lab_variables(work)
    print(f"Starting JupyterLab on port {port}. Your work is in {work}. Ctrl-C in this window stops it.", flush=True)
    if WINDOWS:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to answer
        return run(command, environment)
    # In place of this process: signals, the terminal and the exit status are then the server's own.
    os.chdir(ROOT)
    os.execve(python, command, environment)


def lab_command(python: Path, work: Path, port: int) -> list[str]:
    lesson = "/tree/" + FIRST_LESSON if (work / FIRST_LESSON).exists() else ""
    command = [str(python), "-m", "jupyterlab", f"--ServerApp.root_dir={work}", f"--ServerApp.port={port}"]
    command += ["--ServerApp.port_retries=0", f"--LabApp.default_url=/lab{lesson}", "--Application.log_level=WARN"]
    command.append("--LabApp.extension_manager=readonly")  # no catalogue of extensions is fetched from the network
    command += [f"--ServerApp.jpserver_extensions={module}=False" for module in NBGRADER_PAGES]
    if not WINDOWS and os.geteuid() == 0:
        command.append("--allow-root")
    return command


def lab_variables(work: Path) -> dict[str, str]:
    """Where the lessons keep the journal, kernels from this environment before those of the home folder, settings."""
    settings = work / ".jupyter"
    (settings / "labconfig").mkdir(parents=True, exist_ok=True)
    write_atomically(settings / "labconfig" / "page_config.json", json.dumps({"disabledExtensions": LEFT_OUT}))
    path = os.pathsep.join(filter(None, [str(settings), os.environ.get("JUPYTER_CONFIG_PATH")]))
    return {"TORCHCOURSE_WORK": str(work), "JUPYTER_PREFER_ENV_PATH": "1", "JUPYTER_CONFIG_PATH": path}


# What a learner's JupyterLab leaves out: news from the network, and nbgrader's pages, which are for teachers.
LEFT_OUT = {"@jupyterlab/apputils-extension:announcements": True, "@jupyter/nbgrader": True}
NBGRADER_PAGES = [
    f"nbgrader.server_extensions.{page}"
    for page in ("formgrader", "assignment_list", "course_list", "validate_assignment")
]


# ------------------------------------------------------------------------------------------- the browser for tests

NO_CHROMIUM = "No Chromium or Chrome was found; install one with your system's package manager."


def find_chromium() -> str | None:
    """Return a Chromium or Chrome that starts: what TORCHCOURSE_CHROMIUM names, else one from the usual places."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    places = [os.environ.get("TORCHCOURSE_CHROMIUM"), *map(shutil.which, names)]
    for app in ("Google Chrome", "Chromium"):
        places.append(f"/Applications/{app}.app/Contents/MacOS/{app}")
    for variable in ("PROGRAMFILES", "PROGRAMFILES(X86)", "LOCALAPPDATA"):
        places.append(os.path.join(os.environ.get(variable, ""), "Google", "Chrome", "Application", "chrome.exe"))
    for place in places:
        if place and Path(place).is_file() and starts(place):
            return place
    return None


def starts(program: str) -> bool:
    """Whether a browser tells its version. Ubuntu's `chromium-browser` may be a stand-in that cannot."""
    if WINDOWS:  # where Chrome opens a window instead of answering
        return True
    try:
        return subprocess.run([program, "--version"], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def install_chromium() -> str | None:
    """Install Chromium through apt where that is allowed without asking for a password; return it, or None."""
    if shutil.which("apt-get") is None:
        return None
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if sudo and (shutil.which("sudo") is None or subprocess.run([*sudo, "true"], capture_output=True).returncode != 0):
        return None
    log = VENV / "setup.log"
    apt = [*sudo, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y"]
    # With a Korean font: lessons and quizzes show Korean terms.
    steps = [[*apt, "update"], [*apt, "install", "--no-install-recommends", "chromium", "fonts-nanum"]]
    for command in steps:
        if not run_step(f"Chromium: apt-get {command[-1] if command[-1] == 'update' else 'install'}", command, log):
            print(f"apt-get could not install Chromium (details: {log}).")
            return None
    return find_chromium()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
