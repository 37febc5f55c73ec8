"""A question and its feedback as HTML and as plain text. All text of a bank passes through `markup`."""

import html
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from torchcourse.quiz import markup
from torchcourse.quiz import texts as words
from torchcourse.quiz.bank import OpenQuestion, Question
from torchcourse.quiz.verdict import Remark, Verdict, explanation

STYLE = f"<style>{Path(__file__).with_name('card.css').read_text(encoding='utf-8')}</style>"


def question_html(question: Question, language: str) -> str:
    """Return the question without its choices."""
    items = "".join(
        f"<div><b>{letter}</b> &nbsp;{markup.to_inline(item[language])}</div>"
        for letter, item in zip(question.letters, getattr(question, "items", []), strict=False)
    )
    return f'<div class="tc-question" lang="{language}">{markup.to_html(question.text[language])}{items}</div>'


def escape(text: str) -> str:
    """Return text that no browser takes for a tag."""
    return html.escape(text)


def block(text: str) -> str:
    """Return a text in the little Markdown as paragraphs."""
    return markup.to_html(text)


def label(text: str) -> str:
    """Return a text of a bank for the label of a tick box."""
    return markup.to_label(text)


def unit_html(question: Question, language: str) -> str:
    """Return the unit of a number, empty where there is none."""
    return f'<span class="tc-meta">{markup.to_inline(question.unit[language])}</span>' if _unit(question) else ""


def choice_labels(question: Question, language: str) -> list[str]:
    """Return the label of each choice, for a tick box that takes HTML."""
    return [
        f"<b>{letter}</b>&nbsp; {markup.to_label(choice.text[language])}"
        for letter, choice in zip(question.letters, question.choices, strict=True)
    ]


def meta(question: Question, number: int | None, language: str) -> str:
    """Return the line above a question: its number, what kind of answer it takes, its points."""
    place = words.say("question", language, number=number) if number else words.say("again", language)
    return " · ".join([place, words.say(f"kind_{question.kind}", language), *_points(question, number, language)])


def static_html(question: Question, number: int | None, language: str, how: str) -> str:
    """Return the whole question for a place where widgets do not show."""
    choices = ""
    if question.kind in ("one", "several"):
        choices = "".join(f"<div>{label}</div>" for label in choice_labels(question, language))
    return (
        f'{STYLE}<div class="tc-card"><div class="tc-meta">{html.escape(meta(question, number, language))}</div>'
        f"{question_html(question, language)}{choices}{unit_html(question, language)}"
        f'<p class="tc-meta" style="margin-top:.6em">{html.escape(how)}</p></div>'
    )


def plain_text(question: Question, number: int | None, language: str, how: str) -> str:
    """Return the whole question as text."""
    texts = [choice.text for choice in getattr(question, "choices", [])] or getattr(question, "items", [])
    listed = [
        f"  {letter}  {markup.to_plain(text[language])}" for letter, text in zip(question.letters, texts, strict=False)
    ]
    unit = [f"  ({markup.to_plain(question.unit[language])})"] if _unit(question) else []
    lines = [meta(question, number, language), "", markup.to_plain(question.text[language]), *listed, *unit, "", how]
    return "\n".join(lines)


def verdict_line(verdict: Verdict, question: Question, language: str) -> str:
    """Return in one or two sentences whether the answer is right, as plain text."""
    if verdict.score is None:
        return words.say("kept", language)
    if question.kind == "open":
        total = len(question.self_check)
        said = words.say("said", language, count=total - verdict.missing, total=total)
        return said if not verdict.right else f"{words.say('right', language)} {said}"
    if verdict.right:
        return words.say("right", language)
    partly = verdict.score > 0
    line = words.say("partly", language, percent=round(100 * verdict.score)) if partly else words.say("wrong", language)
    if question.kind == "several" and verdict.missing:
        name = "missing_1" if verdict.missing == 1 else "missing"
        line += " " + words.say(name, language, count=verdict.missing)
    return line


def verdict_html(verdict: Verdict, question: Question, language: str) -> str:
    """Return the line that says whether the answer is right."""
    look = (
        "partly"
        if verdict.score and not verdict.right
        else {True: "right", False: "wrong", None: "kept"}[verdict.right]
    )
    line = html.escape(verdict_line(verdict, question, language))
    return f'<div class="tc-verdict tc-{look}" role="status" lang="{language}">{line}</div>'


