"""The line that a table or a file of weights carries: which command made it, when, and with which versions."""

import platform
from datetime import date

import torch


def made_by(module: str) -> str:
    """Return the line for `python -m torchcourse.tools.build.MODULE`, run now."""
    return (
        f"python -m torchcourse.tools.build.{module}, {date.today()}, torch {torch.__version__}, "
        f"Python {platform.python_version()}, {platform.machine()}"
    )
