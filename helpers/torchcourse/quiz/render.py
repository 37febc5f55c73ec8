"""A question and its feedback as HTML and as plain text, in the reader's language.

All text of a bank passes through `markup`.
"""

import html
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torchcourse import journal, notice
from torchcourse.journal import Entry
from torchcourse.quiz import answers, choice_order, markup, texts
from torchcourse.quiz.answers import LETTERS
from torchcourse.quiz.questions import (
    ChoiceQuestion,
    NumberQuestion,
    OpenQuestion,
    OrderQuestion,
    Question,
    Text,
)
from torchcourse.quiz.verdict import Remark, Verdict, explanation, judge

_KINDS: tuple[notice.Kind, ...] = ("right", "wrong", "open")
_COLORS = "".join(f"--tc-{kind}:{notice.color(kind)};" for kind in _KINDS)
CSS = f":root{{{_COLORS}}}\n{Path(__file__).with_name('card.css').read_text(encoding='utf-8')}"
STYLE = f"<style>{CSS}</style>"


def sentences(lines: list[str]) -> str:
    """Return a page of sentences, each a paragraph of plain text."""
    paragraphs = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    return f'{STYLE}<div class="tc-page" lang="{texts.current()}">{paragraphs}</div>'


def said(name: str, **values: Any) -> str:
    """Return one of the sentences of `texts` as HTML."""
    return html.escape(texts.say(name, **values))


def question_html(question: Question) -> str:
    """Return the question without its choices."""
    listed = zip(LETTERS, question.items if isinstance(question, OrderQuestion) else [], strict=False)
    items = "".join(f"<div><b>{letter}</b> &nbsp;{markup.to_inline(str(item))}</div>" for letter, item in listed)
    return f'<div class="tc-question" lang="{texts.current()}">{markup.to_html(str(question.text))}{items}</div>'


def answer_fields(question: Question, name: str) -> str:
    """Return the question with the controls to answer it; `name` is a prefix for ids that no other card has."""
    asked = question_html(question)
    if isinstance(question, ChoiceQuestion):
        return group("answer", "radio" if question.kind == "one" else "checkbox", asked, lettered(question.options))
    label = said(f"kind_{question.kind}")
    field = f'name="answer" aria-describedby="{name}-question {name}-hint"'
    if question.kind == "open":
        control = f'{label}<textarea rows="6" {field}></textarea>'
    else:
        control = f'{label} <input type="text" {field}> {unit_html(question)}'
    return f'<div id="{name}-question">{asked}</div><label class="tc-typed">{control}</label>'


def lettered(choices: Sequence[Text | str]) -> list[tuple[str, str]]:
    """Return each choice with its letter: as a value, and as HTML in the label."""
    return [
        (letter, f"<b>{letter}</b> <span>{markup.to_inline(str(choice))}</span>")
        for letter, choice in zip(LETTERS, choices, strict=False)
    ]


def group(name: str, kind: str, title: str, choices: list[tuple[str, str]]) -> str:
    """Return native radio buttons or tick boxes under their title; choices are (value, HTML)."""
    rows = "".join(
        f'<label class="tc-choice"><input type="{kind}" name="{name}" value="{value}">{text}</label>'
        for value, text in choices
    )
    letters = " data-letters" if choices and choices[0][0].isalpha() else ""
    return f'<fieldset class="tc-group tc-{name}"{letters}><legend>{title}</legend>{rows}</fieldset>'


def button(action: str, label: str, *, value: str = "", able: bool = True, more: str = "") -> str:
    """Return a button that asks the form for an action.

    One that is not `able` yet can still be reached: whoever answers by the keys is there before Python is.
    """
    disabled = "" if able else ' aria-disabled="true"'
    return (
        f'<button type="button" class="tc-button" data-action="{action}" value="{value}"{disabled}{more}>'
        f"{html.escape(label)}</button>"
    )


def language_buttons() -> str:
    """Return a button for each language; the present one is pressed."""
    buttons = []
    for code, label in texts.LANGUAGES.items():
        pressed = str(code == texts.current()).lower()
        buttons.append(button("language", label, value=code, more=f' lang="{code}" aria-pressed="{pressed}"'))
    return f'<span class="tc-language">{"".join(buttons)}</span>'


def reason_field() -> str:
    """Return where a learner writes down what made them choose."""
    return (
        f'<label class="tc-below">{said("what_thought")}<textarea rows="3" name="reason"'
        f' placeholder="{said("because")}"></textarea></label>'
        f"{button('why', texts.say('show_why'))}"
    )


