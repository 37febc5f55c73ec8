"""What a daily page says: progress, what was learned, wrong answers with their correction, what to do next.

The shape is the one of the study log: 일일 진도 현황, 배운 것, 궁금한 점, 참고자료, 할 일 및 계획.
"""

from datetime import date, datetime, time
from typing import Any

from torchcourse import journal
from torchcourse.quiz import answers, markup, texts
from torchcourse.quiz.bank import BankError, Question
from torchcourse.quiz.bank import lesson as bank_of
from torchcourse.quiz.cards import SURE
from torchcourse.quiz.progress_report import LessonProgress
from torchcourse.quiz.progress_report import lessons as progress_in
from torchcourse.quiz.reviews import answers_in, states
from torchcourse.quiz.verdict import explanation, judge


def page(entries: list[dict[str, Any]], day: date, language: str) -> str:
    """Return the page of a day as Markdown.

    Args:
        entries: the journal up to the end of that day.
        day: the day whose answers and checks are told.
        language: of the headings and the questions, `en` or `ko`.
    """
    today = [entry for entry in entries if journal.when(entry).date() == day]
    evening = datetime.combine(day, time.max).astimezone()
    lessons = [lesson for lesson in progress_in(entries, evening) if lesson.begun]
    sections = [
        ("page_progress", _progress_lines(lessons, language)),
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
    lines = []
    for lesson in lessons:
        counts = [
            ("exercises", len(lesson.passed), lesson.exercises),
            ("quiz", len(lesson.right), lesson.questions),
        ]
        counts = [count for count in counts if count[2]]
        lines.append(f"- [{_tick(all(done == total for _name, done, total in counts))}] {lesson.title[language]}")
        lines += [
            f"  - [{_tick(done == total)}] {texts.say(name, language)} ({done}/{total})" for name, done, total in counts
        ]
    return lines


def _learned_lines(lessons: list[LessonProgress], today: list[dict[str, Any]], language: str) -> list[str]:
    lines = []
    for lesson in lessons:
        number = lesson.name.partition("_")[0]
        passed = [
            entry["exercise"].partition(".")[2]
            for entry in today
            if entry["kind"] == "check"
            and entry.get("state") == "right"
            and str(entry.get("exercise")).startswith(f"lesson{number}.")
        ]
        answered = [entry for entry in answers_in(today) if entry["lesson"] == lesson.name]
        right = {entry["question"] for entry in answered if entry["right"]}
        body = []
        if passed:
            names = ", ".join(f"`{name}`" for name in dict.fromkeys(passed))
            body.append(f"- {texts.say('passed', language, names=names)}")
        if right:
            body.append(f"- {texts.say('answered_right', language, count=len(right))}")
        wrong = _wrong_lines(answered, today, language)
        if wrong:
            body += [*([""] if body else []), f"#### {texts.say('page_wrong', language)}", "", *wrong]
        if body:
            lines += [*([""] if lines else []), f"### {lesson.title[language]}", "", *body]
    surprises = {
        entry.get("id"): entry for entry in today if entry["kind"] == "outcome" and entry.get("right") is False
    }
    if surprises:
        lines += [""] if lines else []
    for entry in surprises.values():
        predicted, text = (markup.to_markdown(str(entry.get(name, ""))) for name in ("predicted", "text"))
        lines.append(f"- {texts.say('surprise', language, predicted=predicted, text=text)}")
    return lines


def _wrong_lines(answered: list[dict[str, Any]], today: list[dict[str, Any]], language: str) -> list[str]:
    """Return each wrong answer once, numbered: the question, the answer, the reasoning, the correction."""
    wrong = {(entry.get("asked"), str(entry.get("answer"))): entry for entry in answered if not entry["right"]}
    lines: list[str] = []
    for place, ((asked, answer), entry) in enumerate(wrong.items(), start=1):
        question = _find(entry["lesson"], str(asked))
        text = markup.to_markdown(question.text[language]) if question else str(asked)
        sure = entry.get("sure")
        sure = f" ({texts.say(f'sure_{sure}', language)})" if sure in SURE else ""
        shown = answers.show(entry.get("answer"), question.kind) if question else answer
        parts = [texts.say("my_answer", language, answer=_one_line(f"{shown}{sure}"))]
        reasons = [
            str(other.get("text", ""))
            for other in today
            if other["kind"] == "reasoning" and (other.get("asked"), str(other.get("answer"))) == (asked, answer)
        ]
        parts += [texts.say("my_reasoning", language, text=_one_line(reason)) for reason in dict.fromkeys(reasons)]
        parts += [texts.say("correction", language, text=part) for part in _corrections(question, entry, language)]
        after = [other for other in answered if other["question"] == entry["question"] and other["right"]]
        done = any(journal.when(other) >= journal.when(entry) for other in after)
        numbered = f"{place}. "
        indent = " " * len(numbered)
        first, *rest = text.split("\n")
        lines += [*([""] if lines else []), numbered + first, *(f"{indent}{line}".rstrip() for line in rest), ""]
        lines += [f"{indent}- {part}" for part in parts]
        lines.append(f"{indent}- [{_tick(done)}] {texts.say('later_right', language)}")
    return lines


def _corrections(question: Question | None, entry: dict[str, Any], language: str) -> list[str]:
    """Return what was wrong with an answer, in the bank's words: the wrong parts, then what was missing."""
    if question is None:
        return []
    if question.kind == "open":
        return _open_corrections(question, entry, language)
    if not question.has_key:
        return []
    answer = entry.get("answer")
    try:
        remarks = [remark for remark in judge(question, answer).remarks if not remark.right]
    except (TypeError, ValueError, AttributeError):
        remarks = []  # the question has been changed since, and takes another kind of answer now
    labels = [remark.label for remark in remarks]
    chosen = str(answer)
    for remark in explanation(question):
        if remark.right and remark.label not in labels and (question.kind != "several" or remark.label not in chosen):
            remarks.append(remark)
    corrections = []
    for remark in remarks:
        what = f"{remark.label}. {markup.to_markdown(remark.text[language])}" if remark.text else f"`{remark.label}`"
        corrections.append(f"**{what}** {_joined(remark.why[language])}")
    return corrections


def _open_corrections(question: Question, entry: dict[str, Any], language: str) -> list[str]:
    slugs = entry.get("misconceptions") or []
    traps = [
        f"**{markup.to_markdown(trap.reasoning[language])}** {_joined(trap.why[language])}"
        for trap in question.mistakes
        if trap.misconception in slugs
    ]
    model = question.model_answer
    return [*traps, *([_joined(model[language])] if model else [])]


def _open_lines(lessons: list[LessonProgress], language: str) -> list[str]:
    ideas = [markup.to_markdown(idea[language]) for lesson in lessons for idea in lesson.misconceptions]
    return [f"- [ ] {texts.say('think_again', language, idea=idea)}" for idea in ideas]


def _plan_lines(
    entries: list[dict[str, Any]], today: list[dict[str, Any]], evening: datetime, language: str
) -> list[str]:
    days: dict[date, int] = {}
    for state in states(entries):
        due = max(state.due.astimezone(evening.tzinfo).date(), evening.date())
        days[due] = days.get(due, 0) + 1
    lines = [f"- [ ] {texts.say('review_on', language, day=due, count=days[due])}" for due in sorted(days)[:3]]
    last = {entry.get("exercise"): entry.get("state") for entry in today if entry["kind"] == "check"}
    unfinished = [str(name).partition(".")[2] for name, state in last.items() if state == "wrong"]
    return lines + [f"- [ ] {texts.say('finish', language, name=f'`{name}`')}" for name in unfinished]


def _find(lesson: str, asked: str) -> Question | None:
    try:
        return bank_of(lesson).question(asked)[1]
    except BankError:
        return None


def _tick(done: bool) -> str:
    return "x" if done else " "


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _joined(text: str) -> str:
    """Return Markdown for a text with several paragraphs as one line, which a list item can hold."""
    return " ".join(markup.to_markdown(text).split())
