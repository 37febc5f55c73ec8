"""What a daily page says: progress, what was learned, wrong answers with their correction, what to do next.

The shape is the one of the study log: 일일 진도 현황, 배운 것, 궁금한 점, 참고자료, 할 일 및 계획.
"""

from datetime import date, datetime, time

from torchcourse import journal
from torchcourse.journal import Entry
from torchcourse.lessons.start_here.final_results import Result, results
from torchcourse.lessons.start_here.progress_report import LessonProgress, progress_by_lesson
from torchcourse.quiz import answers, bank, choice_order, markup, texts
from torchcourse.quiz.questions import BankError, OpenQuestion, Question
from torchcourse.quiz.reviews import answers_in, review_days, states
from torchcourse.quiz.verdict import explanation, judge


def page_text(entries: list[Entry], day: date, language: str) -> str:
    """Return the page of a day as Markdown.

    Args:
        entries: the journal up to the end of that day.
        day: the day whose answers and checks are told.
        language: of the headings and the questions, `en` or `ko`.
    """
    today = [entry for entry in entries if journal.when(entry).date() == day]
    evening = datetime.combine(day, time.max).astimezone()
    lessons = [lesson for lesson in progress_by_lesson(entries, evening) if lesson.begun]
    sections = [
        ("page_progress", [*_progress_lines(lessons, language), *_final_lines(results(entries), language)]),
        ("page_learned", _learned_lines(lessons, today, language)),
        ("page_questions", _open_lines(lessons, language)),
        ("page_references", []),
        ("page_plan", _plan_lines(entries, today, evening, language)),
    ]
    lines = [f"# {texts.say('page_title', language)}", ""]
    for name, body in sections:
        lines += [f"## {texts.say(name, language)}", "", *body, *([""] if body else [])]
    return "\n".join(lines)


def _progress_lines(lessons: list[LessonProgress], language: str) -> list[str]:
    lines: list[str] = []
    for lesson in lessons:
        counts = [
            ("exercises", len(lesson.passed), len(lesson.passed_once), lesson.exercises),
            ("quiz", len(lesson.right), len(lesson.right_once), lesson.questions),
        ]
        counts = [count for count in counts if count[3]]
        lines.append(
            f"- [{_tick(all(done == total for _name, done, _best, total in counts))}] {lesson.title[language]}"
        )
        for name, done, best, total in counts:
            more = texts.say("at_best", language, best=best) if best > done else ""
            lines.append(f"  - [{_tick(done == total)}] {texts.say(name, language)} ({done}/{total}){more}")
    return lines


def _final_lines(finals: list[Result], language: str) -> list[str]:
    """Return the last final as the learner noted an exam, (5/10), ticked when it is passed, and the tries before it."""
    if not finals:
        return []
    *before, last = [f"({each.right}/{each.total})" for each in finals]
    tried = f"{' → '.join(before)} → " if before else ""
    return [f"- [{_tick(finals[-1].passed)}] {texts.say('final', language)} {tried}{last}"]


def _learned_lines(lessons: list[LessonProgress], today: list[Entry], language: str) -> list[str]:
    sections = [_lesson_lines(lesson, today, language) for lesson in lessons]
    return _with_gaps([_only_right_line(lessons, today, language), *sections, _surprise_lines(today, language)])


def _only_right_line(lessons: list[LessonProgress], today: list[Entry], language: str) -> list[str]:
    """Return one line for all lessons of which there is nothing to tell but right answers, as after a review."""
    counts = [(lesson.title[language], len(_right(lesson, today))) for lesson in lessons if _only_right(lesson, today)]
    said = ", ".join(f"{title} {count}" for title, count in counts)
    return [f"- {texts.say('answered_right_in', language, said=said)}"] if said else []


def _lesson_lines(lesson: LessonProgress, today: list[Entry], language: str) -> list[str]:
    """Return what was learned in one lesson under its title; nothing where that is nothing, or one line above."""
    if _only_right(lesson, today):
        return []
    passed, right = _passed(lesson, today), _right(lesson, today)
    done = []
    if passed:
        names = ", ".join(f"`{name}`" for name in passed)
        done.append(f"- {texts.say('passed', language, names=names)}")
    if right:
        done.append(f"- {texts.say('answered_right', language, count=len(right))}")
    wrong = _wrong_lines(_answered(lesson, today), today, language)
    if wrong:
        wrong = [f"#### {texts.say('page_wrong', language)}", "", *wrong]
    body = _with_gaps([done, wrong])
    return [f"### {lesson.title[language]}", "", *body] if body else []


def _answered(lesson: LessonProgress, today: list[Entry]) -> list[Entry]:
    return [entry for entry in answers_in(today) if entry["lesson"] == lesson.name]


def _right(lesson: LessonProgress, today: list[Entry]) -> list[str]:
    """Return the questions whose last answer of the day was right."""
    last = {str(entry["question"]): entry["right"] for entry in _answered(lesson, today)}
    return [question for question, is_right in last.items() if is_right]


def _passed(lesson: LessonProgress, today: list[Entry]) -> list[str]:
    """Return the exercises whose last attempt of the day was right."""
    prefix = f"lesson{lesson.name.partition('_')[0]}."
    tried = [entry for entry in today if entry["kind"] == "check" and entry.get("state") != "not done"]
    last = {str(entry.get("exercise")): entry.get("state") for entry in tried}
    return [name.removeprefix(prefix) for name, state in last.items() if state == "right" and name.startswith(prefix)]


