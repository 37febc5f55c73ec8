"""Judge an answer with the bank's key, and find the feedback for the very choice that was made."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field

from torchcourse.quiz import answers, texts
from torchcourse.quiz.questions import (
    Choice,
    ChoiceQuestion,
    NumberMistake,
    NumberQuestion,
    OpenMistake,
    OpenQuestion,
    OrderMistake,
    OrderQuestion,
    Question,
    SelfCheck,
    Text,
    TextMistake,
    required,
)

Mistake = NumberMistake | TextMistake | OrderMistake


@dataclass(frozen=True)
class Remark:
    """One part of an answer, whether it is right, and how to see that."""

    right: bool
    why: Text
    label: str = ""
    text: Text | None = None


@dataclass(frozen=True)
class Verdict:
    """What an answer is worth, from 0 to 1, and why. `score` is None where only a teacher can tell."""

    score: float | None
    remarks: list[Remark] = field(default_factory=list)
    missing: int = 0
    misconceptions: list[str] = field(default_factory=list)

    @property
    def right(self) -> bool | None:
        return None if self.score is None else self.score >= 1


def judge(question: Question, answer: str | float) -> Verdict:
    """Judge an answer in its normal form (see `answers.read`) to a question that is not open."""
    if isinstance(question, OpenQuestion) or not question.has_key:
        return Verdict(None)
    tolerance = question.tolerance if isinstance(question, NumberQuestion) else 0.0
    score = answers.score(question.kind, answer, question.key, question.letters, tolerance)
    if isinstance(question, ChoiceQuestion):
        chosen = [remark for remark in explanation(question) if remark.label in str(answer)]
        missing = len(question.key) - sum(remark.right for remark in chosen)
        wrong = [choice for letter, choice in _by_letter(question) if letter in str(answer)]
        return Verdict(score, chosen, missing, _named(wrong))
    if score >= 1:
        return Verdict(score, [Remark(True, required(question.why), answers.show(answer, question.kind))])
    made = [mistake for mistake in question.mistakes if _is_made(mistake, answer, tolerance)]
    remarks = [Remark(False, mistake.why, _label(mistake, answer)) for mistake in made]
    if not made and isinstance(question, NumberQuestion | OrderQuestion):
        remarks = _general(question, answer)
    return Verdict(score, remarks, 0, _named(made))


def judge_open(question: OpenQuestion, said: list[int], thought: list[int]) -> Verdict:
    """Judge an open answer by what its writer ticked: points of the self-check, and lines of thought that mislead.

    Args:
        said, thought: numbers from 1 in the question's `self_check` and `mistakes`.
    """
    total = len(question.self_check)
    unsaid = [part for number, part in enumerate(question.self_check, 1) if number not in said]
    traps = [trap for number, trap in enumerate(question.mistakes, 1) if number in thought]
    score = 1 - len(unsaid) / total
    if traps:
        score = min(score, 1 - 1 / total)
    remarks = [Remark(False, trap.why, text=trap.reasoning) for trap in traps]
    return Verdict(score, remarks, len(unsaid), _named([*unsaid, *traps]))


def explanation(question: Question) -> list[Remark]:
    """Return the whole answer to a question with a key: every choice with its reason, or the key with its own."""
    if isinstance(question, OpenQuestion):
        return []
    if isinstance(question, ChoiceQuestion):
        return [
            Remark(choice.right, required(choice.why), letter, choice.text) for letter, choice in _by_letter(question)
        ]
    key = question.key[0] if isinstance(question.key, list) else question.key
    return [Remark(True, required(question.why), answers.show(key, question.kind))]


def _by_letter(question: ChoiceQuestion) -> list[tuple[str, Choice]]:
    return list(zip(question.letters, question.choices, strict=True))


def _named(parts: Iterable[Choice | SelfCheck | Mistake | OpenMistake]) -> list[str]:
    """Return the misconceptions behind some parts of a question, each once."""
    return list(dict.fromkeys(part.misconception for part in parts if part.misconception))


def _is_made(mistake: Mistake, answer: str | float, tolerance: float) -> bool:
    if isinstance(mistake, OrderMistake):
        return str(answer).index(mistake.swapped[0]) < str(answer).index(mistake.swapped[1])
    if isinstance(mistake, TextMistake):
        return answers.is_same(str(answer), mistake.answers)
    return answers.is_close(float(answer), mistake.answer, tolerance)


def _general(question: NumberQuestion | OrderQuestion, answer: str | float) -> list[Remark]:
    """Return what can be said about a wrong answer that the bank does not expect, where it is near the right one."""
    if isinstance(question, NumberQuestion):
        near = _near(float(answer), question.answer or 0.0, question.tolerance)
        label = answers.show(answer, "number")
    else:
        orders = [question.key] if isinstance(question.key, str) else question.key or []
        pairs = [pair for pair in itertools.pairwise(str(answer)) if all(_is_swapped(pair, order) for order in orders)]
        near, label = ("near_order", " → ".join(pairs[0])) if pairs else ("", "")
    return [Remark(False, Text(**texts.sentences()[near]), label)] if near else []


def _is_swapped(pair: tuple[str, str], order: str) -> bool:
    return order.index(pair[0]) > order.index(pair[1])


def _near(number: float, key: float, tolerance: float) -> str:
    """Return the name of the text that says how a wrong number is near the right one; empty where it is not."""
    if number and answers.is_close(-number, key, tolerance):
        return "near_sign"
    for power in (2, 3, 6, 9, *([1] if tolerance else [])):
        if key and any(answers.is_close(number * scale, key, tolerance) for scale in (10.0**power, 10.0**-power)):
            return "near_percent" if power == 2 else "near_unit"
    if number and key and answers.is_close(1 / number, key, tolerance):
        return "near_inverse"
    if not tolerance and key == round(key) and abs(number - key) == 1 and abs(key) > 2:
        return "near_count"
    return "near_rounding" if tolerance and key and abs(number - key) < 0.03 * abs(key) else ""


def _label(mistake: Mistake, answer: str | float) -> str:
    if isinstance(mistake, OrderMistake):
        return " → ".join(mistake.swapped)
    return answers.show(answer, "number" if isinstance(mistake, NumberMistake) else "text")
