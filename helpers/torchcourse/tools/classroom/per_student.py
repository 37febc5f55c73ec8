"""Quizzes that are drawn for each student of a class, so that the letters of a neighbor are worth what chance gives.

`quizzes = "per student"` in `grading.toml` switches it on, and `make class` writes, in the folder of the class:

    quiz-seed.txt                          the secret that all is drawn from
    draws/LESSON.json                      what each student was given; grading goes by it, not by what is handed in
    personal/STUDENT/LESSON/quiz.ipynb     the notebook for that student; of the final, final.ipynb

A draw takes one of a question's wordings, and an order of its choices. What a question is worth does not change. An
open question, which a person grades, is the same for all. What was drawn stays: new wordings in a bank do not change
what a student has.
"""

import hashlib
import json
import re
import secrets
import sys
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import nbformat
from nbformat.notebooknode import NotebookNode
from nbgrader.preprocessors import CheckCellMetadata, SaveCells
from tqdm import tqdm
from traitlets.config import Config

from torchcourse.lessons.final import final_draw
from torchcourse.quiz import bank, choice_order
from torchcourse.quiz.questions import OpenQuestion, Question, versions
from torchcourse.tools.build import notebooks
from torchcourse.tools.build.final_notebook import exam_source
from torchcourse.tools.build.quiz_notebook import check_code, quiz_source
from torchcourse.tools.build.seal import is_untouched
from torchcourse.tools.classroom import class_final, roster
from torchcourse.tools.repository import nbgrader_config

SEED, DRAWS, FOLDER = "quiz-seed.txt", "draws", "personal"


@dataclass(frozen=True)
class Drawn:
    """One question as a student has it: `order` holds the bank's letters as the choices stand, empty if as there."""

    lesson: str
    wording: str
    order: str

    @property
    def question(self) -> Question:
        """The question in this wording and order, worth what it is worth in its first wording.

        Raises:
            BankError: if the bank has it no longer.
        """
        first, wording = bank.lesson(self.lesson).question(self.wording)
        return choice_order.in_file_order(wording, self.order).model_copy(update={"points": first.points})


Draws = dict[str, dict[str, list[Drawn]]]
"""What was drawn for a lesson: by notebook, then by student."""


def read(folder: Path, lesson: str) -> Draws:
    """Return what was drawn for the students of a class, of one lesson; nothing where all have the same.

    Raises:
        ValueError: in a sentence, for a file that cannot be read.
    """
    path = folder / DRAWS / f"{lesson}.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {
            notebook: {student: [Drawn(*row) for row in rows] for student, rows in students.items()}
            for notebook, students in found.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} cannot be read, and says which questions each student has; restore it from a backup."
        ) from error


def hand_out(folder: Path, root: Path, students: Sequence[str]) -> int:
    """Draw for each of these students who has nothing yet, write the notebooks, and return how many were written.

    The quizzes that are the same for all go from notebooks/, unless somebody edited them.

    Args:
        folder: the folder of the class, with its solutions.
        root: the repository.
        students: their ids.

    Raises:
        ValueError: in a sentence, for a seed, draws or a bank that nothing can be drawn from.
    """
    seed, config, written = _seed(folder), nbgrader_config(root, folder), 0
    for lesson in notebooks.lessons(root):
        draws = read(folder, lesson)
        for notebook, questions in _asked(folder, lesson).items():
            given = draws.setdefault(notebook, {})
            given |= {student: draw(questions, seed, student) for student in students if student not in given}
            _write(folder / DRAWS / f"{lesson}.json", draws)
            paths = {student: folder / FOLDER / student / lesson / f"{notebook}.ipynb" for student in students}
            missing = [student for student in students if not paths[student].exists()]
            for student in tqdm(missing, desc=lesson, unit="notebook", file=sys.stdout, disable=None):
                text = _solution(lesson, notebook, given[student], root)
                notebooks.write_text(paths[student], _released(text, config))
            written += len(missing)
            same = folder / "notebooks" / lesson / f"{notebook}.ipynb"
            if same.exists() and is_untouched(same.read_text(encoding="utf-8")):
                same.unlink()
    return written


def left(folder: Path) -> list[str]:
    """Return the shared quizzes in notebooks/ that `hand_out` did not remove, because they were edited."""
    lessons = sorted(path.stem for path in (folder / DRAWS).glob("*.json"))
    paths = [folder / "notebooks" / lesson / f"{name}.ipynb" for lesson in lessons for name in read(folder, lesson)]
    return [path.relative_to(folder).as_posix() for path in paths if path.exists()]


