"""What this machine offers to the course, in plain words: a small table, with a remedy where something is missing.

    from torchcourse.lessons.start_here import machine_report
    machine_report.report()

Each row is a `Finding`. The facts are gathered in `report()`; what they mean is decided by small functions of the bare
facts, so that a test can ask what a machine that is not at hand would be told.

PyTorch takes seconds to import, and this module none: only the functions that ask it import it, and what needs it.
"""

import html
import importlib.metadata
import os
import shutil
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torchcourse import journal, notice
from torchcourse.environment import VS_CODE, usable_cores
from torchcourse.units import format_bytes

GIB = 2**30
DATA = 0.1 * GIB
"""Room for the small model and the part of MNIST that a rank of a lesson holds, beside the rank itself, in bytes."""

State = Literal["good", "fine without", "missing"]


@dataclass(frozen=True)
class Finding:
    """One row: what was looked for, what was found, what it means for the learner, and what to do about it."""

    name: str
    found: str
    meaning: str
    state: State = "good"
    remedy: str = ""


@dataclass(frozen=True)
class Report:
    """All findings. A notebook shows them as a table, a terminal as lines."""

    findings: tuple[Finding, ...]

    @property
    def missing(self) -> tuple[Finding, ...]:
        """The rows that need a remedy before the lessons run as they should."""
        return tuple(finding for finding in self.findings if finding.state == "missing")

    @property
    def verdict(self) -> str:
        names = ", ".join(finding.name for finding in self.missing)
        return f"Look at: {names}." if names else "You have everything that the lessons need."

    def _repr_html_(self) -> str:
        rows = "".join(_row(finding) for finding in self.findings)
        words = ("State", "Looked for", "Found", "What it means for you")
        head = "".join(f'<th scope="col" style="text-align:left">{word}</th>' for word in words)
        caption = f'<caption style="text-align:left"><b>{html.escape(self.verdict)}</b></caption>'
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"

    def __repr__(self) -> str:
        lines = [self.verdict]
        for finding in self.findings:
            remedy = f" {finding.remedy}" if finding.remedy else ""
            lines.append(f"[{finding.state}] {finding.name}: {finding.found}. {finding.meaning}{remedy}")
        return "\n".join(lines)


def report() -> Report:
    """Look at this machine, start ranks once to see them work, and say what was found.

    Starting the ranks takes a fraction of a second when PyTorch is warmed up, and a few seconds when it is not.
    """
    import torch

    from torchcourse.ranks.run import free_memory, memory_of_a_rank
    from torchcourse.ranks.who import default_world_size

    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    build = (
        f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}" if torch.version.hip else ""
    )
    world_size = default_world_size()
    ranks = _start_ranks(world_size)
    return Report(
        (
            python(sys.version_info[:3]),
            pytorch(torch.__version__, build, driver=shutil.which("nvidia-smi") is not None),
            devices(gpus, apple=torch.backends.mps.is_available()),
            ranks,
            memory(free_memory(), world_size, memory_of_a_rank(world_size) + DATA),
            cores(usable_cores(), world_size, len(gpus)),
            package("TensorBoard", "tensorboard", "Lesson 04 draws its charts with it.", needed=True),
            package("ipywidgets", "ipywidgets", "It draws the cards and sliders.", needed=True),
            package("nbgrader", "nbgrader", "It grades a class. The checks in your notebooks do without it."),
            place(os.environ, sys.modules),
            notes(journal.path()),
        )
    )


def python(version: Sequence[int], floor: tuple[int, int] = (3, 11)) -> Finding:
    found = ".".join(map(str, version))
    if tuple(version[:2]) >= floor:
        return Finding("Python", found, "New enough for every lesson.")
    wanted = ".".join(map(str, floor))
    return Finding(
        "Python",
        found,
        "Too old: some cells will stop.",
        "missing",
        f"Install Python {wanted} or newer, then run `make lab`.",
    )


def pytorch(version: str, build: str, *, driver: bool) -> Finding:
    """`build` is the accelerator library that torch was built for, or ""; `driver`: an NVIDIA driver is there."""
    if build:
        return Finding("PyTorch", f"{version}, built for {build}", "It can use a GPU if there is one.")
    if driver:
        return Finding(
            "PyTorch",
            f"{version}, built for the CPU",
            "This machine has an NVIDIA driver, but this PyTorch cannot use a GPU. Lessons run on the CPU, slower.",
            "missing",
            "Choose a CUDA build on https://pytorch.org/get-started/locally/ and install it in this environment.",
        )
    return Finding("PyTorch", f"{version}, built for the CPU", "Right for a machine without an NVIDIA GPU.")


def devices(gpus: Sequence[str], *, apple: bool) -> Finding:
    if len(gpus) >= 2:
        return Finding("Devices", f"{len(gpus)} × {gpus[0]}", "Each rank gets a GPU of its own.")
    if gpus:
        return Finding(
            "Devices", gpus[0], "A single process trains on it. Two ranks cannot share it here: they work on the CPU."
        )
    if apple:
        return Finding(
            "Devices", "Apple GPU", "Ranks work on the CPU: they cannot talk through this GPU.", "fine without"
        )
    return Finding("Devices", "CPU only", "Nothing is missing: each lesson is made to run on the CPU.", "fine without")


def cores(count: int, world_size: int, gpus: int) -> Finding:
    found = f"{count}"
    if gpus >= world_size:
        return Finding("CPU cores", found, "They feed the GPUs with data.")
    if count >= world_size:
        return Finding("CPU cores", found, f"Enough: each of {world_size} ranks can have a core of its own.")
    return Finding(
        "CPU cores",
        found,
        f"Your {world_size} ranks take turns. All results are the same, but two ranks are no faster than one.",
        "fine without",
    )


