"""The environment in `.venv`: made, brought up to date, or left as it is. `course.py` calls `prepare` before a command.

Standard library only, because it runs before anything is installed. uv installs; where no uv can be had, pip does.
Everything foreseeable that goes wrong ends in one sentence: what, where, what to try.
"""

import ast
import contextlib
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
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


# Before any newer annotation below is evaluated: an old Python shall print the sentence, not a traceback.
if python_problem(sys.version_info):
    sys.exit(python_problem(sys.version_info))

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
WINDOWS = os.name == "nt"

# Gigabytes that an installation needs while it runs: packages and their downloads. On Linux with an NVIDIA driver,
# PyTorch's CUDA build is taken.
DISK_GB = 4
DISK_GB_CUDA = 12


class Problem(Exception):
    """Something foreseeable; its text is the one sentence that the user reads."""


def prepare(extras: set[str]) -> Path:
    """Return the Python that has the course with these extras, after installing what is missing or out of date."""
    if conda_has_course():
        return Path(sys.executable)
    python = venv_python(VENV)
    with contextlib.suppress(FileNotFoundError), open(VENV / "setup.lock") as file:
        lock(file)
    interrupted = (VENV / "unfinished").exists()
    old = read_stamp(VENV)
    new = {
        "files": digest(ROOT / "pyproject.toml", ROOT / "constraints.txt"),
        "folder": str(ROOT),
        "python": python_version(python),
        "extras": sorted(extras | set(old.get("extras", []))),
    }
    todo, why = plan(old, new, interrupted)
    if todo == "nothing":
        return python
    if not os.access(ROOT, os.W_OK):
        raise Problem(f"The folder {ROOT} cannot be written to; copy the course to a folder of your own.")
    check_pins(ROOT / "constraints.txt")
    check_disk(shutil.disk_usage(ROOT).free, DISK_GB_CUDA if has_nvidia_driver() else DISK_GB)
    if todo == "create" and VENV.exists():
        print(f"Making the environment in .venv afresh: {why}.")
        remove(VENV)
    VENV.mkdir(exist_ok=True)
    (VENV / "stamp.json").unlink(missing_ok=True)
    with open(VENV / "setup.lock", "a") as file:
        lock(file)
        install(python, new["extras"], create=todo == "create")
    new["python"] = python_version(python)
    write_atomically(VENV / "stamp.json", json.dumps(new, indent=1))
    return python


def plan(old: dict, new: dict, interrupted: bool) -> tuple[str, str]:
    """Compare the stamp of the last installation with what is wanted: 'nothing', 'update' or 'create', and why.

    An environment is made afresh when its last installation ended while packages were being unpacked (a half-written
    package looks installed), when its Python is gone or another, or when the folder has moved. Without a stamp it is
    somebody's own work: it is completed.
    """
    if interrupted:
        return "create", "the last installation did not finish"
    if old and old["folder"] != new["folder"]:
        return "create", "the course was moved here from another folder"
    if new["python"] is None or (old and old["python"] != new["python"]):
        return "create", "its Python is gone or was replaced"
    return "nothing" if old == new else "update", ""


# --------------------------------------------------------------------------------------------------- installing


def install(python: Path, extras: list[str], create: bool) -> None:
    """Install the course into the environment, showing each step; raise `Problem` when one fails."""
    if create:
        print(f"Setting up the course in {VENV} (once; with packages to download this takes some minutes).")
        make_environment(python)
    else:
        print(f"Bringing the environment in {VENV} up to date: the list of its packages has changed.")
    installer, environment = uv_or_pip(python)
    cpu_build = platform.system() == "Linux" and not has_nvidia_driver() and reachable(CPU_INDEX + "/torch/")
    # Without its dependencies, so that those come from the ordinary index in the tested versions.
    torch = [*installer, "--no-deps", "--index-url", CPU_INDEX, "torch"]
    if cpu_build and not step("PyTorch for the CPU", torch, environment):
        print("PyTorch's CPU packages could not be had; taking PyTorch from the ordinary index instead.")
    course = f".[{','.join(extras)}]"
    if not step("The course and its packages", [*installer, "-e", course], environment):
        raise Problem(explain(VENV / "setup.log"))
    name_folder_relatively()


def name_folder_relatively() -> None:
    """Write where the package lies as a relative path, so that the environment also works below a folder like 한글.

    Python up to 3.12 reads this file in the encoding of the locale, and ends where that cannot read the path.
    """
    for file in packages_folder().glob("*torchcourse*.pth"):
        write_atomically(file, os.path.relpath(ROOT / "helpers", file.parent) + "\n")