def _only_right(lesson: LessonProgress, today: list[Entry]) -> bool:
    right = all(entry["right"] for entry in _answered(lesson, today))
    return right and bool(_right(lesson, today)) and not _passed(lesson, today)


def _surprise_lines(today: list[Entry], language: str) -> list[str]:
    """Return a line for each prediction that came out differently, as its last outcome has it."""
    surprises = {
        str(entry.get("id")): entry for entry in today if entry["kind"] == "outcome" and entry.get("right") is False
    }
    lines = []
    for entry in surprises.values():
        predicted, text = (markup.to_markdown(str(entry.get(name, ""))) for name in ("predicted", "text"))
        lines.append(f"- {texts.say('surprise', language, predicted=predicted, text=text)}")
    return lines


def _wrong_lines(answered: list[Entry], today: list[Entry], language: str) -> list[str]:
    """Return each wrong answer once, numbered: the question, the answer, the reasoning, the correction."""
    wrong = {_given(entry): entry for entry in answered if not entry["right"]}
    last = {entry["question"]: entry["right"] for entry in answered}
    items = []
    for place, entry in enumerate(wrong.values(), start=1):
        question = _find(entry["lesson"], str(entry.get("asked")))
        text = markup.to_markdown(question.text[language]) if question else str(entry.get("asked"))
        done = last[entry["question"]]  # right, and then wrong again, is not mended
        numbered = f"{place}. "
        indent = " " * len(numbered)
        first, *rest = text.split("\n")
        item = [numbered + first, *(f"{indent}{line}".rstrip() for line in rest), ""]
        item += [f"{indent}- {part}" for part in _wrong_parts(question, entry, today, language)]
        items.append([*item, f"{indent}- [{_tick(done)}] {texts.say('later_right', language)}"])
    return _with_gaps(items)


def _wrong_parts(question: Question | None, entry: Entry, today: list[Entry], language: str) -> list[str]:
    """Return the answer with how sure its writer was, what was thought, and the correction: one line each."""
    sure = answers.how_sure(entry.get("sure"))
    how_sure = f" ({texts.say(f'sure_{sure}', language)})" if sure else ""
    answer = entry.get("answer")
    shown = answers.show(answer, str(entry.get("form") or (question.kind if question else "")))
    reasons = [
        str(other.get("text", "")) for other in today if other["kind"] == "reasoning" and _given(other) == _given(entry)
    ]
    return [
        texts.say("my_answer", language, answer=_one_line(f"{shown}{how_sure}")),
        *(texts.say("my_reasoning", language, text=_one_line(reason)) for reason in dict.fromkeys(reasons)),
        *(texts.say("correction", language, text=part) for part in _corrections(question, entry, language)),
    ]


def _corrections(question: Question | None, entry: Entry, language: str) -> list[str]:
    """Return what was wrong with an answer, in the bank's words: the wrong parts, then what was missing."""
    if question is None:
        return []
    if isinstance(question, OpenQuestion):
        return _open_corrections(question, entry, language)
    if not question.has_key:
        return []
    answer = entry.get("answer") if choice_order.answer_now(question, entry) is not None else None
    question = choice_order.as_answered(question, entry)
    if question is None or answer is None:
        return []  # the question has been changed since: nobody can say what the answer meant
    remarks = [remark for remark in judge(question, answer).remarks if not remark.right]
    seen = [remark.label for remark in remarks] + (list(str(answer)) if question.kind == "several" else [])
    remarks += [remark for remark in explanation(question) if remark.right and remark.label not in seen]
    corrections = []
    for remark in remarks:
        what = f"{remark.label}. {markup.to_markdown(remark.text[language])}" if remark.text else f"`{remark.label}`"
        corrections.append(f"**{what}** {_joined(remark.why[language])}")
    return corrections


def _open_corrections(question: OpenQuestion, entry: Entry, language: str) -> list[str]:
    slugs = entry.get("misconceptions")
    traps = [
        f"**{markup.to_markdown(trap.reasoning[language])}** {_joined(trap.why[language])}"
        for trap in question.mistakes
        if isinstance(slugs, list) and trap.misconception in slugs
    ]
    model = question.model_answer
    return [*traps, *([_joined(model[language])] if model else [])]


def _open_lines(lessons: list[LessonProgress], language: str) -> list[str]:
    ideas = [markup.to_markdown(idea[language]) for lesson in lessons for idea in lesson.misconceptions]
    return [f"- [ ] {texts.say('think_again', language, idea=idea)}" for idea in ideas]


def _plan_lines(entries: list[Entry], today: list[Entry], evening: datetime, language: str) -> list[str]:
    days = review_days(states(entries), evening)
    lines = [f"- [ ] {texts.say('review_on', language, day=day, count=count)}" for day, count in list(days.items())[:3]]
    last = {str(entry.get("exercise")): entry.get("state") for entry in today if entry["kind"] == "check"}
    unfinished = [str(name).partition(".")[2] for name, state in last.items() if state == "wrong"]
    return lines + [f"- [ ] {texts.say('finish', language, name=f'`{name}`')}" for name in unfinished]


def _given(entry: Entry) -> tuple[object, ...]:
    """Return what tells one answer from the next: the question, the answer, and what its letters meant."""
    return (str(entry.get("asked")), str(entry.get("answer")), str(entry.get("order")))


def _find(lesson: str, asked: str) -> Question | None:
    try:
        return bank.lesson(lesson).question(asked)[1]
    except BankError:
        return None


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


def _joined(text: str) -> str:
    """Return Markdown for a text with several paragraphs as one line, which a list item can hold."""
    return " ".join(markup.to_markdown(text).split())
