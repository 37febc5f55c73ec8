"""What a daily page says: progress, what was learned, wrong answers with their correction, what to do next.

The shape is the one of the study log: 일일 진도 현황, 배운 것, 궁금한 점, 참고자료, 할 일 및 계획.
"""

from dataclasses import dataclass
from datetime import date, datetime, time

from torchcourse import journal
from torchcourse.journal import Entry
from torchcourse.lessons.start_here.final_results import Result, results
from torchcourse.lessons.start_here.progress_report import LessonProgress, progress_by_lesson
from torchcourse.quiz import answers, bank, choice_order, markup
from torchcourse.quiz.questions import ChoiceQuestion, OpenQuestion, Question, Text
from torchcourse.quiz.reviews import answers_in, review_days, states
from torchcourse.quiz.texts import say
from torchcourse.quiz.verdict import explanation, judge


def page_text(entries: list[Entry], day: date) -> str:
    """Return the page of a day as Markdown.

    Args:
        entries: the journal up to the end of that day.
        day: the day whose answers and checks are told.
    """
    today = [entry for entry in entries if journal.when(entry).date() == day]
    evening = datetime.combine(day, time.max).astimezone()
    lessons = [lesson for lesson in progress_by_lesson(entries, evening) if lesson.begun]
    ideas = [markup.to_markdown(str(idea)) for lesson in lessons for idea in lesson.misconceptions.values()]
    sections = [
        ("page_progress", [*_progress_lines(lessons), *_final_lines(results(entries))]),
        ("page_learned", _learned_lines([_day_of(lesson, today) for lesson in lessons], today)),
        ("page_questions", [f"- [ ] {say('think_again', idea=idea)}" for idea in ideas]),
        ("page_references", []),
        ("page_plan", _plan_lines(entries, today, evening)),
    ]
    lines = [f"# {say('page_title')}", ""]
    for name, body in sections:
        lines += [f"## {say(name)}", "", *body, *([""] if body else [])]
    return "\n".join(lines)


def _progress_lines(lessons: list[LessonProgress]) -> list[str]:
    lines: list[str] = []
    for lesson in lessons:
        tallies = {"exercises": lesson.exercises, "quiz": lesson.questions}
        counted = {name: tally for name, tally in tallies.items() if tally.total}
        all_done = all(tally.done == tally.total for tally in counted.values())
        lines.append(f"- [{_tick(all_done)}] {lesson.title}")
        for name, tally in counted.items():
            done = f"- [{_tick(tally.done == tally.total)}] {say(name)} ({tally.done}/{tally.total})"
            lines.append(f"  {done}{tally.at_best}")
    return lines


def _final_lines(finals: list[Result]) -> list[str]:
    """Return the last final as the learner noted an exam, (5/10), ticked when it is passed, and the tries before it."""
    tries = " → ".join(f"({each.right}/{each.total})" for each in finals)
    return [f"- [{_tick(finals[-1].passed)}] {say('final')} {tries}"] if finals else []


@dataclass
class _Day:
    """What was done in one lesson on the day."""

    title: Text
    answered: list[Entry]
    right: list[str]
    """The questions whose last answer was right."""
    passed: list[str]
    """The exercises whose last attempt was right."""

    @property
    def only_right(self) -> bool:
        """Whether there is nothing to tell but right answers, as after a review."""
        return bool(self.right) and not self.passed and all(entry["right"] for entry in self.answered)


def _day_of(lesson: LessonProgress, today: list[Entry]) -> _Day:
    answered = [entry for entry in answers_in(today) if entry["lesson"] == lesson.name]
    last = {str(entry["question"]): entry["right"] for entry in answered}
    prefix = f"lesson{lesson.name.partition('_')[0]}."
    tried = {name: state for name, state in _checks(today).items() if name.startswith(prefix)}
    return _Day(
        title=lesson.title,
        answered=answered,
        right=[question for question, is_right in last.items() if is_right],
        passed=[name.removeprefix(prefix) for name, state in tried.items() if state == "right"],
    )


def _checks(today: list[Entry]) -> dict[str, object]:
    """Return how the last attempt at each exercise came out, by its name, such as `lesson01.mean_loss`."""
    checks = [entry for entry in today if entry["kind"] == "check" and entry.get("state") != "not done"]
    return {str(entry.get("exercise")): entry.get("state") for entry in checks}


def _learned_lines(days: list[_Day], today: list[Entry]) -> list[str]:
    only_right = ", ".join(f"{day.title} {len(day.right)}" for day in days if day.only_right)
    line = [f"- {say('answered_right_in', said=only_right)}"] if only_right else []
    sections = [_lesson_lines(day, today) for day in days if not day.only_right]
    return _with_gaps([line, *sections, _surprise_lines(today)])


def _lesson_lines(day: _Day, today: list[Entry]) -> list[str]:
    """Return what was learned in one lesson under its title; nothing where that is nothing."""
    done = []
    if day.passed:
        done.append(f"- {say('passed', names=', '.join(f'`{name}`' for name in day.passed))}")
    if day.right:
        done.append(f"- {say('answered_right', count=len(day.right))}")
    wrong = _wrong_lines(day.answered, today)
    body = _with_gaps([done, [f"#### {say('page_wrong')}", "", *wrong] if wrong else []])
    return [f"### {day.title}", "", *body] if body else []