def ticks(question: OpenQuestion) -> str:
    """Return what the writer of an open answer ticks after reading the model answer."""
    groups = [
        group(
            name,
            "checkbox",
            said(title),
            [(str(number), f"<span>{markup.to_inline(str(text))}</span>") for number, text in enumerate(lines, 1)],
        )
        for name, title, lines in _to_tick(question)
        if lines
    ]
    return f'<div class="tc-below">{"".join(groups)}{button("done", texts.say("done"))}</div>'


def _to_tick(question: OpenQuestion) -> list[tuple[str, str, list[Text]]]:
    """Return the two lists of an open question: the name of the control, that of its title, the lines."""
    points, traps = [part.text for part in question.self_check], [trap.reasoning for trap in question.mistakes]
    return [("said", "self_check", points), ("thought", "traps", traps)]


def notes_html() -> str:
    """Return what the form shows where Python does not answer: because it is busy, or because it has gone."""
    return "".join(
        f'<p class="{look}" role="alert">{said(name)}</p>'
        for look, name in (("tc-waiting", "busy"), ("tc-gone", "gone"))
    )


def unit_html(question: Question) -> str:
    """Return the unit of a number, empty where there is none."""
    unit = _unit(question)
    return f'<span class="tc-meta">{markup.to_inline(str(unit))}</span>' if unit else ""


def past(question: Question, last: Entry | None) -> str:
    """Return when the question or a variant of it was answered last, and how that came out.

    A right answer is not told: whoever is asked again should find it again.
    """
    if last is None:
        return texts.say("new")
    name = "before" if last.get("asked") == question.id else "before_other"
    return texts.say(name, day=journal.when(last).astimezone().date(), result=_result(question, last))


def static_html(question: Question, head: str, how: str, told: str = "") -> str:
    """Return the whole question for a place where nothing can be clicked.

    Args:
        head: the line above it. how: how to go on, as HTML.
        told: what the learner answered and why that is right or not, as HTML; empty before the first answer.
    """
    options = question.options if isinstance(question, ChoiceQuestion) else []
    choices = "".join(f'<div class="tc-choice">{label}</div>' for _letter, label in lettered(options))
    return (
        f'{STYLE}<div class="tc-card"><div class="tc-meta">{html.escape(head)}</div>'
        f"{question_html(question)}{choices}{unit_html(question)}{told}"
        f'<p class="tc-meta tc-below">{how}</p></div>'
    )


def told_html(question: Question, last: Entry, *, fresh: bool) -> str:
    """Return what a learner answered, when, and the explanation of it.

    Unless the answer is `fresh`, it is folded: a question that comes back is to be answered once more, not read.
    """
    now = choice_order.answer_now(question, last)
    answer = html.escape(_short(answers.show(last.get("answer") if now is None else now, question.kind)))
    moment = journal.when(last).astimezone().strftime("%Y-%m-%d %H:%M")
    line = texts.say("you_answered", day=moment, answer=answer)
    if isinstance(question, OpenQuestion):
        why = model_answer_html(question) if question.model_answer else ""
    else:
        why = "" if now is None else feedback_html(judge(question, now), question)
    return f'<details class="tc-below"{" open" if fresh else ""}><summary>{line}</summary>{why}</details>'


def plain_text(question: Question, head: str, how: str) -> str:
    """Return the whole question as text."""
    listed = [
        f"  {letter}  {markup.to_plain(str(text))}"
        for letter, text in zip(question.letters, question.options, strict=True)
    ]
    unit = _unit(question)
    listed += [f"  ({markup.to_plain(str(unit))})"] if unit else []
    return "\n".join([head, "", markup.to_plain(str(question.text)), *listed, "", how])


def verdict_line(verdict: Verdict, question: Question) -> str:
    """Return in one or two sentences whether the answer is right, as plain text."""
    if verdict.score is None:
        return texts.say("kept")
    if question.kind == "open":
        total = len(question.self_check)
        said = texts.say("said", count=total - verdict.missing, total=total)
        return said if not verdict.right else f"{texts.say('right')} {said}"
    if verdict.right:
        return texts.say("right")
    line = texts.say("partly" if verdict.score else "wrong", percent=round(100 * verdict.score))
    if question.kind == "several" and verdict.missing:
        name = "missing_1" if verdict.missing == 1 else "missing"
        line += " " + texts.say(name, count=verdict.missing)
    return line


def verdict_html(verdict: Verdict, question: Question) -> str:
    """Return the line that says whether the answer is right."""
    look = {True: "right", False: "partly" if verdict.score else "wrong", None: "kept"}[verdict.right]
    line = html.escape(verdict_line(verdict, question))
    return f'<div class="tc-verdict tc-{look}" tabindex="-1" lang="{texts.current()}">{line}</div>'


