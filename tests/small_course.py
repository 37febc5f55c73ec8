"""A course of one short lesson, for tests of building and grading that need not wait for torch."""

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1]

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

# %% exercise: colour
answer = "green"  ### SOLUTION

# %% check: colour
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
    lesson = root / "solutions" / "01_small" / "1_lesson.py"
    lesson.parent.mkdir(parents=True)
    lesson.write_text(LESSON, encoding="utf-8")
    (root / "quizzes").mkdir()
    for name in ("pyproject.toml", "nbgrader_config.py"):
        shutil.copy(ROOT / name, root / name)
    return root