def draw(questions: Iterable[tuple[str, Question]], seed: str, student: str) -> list[Drawn]:
    """Return a wording and an order for each question, given with its lesson: always the same for a seed and student.

    Each wording, and each order, is as likely as any other, whatever other students have.
    """
    drawn = []
    for lesson, first in questions:
        can_be_drawn = [one for one in versions(first) if not isinstance(one, OpenQuestion) and one.has_key]
        wordings: Sequence[Question] = [first] if isinstance(first, OpenQuestion) else can_be_drawn
        wording = min(wordings, key=lambda one: _digest(seed, student, lesson, one.id))
        ordered = choice_order.redrawn(wording, 1 + _digest(seed, student, lesson, wording.id, "order"))
        drawn.append(Drawn(lesson, wording.id, choice_order.moved(ordered)))
    return drawn


def checks(drawn: list[Drawn]) -> dict[str, str]:
    """Return the code of each check cell with its hidden test, by the cell's grade id."""
    return {
        f"check-q{place}": check_code(one.lesson, place, one.question).rstrip()
        for place, one in enumerate(drawn, start=1)
        if not isinstance(one.question, OpenQuestion)
    }


def whose(handed_in: NotebookNode, given: dict[str, list[Drawn]], student: str) -> str:
    """Return a note if a notebook asks what a different student was given, or what nobody was; else nothing.

    Args:
        handed_in: what was handed in; what it asks is read from its cells.
        given: what was drawn for its name, by student.
        student: who handed it in.
    """
    asks = _asks("\n".join(cell.source for cell in handed_in.cells if cell.cell_type == "code"))
    if student not in given or not asks:
        return ""
    agree = {name: len(asks & _told(drawn)) for name, drawn in given.items()}
    best = max(sorted(agree), key=lambda name: agree[name])
    if agree[student] >= max(agree[best], len(asks) / 2):
        return ""
    source = f"those of {best}" if agree[best] > len(asks) / 2 else "none that were handed out"
    return f"asks questions that are {source}, and was graded by those of {student}"


def _asks(code: str) -> set[tuple[str, str]]:
    """Return what the cells of a notebook ask: each wording, and for a card its order too."""
    checks = re.findall(r'quiz\.received\(\s*"[^"]+", "([^"]+)"', code)
    cards = re.findall(r'quiz\.card\("[^"]+", "([^"]+)"(?:, order="(\w+)")?', code)
    return {(wording, "any") for wording in checks} | set(cards)


def _told(drawn: list[Drawn]) -> set[tuple[str, str]]:
    """Return what `_asks` finds in the notebook of a draw."""
    return {(one.wording, "any") for one in drawn} | {(one.wording, one.order) for one in drawn}


def _asked(folder: Path, lesson: str) -> dict[str, list[tuple[str, Question]]]:
    """Return the questions of each notebook that can be drawn, with their lessons."""
    if lesson in bank.lessons():
        found = bank.lesson(lesson)
        if found.stripped:
            raise ValueError(f"The bank {lesson} has been stripped of its keys; draw quizzes from the full bank.")
        return {"quiz": [(lesson, question) for question in found.questions]}
    seed = folder / class_final.SEED
    if lesson != class_final.LESSON or not seed.exists():
        return {}
    exam = final_draw.for_class(seed.read_text(encoding="utf-8").strip())
    return {"final": [(one.lesson, bank.lesson(one.lesson).question(one.question)[0]) for one in exam]}


def _solution(lesson: str, notebook: str, drawn: list[Drawn], root: Path) -> str:
    questions = [one.question for one in drawn]
    if notebook == "final":
        source = exam_source([(one.lesson, question) for one, question in zip(drawn, questions, strict=True)])
    else:
        source = quiz_source(bank.lesson(lesson).model_copy(update={"questions": questions}), numbered=True)
    path = f"solutions/{lesson}/{notebook}.ipynb"
    return notebooks.solution_text(source, path, f"quizzes/{lesson}.yaml", root, published=False)


def _released(text: str, config: Config) -> str:
    """Return a solution notebook as nbgrader releases it, by the steps that change it: neither checked nor kept."""
    notebook, resources = nbformat.reads(text, as_version=4), dict[str, Any](nbgrader={})
    for step in config.GenerateAssignment.preprocessors:
        if not issubclass(step, SaveCells | CheckCellMetadata):
            notebook, resources = step(config=config)(notebook, resources)
    return nbformat.writes(notebook, version=4).rstrip("\n") + "\n"


def _seed(folder: Path) -> str:
    path = folder / SEED
    if not path.exists():
        notebooks.write_text(path, secrets.token_hex(16) + "\n")
        path.chmod(0o600)
    seed = path.read_text(encoding="utf-8").strip()
    if not seed:
        raise ValueError(f"{path} is empty, so anybody could work out the draws; restore it, or remove the file.")
    return seed


def _write(path: Path, draws: Draws) -> None:
    rows = {
        notebook: {student: [list(astuple(one)) for one in drawn] for student, drawn in sorted(given.items())}
        for notebook, given in draws.items()
    }
    path.parent.mkdir(exist_ok=True)
    with roster.replaced(path) as file:
        file.write(json.dumps(rows, indent=0, ensure_ascii=False) + "\n")


def _digest(*parts: str) -> int:
    return int(hashlib.sha256("\n".join(parts).encode()).hexdigest(), 16)