def make_environment(python: Path) -> None:
    """Make an environment that has pip, with whatever this Python or this machine has for it."""
    if importlib.util.find_spec("ensurepip"):
        commands = [[sys.executable, "-m", "venv", VENV]]
    elif shutil.which("uv"):
        commands = [["uv", "venv", "--seed", "--allow-existing", "--python", sys.executable, VENV]]
    elif importlib.util.find_spec("pip"):
        pip = [sys.executable, "-m", "pip", "--python", python, "install", "--disable-pip-version-check", "pip"]
        commands = [[sys.executable, "-m", "venv", "--without-pip", VENV], pip]
    else:
        raise Problem(
            "This Python lacks its module ensurepip, so that no environment can be made: install it (on Debian and "
            "Ubuntu it is in the package python3-venv), then run the same command again."
        )
    for command in commands:
        if not step("Making the environment", command, clean_environment(python)):
            raise Problem(explain(VENV / "setup.log"))


def uv_or_pip(python: Path) -> tuple[list, dict[str, str]]:
    """Return the command that installs, up to its requirements, and its variables: of uv, or of pip without uv."""
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    pip += ["-c", "constraints.txt"]
    environment = clean_environment(python)
    # Small and first: without a network this says so within seconds, before anything big has begun.
    if step("uv, which installs the rest", [*pip, "--retries", "1", "--timeout", "15", "uv"], environment):
        settings = pip_settings(python)
        uv = [uv_program(python), "pip", "install", "--python", python, "--build-constraints", "constraints.txt"]
        constraints = ["constraints.txt", *settings.get("constraint", "").split()]
        return [*uv, *(f"--constraints={file}" for file in constraints)], uv_variables(settings) | environment
    if "No matching distribution found for uv" not in last_step(VENV / "setup.log"):
        raise Problem(explain(VENV / "setup.log"))
    print("There is no uv for this machine, so pip installs, which takes some minutes more.")
    return pip, environment


def uv_program(python: Path) -> Path:
    return python.with_name("uv.exe" if WINDOWS else "uv")


def pip_settings(python: Path) -> dict[str, str]:
    """Return what pip is configured with on this machine (a mirror, say), by pip's names; spaces part a list."""
    command = [python, "-m", "pip", "config", "list"]
    listing = subprocess.run(command, capture_output=True, text=True, env=clean_environment(python)).stdout
    found = re.findall(r"^(global|install|:env:)\.([\w-]+)=(.+)$", listing, re.MULTILINE)
    weight = ("global", "install", ":env:").index
    settings = {name: ast.literal_eval(value) for _, name, value in sorted(found, key=lambda entry: weight(entry[0]))}
    return {name: " ".join(value.split()) for name, value in settings.items()}


def uv_variables(settings: dict[str, str]) -> dict[str, str]:
    """Return pip's settings as the variables that uv reads. uv looks at no setting of pip's by itself."""
    names = {"index-url": "UV_INDEX_URL", "extra-index-url": "UV_EXTRA_INDEX_URL", "find-links": "UV_FIND_LINKS"}
    names |= {"trusted-host": "UV_INSECURE_HOST", "cert": "SSL_CERT_FILE", "proxy": "ALL_PROXY"}
    variables = {uv: settings[pip] for pip, uv in names.items() if settings.get(pip)}
    if "UV_FIND_LINKS" in variables:
        variables["UV_FIND_LINKS"] = variables["UV_FIND_LINKS"].replace(" ", ",")
    # As pip does: the best version of all places, not of the first place that has the package.
    return variables | {"UV_INDEX_STRATEGY": "unsafe-best-match", "UV_PYTHON_DOWNLOADS": "never"}


def step(title: str, command: list, environment: dict[str, str]) -> bool:
    """Run one step with its output in the log, showing what it is at and for how long; return whether it worked.

    While it runs there is a file `unfinished`. It stays when packages may have been left half-written.
    """
    log, line = VENV / "setup.log", StatusLine(title)
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"\n== {title}: {' '.join(map(str, command))}\n")
    before = packages_changed_at()
    (VENV / "unfinished").touch()
    with open(log, "ab") as output:
        arguments = [str(part) for part in command]
        process = subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        while process.poll() is None:
            line.show(last_step(log).partition("\n")[2].strip().rpartition("\n")[2].strip() or "begun")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        if process.returncode == 0 or (before and before == packages_changed_at()):
            (VENV / "unfinished").unlink()
    line.show("done" if process.returncode == 0 else "failed", last=True)
    return process.returncode == 0


def packages_folder() -> Path:
    return next(VENV.glob("Lib/site-packages" if WINDOWS else "lib/python*/site-packages"), VENV / "no packages")


