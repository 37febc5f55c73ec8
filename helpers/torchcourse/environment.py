"""What the start of each lesson, and the ranks, ask of this machine.

    from torchcourse import environment
    print(environment.hardware())

Importing this imports no torch.
"""

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchcourse.units import format_bytes


def hardware() -> str:
    """Say in one line what the lessons will use here. Starts nothing, and does not initialize a GPU."""
    import torch

    from torchcourse.ranks.run import free_memory
    from torchcourse.ranks.who import default_world_size

    count, gpus = default_world_size(), torch.cuda.device_count()
    where = "a GPU each" if gpus >= count else "the CPU, a single process on the GPU" if gpus else "the CPU"
    have = f"{gpus} GPU{'s' * (gpus > 1)}" if gpus else "No GPU"
    found = f"{have}, {usable_cores()} CPU cores, {format_bytes(free_memory())} free, PyTorch {torch.__version__}"
    return f"{found}: {count} ranks on {where}."


def usable_cores() -> int:
    """Return how many CPU cores this process may use: fewer than the machine has, in many containers."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _first_line("/sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit():
        allowed = min(allowed, max(1, int(quota) // int(period)))
    return allowed


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def has_reader(environ: Mapping[str, str]) -> bool:
    """Whether somebody looks at this notebook while it runs, from environment variables: no program alone runs it."""
    opened = ({"JPY_SESSION_NAME", "COLAB_RELEASE_TAG"} | VS_CODE) & environ.keys()
    return bool(opened) or environ.get("KAGGLE_KERNEL_RUN_TYPE") == "Interactive"


# The second where VS Code works on a different machine, over SSH or in WSL: the first is not set there.
VS_CODE = {"VSCODE_PID", "VSCODE_CWD"}


def __getattr__(name: str) -> Any:
    """Find the report where it is now: the copies of lesson 00 that learners have already ask for it here."""
    if name == "report":
        return importlib.import_module("torchcourse.lessons.start_here.machine_report").report
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
