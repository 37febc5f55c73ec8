"""What a process that becomes sandboxes gets of the grader's environment.

Whatever a process was started with stays readable in /proc/self/environ, also in what it forks: a password too.
"""

import os

_NAMES = (
    *("PATH", "HOME", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE"),
    *("PYTHONUSERBASE", "PYTHONNOUSERSITE"),  # which packages come first: else it may import others than the grader
)


def environment() -> dict[str, str]:
    """Return what it needs to import the packages."""
    return {name: os.environ[name] for name in _NAMES if name in os.environ}
