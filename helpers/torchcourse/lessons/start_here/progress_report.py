"""How far the learner is: exercises, quizzes, finals, misconceptions still open, reviews due. All from the journal.

progress()
"""

import html
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from torchcourse import journal
from torchcourse.journal import Entry
from torchcourse.lessons.start_here.course_map import read_notebooks
from torchcourse.lessons.start_here.final_results import Result, calibration, result_lines, results, sure_line
from torchcourse.quiz import bank, markup, render, texts
from torchcourse.quiz.questions import Text
from torchcourse.quiz.reviews import answers_in, due_today, states


def progress(now: datetime | None = None) -> "ProgressReport":
    """Show a line for each lesson, and below it the misconceptions that are still open.

    Args:
        now: the moment that counts as now; without a zone it is local time.
    """
    entries = journal.read()
    return ProgressReport(progress_by_lesson(entries, now), results(entries), calibration(answers_in(entries)))


@dataclass
class Tally:
    """The exercises or questions of a lesson: how many there are, and how those that were tried came out."""

    there: int = 0
    last: dict[str, bool] = field(default_factory=dict)
    """Whether the last try was right, by name: what was right and then wrong is not known."""
    once: set[str] = field(default_factory=set)
    """Those that were right in some try."""

    def add(self, name: str, right: bool) -> None:
        self.last[name] = right
        if right:
            self.once.add(name)

    @property
    def total(self) -> int:
        return max(self.there, len(self.last))

    @property
    def done(self) -> int:
        return sum(self.last.values())

    @property
    def at_best(self) -> str:
        """In words, how many were right once, where that is more than are right now."""
        return texts.say("at_best", best=len(self.once)) if len(self.once) > self.done else ""


@dataclass
class LessonProgress:
    """What the journal says about one lesson."""

    name: str
    title: Text
    exercises: Tally
    questions: Tally
    misconceptions: dict[str, Text] = field(default_factory=dict)
    due: int = 0

    @property
    def begun(self) -> bool:
        return bool(self.exercises.last or self.questions.last)

    @property
    def exercises_in_words(self) -> str:
        return f"{self.exercises.done}/{self.exercises.total}{self.exercises.at_best}"

    @property
    def quiz_in_words(self) -> str:
        tally = self.questions
        counts = texts.say("quiz_counts", answered=len(tally.last), total=tally.total, right=tally.done)
        return f"{counts}{tally.at_best}"

    def line(self, *more: str) -> str:
        """Return the counts in a line of text, or that the lesson is not begun."""
        said = [f"{texts.say('exercises')} {self.exercises_in_words}", f"{texts.say('quiz')} {self.quiz_in_words}"]
        return f"  {self.title}: {', '.join([*said, *more]) if self.begun else texts.say('not_begun')}"


def progress_by_lesson(entries: list[Entry], now: datetime | None = None) -> list[LessonProgress]:
    """Return the progress in each lesson that has a quiz, a notebook beside the journal, or an entry in the journal.

    Args:
        entries: what to count.
        now: the moment for which reviews are due.
    """
    now = (now or datetime.now()).astimezone()
    found: dict[str, LessonProgress] = {}

    def lesson(name: str) -> LessonProgress:
        if name not in found:
            known = bank.known(name)
            questions = len(known.questions) if known else 0
            found[name] = LessonProgress(name, title_of(name), Tally(), Tally(questions))
        return found[name]

    for name in bank.lessons():
        lesson(name)
    for notebook in read_notebooks(journal.path().parent):
        lesson(notebook.lesson).exercises.there += sum(step.key[0] == "exercise" for step in notebook.steps)
    for entry in entries:
        # "not done" is no attempt: a notebook that is run again passes its stubs.
        if entry["kind"] == "check" and isinstance(entry.get("exercise"), str) and entry.get("state") != "not done":
            room, _, exercise = entry["exercise"].partition(".")
            number = room.removeprefix("lesson")
            name = next((name for name in found if name.partition("_")[0] == number), number)
            lesson(name).exercises.add(exercise, entry.get("state") == "right")
    for entry in answers_in(entries):
        lesson(entry["lesson"]).questions.add(entry["question"], entry["right"])
    everything = states(entries)
    for state in due_today(everything, now):
        found[state.lesson].due += 1
    for state in everything:
        for slug in state.misconceptions:
            found[state.lesson].misconceptions[slug] = _idea(state.lesson, slug)
    # A folder with nothing to count, such as the final's, is no lesson.
    return [found[name] for name in sorted(found) if found[name].exercises.total or found[name].questions.total]


