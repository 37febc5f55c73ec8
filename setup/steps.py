"""One step of an installation: a command whose output goes to `.venv/setup.log` while one line shows how far it is."""

import contextlib
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from setup import WINDOWS

Command = list[object]  # texts and paths


def step(venv: Path, title: str, command: Command, environment: dict[str, str]) -> bool:
    """Run a command beside the environment, showing what it is at and for how long; return whether it worked.

    While it runs there is a file `unfinished`. It stays when packages may have been left half-written.
    """
    log, line = venv / "setup.log", StatusLine(title)
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"\n== {title}: {' '.join(map(str, command))}\n")
    before = packages_changed_at(venv)
    (venv / "unfinished").touch()
    with open(log, "ab") as output:
        arguments = [str(part) for part in command]
        process = subprocess.Popen(arguments, cwd=venv.parent, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        while process.poll() is None:
            line.show(last_step(venv).partition("\n")[2].strip().rpartition("\n")[2].strip() or "begun")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        if process.returncode == 0 or (before and before == packages_changed_at(venv)):
            (venv / "unfinished").unlink()
    line.show("done" if process.returncode == 0 else "failed", last=True)
    return process.returncode == 0


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


def packages_folder(venv: Path) -> Path:
    return next(venv.glob("Lib/site-packages" if WINDOWS else "lib/python*/site-packages"), venv / "no packages")


def packages_changed_at(venv: Path) -> float:
    """Return when a package was last added to the environment or taken away, in seconds; 0.0 where it has none."""
    folder = packages_folder(venv)
    return folder.stat().st_mtime if folder.exists() else 0.0


def last_step(venv: Path) -> str:
    """Return the part of the log that belongs to the last step: its title and command, then what the command said."""
    log = venv / "setup.log"
    return log.read_text(encoding="utf-8", errors="replace").rpartition("\n== ")[2] if log.exists() else ""


# What the log of a failed step holds, and what the user is told. The first that fits counts.
EXPLANATIONS = (
    (
        r".* to (?:file `)?([^`\n]+?)`?: No space left on device",
        "There is no space left for {0}; free some on that disk",
    ),
    (r"No space left on device|Errno 28|os error 112", "The disk is full; free some space"),
    (
        r"Invalid requirement: ('.+?')[\s\S]*?\(from (line \d+ of .+?)\)",
        "{0} is no requirement ({1}); mend that line, or take the file back with git checkout",
    ),
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
        "With Python {python} not every package can be had here ({0}); "
        "mend constraints.txt, or take a different Python",
    ),
    (
        r"No matching distribution found for (\S+)|Failed building wheel for (\S+)|Failed to build `(.+?)`",
        "There is no ready-made {0} for Python {python} on this kind of machine; take a different Python",
    ),
    (r"No module named pip", "The environment in .venv has no pip; delete the folder .venv"),
)


def explain(venv: Path) -> str:
    """Turn the log of the last step, which failed, into one sentence; where the cause is not known, show the end."""
    text, log = last_step(venv), venv / "setup.log"
    for pattern, sentence in EXPLANATIONS:
        found = re.search(pattern, text)
        if found:
            cause = sentence.format(*filter(None, found.groups()), python=platform.python_version())
            return f"{cause}, then run the same command again (details: {log})."
    tail = "\n".join("    " + line for line in text.strip().splitlines()[-15:])
    return f"{tail}\nThe installation failed; the lines above are the end of {log}."
