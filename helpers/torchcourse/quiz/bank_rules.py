"""What cannot be right in a bank whose shape is right: a sentence for each fault, with the question and the field."""

import re
from collections.abc import Iterator

from torchcourse.quiz import markup
from torchcourse.quiz.answers import plain
from torchcourse.quiz.questions import (
    Bank,
    Choice,
    ChoiceQuestion,
    NumberQuestion,
    OpenQuestion,
    OrderQuestion,
    Question,
    TextQuestion,
    versions,
)


def broken_rules(bank: Bank) -> Iterator[str]:
    """Yield a sentence for everything in a well-formed bank that cannot be right."""
    seen: set[str] = set()
    used: set[str] = set()
    for first in bank.questions:
        for version in versions(first):
            where = f"question {version.id}"
            if version.id in seen:
                yield f"{where}, field id: another question has this id; give each one its own."
            seen.add(version.id)
            used |= version.misconceptions
            for field, sentence in _question_rules(version, bank.stripped):
                yield f"{where}, field {field}: {sentence}"
        yield from (f"question {first.id}, field {field}: {sentence}" for field, sentence in _first_rules(first, bank))
    for slug in sorted(used - set(bank.misconceptions)):
        yield f"field misconceptions: '{slug}' is used by a question but not described here."
    for slug in sorted(set(bank.misconceptions) - used):
        yield f"field misconceptions, {slug}: no question uses it; is it spelled differently there?"


def _first_rules(first: Question, bank: Bank) -> Iterator[tuple[str, str]]:
    """What holds for a question and its variants together: where it comes from, and what it is worth."""
    source = first.source
    if source is None or (source.wrong_answer is None) == (source.objective is None):
        yield "source", "say where the question comes from, with 'wrong_answer: 1' or 'objective: its-id'."
    elif source.objective is not None and source.objective not in bank.objectives:
        known = ", ".join(bank.objectives) or "none"
        yield "source", f"there is no objective '{source.objective}'; this bank has: {known}."
    elif source.wrong_answer is not None and len(first.variants) < 3 and not bank.stripped:
        yield "variants", "a recorded wrong answer needs at least three variants."
    if isinstance(first, OpenQuestion) and not bank.stripped:
        total = sum(line.points for line in first.rubric)
        if total != first.points:
            yield "rubric", f"its points add up to {total}, but the question has {first.points}."
    for variant in first.variants:
        extra = sorted({"source", "points", "rubric", "variants"} & variant.model_fields_set)
        if extra:
            yield f"variants, {variant.id}", f"a variant has no {' and no '.join(extra)} of its own; leave it out."


_NEEDED = {
    "number": ("answer", "why", "mistakes"),
    "text": ("accepted", "why", "mistakes"),
    "order": ("answer", "why", "mistakes"),
    "open": ("model_answer", "self_check", "mistakes"),
}


def _question_rules(question: Question, stripped: bool) -> Iterator[tuple[str, str]]:
    """What holds for a question alone, and for a variant: pairs of the field and what is wrong with it."""
    if isinstance(question, ChoiceQuestion):
        yield from _choice_rules(question, stripped)
        return
    for field in (*_NEEDED[question.kind], *(["also_right"] if stripped else [])):
        empty = getattr(question, field, None) in (None, [])
        if empty is not stripped:
            yield field, "a stripped bank must not hold it." if stripped else "is missing."
    if isinstance(question, TextQuestion):
        yield from _text_rules(question)
    elif isinstance(question, NumberQuestion):
        yield from _number_rules(question)
    elif isinstance(question, OrderQuestion):
        yield from _order_rules(question)


def _text_rules(question: TextQuestion) -> Iterator[tuple[str, str]]:
    wrong = [form for mistake in question.mistakes for form in mistake.answers]
    for form in question.accepted + wrong:
        if not plain(form):
            yield "accepted", f"'{form}' has neither a letter nor a digit."
    for form in sorted({plain(form) for form in question.accepted} & {plain(form) for form in wrong}):
        yield "mistakes", f"'{form}' is also an accepted answer."


