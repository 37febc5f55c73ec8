"""Where the learner stands in the course: what there is to do in their notebooks, in order, and what comes next.

    notebooks = read_notebooks(work)          # from the learner's own copies
    next_step(notebooks, journal.read())      # the cell to go on at, None when all is done

A step is a cell that asks something of the learner: a prediction, an exercise, a question. Predictions and questions
are done when they are answered, exercises when they are passed.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchcourse.journal import Entry

Key = tuple[str, str, str]
"""What a step is called in the journal: prediction, exercise or question; its lesson where it has one; its name."""

_ASKS = re.compile(r'\b(predict|card)\(\s*"([^"]+)"(?:,\s*"([^"]+)")?')
_CHECKED = re.compile(r"\bcheck\.(\w+)\(")
_TIME = re.compile(r"(?:(\d+) to )?(\d+) (minutes|hours)")


@dataclass(frozen=True)
class Step:
    """A cell that asks something of the learner. `number` counts the questions of a notebook, from 1."""

    key: Key
    notebook: str
    cell: str
    number: int = 0


@dataclass
class Notebook:
    """A notebook of the course: its path below the learner's folder, its title, how long it takes, what it asks."""

    path: str
    title: str = ""
    minutes: int = 0
    steps: list[Step] = field(default_factory=list)

    @property
    def lesson(self) -> str:
        return self.path.partition("/")[0]


def read_notebooks(work: Path) -> list[Notebook]:
    """Return the notebooks of all lessons in a folder, in order; a lesson's quiz comes after its other notebooks.

    A notebook that cannot be read is left out: it is damaged, or it is just being saved.
    """
    found = []
    for path in sorted(work.glob("[0-9][0-9]_*/*.ipynb"), key=lambda path: (path.parent, path.stem == "quiz", path)):
        try:
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
            found.append(_notebook(path.relative_to(work).as_posix(), cells))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return found


def done(entries: list[Entry]) -> set[Key]:
    """Return the steps that are done, by their names in the journal."""
    return {key for entry in entries if (key := _key(entry)) and entry.get("state", "right") == "right"}


def next_step(notebooks: list[Notebook], entries: list[Entry]) -> Step | None:
    """Return the first step that is not done, from where the learner was last; None when all are done.

    To answer a question again in a review, or in a final, does not move that place.
    """
    steps = [step for notebook in notebooks for step in notebook.steps]
    places = {step.key: place for place, step in reversed(list(enumerate(steps)))}
    seen: set[Key] = set()
    last = 0
    for entry in entries:
        key = _key(entry)
        if key in places and "final" not in entry and (key not in seen or entry["kind"] == "check"):
            last = places[key]
            seen.add(key)
    finished = done(entries)
    return next((step for step in steps[last:] + steps[:last] if step.key not in finished), None)


def _key(entry: Entry) -> Key | None:
    """Return the step that an entry is about."""
    kind = entry["kind"]
    if kind == "prediction":
        return ("prediction", "", str(entry.get("id")))
    if kind == "check":
        room, _, name = str(entry.get("exercise")).partition(".")
        return ("exercise", room.removeprefix("lesson"), name.lower())
    if kind in ("quiz", "written"):
        return ("question", str(entry.get("lesson")), str(entry.get("question")))
    return None


def _notebook(path: str, cells: list[dict[str, Any]]) -> Notebook:
    texts = ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    head = next((text for text in texts if text.startswith("# ")), "")
    title = head.partition("\n")[0].lstrip("# ").strip() or Path(path).stem
    notebook = Notebook(path, title, _minutes(head))
    known = {cell.get("id") for cell in cells}
    questions = 0
    for cell in cells:
        for key in _asked(cell, notebook.lesson.partition("_")[0]):
            questions += key[0] == "question"
            place = str(cell.get("id", ""))
            if key[0] == "exercise" and place.removeprefix("check-") in known:
                place = place.removeprefix("check-")
            notebook.steps.append(Step(key, path, place, questions if key[0] == "question" else 0))
    return notebook


def _minutes(head: str) -> int:
    """Return the time that a notebook's head states, in minutes: the middle of "4 to 6 hours"."""
    stated = _TIME.search(head)
    if not stated:
        return 0
    least, most = int(stated[1] or stated[2]), int(stated[2])
    return (least + most) * (60 if stated[3] == "hours" else 1) // 2


def _asked(cell: dict[str, Any], number: str) -> Iterator[Key]:
    """Yield the steps of a cell of the lesson with this number."""
    if cell["cell_type"] != "code":
        return
    role, source = cell["metadata"].get("nbgrader", {}), "".join(cell["source"])
    name = str(role.get("grade_id", "")).removeprefix("check-")
    # In a quiz, the question is the step, and not the line that is typed for a grade.
    if role.get("grade") and not re.fullmatch(r"q\d+", name):
        # The journal knows an exercise by its check, which need not have the cell's name; a patient by its own.
        called = [check for check in _CHECKED.findall(source) if check != "repair"]
        yield ("exercise", number, (called[0] if called else name).lower())
    for function, first, second in _ASKS.findall(source):
        if function == "predict":
            yield ("prediction", "", first)
        elif second:
            yield ("question", first, second)