def _surprise_lines(today: list[Entry]) -> list[str]:
    """Return a line for each prediction that came out differently, as its last outcome has it."""
    outcomes = [entry for entry in today if entry["kind"] == "outcome" and entry.get("right") is False]
    lines = []
    for entry in {str(entry.get("id")): entry for entry in outcomes}.values():
        predicted, text = (markup.to_markdown(str(entry.get(name, ""))) for name in ("predicted", "text"))
        lines.append(f"- {say('surprise', predicted=predicted, text=text)}")
    return lines


def _wrong_lines(answered: list[Entry], today: list[Entry]) -> list[str]:
    """Return each wrong answer once, numbered: the question, the answer, the reasoning, the correction."""
    wrong = {_given(entry): entry for entry in answered if not entry["right"]}
    last = {entry["question"]: entry["right"] for entry in answered}
    items = []
    for place, entry in enumerate(wrong.values(), start=1):
        found = bank.find(entry["lesson"], str(entry.get("asked")))
        question = found[2] if found else None
        text = markup.to_markdown(str(question.text)) if question else str(entry.get("asked"))
        done = last[entry["question"]]  # right, and then wrong again, is not mended
        parts = [*_wrong_parts(question, entry, today), f"[{_tick(done)}] {say('later_right')}"]
        lines = [*text.split("\n"), "", *(f"- {part}" for part in parts)]
        indent = " " * len(f"{place}. ")
        items.append([f"{place}. {lines[0]}", *(f"{indent}{line}".rstrip() for line in lines[1:])])
    return _with_gaps(items)


def _wrong_parts(question: Question | None, entry: Entry, today: list[Entry]) -> list[str]:
    """Return the answer with how sure its writer was, what was thought, and the correction: one line each."""
    sure = answers.how_sure(entry.get("sure"))
    how_sure = f" ({say(f'sure_{sure}')})" if sure else ""
    shown = answers.show(entry.get("answer"), str(entry.get("form") or (question.kind if question else "")))
    thought = [entry for entry in today if entry["kind"] == "reasoning"]
    reasons = [str(other.get("text", "")) for other in thought if _given(other) == _given(entry)]
    return [
        say("my_answer", answer=_one_line(f"{shown}{how_sure}")),
        *(say("my_reasoning", text=_one_line(reason)) for reason in dict.fromkeys(reasons)),
        *(say("correction", text=part) for part in _corrections(question, entry)),
    ]


def _corrections(question: Question | None, entry: Entry) -> list[str]:
    """Return what was wrong with an answer, in the bank's words: the wrong parts, then what was missing."""
    if isinstance(question, OpenQuestion):
        return _open_corrections(question, entry)
    now = choice_order.answer_now(question, entry) if question else None
    if question is None or now is None:
        return []  # the question has gone or changed since: nobody can say what the answer meant
    then = choice_order.as_answered(question, entry)
    if then is None or isinstance(then, OpenQuestion) or not then.has_key:
        return []
    answer = entry["answer"] if isinstance(then, ChoiceQuestion) else now  # letters as they were shown
    remarks = [remark for remark in judge(then, answer).remarks if not remark.right]
    seen = [remark.label for remark in remarks] + (list(str(answer)) if then.kind == "several" else [])
    remarks += [remark for remark in explanation(then) if remark.right and remark.label not in seen]
    corrections = []
    for remark in remarks:
        what = f"{remark.label}. {markup.to_markdown(str(remark.text))}" if remark.text else f"`{remark.label}`"
        corrections.append(f"**{what}** {_joined(remark.why)}")
    return corrections


def _open_corrections(question: OpenQuestion, entry: Entry) -> list[str]:
    slugs = entry.get("misconceptions")
    traps = [
        f"**{markup.to_markdown(str(trap.reasoning))}** {_joined(trap.why)}"
        for trap in question.mistakes
        if isinstance(slugs, list) and trap.misconception in slugs
    ]
    return [*traps, *([_joined(question.model_answer)] if question.model_answer else [])]


def _plan_lines(entries: list[Entry], today: list[Entry], evening: datetime) -> list[str]:
    days = list(review_days(states(entries), evening).items())
    lines = [f"- [ ] {say('review_on', day=day, count=count)}" for day, count in days[:3]]
    unfinished = [name.partition(".")[2] for name, state in _checks(today).items() if state == "wrong"]
    return lines + [f"- [ ] {say('finish', name=f'`{name}`')}" for name in unfinished]


def _given(entry: Entry) -> tuple[str, ...]:
    """Return what tells one answer from the next: the question, the answer, and what its letters meant."""
    return tuple(str(entry.get(name)) for name in ("asked", "answer", "order"))


def _with_gaps(parts: list[list[str]]) -> list[str]:
    """Return the lines of all parts that are not empty, with an empty line between one part and the next."""
    lines: list[str] = []
    for part in filter(None, parts):
        lines += [*([""] if lines else []), *part]
    return lines


def _tick(done: bool) -> str:
    return "x" if done else " "


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _joined(text: Text) -> str:
    """Return Markdown for a text with several paragraphs as one line, which a list item can hold."""
    return _one_line(markup.to_markdown(str(text)))
