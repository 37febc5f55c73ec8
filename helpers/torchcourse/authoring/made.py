"""The line that a table or a file of weights carries: which command made it, when, and with which versions."""

import platform
from datetime import date

import torch


def made_by(module: str) -> str:
    """Return the line for `python -m torchcourse.authoring.MODULE`, run now."""
    return (
        f"python -m torchcourse.authoring.{module}, {date.today()}, torch {torch.__version__}, "
        f"Python {platform.python_version()}, {platform.machine()}"
    )
