"""How far the learner is: exercises, quizzes, finals, misconceptions still open, reviews due. All from the journal.

progress()
"""

import html
import json
from dataclasses import dataclass, field
from datetime import datetime

from torchcourse import journal
from torchcourse.journal import Entry
from torchcourse.lessons.start_here.final_results import Result, calibration, result_lines, results, sure_line
from torchcourse.quiz import markup, texts
from torchcourse.quiz.reviews import QuestionState, answers_in, due_today, states


def progress(now: datetime | None = None) -> "ProgressReport":
    """Show a line for each lesson, and below it the misconceptions that are still open.

    Args:
        now: the moment that counts as now; without a zone it is local time.
    """
    entries = journal.read()
    return ProgressReport(progress_by_lesson(entries, now), results(entries), calibration(answers_in(entries)))


@dataclass
class LessonProgress:
    """What the journal says about one lesson.

    `passed` and `right` go by the last attempt, so what was right and then wrong is in neither; `passed_once` and
    `right_once` go by the best.
    """

    name: str
    title: dict[str, str]
    passed: set[str] = field(default_factory=set)
    passed_once: set[str] = field(default_factory=set)
    tried: set[str] = field(default_factory=set)
    exercises: int = 0
    right: set[str] = field(default_factory=set)
    right_once: set[str] = field(default_factory=set)
    answered: set[str] = field(default_factory=set)
    questions: int = 0
    misconceptions: list[dict[str, str]] = field(default_factory=list)
    due: int = 0

    @property
    def begun(self) -> bool:
        return bool(self.tried or self.answered)

    def counted(self, language: str) -> str:
        """Return in words how many exercises are passed."""
        words = f"{len(self.passed)}/{self.exercises}"
        if len(self.passed_once) > len(self.passed):
            words += texts.say("at_best", language, best=len(self.passed_once))
        return words

    def quiz(self, language: str) -> str:
        """Return in words how many questions have been answered, and how many of them correctly at last."""
        counts = {"answered": len(self.answered), "total": self.questions, "right": len(self.right)}
        words = texts.say("quiz_counts", language, **counts)
        if len(self.right_once) > len(self.right):
            words += texts.say("at_best", language, best=len(self.right_once))
        return words


def progress_by_lesson(entries: list[Entry] | None = None, now: datetime | None = None) -> list[LessonProgress]:
    """Return the progress in each lesson that has a quiz, a folder beside the journal, or an entry in it.

    Args:
        entries: what to count; by default the whole journal.
        now: the moment for which reviews are due.
    """
    entries = journal.read() if entries is None else entries
    now = (now or datetime.now()).astimezone()
    found = {name: _empty(name) for name in _names()}
    for entry in entries:
        if entry["kind"] == "check" and isinstance(entry.get("exercise"), str):
            _count_check(found, entry)
    for entry in answers_in(entries):
        if entry["lesson"] not in found:
            found[entry["lesson"]] = _empty(entry["lesson"])
        lesson = found[entry["lesson"]]
        lesson.answered.add(entry["question"])
        (lesson.right.add if entry["right"] else lesson.right.discard)(entry["question"])
        if entry["right"]:
            lesson.right_once.add(entry["question"])
    everything = states(entries)
    for state in due_today(everything, now):
        found[state.lesson].due += 1
    for state in everything:
        lesson = found[state.lesson]
        known = [idea["slug"] for idea in lesson.misconceptions]
        lesson.misconceptions += [_idea(state, slug) for slug in state.misconceptions if slug not in known]
    for lesson in found.values():
        lesson.exercises = max(lesson.exercises, len(lesson.tried))
        lesson.questions = max(lesson.questions, len(lesson.answered))
    # A folder with nothing to count, such as the final's, is no lesson.
    lessons = [lesson for lesson in found.values() if lesson.exercises or lesson.questions or lesson.begun]
    return sorted(lessons, key=lambda lesson: lesson.name)


class ProgressReport:
    """The table of `progress`, as HTML and as text."""

    def __init__(self, lessons: list[LessonProgress], finals: list[Result], sure: dict[int, tuple[int, int]]) -> None:
        self.lessons, self.finals, self.sure = lessons, finals, sure

    @property
    def empty(self) -> bool:
        return not self.finals and not any(lesson.begun for lesson in self.lessons)

    def _below(self, language: str) -> list[str]:
        """Return the lines below the table: the finals, how far one's confidence can be trusted, what is wrong."""
        lines = result_lines(self.finals, language)
        if self.sure:
            lines.append(sure_line(self.sure, language, "all_sure"))
        return [*lines, *journal.problems(), texts.say("kept_in", path=journal.path())]

    def __repr__(self) -> str:
        if self.empty:
            return texts.say("nothing_done")
        language = texts.current()
        lines = [texts.say("progress")]
        for lesson in self.lessons:
            counts = [
                f"{texts.say('exercises')} {lesson.counted(language)}",
                f"{texts.say('quiz')} {lesson.quiz(language)}",
                f"{texts.say('open_ideas')} {len(lesson.misconceptions)}",
                f"{texts.say('reviews')} {lesson.due}",
            ]
            lines.append(f"  {lesson.title[language]}: {', '.join(counts) if lesson.begun else texts.say('not_begun')}")
            lines += [f"    - {markup.to_plain(idea[language])}" for idea in lesson.misconceptions]
        return "\n".join([*lines, *self._below(language)])

    def _repr_html_(self) -> str:
        from torchcourse.quiz.render import STYLE

        language = texts.current()
        if self.empty:
            body = f"<p>{html.escape(texts.say('nothing_done'))}</p>"
        else:
            names = ("lesson", "exercises", "quiz", "open_ideas", "reviews")
            head = "".join(f'<th scope="col">{html.escape(texts.say(name))}</th>' for name in names)
            rows = "".join(_row(lesson, language) for lesson in self.lessons)
            body = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        ideas = "".join(_ideas(lesson, language) for lesson in self.lessons if lesson.misconceptions)
        if ideas:
            body += f"<p><b>{html.escape(texts.say('open_ideas'))}</b></p>{ideas}"
        notes = "".join(f'<p class="tc-meta">{html.escape(line)}</p>' for line in self._below(language))
        title = html.escape(texts.say("progress"))
        return f'{STYLE}<div class="tc-page" lang="{language}"><p><b>{title}</b></p>{body}{notes}</div>'


