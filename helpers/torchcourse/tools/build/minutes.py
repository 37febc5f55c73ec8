"""How long a notebook takes: counted, so that the minutes in its header are those of the notebook as it is now.

    **{minutes} minutes** · one CPU is enough …        in the first cell of a source; the build writes the number

Counted are the words that are read (at 120 per minute, for readers of a second language), the code that is open (at 670
characters per minute, which is 15 lines of the course's code, however they are broken), and the minutes that each
exercise states. Fold-outs and folded cells are opened by those who want
them; the glossary and the further reading are looked up. They count nothing, and the code of an exercise is part of its
minutes. A header that says "About 30 minutes" stays: it is the final's, whose time goes into its cards.
"""

import re

from nbformat.notebooknode import NotebookNode

WORDS_PER_MINUTE = 120
CHARACTERS_PER_MINUTE = 670
STEP = 5
"""A header says the minutes rounded up to a multiple of this."""

_HEADER = re.compile(r"\*\*(?:\{minutes\}|\d+) minutes\*\*")
_EXERCISE = re.compile(r"^[●○]{3} · (\d+) minutes", re.MULTILINE)
_UNREAD = re.compile(r"<details>.*?</details>|^```.*?^```|^### Glossary$.*", re.DOTALL | re.MULTILINE)
_NO_WORD = re.compile(r"<[^>]*>|\]\([^)]*\)|https?://\S+")
_WORD = re.compile(r"[^\W_][\w'’.,/×·-]*")


def write_minutes(notebook: NotebookNode) -> None:
    """Put the minutes of a notebook into its first cell, where that has a place for them."""
    if notebook.cells and _HEADER.search(notebook.cells[0].source):
        rounded = -(-counted_minutes(notebook) // STEP) * STEP
        notebook.cells[0].source = _HEADER.sub(f"**{rounded:.0f} minutes**", notebook.cells[0].source)


def counted_minutes(notebook: NotebookNode) -> float:
    """Return the minutes that a built notebook takes."""
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown" and not _is_answer(cell)]
    code = [
        cell.source for cell in notebook.cells if cell.cell_type == "code" and not (_is_answer(cell) or _folded(cell))
    ]
    exercises = sum(int(stated) for text in prose for stated in _EXERCISE.findall(text))
    return sum(map(words, prose)) / WORDS_PER_MINUTE + sum(map(characters, code)) / CHARACTERS_PER_MINUTE + exercises


def words(text: str) -> int:
    """Count the words of a markdown text that are read: no fold-outs, listings, addresses, tags and glossaries."""
    return len(_WORD.findall(_NO_WORD.sub(" ", _UNREAD.sub("", text))))


def characters(code: str) -> int:
    """Count the characters of code, without blanks and comments that have a line of their own."""
    return sum(len("".join(line.split())) for line in code.splitlines() if not line.strip().startswith("#"))


def _is_answer(cell: NotebookNode) -> bool:
    """Whether the learner writes this cell: its time is in the minutes of the exercise."""
    return cell.metadata.get("nbgrader", {}).get("solution", False)


def _folded(cell: NotebookNode) -> bool:
    return cell.metadata.get("jupyter", {}).get("source_hidden", False)
