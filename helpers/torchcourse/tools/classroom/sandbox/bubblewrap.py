"""A sandbox where the system lets no program of ours make namespaces, but lets bubblewrap: each one a fresh process.

Some systems allow namespaces to named programs only, `bwrap` (bubblewrap, https://github.com/containers/bubblewrap)
among them. It cannot fork from the warm process, so each notebook waits until PyTorch is imported again.
"""

import shutil
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from torchcourse.tools.classroom.sandbox import isolation

WORK = "/tmp/work"
DEPTH = 2
"""How many processes of bubblewrap's own are above the one that runs the cells."""


@cache
def is_possible() -> bool:
    """Whether this system has bubblewrap, and lets it make a sandbox."""
    if shutil.which("bwrap") is None:
        return False
    try:
        tried = subprocess.run([*command([]), "/bin/true"], capture_output=True, timeout=300)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return tried.returncode == 0


def command(readable: Iterable[Path], environment: Mapping[str, str] | None = None) -> list[str]:
    """Return what stands before a program on the command line, so that it runs in a sandbox.

    Args:
        readable: files and folders that are visible, at their own places, besides what each lesson reads.
        environment: all environment variables of the program.
    """
    asked = ["bwrap", "--unshare-all", "--die-with-parent", "--uid", "1000", "--gid", "1000", "--cap-drop", "ALL"]
    memory = ["--size", str(isolation.LIMITS.disk), "--tmpfs"]
    # First, since what is readable may lie below them. Root owns the settings of the machine that are in /proc, also in
    # here; bubblewrap looks whether their folder can be written to, and leaves the files as they are.
    asked += [*memory, "/tmp", "--proc", "/proc", "--remount-ro", "/proc", "--dev", "/dev", *memory, "/dev/shm"]
    asked += ["--dev-bind", f"/dev/{isolation.DEVICES['zero']}", "/dev/zero", "--remount-ro", "/dev"]
    for path in [*isolation.visible(), *readable]:
        if path.is_symlink():  # as /bin → usr/bin
            asked += ["--symlink", str(path.readlink()), str(path)]
        elif path.exists():
            asked += ["--ro-bind", str(path), str(path)]
    for path in isolation.HIDDEN:
        if path.is_dir() and path not in readable:
            asked += ["--tmpfs", str(path)]
    asked += ["--dir", WORK, "--remount-ro", "/", "--chdir", WORK, "--clearenv"]
    for name, value in (environment or {}).items():
        asked += ["--setenv", name, value]
    return [*asked, "--"]