@dataclass
class ProgressReport:
    """The table of `progress`, as HTML and as text."""

    lessons: list[LessonProgress]
    finals: list[Result]
    sure: dict[int, tuple[int, int]]

    @property
    def empty(self) -> bool:
        return not self.finals and not any(lesson.begun for lesson in self.lessons)

    @property
    def below(self) -> list[str]:
        """The lines below the table: the finals, how far one's confidence can be trusted, what is wrong."""
        sure = [sure_line(self.sure, "all_sure")] if self.sure else []
        return [*result_lines(self.finals), *sure, *journal.problems(), texts.say("kept_in", path=journal.path())]

    def __repr__(self) -> str:
        if self.empty:
            return texts.say("nothing_done")
        lines = [texts.say("progress")]
        for lesson in self.lessons:
            ideas = f"{texts.say('open_ideas')} {len(lesson.misconceptions)}"
            lines.append(lesson.line(ideas, f"{texts.say('reviews')} {lesson.due}"))
            lines += [f"    - {markup.to_plain(str(idea))}" for idea in lesson.misconceptions.values()]
        return "\n".join([*lines, *self.below])

    def _repr_html_(self) -> str:
        if self.empty:
            body = f"<p>{render.said('nothing_done')}</p>"
        else:
            names = ("lesson", "exercises", "quiz", "open_ideas", "reviews")
            body = table_html(names, [_row(lesson) for lesson in self.lessons])
        notes = "".join(f'<p class="tc-meta">{html.escape(line)}</p>' for line in self.below)
        title = render.said("progress")
        page = f"<p><b>{title}</b></p>{body}{ideas_html(self.lessons)}{notes}"
        return f'{render.STYLE}<div class="tc-page" lang="{texts.current()}">{page}</div>'


def table_html(columns: tuple[str, ...], rows: list[str]) -> str:
    """Return a table; `columns` are the names of sentences."""
    head = "".join(f'<th scope="col">{render.said(name)}</th>' for name in columns)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def ideas_html(lessons: list[LessonProgress]) -> str:
    """Return the misconceptions that are still open, under the title of their lesson; nothing where none is."""
    lists = ""
    for lesson in lessons:
        if lesson.misconceptions:
            lines = "".join(f"<li>{markup.to_inline(str(idea))}</li>" for idea in lesson.misconceptions.values())
            lists += f"<p>{html.escape(str(lesson.title))}</p><ul>{lines}</ul>"
    return f"<p><b>{render.said('open_ideas')}</b></p>{lists}" if lists else ""


def title_of(name: str) -> Text:
    """Return what the lesson in a folder is called, such as "10 Capstone" for `10_capstone`."""
    number, _, rest = name.partition("_")
    plain = rest.replace("_", " ")
    titles = dict.fromkeys(texts.LANGUAGES, plain)
    if found := bank.known(name):
        titles = found.title.model_dump()
    elif rest in ("capstone", "final"):
        titles = texts.sentences()[rest]
    return _text({language: f"{number} {title}".strip() for language, title in titles.items()})


def _row(lesson: LessonProgress) -> str:
    title = html.escape(str(lesson.title))
    if not lesson.begun:
        note = render.said("not_begun")
        return f'<tr><th scope="row">{title}</th><td colspan="4" class="tc-meta">{note}</td></tr>'
    bars = _bar(lesson.exercises.done, lesson.exercises.total, html.escape(lesson.exercises_in_words))
    bars += _bar(len(lesson.questions.last), lesson.questions.total, html.escape(lesson.quiz_in_words))
    counts = f"<td>{len(lesson.misconceptions) or '–'}</td><td>{lesson.due or '–'}</td>"
    return f'<tr><th scope="row">{title}</th>{bars}{counts}</tr>'


def _bar(done: int, total: int, words: str) -> str:
    if not total:
        return "<td>–</td>"
    share = round(100 * done / total)
    return f'<td><span class="tc-bar" aria-hidden="true"><span style="width:{share}%"></span></span> {words}</td>'


def _idea(lesson: str, slug: str) -> Text:
    """Return a misconception in words; its bare name where the bank has gone."""
    found = bank.known(lesson)
    plain = _text(dict.fromkeys(texts.LANGUAGES, slug.replace("-", " ")))
    return found.misconceptions.get(slug, plain) if found else plain


def _text(words: dict[str, Any]) -> Text:
    """Return a text that may be empty: a journal of another version may name anything."""
    return Text.model_construct(**words)
