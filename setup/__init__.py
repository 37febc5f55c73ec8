"""What brings the environment in `.venv` up to date before a command of `course.py` runs.

Standard library only, because it runs before anything is installed. `environment.prepare` is what course.py calls.
Everything foreseeable that goes wrong ends in one sentence: what, where, what to try.
"""

import os
import sys
from pathlib import Path


def python_problem(version):
    """Return the sentence for a Python that is too old, or an empty string. `version` is like `sys.version_info`."""
    if tuple(version[:2]) >= (3, 11):
        return ""
    return (
        "This course needs Python 3.11 or newer, and this is Python {}.{}: install a newer one (python.org has it), "
        "then name it, for example: make lab PYTHON=python3.12".format(*version[:2])
    )


# Before any module with newer annotations is read: an old Python should print the sentence, not a traceback.
if python_problem(sys.version_info):
    sys.exit(python_problem(sys.version_info))

ROOT = Path(__file__).resolve().parents[1]
WINDOWS = os.name == "nt"


class Problem(Exception):
    """Something foreseeable; its text is the one sentence that the user reads."""
