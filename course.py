"""Set the course up and run its commands: `python3 course.py lab`, or `make lab`; on Windows `py course.py lab`.

Standard library only: `lab` and `test` first bring the environment in `.venv` up to date (the folder setup/); a
second run finds it so and installs nothing. Everything foreseeable that goes wrong ends in one sentence.

Read on in the order of a run: the commands, the learner's copies, JupyterLab, the browser for tests.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

# With a Python that is too old, this import ends the program with a sentence.
from setup import ROOT, WINDOWS, Problem
from setup.environment import (
    clean_environment,
    digest,
    prepare,
    uv_program,
    venv_python,
    write_atomically,
)
from setup.indexes import pip_settings, uv_variables

VENV = ROOT / ".venv"
WORK = ROOT / "work"
FRONT_PAGE = "start.ipynb"
FIRST_LESSON = "00_start_here/1_start_here.ipynb"

# ---------------------------------------------------------------------------------------------------- the commands


def main(arguments: list[str]) -> int:
    """Run one command and return its exit status."""
    own = {"lab": lab, "test": test, "solve": solve}
    name, rest = (arguments[0], arguments[1:]) if arguments else ("help", [])
    rest = rest[1:] if rest[:1] == ["--"] else rest
    if name in ("help", "--help", "-h"):
        print("Usage: make COMMAND, or python3 course.py COMMAND\n")
        docstrings = {command: function.__doc__ or "" for command, function in own.items()}
        for command, text in (docstrings | ABOUT).items():
            print(f"  {command:10} {text.splitlines()[0]}")
        return 0
    try:
        if name not in own and name not in MODULES:
            raise Problem(f"There is no command '{name}'; choose one of: {', '.join([*own, *MODULES])}.")
        return own[name](rest) if name in own else run_module(name, rest)
    except Problem as problem:
        print(problem, file=sys.stderr)
        return 1
    except OSError as error:
        hint = "if it belongs to a different user, copy the course to a folder of your own"
        print(f"{error.strerror}: {error.filename}; {hint}.", file=sys.stderr)
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
    make_front_page(python, WORK)
    return start_lab(python, WORK, port, browser=not options.no_browser)


def test(arguments: list[str]) -> int:
    """Run the test suite (in minutes, without what is slow: test --quick; a part: test -- -k ranks)."""
    if "--quick" in arguments:
        rest = [word for word in arguments if word != "--quick"]
        arguments = ["-m", "not notebook and not browser and not slow", *rest]
    python = prepare({"lab", "test"})
    environment = clean_environment(python)
    chromium = find_chromium() or install_chromium()
    if chromium:
        environment["TORCHCOURSE_CHROMIUM"] = chromium
    elif os.environ.get("CI") == "true":
        raise Problem(f"{NO_CHROMIUM} With CI=true this is a failure.")
    else:
        print(f"{NO_CHROMIUM} The browser tests are skipped.", flush=True)
    # Three processes, for two cores: many tests wait, for ranks that hang or for a page, and two left cores idle.
    # Without reordering, so that tests/conftest.py decides what begins first.
    pytest = [python, "-m", "pytest", "--durations=15", "-n", "3", "--dist", "loadscope", "--no-loadscope-reorder"]
    return run([*pytest, *arguments], environment)


def solve(arguments: list[str]) -> int:
    """Solve constraints.txt again, for every Python and system (newer versions too: solve --upgrade)."""
    uv = shutil.which(uv_program(VENV)) or shutil.which("uv") or prepare({"lab"}).with_name("uv")
    command = [uv, "pip", "compile", "--universal", "--python-version", "3.11", "--extra", "lab", "--extra", "test"]
    command += ["--extra", "site", "--no-annotate", "--custom-compile-command", "python3 course.py solve"]
    command += ["--output-file", "constraints.txt", "pyproject.toml", "-", *arguments]
    # From the package index alone, where no version has the label of a build. What is pinned stays if it still fits.
    environment = clean_environment(venv_python(VENV))
    settings = pip_settings(Path(sys.executable), environment)
    settings = {name: settings[name] for name in settings if name in ("index-url", "cert", "proxy")}
    environment = uv_variables(settings) | environment
    # From 4.25 on jsonschema, which all programs of Jupyter import, parses a grammar of addresses first: 1.3 s more.
    more = "uv\nhatchling\neditables\njsonschema<4.25\n"
    return subprocess.run(list(map(str, command)), cwd=ROOT, env=environment, input=more, text=True).returncode


# The commands that are modules of the package, and what the help says of them.
MODULES = {
    "build": "torchcourse.tools.build",
    "grade": "torchcourse.tools.classroom.grade",
    "bench": "torchcourse.tools.bench",
    "gpu-check": "torchcourse.tools.gpu_check",
    "class": "torchcourse.tools.classroom.course_folder",
    "collect": "torchcourse.tools.classroom.downloads",
    "glance": "torchcourse.tools.classroom.class_page",
    "scores": "torchcourse.tools.classroom.scores",
    "site": "torchcourse.tools.site",
    "publish": "torchcourse.tools.publish",
}
ABOUT = {
    "build": "Make the notebooks again from lesson sources and question banks.",
    "grade": "Grade the submissions of a class (what it needs: python3 course.py grade -- --help).",
    "bench": "Print the speed tables, beside other tools of the same kind.",
    "gpu-check": "Run the course on this machine's GPUs and write a report (options: gpu-check --help).",
    "class": "Make the folder of a class, with its roster (class FOLDER --roster students.csv).",
    "collect": "Sort a zip file of Moodle or Canvas into the class's folder (ZIP --lesson LESSON --folder FOLDER).",
    "glance": "Write the class at a glance, from what was graded (options: --folder FOLDER, --no-names).",
    "scores": "Write scores into a table that Moodle or Canvas exported (TABLE --lesson LESSON --folder FOLDER).",
    "site": "Make the course a static site to read, in _site/html (some lessons alone: site --only 00 06).",
    "publish": "Set where the course is published, for Colab and Kaggle (--repository https://github.com/OWNER/NAME).",
}
EXTRAS = {"bench": {"bench"}, "gpu-check": {"test"}, "site": {"site"}}  # which they need besides `lab`


def run_module(command: str, arguments: list[str]) -> int:
    python = prepare({"lab"} | EXTRAS.get(command, set()))
    return run([python, "-m", MODULES[command], *arguments], clean_environment(python))


def run(command: list, environment: dict[str, str]) -> int:
    return subprocess.run([str(part) for part in command], cwd=ROOT, env=environment).returncode


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
    """Start JupyterLab in the learner's folder, at the front page. It keeps its own token authentication."""
    work.mkdir(exist_ok=True)
    command = lab_command(python, work, port) + ([] if browser else ["--no-browser"])
    environment = clean_environment(python) | lab_variables(work)
    print(f"Starting JupyterLab on port {port}. Your work is in {work}. Ctrl-C in this window stops it.", flush=True)
    if WINDOWS:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to answer
        return run(command, environment)
    # Instead of this process: signals, the terminal and the exit status are then the server's own.
    os.chdir(ROOT)
    os.execve(python, command, environment)