def _ideas(lesson: LessonProgress, language: str) -> str:
    """Return the misconceptions of a lesson that are still open, under its title."""
    lines = "".join(f"<li>{markup.to_inline(idea[language])}</li>" for idea in lesson.misconceptions)
    return f"<p>{html.escape(lesson.title[language])}</p><ul>{lines}</ul>"


def _row(lesson: LessonProgress, language: str) -> str:
    title = html.escape(lesson.title[language])
    if not lesson.begun:
        note = html.escape(texts.say("not_begun"))
        return f'<tr><th scope="row">{title}</th><td colspan="4" class="tc-meta">{note}</td></tr>'
    bars = _bar(len(lesson.passed), lesson.exercises, html.escape(lesson.counted(language)))
    bars += _bar(len(lesson.answered), lesson.questions, html.escape(lesson.quiz(language)))
    counts = f"<td>{len(lesson.misconceptions) or '–'}</td><td>{lesson.due or '–'}</td>"
    return f'<tr><th scope="row">{title}</th>{bars}{counts}</tr>'


def _bar(done: int, total: int, words: str) -> str:
    if not total:
        return "<td>–</td>"
    share = round(100 * done / total)
    return f'<td><span class="tc-bar" aria-hidden="true"><span style="width:{share}%"></span></span> {words}</td>'


def _names() -> list[str]:
    from torchcourse.quiz import bank

    folders = [path.name for path in journal.path().parent.glob("[0-9][0-9]_*") if path.is_dir()]
    return sorted({*bank.lessons(), *folders})


def _empty(name: str) -> LessonProgress:
    """Return a lesson in which nothing has been done, with its title and how much there is to do."""
    from torchcourse.quiz import bank

    try:
        questions = len(bank.lesson(name).questions)
    except bank.BankError:
        questions = 0  # a lesson without a quiz, or one whose quiz has gone
    return LessonProgress(name, title_of(name), exercises=_exercises(name), questions=questions)


def title_of(name: str) -> dict[str, str]:
    """Return what the lesson in a folder is called, such as "10 Capstone" for `10_capstone`, by language."""
    from torchcourse.quiz import bank

    number, _, rest = name.partition("_")
    try:
        found = bank.lesson(name).title
        title = {language: found[language] for language in texts.LANGUAGES}
    except bank.BankError:
        own = rest in ("capstone", "final")
        plain = rest.replace("_", " ")
        title = {language: texts.say(rest, language) if own else plain for language in texts.LANGUAGES}
    return {language: f"{number} {words}".strip() for language, words in title.items()}


def _exercises(name: str) -> int:
    """Count the graded exercises in the learner's copies of a lesson's notebooks."""
    count = 0
    for path in (journal.path().parent / name).glob("*.ipynb"):
        if path.name == "quiz.ipynb":
            continue
        try:
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
            roles = [cell["metadata"].get("nbgrader", {}) for cell in cells if cell["cell_type"] == "code"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # a notebook that is being saved, or damaged: it is not this page's business
        count += sum(bool(role.get("grade")) for role in roles)
    return count


def _count_check(found: dict[str, LessonProgress], entry: Entry) -> None:
    """Count an exercise, such as `lesson01.mean_loss`, as tried and as passed."""
    room, _, exercise = entry["exercise"].partition(".")
    lesson = _of_number(found, room.removeprefix("lesson"))
    if entry.get("state") == "not done":
        return  # no attempt: a notebook that is run again passes its stubs
    lesson.tried.add(exercise)
    right = entry.get("state") == "right"
    (lesson.passed.add if right else lesson.passed.discard)(exercise)
    if right:
        lesson.passed_once.add(exercise)


def _of_number(found: dict[str, LessonProgress], number: str) -> LessonProgress:
    for name, lesson in found.items():
        if name.partition("_")[0] == number:
            return lesson
    return found.setdefault(number, _empty(number))


def _idea(state: QuestionState, slug: str) -> dict[str, str]:
    """Return a misconception in words; its bare name where the bank has gone."""
    from torchcourse.quiz import bank

    try:
        text = bank.lesson(state.lesson).misconceptions.get(slug)
    except bank.BankError:
        text = None
    plain = slug.replace("-", " ")
    return {"slug": slug, "en": text.en if text else plain, "ko": text.ko if text else plain}
