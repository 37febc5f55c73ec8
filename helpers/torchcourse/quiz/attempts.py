"""A learner's attempt at a question: what is judged, and what is written into the journal."""

from datetime import datetime

from torchcourse import journal
from torchcourse.quiz import texts
from torchcourse.quiz.questions import Bank, ChoiceQuestion, Question
from torchcourse.quiz.verdict import Verdict, judge, judge_open


class Attempt:
    """One question of a bank as it is put to the learner. Each answer is a line in the journal, with the reasoning.

    Args:
        bank: the question's bank.
        first: the question as it is asked first.
        shown: that, or one of its variants, with its choices as they are shown.
        number: the question's in its quiz, where the line to type for a grade is shown.
        draw: which order of the choices `shown` has; see `choice_order.redrawn`.
    """

    asks_reasoning = True
    """Whether a wrong answer is asked for its reasoning before it is explained."""
    after_wrong = "retry"
    """The name of the text that says what a change of a wrong answer does."""

    def __init__(
        self, bank: Bank, first: Question, shown: Question, *, number: int | None = None, draw: int = 0
    ) -> None:
        self.lesson, self.title = bank.lesson, bank.title
        self.first = first
        self.question, self.number = shown, number
        self.keyless = bank.stripped
        self.draw = draw
        # What the letters of the answer mean, in the letters of the bank's file; see `choice_order`.
        self.order = {"order": shown.order} if isinstance(shown, ChoiceQuestion) and shown.order else {}
        self.begun = datetime.now().astimezone().replace(microsecond=0)

    def check(self, answer: str | float, sure: int | None) -> Verdict:
        """Judge an answer in its normal form, and write it down."""
        # An open answer comes here only where the bank holds no model answer to compare it with.
        verdict = Verdict(None) if self.keyless else judge(self.question, answer)
        self._record("quiz", answer, sure, verdict)
        return verdict

    def write(self, text: str, sure: int | None) -> None:
        """Write an open answer down, before its writer sees the model answer."""
        self._record("written", text, sure)

    def tick(self, text: str, sure: int | None, said: list[int], thought: list[int]) -> Verdict:
        """Judge an open answer by what its writer ticked, and write it down."""
        assert self.question.kind == "open"
        verdict = judge_open(self.question, said, thought)
        self._record("quiz", text, sure, verdict)
        return verdict

    def reason(self, answer: str | float, text: str) -> None:
        """Write down the reasoning behind a wrong answer."""
        journal.record("reasoning", **self._names(), answer=answer, **self.order, text=text)

    def last(self, *, same: bool = False) -> journal.Entry | None:
        """Return the journal's last answer to this question or its variants, or to this very one (`same`)."""
        field, name = ("asked", self.question.id) if same else ("question", self.first.id)
        for entry in reversed(journal.read()):
            place = (entry["kind"], entry.get("lesson"), entry.get(field))
            if place == ("quiz", self.lesson, name) and entry.get("answer") is not None:
                return entry
        return None

    def heading(self, past: str = "") -> str:
        """Return the line above the question: where it is from, what kind of answer it takes, what was before.

        The lesson's title stands where the question has no number, that is outside its quiz.
        """
        question = self.question
        parts = [texts.say("question", number=self.number)] if self.number else [str(self.title)]
        parts.append(texts.say(f"kind_{question.kind}"))
        if self.number:
            parts.append(texts.say("point" if question.points == 1 else "points", points=question.points))
        return " · ".join([*parts, past] if past else parts)

    def note(self) -> str:
        """Return what is said below an answer that was given, besides the verdict; nothing for most questions."""
        return ""

    def _record(self, kind: str, answer: str | float, sure: int | None, verdict: Verdict | None = None) -> None:
        result = {}
        if verdict is not None:
            score = None if verdict.score is None else round(verdict.score, 4)
            result = {"right": verdict.right, "score": score, "misconceptions": verdict.misconceptions}
        journal.record(kind, **self._names(), form=self.question.kind, answer=answer, **self.order, sure=sure, **result)

    def _names(self) -> dict[str, str]:
        return {"lesson": self.lesson, "question": self.first.id, "asked": self.question.id}
