"""What lets a notebook run on a host that does not have the course: the set-up cell, and links to Colab and Kaggle."""

import re
import tomllib

from torchcourse.tools.repository import ROOT

NEEDS = {
    "notebooks/03_hyperparameter_tuning/2_studies.ipynb": ("optuna>=4.0",),
    "notebooks/10_capstone/1_capstone.ipynb": ("optuna>=4.0",),
}
"""What few notebooks import and the course does not bring: notebook → requirements, as in pyproject.toml's extras."""


def setup_lines(repository: str, notebook: str = "") -> str:
    """Return the code of a set-up cell. On a machine that has the course, and what `NEEDS` says, it installs nothing.

    Args:
        repository: the address where the course is published; the empty text where it is not, and then the cell says
            in a sentence what to do.
        notebook: the path of the notebook, from notebooks/ on.
    """
    default = f', "git+{repository}"' if repository else ""
    missing = (
        ""
        if repository
        else """
    assert source, (
        "The course is not installed here. Run `%env TORCHCOURSE_SOURCE=…` in a cell of its own, with the "
        "address, folder or wheel of the course instead of the dots, then run this cell again."
    )"""
    )
    few = "".join(
        f"""
if importlib.util.find_spec("{requirement.partition(">")[0]}") is None:
    wanted.append("{requirement}")  # this notebook needs it"""
        for requirement in NEEDS.get(notebook, ())
    )
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    return f"""\
# Installs the course where it is missing (on Colab or Kaggle, say).
import contextlib
import importlib.util
import os
import re
import subprocess
import sys
from importlib import metadata

wanted = []
if importlib.util.find_spec("torchcourse") is None:
    source = os.environ.get("TORCHCOURSE_SOURCE"{default}){missing}
    wanted.append(source){few}
if wanted:
    print(f"Installing {{' and '.join(wanted)}}. This can take a minute.", flush=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", *wanted]
    installed = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if installed.returncode != 0:
        print(installed.stdout)
    assert installed.returncode == 0, (
        f"pip could not install {{' and '.join(wanted)}}, and says why above. Kaggle has no network until you switch "
        "on Internet in the settings of the notebook."
    )
    importlib.invalidate_caches()
    print("A lent machine forgets. To keep your answers: torchcourse.journal_copies.keep_in(FOLDER), see lesson 00.")

with contextlib.suppress(metadata.PackageNotFoundError):  # a folder on the path has no version
    found = metadata.version("torchcourse")
    if [int(number) for number in re.findall(r"\\d+", found)[:3]] < {_numbers(version)}:
        print(
            f"This notebook is for course {version}, and {{found}} is installed, so an import below may fail. Run "
            "`make lab` again, or `%pip install --upgrade` with the address of the course, and restart the kernel."
        )

from torchcourse import still_running

still_running.watch()  # a cell that shows nothing for 2 seconds says that it is running"""


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:3]]


def badges(repository: str, notebook: str) -> str:
    """Return links that open a notebook on Colab and on Kaggle, in Markdown.

    As text: a picture of theirs would be fetched from them by everybody who opens the page.

    Args:
        repository: https://github.com/OWNER/NAME. notebook: its path there, on the branch main.
    """
    place = f"github.com/{repository.removeprefix('https://github.com/').rstrip('/')}/blob/main/{notebook}"
    colab = f"https://colab.research.google.com/{place.replace('github.com', 'github', 1)}"
    return f"[Open in Colab]({colab}) · [Open in Kaggle](https://kaggle.com/kernels/welcome?src=https://{place})"