def packages_changed_at() -> float:
    """Return when a package was last added to the environment or taken away, in seconds; 0.0 where it has none."""
    folder = packages_folder()
    return folder.stat().st_mtime if folder.exists() else 0.0


def last_step(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace").rpartition("\n== ")[2] if log.exists() else ""


class StatusLine:
    """One line that rewrites itself in a terminal; elsewhere (a CI log) a line now and then."""

    def __init__(self, title: str):
        self.title, self.start, self.next = title, time.monotonic(), 0.0

    def show(self, status: str, last: bool = False) -> None:
        seconds = int(time.monotonic() - self.start)
        text = f"{self.title} · {seconds // 60}:{seconds % 60:02d} · {status}"
        if sys.stdout.isatty():
            width = shutil.get_terminal_size().columns - 1
            print("\r" + text[:width].ljust(width), end="\n" if last else "", flush=True)
        elif last or seconds >= self.next:
            self.next = seconds + 20
            print(text, flush=True)


# What the log of a failed step holds, and what the user is told. The first that fits counts.
EXPLANATIONS = (
    (r"No space left on device|Errno 28|os error 112", "The disk is full; free some space"),
    (
        r"CERTIFICATE_VERIFY_FAILED|invalid peer certificate",
        "The package index shows a certificate that is not trusted here (a company proxy?); "
        "name the file of your certificates in SSL_CERT_FILE",
    ),
    (
        r"`([^`]+)`: (?:Permission denied|Read-only file system)|Permission denied: '([^']+)'",
        "{0} cannot be written to; make it yours, or set UV_CACHE_DIR to a folder of your own if it is uv's",
    ),
    (
        r"Failed to (?:fetch: |download )`?([^`\s]+)",
        "{0} could not be fetched; check the network connection and the proxy settings",
    ),
    (
        r"NewConnectionError|ConnectTimeout|ReadTimeout|ProxyError|Connection(?:Reset|Refused)?Error|IncompleteRead"
        r"|Temporary failure in name resolution|Network is unreachable|getaddrinfo failed",
        "The package index could not be reached; check the network connection and the proxy settings",
    ),
    (
        r"Because (.+?), we can conclude|(Cannot install \S+ because .+? have conflicting dependencies)",
        "With Python {python} not every package can be had here ({0}); mend constraints.txt, or take a different Python",
    ),
    (
        r"No matching distribution found for (\S+)|Failed building wheel for (\S+)|Failed to build `(.+?)`",
        "There is no ready-made {0} for Python {python} on this kind of machine; take a different Python",
    ),
    (r"No module named pip", "The environment in .venv has no pip; delete the folder .venv"),
)


def explain(log: Path) -> str:
    """Turn the log of a failed step into one sentence; where the cause is not known, show the log's end."""
    text = last_step(log)
    for pattern, sentence in EXPLANATIONS:
        found = re.search(pattern, text)
        if found:
            cause = sentence.format(*filter(None, found.groups()), python=platform.python_version())
            return f"{cause}, then run the same command again (details: {log})."
    tail = "\n".join("    " + line for line in text.strip().splitlines()[-15:])
    return f"{tail}\nThe installation failed; the lines above are the end of {log}."


# ------------------------------------------------------------------------------------------ looking at the machine


def check_pins(constraints: Path) -> None:
    """Raise `Problem` for a line of constraints.txt that pins nothing: a merge gone wrong, a slip of the hand."""
    for number, line in enumerate(constraints.read_text(encoding="utf-8").splitlines(), start=1):
        if not re.fullmatch(r"\s*(#.*|[\w.-]+==[\w.!]+(\s*;.+)?)?\s*", line):
            raise Problem(
                f"Line {number} of {constraints} is no pin like name==1.2: {line.strip()!r}; mend it, or take the file "
                "back with: git checkout constraints.txt"
            )


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
    import importlib.metadata  # here, because a Python that is too old lacks it

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


# ----------------------------------------------------------------------------------------------------------- files


def digest(*files: Path) -> str:
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def read_stamp(venv: Path) -> dict:
    try:
        return json.loads((venv / "stamp.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def lock(file) -> None:
    """Hold a lock on an open file until it is closed, or the process ends in whatever way.

    Raises:
        Problem: when another process holds it.
    """
    try:
        if WINDOWS:
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise Problem(
            "The course is being set up in another window; wait until that has finished, then try again."
        ) from None


def remove(folder: Path) -> None:
    """Remove a folder with all that is in it. Cut short, it is gone from its place all the same, never half there."""
    aside = folder.with_name(folder.name + ".old")
    if aside.exists():
        shutil.rmtree(aside)
    os.replace(folder, aside)
    shutil.rmtree(aside)


def write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
