"""A page that says what was passed, made on the learner's own machine: lessons, final, capstone.

    completion()

It is `completion.md` beside the journal. It carries the SHA-256 digest of the journal that it was made from, so that
the two can be seen to belong together. It proves nothing about who wrote the journal.
"""

import hashlib
from datetime import datetime

from torchcourse import journal
from torchcourse.lessons.start_here.daily_page import Page, write_page
from torchcourse.lessons.start_here.final_results import Result, results
from torchcourse.lessons.start_here.progress_report import LessonProgress, progress_by_lesson
from torchcourse.quiz import texts


def completion(language: str | None = None) -> Page:
    """Write the page and show it. It adds nothing to the journal, whose digest it states.

    Args:
        language: `en` or `ko`; by default the one last chosen.
    """
    language = language or texts.current()
    if language not in texts.LANGUAGES:
        raise ValueError(f"'{language}' is not a language of this course; choose 'en' or 'ko'.")
    content = journal.content()
    entries = journal.read()
    text = page_text(progress_by_lesson(entries), results(entries), content, datetime.now(), language)
    path = journal.path().with_name("completion.md")
    try:
        write_page(path, text)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return Page(text, path, texts.say("page_not_kept", language, path=path, reason=reason))
    return Page(text, path, texts.say("page_kept", language, path=path))


def page_text(
    lessons: list[LessonProgress], finals: list[Result], content: bytes, moment: datetime, language: str
) -> str:
    """Return the page as Markdown.

    Args:
        lessons: the progress in each lesson.
        finals: the finished finals, the oldest first.
        content: the bytes of the journal's file.
        moment: when the page is made.
        language: `en` or `ko`.
    """
    say = texts.say
    head = [say(name, language) for name in ("lesson", "exercises", "quiz", "completion_passed")]
    rows = [_cells(head), _cells(["---"] * len(head)), *(_row(lesson, language) for lesson in lessons)]
    own = [each for each in finals if each.seconds is not None]
    best = max(own, key=lambda each: each.right / each.total, default=None)
    final = say("final_none", language)
    if best:
        final = say("final_last", language, right=best.right, total=best.total, day=best.day)
        final += " " + say("final_passed" if best.passed else "final_not_passed", language)
    digest = hashlib.sha256(content).hexdigest()
    size = len(content)
    proof = [say("completion_digest", language, size=size), "", f"`{digest}`", ""]
    proof += [say("completion_check", language, command=f"`head -c {size} {journal.NAME} | sha256sum`")]
    title = f"# {say('completion_title', language)}"
    day = say("completion_day", language, day=moment.date())
    return "\n".join([title, "", day, "", *rows, "", final, "", *proof, ""])


def has_passed(lesson: LessonProgress) -> bool:
    """Whether all exercises of a lesson were passed, and all questions of its quiz answered correctly at last."""
    done = len(lesson.passed) >= lesson.exercises > 0 and len(lesson.right) >= lesson.questions
    return lesson.begun and done


def _row(lesson: LessonProgress, language: str) -> str:
    counts = [(len(lesson.passed), lesson.exercises), (len(lesson.right), lesson.questions)]
    shown = [f"{done}/{total}" if total else "–" for done, total in counts]
    return _cells(
        [lesson.title[language], *shown, texts.say("completion_yes", language) if has_passed(lesson) else "–"]
    )


def _cells(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"