def feedback_html(verdict: Verdict, question: Question, reasoning: str = "") -> str:
    """Return the feedback for the very choice made, with what else there is to say folded below it."""
    parts = [verdict_html(verdict, question)]
    if reasoning:
        parts.append(
            f'<p class="tc-meta" style="margin-top:.6em">{texts.say("your_reasoning")}: {html.escape(reasoning)}</p>'
        )
    made = sorted(verdict.remarks, key=lambda remark: remark.right)
    parts += [_remark_html(remark, question) for remark in made]
    if verdict.score is not None and not isinstance(question, OpenQuestion):
        shown = {(remark.right, remark.label) for remark in made}
        rest = [remark for remark in explanation(question) if (remark.right, remark.label) not in shown]
        chosen = isinstance(question, ChoiceQuestion)
        if rest and (chosen or not verdict.right):
            title = texts.say("rest" if chosen else "solution")
            body = "".join(_remark_html(remark, question) for remark in rest)
            parts.append(f"<details><summary>{title}</summary>{body}</details>")
    return f'<div class="tc-feedback" lang="{texts.current()}">{"".join(parts)}</div>'


def feedback_text(verdict: Verdict, question: Question, reasoning: str = "") -> str:
    """Return the same as plain text."""
    lines = [verdict_line(verdict, question)]
    if reasoning:
        lines.append(f"{texts.say('your_reasoning')}: {reasoning}")
    for remark in verdict.remarks:
        lines += [f"  {_remark_head(remark, question, markup.to_plain)}"]
        lines += [f"     {line}" for line in markup.to_plain(str(remark.why)).splitlines()]
    return "\n".join(lines)


def model_answer_html(question: OpenQuestion) -> str:
    """Return the model answer, to be compared with one's own."""
    title = said("model_answer")
    return (
        f'<div class="tc-feedback" lang="{texts.current()}"><div class="tc-verdict" tabindex="-1"><b>{title}</b></div>'
        f'<div class="tc-remark">{markup.to_html(str(question.model_answer))}</div></div>'
    )


def model_answer_text(question: OpenQuestion) -> str:
    """Return the model answer and the two lists to tick, as plain text."""
    lines = [texts.say("model_answer"), "", markup.to_plain(str(question.model_answer))]
    for _name, title, listed in _to_tick(question):
        lines += ["", texts.say(title)]
        lines += [f"  {number}  {markup.to_plain(str(text))}" for number, text in enumerate(listed, start=1)]
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


def grade_html(question: Question, number: int, answer: str | float | None) -> str:
    """Return the same line to copy: one click, or the Tab key, selects it."""
    if question.kind == "open":
        return f'<div class="tc-grade" lang="{texts.current()}">{texts.say("to_grade_open")}</div>'
    line = html.escape(answer_line(number, answer))
    return (
        f'<div class="tc-grade" lang="{texts.current()}">{texts.say("to_grade")}'
        f'<code class="tc-copy" tabindex="0">{line}</code></div>'
    )


def _remark_html(remark: Remark, question: Question) -> str:
    look = "right" if remark.right else "wrong"
    if isinstance(question, ChoiceQuestion):
        head = f"{remark.label} · {html.escape(_belongs(remark, question))}"
    else:
        head = _remark_head(remark, question, markup.to_inline)
    return f'<div class="tc-remark tc-{look}"><p><b>{head}</b></p>{markup.to_html(str(remark.why))}</div>'


def _remark_head(remark: Remark, question: Question, form: Callable[[str], str]) -> str:
    """Name the part that a remark is about: the choice with what it is, the answer, or the line of thought."""
    if remark.text is not None and remark.label:
        return f"{remark.label}  {form(str(remark.text))} ({_belongs(remark, question)})"
    if remark.text is not None:
        return form(str(remark.text))
    if remark.right:
        return texts.say("answer_is", answer=form(f"`{remark.label}`"))
    return form(f"`{remark.label}`")


def _belongs(remark: Remark, question: Question) -> str:
    return texts.say(f"{question.kind}_{'right' if remark.right else 'wrong'}")


def _result(question: Question, entry: Entry) -> str:
    """Return in a few words how an answer of the journal came out, in the letters that the question has now."""
    if entry.get("right") is None:
        return texts.say("was_kept")
    if entry["right"]:
        return texts.say("was_right")
    same = entry.get("asked") == question.id and entry.get("form") == question.kind
    now = choice_order.answer_now(question, entry) if same else None
    answer = answers.show(entry.get("answer") if now is None else now, str(entry.get("form")))
    return texts.say("was_wrong", answer=_short(answer))


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:39]}…"


def _unit(question: Question) -> Text | None:
    return question.unit if isinstance(question, NumberQuestion) else None