def memory(free: float, world_size: int, each: float) -> Finding:
    """`free` is in bytes, and so is `each`: what one rank of a lesson needs."""
    found, room = format_bytes(free), int(free / each)
    if room >= world_size:
        return Finding("Free memory", found, f"Room for about {room} ranks with the small models of the lessons.")
    return Finding(
        "Free memory",
        found,
        f"{world_size} ranks need about {format_bytes(world_size * each)}.",
        "missing",
        "Close programs, or shut down other notebooks (the stop sign in JupyterLab's left bar).",
    )


def package(name: str, distribution: str, use: str, *, needed: bool = False) -> Finding:
    try:
        version = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        if not needed:
            return Finding(name, "not here", use, "fine without")
        remedy = f"Run `%pip install {distribution}` in a cell, then restart the kernel."
        return Finding(name, "not here", use, "missing", remedy)
    return Finding(name, version, use)


def place(environ: Mapping[str, str], modules: Collection[str]) -> Finding:
    """Where the notebook runs, from environment variables and imported modules."""
    away = (
        "This machine is lent: when the session ends, its files go. Save a copy of the notebook. The section on the "
        "journal says how to keep your answers."
    )
    if "COLAB_RELEASE_TAG" in environ or "google.colab" in modules:
        return Finding("Notebook", "Google Colab", away)
    if "KAGGLE_KERNEL_RUN_TYPE" in environ:
        return Finding("Notebook", "Kaggle", away)
    if "JPY_SESSION_NAME" in environ:
        return Finding("Notebook", "JupyterLab", "Your files stay on this machine. Ctrl+S saves the notebook.")
    if VS_CODE & environ.keys():
        meaning = "Lessons run here too, with the keyboard shortcuts of VS Code. Code that JupyterLab folds is open."
        return Finding("Notebook", "VS Code", meaning)
    if "ipykernel" in modules:
        return Finding("Notebook", "run by a program", "Nobody can click here, so cards and sliders do nothing.")
    return Finding(
        "Notebook", "none", "Cards and sliders need a notebook.", "missing", "Run `make lab` in the course's folder."
    )


def notes(path: Path) -> Finding:
    """The journal: whether lines can be written to it."""
    # A folder that does not exist yet is made by the first answer, in the nearest one that does.
    folder = next(place for place in (path, *path.parents) if place.exists())
    found = str(path)
    if os.access(folder, os.W_OK):
        return Finding("Journal", found, "Your answers are written here, on this machine, and are never sent anywhere.")
    return Finding(
        "Journal",
        found,
        "This file cannot be written, so your answers would be lost.",
        "missing",
        "Set TORCHCOURSE_WORK to a folder of yours before you start JupyterLab.",
    )


def _start_ranks(world_size: int) -> Finding:
    from torchcourse.ranks.run import RankError, run_ranks

    started = time.perf_counter()
    try:
        answers = run_ranks(_roll_call, world_size=world_size)
    except (RankError, RuntimeError, MemoryError, TimeoutError) as error:
        return ranks_failed(world_size, error)
    return ranks_answered(answers, time.perf_counter() - started)


def _roll_call() -> tuple[str, str, int]:
    """In a rank: its device, the library that carries the messages, and the sum of all rank numbers, by message."""
    import torch
    import torch.distributed as dist

    from torchcourse.ranks import who

    number = torch.tensor(who.rank(), device=who.device())
    dist.all_reduce(number)
    return str(who.device()), dist.get_backend(), int(number)


def ranks_answered(answers: Sequence[tuple[str, str, int]], seconds: float) -> Finding:
    where = ", ".join(sorted({device for device, _, _ in answers}))
    backend = answers[0][1]
    found = f"{len(answers)} started on {where} in {seconds:.1f} s"
    if any(total != sum(range(len(answers))) for _, _, total in answers):
        return Finding(
            "Ranks", found, f"They talk over {backend}, but a message was lost.", "missing", "Restart the kernel."
        )
    return Finding("Ranks", found, f"They talk to each other over {backend}, and every message arrived.")


def ranks_failed(world_size: int, error: Exception) -> Finding:
    return Finding(
        "Ranks",
        f"{world_size} did not start",
        f"{type(error).__name__}: {error}",
        "missing",
        "Restart the kernel (press 0 twice) and run the cells from the top.",
    )


_SHOWN: dict[State, tuple[notice.Kind, str]] = {
    "good": ("right", "ok"),
    "fine without": ("open", "not needed"),
    "missing": ("wrong", "missing"),
}


def _row(finding: Finding) -> str:
    kind, word = _SHOWN[finding.state]
    remedy = f"<br><b>Do this:</b> {html.escape(finding.remedy)}" if finding.remedy else ""
    short, long = (f'style="text-align:left;white-space:{space}"' for space in ("nowrap", "normal"))
    # The color beside the word: as the color of the word, it would be too faint on a light or on a dark ground.
    bar = f"text-align:left;white-space:nowrap;border-left:5px solid {notice.color(kind)}"
    return (
        f'<tr><td style="{bar}"><b>{word}</b></td>'
        f'<th scope="row" {short}>{html.escape(finding.name)}</th>'
        f"<td {long}>{html.escape(finding.found)}</td>"
        f"<td {long}>{html.escape(finding.meaning)}{remedy}</td></tr>"
    )
