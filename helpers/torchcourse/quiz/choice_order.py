"""Where each choice stands: drawn from the question's id, balanced over its bank, and drawn again for each review.

The order of a bank's file names the choices for good: the journal notes, with each answer, which of the file's letters
stood at A, B, C … (`order`). An entry without that note is from a time when all questions stood as in the file.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable

from torchcourse.journal import Entry
from torchcourse.quiz import answers
from torchcourse.quiz.answers import LETTERS
from torchcourse.quiz.questions import Bank, ChoiceQuestion, Question

Surplus = dict[int, float]
"""How much oftener each place has been right than chance would have it."""


def arranged(bank: Bank) -> Bank:
    """Return the bank with the choices of each question in their drawn order.

    The right choices go where, measured by chance, the fewest have been so far: in this quiz, or among its variants. A
    question that is added at the end of a file leaves the order of all others alone. A stripped bank stands as it was
    given out.
    """
    if bank.stripped:
        return bank
    in_quiz: Surplus = defaultdict(float)
    in_variants: Surplus = defaultdict(float)
    questions = []
    for first in bank.questions:
        variants = tuple(_placed(variant, in_variants) for variant in first.variants)
        questions.append(_placed(first, in_quiz).model_copy(update={"variants": variants}))
    return bank.model_copy(update={"questions": questions})


def redrawn(question: Question, draw: int) -> Question:
    """Return the question in another drawn order for each number; 0 leaves it as it stands in its quiz."""
    if draw == 0 or not isinstance(question, ChoiceQuestion) or question.fixed_order:
        return question
    return _in_order(question, _mixed(file_letters(question), f"{question.id} {draw}"))


def in_file_order(question: Question, order: str = "") -> Question:
    """Return the question with its choices as the bank's file lists them, or in an order given in the file's letters.

    Choices that the order does not name come last; a letter that no choice has is passed over.
    """
    if not isinstance(question, ChoiceQuestion) or question.fixed_order:
        return question
    known = sorted(file_letters(question))
    wanted = dict.fromkeys([*(letter for letter in order if letter in known), *known])
    return _in_order(question, wanted)


def moved(question: Question) -> str:
    """Return the file's letters in the order in which the choices stand; empty where they stand as in the file."""
    order = file_letters(question) if isinstance(question, ChoiceQuestion) else ""
    return "" if order == "".join(sorted(order)) else order


def as_answered(question: Question, entry: Entry) -> Question | None:
    """Return the question in the order in which an answer of the journal saw it, so that its letters hold.

    None where the question has changed since, so that nobody can say what the letters meant.
    """
    if not isinstance(question, ChoiceQuestion):
        return question
    known = "".join(sorted(file_letters(question)))
    order = entry.get("order", known)
    if not isinstance(order, str) or len(set(order)) < len(order) or not set(order) <= set(known):
        return None
    if not set(str(entry.get("answer"))) <= set(LETTERS[: len(order)]):
        return None
    return _in_order(question, dict.fromkeys(order + known))


def answer_now(question: Question, entry: Entry) -> str | float | None:
    """Return an answer of the journal in the letters that the question has now; None where that cannot be said.

    That is so, too, where the question takes a different kind of answer now.
    """
    answer: str | float | None = entry.get("answer")
    if not isinstance(question, ChoiceQuestion):
        try:
            return answers.read(question.kind, answer, question.letters)
        except answers.AnswerError:
            return None
    then = as_answered(question, entry)
    if not isinstance(then, ChoiceQuestion):
        return None
    meant = {file_letters(then)[LETTERS.index(letter)] for letter in str(answer)}
    return "".join(letter for letter, own in zip(question.letters, file_letters(question), strict=True) if own in meant)


def file_letters(question: ChoiceQuestion) -> str:
    """Return the letters that the file gives to the choices, in the order in which they stand now."""
    return question.order or question.letters


def _placed(question: Question, surplus: Surplus) -> Question:
    """Return the question in its drawn order, and keep count of the places of its right choices."""
    if not isinstance(question, ChoiceQuestion):
        return question
    count = len(question.choices)
    if not question.fixed_order:
        right, wrong = (
            _mixed((letter for letter in question.letters if (letter in question.key) == is_right), question.id)
            for is_right in (True, False)
        )
        places = sorted(range(count), key=lambda place: (round(surplus[place], 6), _digest(question.id, place)))
        taken = dict(zip(places, [*right, *wrong], strict=True))
        question = _in_order(question, [taken[place] for place in range(count)])
    for place, letter in enumerate(question.letters):
        surplus[place] += (letter in question.key) - len(question.key) / count
    return question


def _in_order(question: ChoiceQuestion, order: Iterable[str]) -> ChoiceQuestion:
    """Return the question with its choices in an order that is given in the file's letters."""
    by_letter = dict(zip(file_letters(question), question.choices, strict=True))
    wanted = "".join(order)
    return question.model_copy(update={"choices": [by_letter[letter] for letter in wanted], "order": wanted})


def _mixed(letters: Iterable[str], salt: str) -> list[str]:
    return sorted(letters, key=lambda letter: _digest(salt, letter))


def _digest(*parts: object) -> str:
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()
