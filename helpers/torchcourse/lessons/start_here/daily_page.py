"""The daily page (일일 회고), made from the journal in the shape that the learner of the study log kept by hand.

    retrospective()                                  # today, headings in Korean
    retrospective(date(2026, 3, 2), language="en")

The page is a Markdown file of the learner's own, `retrospectives/2026-03-02.md` beside the journal. Write into it: when
it is made again, what is new is merged in and every line of yours stays.
"""

import difflib
import os
import tempfile
from datetime import date
from pathlib import Path
from typing import Literal

from torchcourse import journal
from torchcourse.lessons.start_here.daily_page_text import page_text
from torchcourse.quiz import markup, texts


def retrospective(day: date | None = None, language: Literal["ko", "en"] = "ko") -> "Page":
    """Make the page of a day, or bring it up to date, and show it.

    Args:
        day: today by default.
        language: of the headings and the questions.
    """
    day = day or date.today()
    entries = journal.read()
    path = journal.path().parent / "retrospectives" / f"{day.isoformat()}.md"
    kept = [entry for entry in entries if entry["kind"] == "retrospective" and entry.get("day") == day.isoformat()]
    before = str(kept[-1].get("text", "")) if kept else None
    with texts.spoken(language):
        made = page_text([entry for entry in entries if journal.when(entry).date() <= day], day)
        try:
            text = _merged(path, before, made)
        except OSError as error:
            return Page(made, path, error)
        if made != before:
            journal.record("retrospective", day=day.isoformat(), text=made)
        return Page(text, path)


class Page:
    """A page as Markdown, with a line that says where it is kept, or why it is not."""

    def __init__(self, text: str, path: Path, error: OSError | None = None) -> None:
        self.text, self.path = text, path
        self.note = texts.say("page_kept", path=path)
        if error:
            self.note = texts.say("page_not_kept", path=path, reason=error.strerror or type(error).__name__)

    def __repr__(self) -> str:
        return f"{self.text}\n{self.note}"

    def _repr_markdown_(self) -> str:
        return f"{self.text}\n\n---\n\n{markup.to_markdown(self.note)}"


def merge(base: list[str], mine: list[str], theirs: list[str]) -> list[str]:
    """Merge two descendants of a text, line by line.

    Where only one side changed, its change is taken. Where both did, the lines of `theirs` come first, and after
    them the lines that `mine` had added: no line that was added to `mine` is lost.
    """
    to_mine, to_theirs = _matches(base, mine), _matches(base, theirs)
    anchors = [place for place in range(len(base)) if place in to_mine and place in to_theirs]
    merged: list[str] = []
    start = (0, 0, 0)
    for place in [*anchors, None]:
        end = (len(base), len(mine), len(theirs)) if place is None else (place, to_mine[place], to_theirs[place])
        old, own, new = base[start[0] : end[0]], mine[start[1] : end[1]], theirs[start[2] : end[2]]
        if own == old:
            merged += new
        elif new == old:
            merged += own
        else:
            merged += new + [line for line in _added(old, own) if line not in new]
        if place is not None:
            merged.append(base[place])
            start = (end[0] + 1, end[1] + 1, end[2] + 1)
    return merged


def write_page(path: Path, text: str) -> None:
    """Replace the file in one step: a crash leaves the old page or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with open(descriptor, "w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _merged(path: Path, before: str | None, made: str) -> str:
    """Merge what was made now into the file, and return what it holds then.

    The two have in common what was made `before`; a file made by hand, what it shares with the new page.
    """
    if not path.exists():
        write_page(path, made)
        return made
    mine = path.read_text(encoding="utf-8", errors="surrogateescape")  # bytes that are no UTF-8 come back as they were
    own, new = mine.split("\n"), made.split("\n")
    base = [own[place] for place in _matches(own, new)] if before is None else before.split("\n")
    text = "\n".join(merge(base, own, new))
    if text != mine:
        write_page(path, text)
    return text


def _matches(old: list[str], new: list[str]) -> dict[int, int]:
    # Empty lines are everywhere: they may extend a match, but not make one.
    matcher = difflib.SequenceMatcher(lambda line: not line.strip(), old, new, autojunk=False)
    return {block.a + step: block.b + step for block in matcher.get_matching_blocks() for step in range(block.size)}


def _added(old: list[str], new: list[str]) -> list[str]:
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    return [
        line for tag, _i1, _i2, j1, j2 in matcher.get_opcodes() if tag in ("insert", "replace") for line in new[j1:j2]
    ]
