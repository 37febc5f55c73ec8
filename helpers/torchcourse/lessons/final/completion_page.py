"""A page that says what was passed, made on the learner's own machine: lessons, final, capstone.

    completion()

It is `completion.md` beside the journal. It carries the SHA-256 digest of the journal that it was made from, so that
the two can be seen to belong together. It proves nothing about who wrote the journal.
"""

import hashlib
from datetime import date

from torchcourse import journal
from torchcourse.lessons.start_here.daily_page import Page, write_page
from torchcourse.lessons.start_here.final_results import results
from torchcourse.lessons.start_here.progress_report import LessonProgress, progress_by_lesson
from torchcourse.quiz import texts
from torchcourse.quiz.texts import say


def completion(language: str | None = None) -> Page:
    """Write the page and show it. It adds nothing to the journal, whose digest it states.

    Args:
        language: `en` or `ko`; by default the one last chosen.
    """
    path = journal.path().with_name("completion.md")
    with texts.spoken(language or texts.current()):
        text = _page_text(journal.content())
        try:
            write_page(path, text)
        except OSError as error:
            return Page(text, path, error)
        return Page(text, path)


def _page_text(content: bytes) -> str:
    """Return the page as Markdown; `content` is the bytes of the journal."""
    entries = journal.read()
    head = [say(name) for name in ("lesson", "exercises", "quiz", "completion_passed")]
    table = [_cells(head), _cells(["---"] * len(head)), *map(_row, progress_by_lesson(entries))]
    own = [each for each in results(entries) if each.seconds is not None]
    final = say("final_none")
    if own:
        best = max(own, key=lambda each: each.right / each.total)
        passed = say("final_passed" if best.passed else "final_not_passed")
        final = f"{say('final_last', right=best.right, total=best.total, day=best.day)} {passed}"
    size = len(content)
    parts = [
        f"# {say('completion_title')}",
        say("completion_day", day=date.today()),
        "\n".join(table),
        final,
        say("completion_digest", size=size),
        f"`{hashlib.sha256(content).hexdigest()}`",
        say("completion_check", command=f"`head -c {size} {journal.NAME} | sha256sum`"),
    ]
    return "\n\n".join(parts) + "\n"


def _row(lesson: LessonProgress) -> str:
    """Return a lesson's row: passed are all its exercises, and the questions of its quiz were right at last."""
    tallies = (lesson.exercises, lesson.questions)
    counts = [f"{tally.done}/{tally.total}" if tally.total else "–" for tally in tallies]
    passed = lesson.exercises.total > 0 and all(tally.done == tally.total for tally in tallies)
    return _cells([str(lesson.title), *counts, say("completion_yes") if passed else "–"])


def _cells(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"
