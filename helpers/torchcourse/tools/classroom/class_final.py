"""The exam of a class: ten questions drawn from a seed in the class's folder, as a second notebook of the final."""

import secrets
from pathlib import Path

from torchcourse.lessons.final import final_draw
from torchcourse.tools.build import notebooks
from torchcourse.tools.build.final_notebook import final_source

LESSON = "11_final"
SEED = "final-seed.txt"


def solutions(folder: Path, root: Path, lesson: str) -> dict[str, str]:
    """Return a lesson's solution notebooks as `notebooks.solutions` does; of the final, the class's exam too.

    Args:
        folder: the folder of the class; without a seed in it there is no exam.
        root: the repository.
    """
    texts = notebooks.solutions(root, lesson)
    if lesson == LESSON and (folder / SEED).exists():
        path = f"solutions/{LESSON}/final.ipynb"
        source = final_source(final_draw.for_class((folder / SEED).read_text(encoding="utf-8").strip()))
        texts[path] = notebooks.solution_text(source, path, "quizzes", root, published=False)
    return texts


def draw_seed(folder: Path) -> None:
    """Write a seed into the folder of a class, unless there is one."""
    if not (folder / SEED).exists():
        notebooks.write_text(folder / SEED, secrets.token_hex(8) + "\n")
