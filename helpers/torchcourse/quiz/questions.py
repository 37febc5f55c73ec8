"""What a question bank holds: its questions, of six kinds, as pydantic reads them.

`bank` loads banks, `bank_rules` says what a well-formed bank must not say, `quizzes/README.md` how to write one.
"""

import itertools
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from torchcourse.quiz import texts
from torchcourse.quiz.answers import LETTERS

Filled = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, strict=True)]
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", strict=True)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class BankError(ValueError):
    """A bank or a question that cannot be had; the message says which, and what to do."""

    def _render_traceback_(self) -> list[str]:
        """IPython asks for this: a reader of a notebook gets the sentence alone."""
        return [f"{type(self).__name__}: {self}"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Text(_Part):
    """The same words in both languages, in the little Markdown of `markup`."""

    en: Filled
    ko: Filled

    def __getitem__(self, language: str) -> str:
        return self.ko if language == "ko" else self.en

    def __str__(self) -> str:
        """The words in the reader's language."""
        return self[texts.current()]


class Choice(_Part):
    """One choice. A wrong one names the misconception behind it; `why` says how to see that it is right or wrong."""

    text: Text
    right: bool = Field(default=False, strict=True)
    misconception: Slug | None = None
    why: Text | None = None


class _Mistake(_Part):
    misconception: Slug
    why: Text


class NumberMistake(_Mistake):
    answer: Number


class TextMistake(_Mistake):
    answers: list[Filled] = Field(min_length=1)


class OrderMistake(_Mistake):
    """`swapped: BA` is the mistake of putting B before A."""

    swapped: Annotated[str, StringConstraints(pattern=r"^[A-H]{2}$")]


class OpenMistake(_Mistake):
    """A line of thought that leads astray, as a learner would put it."""

    reasoning: Text


class SelfCheck(_Part):
    """What a good answer says. Who cannot tick it holds the misconception, if one is named."""

    text: Text
    misconception: Slug | None = None


class RubricLine(_Part):
    points: int = Field(gt=0, strict=True)
    text: Text


class Source(_Part):
    """Where a question comes from: a wrong answer of the study log, by its number, or an objective of the lesson."""

    wrong_answer: int | None = None
    objective: Slug | None = None


class _Question(_Part):
    id: Slug
    text: Text
    source: Source | None = None
    points: int = Field(default=1, gt=0, strict=True)
    variants: tuple["Question", ...] = ()

    @property
    def options(self) -> list[Text]:
        """The texts of the choices or items; empty where an answer is not made of letters."""
        return []

    @property
    def letters(self) -> str:
        """The letters of the options, in order."""
        return LETTERS[: len(self.options)]

    @property
    def misconceptions(self) -> set[str]:
        """What an answer to the question may show."""
        parts = (getattr(self, name, ()) for name in ("choices", "mistakes", "self_check"))
        return {part.misconception for part in itertools.chain(*parts) if part.misconception}

    @property
    def key(self) -> str | float | list[str] | None:
        """What `answers.score` compares an answer with; nothing where the question is open, or stripped."""
        return None

    @property
    def has_key(self) -> bool:
        """Whether the bank knows the answer. The number 0 is one."""
        return self.key not in (None, "", [])


class _Choices(_Question):
    """`choice_order` says where the choices stand. `fixed_order` keeps them as in the file.

    `order` holds the file's letters in the order in which the choices stand; only stripped banks write it down.
    """

    choices: list[Choice] = Field(min_length=2, max_length=len(LETTERS))
    fixed_order: bool = Field(default=False, strict=True)
    order: Annotated[str, StringConstraints(pattern=r"^[A-H]*$", strict=True)] = ""

    @property
    def options(self) -> list[Text]:
        return [choice.text for choice in self.choices]

    @property
    def by_letter(self) -> list[tuple[str, Choice]]:
        return list(zip(self.letters, self.choices, strict=True))

    @property
    def key(self) -> str:
        return "".join(letter for letter, choice in self.by_letter if choice.right)


class OneQuestion(_Choices):
    kind: Literal["one"]


class SeveralQuestion(_Choices):
    kind: Literal["several"]


class NumberQuestion(_Question):
    kind: Literal["number"]
    unit: Text | None = None
    answer: Number | None = None
    tolerance: Annotated[Number, Field(ge=0)] = 0.0
    why: Text | None = None
    mistakes: list[NumberMistake] = []

    @property
    def key(self) -> float | None:
        return self.answer


class TextQuestion(_Question):
    kind: Literal["text"]
    accepted: list[Filled] = []
    why: Text | None = None
    mistakes: list[TextMistake] = []

    @property
    def key(self) -> list[str]:
        return self.accepted


class OrderQuestion(_Question):
    """`answer` is the order that is shown as the solution; `also_right` are the others that work as well."""

    kind: Literal["order"]
    items: list[Text] = Field(min_length=3, max_length=len(LETTERS))
    answer: Filled | None = None
    also_right: list[Filled] = []
    why: Text | None = None
    mistakes: list[OrderMistake] = []

    @property
    def options(self) -> list[Text]:
        return self.items

    @property
    def key(self) -> str | list[str] | None:
        return [self.answer, *self.also_right] if self.answer and self.also_right else self.answer


class OpenQuestion(_Question):
    kind: Literal["open"]
    model_answer: Text | None = None
    rubric: list[RubricLine] = []
    self_check: list[SelfCheck] = []
    mistakes: list[OpenMistake] = []


ChoiceQuestion = OneQuestion | SeveralQuestion
Question = Annotated[
    ChoiceQuestion | NumberQuestion | TextQuestion | OrderQuestion | OpenQuestion, Field(discriminator="kind")
]


def versions(question: Question) -> tuple[Question, ...]:
    """Return a question as it is asked first, then its variants."""
    return (question, *question.variants)


def required(text: Text | None) -> Text:
    """Return a text that `bank_rules` demands of every question that is not stripped."""
    assert text is not None
    return text


class Bank(_Part):
    """All questions of one lesson. `stripped` banks hold neither keys nor feedback."""

    title: Text
    stripped: bool = Field(default=False, strict=True)
    objectives: dict[Slug, Text] = {}
    misconceptions: dict[Slug, Text] = {}
    questions: list[Question] = Field(min_length=1)
    lesson: str = Field(default="", exclude=True)

    def question(self, name: str) -> tuple[Question, Question]:
        """Return the question of that id as it is asked first, and the one meant: itself, or one of its variants.

        Raises:
            BankError: if there is none; the message lists those that there are.
        """
        for first in self.questions:
            for version in versions(first):
                if version.id == name:
                    return first, version
        known = ", ".join(question.id for question in self.questions)
        raise BankError(f"The quiz {self.lesson} has no question '{name}'. It has: {known}.")

    def number(self, question: Question) -> int | None:
        """Return the place of a question in its quiz, from 1; None for a variant."""
        return next((place for place, other in enumerate(self.questions, 1) if other.id == question.id), None)


# Until here "Question", which the variants are, was only a name.
for _kind in (OneQuestion, SeveralQuestion, NumberQuestion, TextQuestion, OrderQuestion, OpenQuestion):
    _kind.model_rebuild()
