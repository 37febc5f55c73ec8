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
from torchcourse.lessons.start_here.course_map import Notebook, Step, done, next_step, read_notebooks
from torchcourse.lessons.start_here.progress_report import LessonProgress, progress_by_lesson, title_of
from torchcourse.quiz import markup, texts
from torchcourse.quiz.reviews import QuestionState, answers_in, due_today, review_days, states

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

    def due(self, language: str, where: str = "front_due_below") -> str:
        """Return what is due today and `where` it is answered, or when something will be due."""
        due = len(due_today(self.states, self.now))
        if due:
            sentence = texts.say("due_1" if due == 1 else "due", language, count=due)
            return f"{sentence} {texts.say(where, language)}"
        coming = [day for day in review_days(self.states, self.now) if day > self.now.date()]
        if coming:
            return texts.say("nothing_due", language, day=min(coming))
        return texts.say("nothing_yet", language)

    def __repr__(self) -> str:
        language = texts.current()
        place, _href = self._place(language)
        lines = [
            texts.say("front_title"),
            f"{self._verb(language)}: {place}",
            f"{texts.say('front_due')}: {self.due(language)}",
        ]
        for lesson in self.lessons:
            counts = f"{texts.say('exercises')} {lesson.counted(language)}, {texts.say('quiz')} {lesson.quiz(language)}"
            lines.append(f"  {lesson.title[language]}: {counts if lesson.begun else texts.say('not_begun')}")
        return "\n".join([*lines, *journal.problems()])

    def _repr_html_(self) -> str:
        from torchcourse.quiz.render import STYLE

        language = texts.current()
        folded = "".join(
            f'<details lang="{other}"><summary>{name}</summary>{self._body(other)}</details>'
            for other, name in (("en", "English"), ("ko", "한국어"))
            if other != language
        )
        page = f'<div lang="{language}">{self._body(language, self._pictures(language))}</div>{folded}'
        notes = "".join(f'<p class="tc-meta">{html.escape(line)}</p>' for line in journal.problems())
        return f'{STYLE}<div class="tc-page tc-front">{page}{notes}</div>'

    def _body(self, language: str, pictures: str = "") -> str:
        def say(name: str, **values: object) -> str:
            return html.escape(texts.say(name, language, **values))

        place, href = self._place(language)
        twice = f' onclick="{html.escape(_ONCE_MORE)}"' if "#" in href else ""
        link = f'<a href="{html.escape(href)}"{twice}>{html.escape(place)}</a>' if href else html.escape(place)
        moment = self.now.strftime("%Y-%m-%d %H:%M")
        return (
            f'<p class="tc-continue"><b>{html.escape(self._verb(language))}</b><br>{link}</p>'
            f"<p><b>{say('front_due')}</b><br>{html.escape(self.due(language))}</p>"
            f"<p><b>{say('front_lessons')}</b></p>{self._map(language)}{pictures}{self._ideas(language)}"
            f'<p class="tc-meta">{say("front_now", moment=moment)}</p>'
        )

    def _verb(self, language: str) -> str:
        begun = any(lesson.begun for lesson in self.lessons) or bool(done(self.entries))
        return texts.say("front_continue" if begun else "front_begin", language)

    def _place(self, language: str) -> tuple[str, str]:
        """Return where to go on, in words and as a link."""
        if not self.notebooks:
            return texts.say("front_no_lessons", language), ""
        step = next_step(self.notebooks, self.entries)
        if step is None:
            return texts.say("front_final", language), self.notebooks[-1].path
        (notebook,) = (each for each in self.notebooks if each.path == step.notebook)
        number = notebook.lesson.partition("_")[0]
        if not done(self.entries):
            return f"{number} · {notebook.title}", notebook.path
        fragment = f"#cell-id={step.cell}" if step.cell else ""
        return f"{number} · {notebook.title} · {_words(step, language)}", f"{notebook.path}{fragment}"

    def _map(self, language: str) -> str:
        names = ("lesson", "front_notebooks", "exercises", "quiz", "front_hours")
        head = "".join(f'<th scope="col">{html.escape(texts.say(name, language))}</th>' for name in names)
        known = {lesson.name: lesson for lesson in self.lessons}
        finished = done(self.entries)
        rows = []
        for name in sorted({*known, *(notebook.lesson for notebook in self.notebooks)}):
            mine = [notebook for notebook in self.notebooks if notebook.lesson == name]
            lesson = known.get(name)
            links = "".join(_link(notebook, finished) for notebook in mine)
            title = lesson.title[language] if lesson else title_of(name)[language]
            counts = [
                lesson.counted(language) if lesson and lesson.exercises else "–",
                lesson.quiz(language) if lesson and lesson.questions else "–",
            ]
            minutes = sum(notebook.minutes for notebook in mine)
            cells = "".join(f"<td>{html.escape(count)}</td>" for count in counts)
            hours = f"{minutes / 60:.1f}" if minutes else "–"
            rows.append(f'<tr><th scope="row">{html.escape(title)}</th><td>{links}</td>{cells}<td>{hours}</td></tr>')
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"

    def _ideas(self, language: str) -> str:
        lines = "".join(
            f"<p>{html.escape(lesson.title[language])}</p>"
            f"<ul>{''.join(f'<li>{markup.to_inline(idea[language])}</li>' for idea in lesson.misconceptions)}</ul>"
            for lesson in self.lessons
            if lesson.misconceptions
        )
        return f"<p><b>{html.escape(texts.say('open_ideas', language))}</b></p>{lines}" if lines else ""

    def _pictures(self, language: str) -> str:
        """Return the pictures for which there is something to show."""
        from torchcourse.lessons.start_here import front_page_picture as picture
        from torchcourse.lessons.start_here.final_results import calibration

        answers = answers_in(self.entries)
        today, coming = self.now.date(), review_days(self.states, self.now)
        per_day: Counter[date] = Counter(journal.when(entry).astimezone().date() for entry in answers)
        ideas = {lesson.name.partition("_")[0]: len(lesson.misconceptions) for lesson in self.lessons}
        images = [
            picture.sure(calibration(answers), language),
            picture.days(per_day, coming, today, language),
            picture.ideas({number: count for number, count in ideas.items() if count}, language),
        ]
        return f'<div class="tc-pictures">{"".join(images)}</div>' if any(images) else ""


def _words(step: Step, language: str) -> str:
    kind, _lesson, name = step.key
    if kind == "exercise":
        return texts.say("front_exercise", language, name=name)
    return texts.say("front_prediction" if kind == "prediction" else "question", language, number=step.number)


def _link(notebook: Notebook, finished: set) -> str:
    count = sum(step.key in finished for step in notebook.steps)
    steps = f" {count}/{len(notebook.steps)}" if notebook.steps else ""
    mark = " ✓" if notebook.steps and count == len(notebook.steps) else ""
    title = html.escape(notebook.title)
    return f'<div><a href="{html.escape(notebook.path)}">{title}</a><span class="tc-meta">{steps}{mark}</span></div>'
