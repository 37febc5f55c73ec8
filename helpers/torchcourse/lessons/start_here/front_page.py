"""The front page: where to continue, what is due today, the lessons with what is done, misconceptions, three pictures.

    where_was_i()

`make lab` writes it into `start.ipynb` (see `start_notebook`), where it can be read before any cell runs.
"""

import html
from collections import Counter
from dataclasses import dataclass
from datetime import date, datetime

from torchcourse import journal
from torchcourse.journal import Entry
from torchcourse.lessons.start_here import front_page_picture as picture
from torchcourse.lessons.start_here.course_map import Key, Notebook, Step, done, next_step, read_notebooks
from torchcourse.lessons.start_here.final_results import calibration
from torchcourse.lessons.start_here.progress_report import (
    LessonProgress,
    ideas_html,
    progress_by_lesson,
    table_html,
    title_of,
)
from torchcourse.quiz import render, texts
from torchcourse.quiz.reviews import QuestionState, answers_in, review_days, states
from torchcourse.quiz.texts import say

# JupyterLab looks for the cell of a link before the notebook has any, so the link is followed again when it has.
_ONCE_MORE = """
if (this.followed) return
this.followed = true
let looks = 0
const timer = setInterval(() => {
  const panel = document.querySelector(".jp-NotebookPanel:not(.lm-mod-hidden)")
  const there = panel && !panel.contains(this) && panel.querySelector(".jp-Cell")
  if (!there && ++looks < 120) return
  clearInterval(timer)
  setTimeout(() => { if (there) this.click(); this.followed = false }, 500)
}, 250)
"""


def where_was_i(now: datetime | None = None) -> "FrontPage":
    """Show where to continue, what is due, and how far you are.

    Args:
        now: the moment that counts as now; without a zone it is local time.
    """
    now = (now or datetime.now()).astimezone()
    entries = journal.read()
    lessons = progress_by_lesson(entries, now)
    return FrontPage(now, entries, read_notebooks(journal.path().parent), lessons, states(entries))


@dataclass
class FrontPage:
    """The page of one moment, as HTML and as text. Its links are relative to the learner's folder."""

    now: datetime
    entries: list[Entry]
    notebooks: list[Notebook]
    lessons: list[LessonProgress]
    states: list[QuestionState]

    def due(self, where: str = "front_due_below") -> str:
        """Return what is due today and `where` it is answered, or when something will be due."""
        days = review_days(self.states, self.now)
        if due := days.get(self.now.date()):
            return f"{say('due_1' if due == 1 else 'due', count=due)} {say(where)}"
        return say("nothing_due", day=min(days)) if days else say("nothing_yet")

    def __repr__(self) -> str:
        lines = [say("front_title"), f"{self._verb()}: {self._place()[0]}", f"{say('front_due')}: {self.due()}"]
        return "\n".join([*lines, *(lesson.line() for lesson in self.lessons), *journal.problems()])

    def _repr_html_(self) -> str:
        language = texts.current()
        folded = ""
        for other, name in (("en", "English"), ("ko", "한국어")):
            if other != language:
                with texts.spoken(other):
                    folded += f'<details lang="{other}"><summary>{name}</summary>{self._body()}</details>'
        page = f'<div lang="{language}">{self._body(self._pictures())}</div>{folded}'
        notes = "".join(f'<p class="tc-meta">{html.escape(line)}</p>' for line in journal.problems())
        return f'{render.STYLE}<div class="tc-page tc-front">{page}{notes}</div>'

    def _body(self, pictures: str = "") -> str:
        place, href = self._place()
        twice = f' onclick="{html.escape(_ONCE_MORE)}"' if "#" in href else ""
        link = f'<a href="{html.escape(href)}"{twice}>{html.escape(place)}</a>' if href else html.escape(place)
        moment = self.now.strftime("%Y-%m-%d %H:%M")
        return (
            f'<p class="tc-continue"><b>{html.escape(self._verb())}</b><br>{link}</p>'
            f"<p><b>{render.said('front_due')}</b><br>{html.escape(self.due())}</p>"
            f"<p><b>{render.said('front_lessons')}</b></p>{self._map()}{pictures}{ideas_html(self.lessons)}"
            f'<p class="tc-meta">{render.said("front_now", moment=moment)}</p>'
        )

    def _verb(self) -> str:
        begun = any(lesson.begun for lesson in self.lessons) or done(self.entries)
        return say("front_continue" if begun else "front_begin")

    def _place(self) -> tuple[str, str]:
        """Return where to go on, in words and as a link."""
        if not self.notebooks:
            return say("front_no_lessons"), ""
        step = next_step(self.notebooks, self.entries)
        if step is None:
            return say("front_final"), self.notebooks[-1].path
        (notebook,) = (each for each in self.notebooks if each.path == step.notebook)
        place = f"{notebook.lesson.partition('_')[0]} · {notebook.title}"
        if not done(self.entries):
            return place, notebook.path
        fragment = f"#cell-id={step.cell}" if step.cell else ""
        return f"{place} · {_words(step)}", f"{notebook.path}{fragment}"

    def _map(self) -> str:
        known = {lesson.name: lesson for lesson in self.lessons}
        finished = done(self.entries)
        rows = []
        for name in sorted({*known, *(notebook.lesson for notebook in self.notebooks)}):
            mine = [notebook for notebook in self.notebooks if notebook.lesson == name]
            lesson = known.get(name)
            title = lesson.title if lesson else title_of(name)
            minutes = sum(notebook.minutes for notebook in mine)
            cells = [
                "".join(_link(notebook, finished) for notebook in mine),
                html.escape(lesson.exercises_in_words) if lesson and lesson.exercises.total else "–",
                html.escape(lesson.quiz_in_words) if lesson and lesson.questions.total else "–",
                f"{minutes / 60:.1f}" if minutes else "–",
            ]
            columns = "".join(f"<td>{cell}</td>" for cell in cells)
            rows.append(f'<tr><th scope="row">{html.escape(str(title))}</th>{columns}</tr>')
        return table_html(("lesson", "front_notebooks", "exercises", "quiz", "front_hours"), rows)

    def _pictures(self) -> str:
        """Return the pictures for which there is something to show."""
        answers = answers_in(self.entries)
        per_day: Counter[date] = Counter(journal.when(entry).astimezone().date() for entry in answers)
        open_ideas = {lesson.name.partition("_")[0]: len(lesson.misconceptions) for lesson in self.lessons}
        images = [
            picture.sure(calibration(answers)),
            picture.days(per_day, review_days(self.states, self.now), self.now.date()),
            picture.ideas({number: count for number, count in open_ideas.items() if count}),
        ]
        return f'<div class="tc-pictures">{"".join(images)}</div>' if any(images) else ""


def _words(step: Step) -> str:
    kind, _lesson, name = step.key
    if kind == "exercise":
        return say("front_exercise", name=name)
    return say("front_prediction" if kind == "prediction" else "question", number=step.number)


def _link(notebook: Notebook, finished: set[Key]) -> str:
    count = sum(step.key in finished for step in notebook.steps)
    steps = f" {count}/{len(notebook.steps)}" if notebook.steps else ""
    mark = " ✓" if notebook.steps and count == len(notebook.steps) else ""
    title = html.escape(notebook.title)
    return f'<div><a href="{html.escape(notebook.path)}">{title}</a><span class="tc-meta">{steps}{mark}</span></div>'
