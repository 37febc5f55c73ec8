"""The environment in `.venv`: made, brought up to date, or left as it is. uv installs; where no uv can be had, pip.

Beside the packages it holds `stamp.json` (what was installed last), `setup.log`, `setup.lock` (held while installing)
and, only while packages may be half-written, `unfinished`.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

from setup import ROOT, WINDOWS, Problem
from setup.indexes import pip_settings, uv_variables
from setup.steps import Command, explain, last_step, packages_folder, step

CPU_INDEX = "https://download.pytorch.org/whl/cpu"

# Gigabytes that an installation needs while it runs: packages and their downloads. On Linux with an NVIDIA driver,
# PyTorch's CUDA build is taken.
DISK_GB = 4
DISK_GB_CUDA = 12


def prepare(extras: set[str], root: Path = ROOT) -> Path:
    """Return the Python that has the course with these extras, after installing what is missing or out of date."""
    if conda_has_course():
        return Path(sys.executable)
    venv = root / ".venv"
    python = venv_python(venv)
    with contextlib.suppress(FileNotFoundError), open(venv / "setup.lock") as file:
        lock(file)
    old = read_stamp(venv)
    wanted = sorted(extras | set(old.get("extras", [])))
    new = {
        "files": digest(root / "pyproject.toml", root / "constraints.txt"),
        "folder": str(root),
        "python": python_version(python),
        "extras": wanted,
    }
    todo, why = plan(old, new, interrupted=(venv / "unfinished").exists())
    if todo == "nothing":
        return python
    if not os.access(root, os.W_OK):
        raise Problem(f"The folder {root} cannot be written to; copy the course to a folder of your own.")
    check_disk(root, DISK_GB_CUDA if has_nvidia_driver() else DISK_GB)
    if todo == "create" and venv.exists():
        print(f"Making the environment in {venv} again: {why}.")
        remove(venv)
    venv.mkdir(exist_ok=True)
    (venv / "stamp.json").unlink(missing_ok=True)
    with open(venv / "setup.lock", "a") as file:
        lock(file)
        install(venv, wanted, create=todo == "create")
    new["python"] = python_version(python)
    write_atomically(venv / "stamp.json", json.dumps(new, indent=1))
    return python


def plan(old: dict, new: dict, interrupted: bool) -> tuple[str, str]:
    """Compare the stamp of the last installation with what is wanted: 'nothing', 'update' or 'create', and why.

    An environment is made again when its last installation ended while packages were being unpacked (a half-written
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


# ------------------------------------------------------------------------------------------------------ installing


def install(venv: Path, extras: list[str], create: bool) -> None:
    """Install the course into the environment, showing each step; raise `Problem` when one fails."""
    if create:
        print(f"Setting up the course in {venv} (once; with packages to download this takes some minutes).")
        make_environment(venv)
    else:
        print(
            f"Bringing the environment in {venv} up to date: packages that this command needs are missing or changed."
        )
    installer, environment = uv_or_pip(venv)
    cpu_build = platform.system() == "Linux" and not has_nvidia_driver() and reachable(CPU_INDEX + "/torch/")
    # Without its dependencies, so that those come from the ordinary index in the tested versions.
    torch = [*installer, "--no-deps", "--index-url", CPU_INDEX, "torch"]
    if cpu_build and not step(venv, "PyTorch for the CPU", torch, environment):
        print("PyTorch's CPU packages could not be had; taking PyTorch from the ordinary index instead.")
    course = f".[{','.join(extras)}]"
    if not step(venv, "The course and its packages", [*installer, "-e", course], environment):
        raise Problem(explain(venv))
    name_package_relatively(venv)


def make_environment(venv: Path) -> None:
    """Make an environment that has pip, with whatever this Python or this machine has for it."""
    commands: list[Command]
    if importlib.util.find_spec("ensurepip"):
        commands = [[sys.executable, "-m", "venv", venv]]
    elif shutil.which("uv"):
        commands = [["uv", "venv", "--seed", "--allow-existing", "--python", sys.executable, venv]]
    elif importlib.util.find_spec("pip"):
        pip = ["-m", "pip", "--python", venv_python(venv), "install", "--disable-pip-version-check", "pip"]
        commands = [[sys.executable, "-m", "venv", "--without-pip", venv], [sys.executable, *pip]]
    else:
        raise Problem(
            "This Python lacks its module ensurepip, so that no environment can be made: install it (on Debian and "
            "Ubuntu it is in the package python3-venv), then run the same command again."
        )
    for command in commands:
        if not step(venv, "Making the environment", command, clean_environment(venv_python(venv))):
            raise Problem(explain(venv))


def uv_or_pip(venv: Path) -> tuple[Command, dict[str, str]]:
    """Return the command that installs, up to its requirements, and its variables: of uv, or of pip without uv."""
    python = venv_python(venv)
    environment = clean_environment(python)
    pip: Command = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    pip += ["--progress-bar", "off", "-c", "constraints.txt"]
    # Small and first: without a network this says so within seconds, before anything big has begun.
    if step(venv, "uv, which installs the rest", [*pip, "--retries", "1", "--timeout", "15", "uv"], environment):
        settings = pip_settings(python, environment)
        uv = [uv_program(venv), "pip", "install", "--python", python, "--build-constraints", "constraints.txt"]
        constraints = ["constraints.txt", *settings.get("constraint", "").split()]
        return [*uv, *(f"--constraints={file}" for file in constraints)], uv_variables(settings) | environment
    if "No matching distribution found for uv" not in last_step(venv):
        raise Problem(explain(venv))
    print("There is no uv for this machine, so pip installs, which takes some minutes more.")
    return pip, environment


def name_package_relatively(venv: Path) -> None:
    """Write where the package lies as a relative path, so that the environment also works below a folder like 한글.

    Python up to 3.12 reads this file in the encoding of the locale, and ends where that cannot read the path.
    """
    folder = packages_folder(venv)
    for file in folder.glob("*torchcourse*.pth"):
        write_atomically(file, os.path.relpath(venv.parent / "helpers", folder) + "\n")


# ------------------------------------------------------------------------------------------ looking at the machine


def check_disk(folder: Path, needed_gb: float) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_gb * 1e9:
        raise Problem(
            f"Setting up needs about {needed_gb} GB of free disk, and {free_bytes / 1e9:.1f} GB are free "
            f"at {folder}: free some space, or move the course to a larger disk."
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


def uv_program(venv: Path) -> Path:
    return venv_python(venv).with_name("uv.exe" if WINDOWS else "uv")


def python_version(python: Path) -> str | None:
    """Return the version of a Python that works, like '3.12', else None."""
    try:
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        return subprocess.run([str(python), "-ISc", code], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def clean_environment(python: Path) -> dict[str, str]:
    """Return the variables for a program of the environment: its own programs first, nothing from another Python.

    Images for containers often set PYTHONDONTWRITEBYTECODE. Each start would then compile PyTorch and JupyterLab again,
    which takes several seconds of processor time per process.
    """
    foreign = ("PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE")
    environment = {name: value for name, value in os.environ.items() if name not in foreign}
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
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        message = "The course is being set up in another window; wait until that has finished, then try again."
        raise Problem(message) from None


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
