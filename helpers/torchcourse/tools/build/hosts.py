"""What lets a notebook run on a host that does not have the course: the set-up cell, and links to Colab and Kaggle."""

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
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    major, minor = project["version"].split(".")[:2]
    return f"""\
# Installs the course where it is missing (on Colab or Kaggle, say).
import importlib.metadata
import importlib.util
import os
import subprocess
import sys

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

for found in importlib.metadata.distributions(name="torchcourse"):  # none, where it is a folder on the path
    if tuple(map(int, found.version.split(".")[:2])) < ({major}, {minor}):
        print(f"This notebook is for course {major}.{minor}, and {{found.version}} is here: an import below may fail.")
        print("Run `make lab` again, or `%pip install --upgrade` with the course's address, and restart the kernel.")

from torchcourse import still_running

still_running.watch()  # a cell that shows nothing for 2 seconds says that it is running"""


def badges(repository: str, notebook: str) -> str:
    """Return links that open a notebook on Colab and on Kaggle, in Markdown.

    As text: a picture of theirs would be fetched from them by everybody who opens the page.

    Args:
        repository: https://github.com/OWNER/NAME. notebook: its path there, on the branch main.
    """
    place = f"github.com/{repository.removeprefix('https://github.com/').rstrip('/')}/blob/main/{notebook}"
    colab = f"https://colab.research.google.com/{place.replace('github.com', 'github', 1)}"
    return f"[Open in Colab]({colab}) · [Open in Kaggle](https://kaggle.com/kernels/welcome?src=https://{place})"