def feedback_html(verdict: Verdict, question: Question, language: str, reasoning: str = "") -> str:
    """Return the feedback for the very choice made, with what else there is to say folded below it."""
    parts = [verdict_html(verdict, question, language)]
    if reasoning:
        parts.append(
            f'<p class="tc-meta" style="margin-top:.6em">{words.say("your_reasoning", language)}: '
            f"{html.escape(reasoning)}</p>"
        )
    made = sorted(verdict.remarks, key=lambda remark: remark.right)
    parts += [_remark_html(remark, question, language) for remark in made]
    if verdict.score is not None and question.kind != "open":
        shown = {(remark.right, remark.label) for remark in made}
        rest = [remark for remark in explanation(question) if (remark.right, remark.label) not in shown]
        if rest and not (verdict.right and question.kind not in ("one", "several")):
            title = words.say("rest" if question.kind in ("one", "several") else "solution", language)
            body = "".join(_remark_html(remark, question, language) for remark in rest)
            parts.append(f"<details><summary>{title}</summary>{body}</details>")
    return f'<div class="tc-feedback" lang="{language}">{"".join(parts)}</div>'


def feedback_text(verdict: Verdict, question: Question, language: str, reasoning: str = "") -> str:
    """Return the same as plain text."""
    lines = [verdict_line(verdict, question, language)]
    if reasoning:
        lines.append(f"{words.say('your_reasoning', language)}: {reasoning}")
    for remark in verdict.remarks:
        lines += [f"  {_remark_head(remark, question, language, markup.to_plain)}"]
        lines += [f"     {line}" for line in markup.to_plain(remark.why[language]).splitlines()]
    return "\n".join(lines)


def model_answer_html(question: OpenQuestion, language: str) -> str:
    """Return the model answer, to be compared with one's own."""
    title = html.escape(words.say("model_answer", language))
    return (
        f'<div class="tc-feedback" lang="{language}"><div class="tc-verdict"><b>{title}</b></div>'
        f'<div class="tc-remark">{markup.to_html(question.model_answer[language])}</div></div>'
    )


def model_answer_text(question: OpenQuestion, language: str) -> str:
    """Return the model answer and the two lists to tick, as plain text."""
    lines = [words.say("model_answer", language), "", markup.to_plain(question.model_answer[language])]
    for name, texts in (
        ("self_check", [part.text for part in question.self_check]),
        ("traps", [trap.reasoning for trap in question.mistakes]),
    ):
        lines += ["", words.say(name, language)]
        lines += [f"  {number}  {markup.to_plain(text[language])}" for number, text in enumerate(texts, start=1)]
    return "\n".join(lines)


def grade_line(question: Question, number: int, answer: str | float | None) -> str:
    """Return the line to type for a grade, with the learner's own answer of this moment."""
    if answer is None:
        value = "..."
    elif isinstance(answer, float):
        value = repr(int(answer)) if answer.is_integer() and abs(answer) < 1e15 else repr(answer)
    else:
        value = json.dumps(answer, ensure_ascii=False)
    return f"answer_q{number} = {value}"


def grade_html(question: Question, number: int, answer: str | float | None, language: str) -> str:
    """Return the same line to copy: one click, or the Tab key, selects it."""
    if question.kind == "open":
        return f'<div class="tc-grade" lang="{language}">{words.say("to_grade_open", language)}</div>'
    line = html.escape(grade_line(question, number, answer))
    return (
        f'<div class="tc-grade" lang="{language}">{words.say("to_grade", language)}'
        f'<code class="tc-copy" tabindex="0">{line}</code></div>'
    )


def _remark_html(remark: Remark, question: Question, language: str) -> str:
    look = "right" if remark.right else "wrong"
    if question.kind in ("one", "several"):
        head = f"{remark.label} · {html.escape(_belongs(remark, question, language))}"
    else:
        head = _remark_head(remark, question, language, markup.to_inline)
    return f'<div class="tc-remark tc-{look}"><p><b>{head}</b></p>{markup.to_html(remark.why[language])}</div>'


def _remark_head(remark: Remark, question: Question, language: str, form: Callable[[str], str]) -> str:
    """Name the part that a remark is about: the choice with what it is, the answer, or the line of thought."""
    if remark.text is not None and remark.label:
        return f"{remark.label}  {form(remark.text[language])} ({_belongs(remark, question, language)})"
    if remark.text is not None:
        return form(remark.text[language])
    if remark.right:
        return words.say("answer_is", language, answer=form(f"`{remark.label}`"))
    return form(f"`{remark.label}`")


def _belongs(remark: Remark, question: Question, language: str) -> str:
    return words.say(f"{question.kind}_{'right' if remark.right else 'wrong'}", language)


def _points(question: Question, number: int | None, language: str) -> Iterable[str]:
    if number is None:
        return []
    name = "point" if question.points == 1 else "points"
    return [words.say(name, language, points=question.points)]


def _unit(question: Question) -> bool:
    return getattr(question, "unit", None) is not None
