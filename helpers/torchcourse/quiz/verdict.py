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
    TextQuestion,
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
        wrong = [choice for letter, choice in question.by_letter if letter in str(answer)]
        return Verdict(score, chosen, missing, _named(wrong))
    shown = answers.show(answer, question.kind)
    if score >= 1:
        return Verdict(score, [Remark(True, required(question.why), shown)])
    made = [mistake for mistake in question.mistakes if _is_made(mistake, answer, tolerance)]
    remarks = [
        Remark(False, mistake.why, _swap(mistake.swapped) if isinstance(mistake, OrderMistake) else shown)
        for mistake in made
    ]
    if not made and isinstance(question, NumberQuestion) and (near := _near(float(answer), question)):
        remarks = [Remark(False, Text(**texts.sentences()[near]), shown)]
    elif not made and isinstance(question, OrderQuestion) and (swapped := _swapped_neighbors(str(answer), question)):
        remarks = [Remark(False, Text(**texts.sentences()["near_order"]), _swap(swapped))]
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


def explanation(question: ChoiceQuestion | NumberQuestion | TextQuestion | OrderQuestion) -> list[Remark]:
    """Return the whole answer to a question that is not open: every choice with its reason, or the key with its own."""
    if isinstance(question, ChoiceQuestion):
        return [
            Remark(choice.right, required(choice.why), letter, choice.text) for letter, choice in question.by_letter
        ]
    key = question.key[0] if isinstance(question.key, list) else question.key
    return [Remark(True, required(question.why), answers.show(key, question.kind))]


def _named(parts: Iterable[Choice | SelfCheck | Mistake | OpenMistake]) -> list[str]:
    """Return the misconceptions behind some parts of a question, each once."""
    return list(dict.fromkeys(part.misconception for part in parts if part.misconception))


def _is_made(mistake: Mistake, answer: str | float, tolerance: float) -> bool:
    if isinstance(mistake, OrderMistake):
        return str(answer).index(mistake.swapped[0]) < str(answer).index(mistake.swapped[1])
    if isinstance(mistake, TextMistake):
        return answers.is_same(str(answer), mistake.answers)
    return answers.is_close(float(answer), mistake.answer, tolerance)


def _near(number: float, question: NumberQuestion) -> str:
    """Return the name of the text that says how a wrong number is near the right one; empty where it is not."""
    key, tolerance = question.answer or 0.0, question.tolerance
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


def _swapped_neighbors(answer: str, question: OrderQuestion) -> str:
    """Return the first two neighbors of an order that stand the wrong way round, whichever right order is meant."""
    orders = [question.key] if isinstance(question.key, str) else question.key or []
    pairs = ("".join(pair) for pair in itertools.pairwise(answer))
    return next((pair for pair in pairs if all(order.index(pair[0]) > order.index(pair[1]) for order in orders)), "")


def _swap(pair: str) -> str:
    return " → ".join(pair)
