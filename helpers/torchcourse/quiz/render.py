"""A question and its feedback as HTML and as plain text. All text of a bank passes through `markup`."""

import html
import json
from collections.abc import Callable
from pathlib import Path

from torchcourse import notice
from torchcourse.quiz import markup, texts
from torchcourse.quiz.questions import (
    ChoiceQuestion,
    NumberQuestion,
    OpenQuestion,
    OrderQuestion,
    Question,
    Text,
    required,
)
from torchcourse.quiz.verdict import Remark, Verdict, explanation

_KINDS: tuple[notice.Kind, ...] = ("right", "wrong", "open")
_COLOURS = "".join(f"--tc-{kind}:{notice.colour(kind)};" for kind in _KINDS)
STYLE = f"<style>:root{{{_COLOURS}}}\n{Path(__file__).with_name('card.css').read_text(encoding='utf-8')}</style>"


def question_html(question: Question, language: str) -> str:
    """Return the question without its choices."""
    items = ""
    if isinstance(question, OrderQuestion):
        items = "".join(
            f"<div><b>{letter}</b> &nbsp;{markup.to_inline(item[language])}</div>"
            for letter, item in zip(question.letters, question.items, strict=True)
        )
    return f'<div class="tc-question" lang="{language}">{markup.to_html(question.text[language])}{items}</div>'


def unit_html(question: Question, language: str) -> str:
    """Return the unit of a number, empty where there is none."""
    unit = _unit(question)
    return f'<span class="tc-meta">{markup.to_inline(unit[language])}</span>' if unit else ""


def choice_labels(question: Question, language: str) -> list[str]:
    """Return the label of each choice, for a tick box that takes HTML; none where nothing is to be ticked."""
    if not isinstance(question, ChoiceQuestion):
        return []
    return [
        f"<b>{letter}</b>&nbsp; {markup.to_label(text[language])}"
        for letter, text in zip(question.letters, question.options, strict=True)
    ]


def meta(question: Question, number: int | None, language: str) -> str:
    """Return the line above a question: its number, what kind of answer it takes, its points."""
    place = texts.say("question", language, number=number) if number else texts.say("again", language)
    name = "point" if question.points == 1 else "points"
    points = [texts.say(name, language, points=question.points)] if number else []
    return " · ".join([place, texts.say(f"kind_{question.kind}", language), *points])


def static_html(question: Question, number: int | None, language: str, how: str) -> str:
    """Return the whole question for a place where widgets do not show."""
    choices = "".join(f"<div>{label}</div>" for label in choice_labels(question, language))
    return (
        f'{STYLE}<div class="tc-card"><div class="tc-meta">{html.escape(meta(question, number, language))}</div>'
        f"{question_html(question, language)}{choices}{unit_html(question, language)}"
        f'<p class="tc-meta" style="margin-top:.6em">{html.escape(how)}</p></div>'
    )


def plain_text(question: Question, number: int | None, language: str, how: str) -> str:
    """Return the whole question as text."""
    listed = [
        f"  {letter}  {markup.to_plain(text[language])}"
        for letter, text in zip(question.letters, question.options, strict=True)
    ]
    unit = _unit(question)
    listed += [f"  ({markup.to_plain(unit[language])})"] if unit else []
    lines = [meta(question, number, language), "", markup.to_plain(question.text[language]), *listed, "", how]
    return "\n".join(lines)


def verdict_line(verdict: Verdict, question: Question, language: str) -> str:
    """Return in one or two sentences whether the answer is right, as plain text."""
    if verdict.score is None:
        return texts.say("kept", language)
    if question.kind == "open":
        total = len(question.self_check)
        said = texts.say("said", language, count=total - verdict.missing, total=total)
        return said if not verdict.right else f"{texts.say('right', language)} {said}"
    if verdict.right:
        return texts.say("right", language)
    partly = verdict.score > 0
    line = texts.say("partly", language, percent=round(100 * verdict.score)) if partly else texts.say("wrong", language)
    if question.kind == "several" and verdict.missing:
        name = "missing_1" if verdict.missing == 1 else "missing"
        line += " " + texts.say(name, language, count=verdict.missing)
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
            f'<p class="tc-meta" style="margin-top:.6em">{texts.say("your_reasoning", language)}: '
            f"{html.escape(reasoning)}</p>"
        )
    made = sorted(verdict.remarks, key=lambda remark: remark.right)
    parts += [_remark_html(remark, question, language) for remark in made]
    if verdict.score is not None and question.kind != "open":
        shown = {(remark.right, remark.label) for remark in made}
        rest = [remark for remark in explanation(question) if (remark.right, remark.label) not in shown]
        if rest and not (verdict.right and question.kind not in ("one", "several")):
            title = texts.say("rest" if question.kind in ("one", "several") else "solution", language)
            body = "".join(_remark_html(remark, question, language) for remark in rest)
            parts.append(f"<details><summary>{title}</summary>{body}</details>")
    return f'<div class="tc-feedback" lang="{language}">{"".join(parts)}</div>'


def feedback_text(verdict: Verdict, question: Question, language: str, reasoning: str = "") -> str:
    """Return the same as plain text."""
    lines = [verdict_line(verdict, question, language)]
    if reasoning:
        lines.append(f"{texts.say('your_reasoning', language)}: {reasoning}")
    for remark in verdict.remarks:
        lines += [f"  {_remark_head(remark, question, language, markup.to_plain)}"]
        lines += [f"     {line}" for line in markup.to_plain(remark.why[language]).splitlines()]
    return "\n".join(lines)


def model_answer_html(question: OpenQuestion, language: str) -> str:
    """Return the model answer, to be compared with one's own."""
    title = html.escape(texts.say("model_answer", language))
    return (
        f'<div class="tc-feedback" lang="{language}"><div class="tc-verdict"><b>{title}</b></div>'
        f'<div class="tc-remark">{markup.to_html(required(question.model_answer)[language])}</div></div>'
    )


def model_answer_text(question: OpenQuestion, language: str) -> str:
    """Return the model answer and the two lists to tick, as plain text."""
    lines = [texts.say("model_answer", language), "", markup.to_plain(required(question.model_answer)[language])]
    for name, ticks in (
        ("self_check", [part.text for part in question.self_check]),
        ("traps", [trap.reasoning for trap in question.mistakes]),
    ):
        lines += ["", texts.say(name, language)]
        lines += [f"  {number}  {markup.to_plain(text[language])}" for number, text in enumerate(ticks, start=1)]
    return "\n".join(lines)


def answer_line(number: int, answer: str | float | None) -> str:
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
        return f'<div class="tc-grade" lang="{language}">{texts.say("to_grade_open", language)}</div>'
    line = html.escape(answer_line(number, answer))
    return (
        f'<div class="tc-grade" lang="{language}">{texts.say("to_grade", language)}'
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
        return texts.say("answer_is", language, answer=form(f"`{remark.label}`"))
    return form(f"`{remark.label}`")


def _belongs(remark: Remark, question: Question, language: str) -> str:
    return texts.say(f"{question.kind}_{'right' if remark.right else 'wrong'}", language)


def _unit(question: Question) -> Text | None:
    return question.unit if isinstance(question, NumberQuestion) else None
