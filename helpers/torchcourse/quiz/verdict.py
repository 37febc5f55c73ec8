"""Judge an answer with the bank's key, and find the feedback for the very choice that was made."""

from dataclasses import dataclass, field

from torchcourse.quiz import answers
from torchcourse.quiz.bank import OpenQuestion, Question, Text


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
    if not question.has_key:
        return Verdict(None)
    tolerance = getattr(question, "tolerance", 0.0)
    score = answers.score(question.kind, answer, question.key, question.letters, tolerance)
    if question.kind in ("one", "several"):
        chosen = [choice for letter, choice in _choices(question) if letter in answer]
        remarks = [
            Remark(choice.right, choice.why, letter, choice.text)
            for letter, choice in _choices(question)
            if letter in answer
        ]
        missing = sum(choice.right for choice in question.choices) - sum(choice.right for choice in chosen)
        slugs = [choice.misconception for choice in chosen if choice.misconception]
        return Verdict(score, remarks, missing, list(dict.fromkeys(slugs)))
    if score >= 1:
        return Verdict(score, [Remark(True, question.why, answers.show(answer, question.kind))])
    made = [mistake for mistake in question.mistakes if _fits(mistake, answer, tolerance)]
    remarks = [Remark(False, mistake.why, _mistake_label(mistake, answer)) for mistake in made]
    return Verdict(score, remarks, 0, list(dict.fromkeys(mistake.misconception for mistake in made)))


def judge_open(question: OpenQuestion, said: list[int], thought: list[int]) -> Verdict:
    """Judge an open answer by what its writer ticked: points of the self-check, and lines of thought that mislead.

    Args:
        said, thought: numbers from 1 in the question's `self_check` and `mistakes`.
    """
    total = len(question.self_check)
    unsaid = [part for number, part in enumerate(question.self_check, 1) if number not in said]
    traps = [trap for number, trap in enumerate(question.mistakes, 1) if number in thought]
    slugs = [part.misconception for part in [*unsaid, *traps] if part.misconception]
    score = 1 - len(unsaid) / total
    if traps:
        score = min(score, 1 - 1 / total)
    remarks = [Remark(False, trap.why, text=trap.reasoning) for trap in traps]
    return Verdict(score, remarks, len(unsaid), list(dict.fromkeys(slugs)))


def explanation(question: Question) -> list[Remark]:
    """Return the whole answer: every choice with its reason, or the key with its own."""
    if question.kind in ("one", "several"):
        return [Remark(choice.right, choice.why, letter, choice.text) for letter, choice in _choices(question)]
    key = question.key[0] if isinstance(question.key, list) else question.key
    return [Remark(True, question.why, answers.show(key, question.kind))]


def _choices(question: Question) -> list:
    return list(zip(question.letters, question.choices, strict=True))


def _fits(mistake: object, answer: str | float, tolerance: float) -> bool:
    if hasattr(mistake, "swapped"):
        return answer.index(mistake.swapped[0]) < answer.index(mistake.swapped[1])
    if hasattr(mistake, "answers"):
        return answers.plain(answer) in {answers.plain(form) for form in mistake.answers}
    return abs(answer - mistake.answer) <= tolerance + 1e-9 * max(1.0, abs(mistake.answer))


def _mistake_label(mistake: object, answer: str | float) -> str:
    if hasattr(mistake, "swapped"):
        return " → ".join(mistake.swapped)
    return answers.show(answer, "number" if isinstance(answer, float) else "text")
