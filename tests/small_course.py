"""A course of one short lesson, for tests of building and grading that need not wait for torch."""

import shutil
from collections.abc import Callable
from pathlib import Path

import nbformat

from torchcourse.tools.build.notebooks import release, solutions, write_text

ROOT = Path(__file__).parents[1]

LESSON_NAME = "01_small"

LESSON = '''\
# %% [markdown]
# # A lesson
# Some text.

# %% setup

# %% exercise: double
def double(number):
    """Return twice the number."""
    ### BEGIN SOLUTION
    twice = number + number
    return twice
    ### END SOLUTION

# %% check: double
score = 0
try:
    score = 2 * (double(3) == 6)  # points=2
except NotImplementedError:
    print("Not done yet")


### BEGIN HIDDEN TESTS
def twice(number):
    return double(number)


assert twice(-1) == -2, "hidden words"
### END HIDDEN TESTS
score

# %% exercise: color
answer = "green"  ### SOLUTION

# %% check: color
colour_score = 0.0 if answer is ... else 1  # points=1
### BEGIN HIDDEN TESTS
colour_score = 1.0 if answer == "green" else 0.0
### END HIDDEN TESTS
colour_score

# %% written: why, 3 points [markdown]
# Because the model answer says so.
'''


def make(root: Path) -> Path:
    """Write the sources of the small course into `root`, with the real project file and nbgrader configuration."""
    lesson = root / "solutions" / LESSON_NAME / "1_lesson.py"
    lesson.parent.mkdir(parents=True)
    lesson.write_text(LESSON, encoding="utf-8")
    (root / "quizzes").mkdir()
    for name in ("pyproject.toml", "nbgrader_config.py"):
        shutil.copy(ROOT / name, root / name)
    return root


def released(root: Path) -> Path:
    """Make the small course as it is committed: with its release, without notebooks among the solutions."""
    make(root)
    for path, text in release(solutions(root), root).items():
        write_text(root / path, text)
    return root


def notebook(course: Path, change: Callable | None = None, *, solved: bool) -> nbformat.NotebookNode:
    """Return the solution or the release, changed by `change(cells by id, notebook)`."""
    texts = solutions(course)
    (text,) = (texts if solved else release(texts, course)).values()
    made = nbformat.reads(text, as_version=4)
    if change:
        change({cell.id: cell for cell in made.cells}, made)
    return made


def hand_in(
    course: Path,
    folder: Path,
    student: str,
    change: Callable | None = None,
    *,
    solved: bool,
    name: str = "1_lesson.ipynb",
    lesson: str = LESSON_NAME,
) -> Path:
    """Hand in what `notebook` returns, and return its path."""
    target = folder / "submitted" / student / lesson / name
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook(course, change, solved=solved), target)
    return target