def _number_rules(question: NumberQuestion) -> Iterator[tuple[str, str]]:
    if question.answer is None:
        return
    for mistake in question.mistakes:
        if abs(mistake.answer - question.answer) <= question.tolerance:
            yield "mistakes", f"{mistake.answer:g} is within the tolerance, so it counts as right."


def _order_rules(question: OrderQuestion) -> Iterator[tuple[str, str]]:
    if question.answer is None:
        return
    right = [question.answer, *question.also_right]
    for order in right:
        field = "answer" if order is question.answer else "also_right"
        if sorted(order) != sorted(question.letters):
            yield field, _once_each(question.letters, order)
            return
        if order == question.letters:
            yield "items", "they stand in the right order already; mix them."
    for mistake in question.mistakes:
        for order in right:
            places = [order.find(letter) for letter in mistake.swapped]
            if min(places) < 0 or places[0] <= places[1]:
                yield "mistakes", f"'{mistake.swapped}' is no mistake: that is the right order, or no item."
                break


def _choice_rules(question: ChoiceQuestion, stripped: bool) -> Iterator[tuple[str, str]]:
    for letter, choice in question.by_letter:
        rules = _rules_of_a_choice(choice, stripped)
        yield from ((", ".join(filter(None, ["choices", letter, field])), sentence) for field, sentence in rules)
    if stripped:
        if question.order and sorted(question.order) != sorted(question.letters):
            yield "order", _once_each(question.letters, question.order)
        return
    if question.order:
        yield "order", "is drawn by the course; leave it out, or write 'fixed_order: true' to keep the file's order."
    yield from _named_letters(question)
    right = len(question.key)
    if question.kind == "one" and right != 1:
        yield "choices", f"exactly one must be 'right: true'; {right} are."
    if question.kind == "several" and not 0 < right < len(question.choices):
        yield "choices", "at least one must be 'right: true' and at least one must not."


def _rules_of_a_choice(choice: Choice, stripped: bool) -> Iterator[tuple[str, str]]:
    if not (markup.is_one_line(choice.text.en) and markup.is_one_line(choice.text.ko)):
        yield "text", "a choice is one paragraph, without a block of code."
    if stripped:
        if choice.model_fields_set - {"text"}:
            yield "", "a choice of a stripped bank has a text and nothing else."
        return
    if choice.why is None:
        yield "why", "is missing: say how to see that it is right or wrong."
    if choice.right and choice.misconception:
        yield "misconception", "a right choice has none."
    if not choice.right and not choice.misconception:
        yield "misconception", "is missing: a wrong choice names the misconception behind it."


def _named_letters(question: ChoiceQuestion) -> Iterator[tuple[str, str]]:
    """Yield a fault where a reason names a choice by a letter, which it has in the file and not before the learner."""
    if question.fixed_order:
        return
    for letter, choice in question.by_letter:
        for language in ("en", "ko"):
            reason = _without_code(choice.why[language]) if choice.why else ""
            about = _without_code(" ".join([question.text[language], *(text[language] for text in question.options)]))
            found = [
                *_NAMED.findall(reason),
                *(one for one in _BARE.findall(reason) if one not in _BARE.findall(about)),
            ]
            if found:
                yield f"choices, {letter}, why, {language}", f"'{found[0]}' names a choice by its letter, {_DRAWN}"


_NAMED = re.compile(
    r"\b(?:choices?|options?|answers?) [A-H]\b|(?:보기|선택지|답) ?[A-H](?![A-Za-z])|(?<![A-Za-z])[A-H]번"
)
_BARE = re.compile(r"(?<![A-Za-z0-9_'’.×·*/+=²-])[B-H](?![A-Za-z0-9_'’×·*/+=²-])")
"""A letter that stands for something. A is left out, as it is a word of English."""
_DRAWN = "but the course draws where a choice stands; say what the choice says, or write 'fixed_order: true'."


def _without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)


def _once_each(letters: str, order: str) -> str:
    return f"must hold each letter from A to {letters[-1]} once, not '{order}'."