def make_front_page(python: Path, work: Path) -> None:
    """Bring the page with which JupyterLab opens up to date. Without it, the first lesson opens."""
    environment = clean_environment(python) | {"TORCHCOURSE_WORK": str(work)}
    run([python, "-m", "torchcourse.lessons.start_here.start_notebook"], environment)


def lab_command(python: Path, work: Path, port: int) -> list[str]:
    first = next((name for name in (FRONT_PAGE, FIRST_LESSON) if (work / name).exists()), None)
    opened = f"/tree/{first}" if first else ""
    command = [str(python), "-m", "jupyterlab", f"--ServerApp.root_dir={work}", f"--ServerApp.port={port}"]
    command += ["--ServerApp.port_retries=0", f"--LabApp.default_url=/lab{opened}", "--Application.log_level=WARN"]
    command.append("--LabApp.extension_manager=readonly")  # no catalogue of extensions is fetched from the network
    # Without these, the learner's terminal warns of kernels without encryption, and of a patience that is longer than
    # the time between two signs of life (ms).
    command += ["--KernelManager.transport_encryption=auto", "--ServerApp.websocket_ping_timeout=30000"]
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
    apt = [*sudo, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y"]
    print("Installing Chromium through apt-get …", flush=True)
    # With a Korean font: lessons and quizzes show Korean terms.
    for words in (["update"], ["install", "--no-install-recommends", "chromium", "fonts-nanum"]):
        with open(VENV / "setup.log", "ab") as log:
            if subprocess.run([*apt, *words], stdout=log, stderr=log).returncode != 0:
                print(f"apt-get {words[0]} failed, so there is no Chromium (details: {log.name}).")
                return None
    return find_chromium()


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a folder's name may hold what this terminal cannot show
    sys.exit(main(sys.argv[1:]))
