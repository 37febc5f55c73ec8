"""The question bank: one YAML file a lesson, read and checked. `quizzes/README.md` says how to write one.

    bank.lessons()                                # ['04_monitoring_and_checkpoints', …]
    bank.lesson("04_monitoring_and_checkpoints")  # a Bank
    bank.load(Path("quizzes/04_….yaml"))          # a Bank, from anywhere
    bank.strip(some_bank)                         # the same as YAML without keys and feedback, for a class

The shape of a file is checked by pydantic, what it says by `_rules`. Every fault of a file is reported at once, each
in one sentence with the question and the field.
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from torchcourse.quiz import markup
from torchcourse.quiz.answers import KINDS, LETTERS, plain

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
    def letters(self) -> str:
        """The letters of the choices or items; empty where an answer is not made of letters."""
        return LETTERS[: len(getattr(self, "choices", None) or getattr(self, "items", None) or ())]

    @property
    def has_key(self) -> bool:
        """Whether the bank knows the answer: not if it is open, or stripped. The number 0 is an answer."""
        return getattr(self, "key", None) not in (None, "", [])


class _Choices(_Question):
    choices: list[Choice] = Field(min_length=2, max_length=len(LETTERS))

    @property
    def key(self) -> str:
        return "".join(letter for letter, choice in zip(self.letters, self.choices, strict=True) if choice.right)


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
    kind: Literal["order"]
    items: list[Text] = Field(min_length=3, max_length=len(LETTERS))
    answer: Filled | None = None
    why: Text | None = None
    mistakes: list[OrderMistake] = []

    @property
    def key(self) -> str | None:
        return self.answer


class OpenQuestion(_Question):
    kind: Literal["open"]
    model_answer: Text | None = None
    rubric: list[RubricLine] = []
    self_check: list[SelfCheck] = []
    mistakes: list[OpenMistake] = []


Question = Annotated[
    OneQuestion | SeveralQuestion | NumberQuestion | TextQuestion | OrderQuestion | OpenQuestion,
    Field(discriminator="kind"),
]


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
            for dress in (first, *first.variants):
                if dress.id == name:
                    return first, dress
        known = ", ".join(question.id for question in self.questions)
        raise BankError(f"The quiz {self.lesson} has no question '{name}'. It has: {known}.")

    def number(self, question: Question) -> int | None:
        """Return the place of a question in its quiz, from 1; None for a variant."""
        return next((place for place, other in enumerate(self.questions, 1) if other.id == question.id), None)


for _kind in (OneQuestion, SeveralQuestion, NumberQuestion, TextQuestion, OrderQuestion, OpenQuestion):
    _kind.model_rebuild()


def lessons() -> list[str]:
    """Return the names of the lessons that have a bank, in order."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


def lesson(name: str) -> Bank:
    """Return the bank of a lesson.

    Raises:
        BankError: if there is none, or if it has faults.
    """
    path = folder() / f"{name}.yaml"
    if name not in lessons():
        known = ", ".join(lessons()) or f"none in {folder()}"
        raise BankError(f"There is no quiz for a lesson '{name}'. There are: {known}.")
    status = path.stat()
    return _loaded(path, status.st_mtime_ns, status.st_size)


def folder() -> Path:
    """Return where the banks lie: in the installed package, else in the repository's `quizzes`."""
    installed = Path(__file__).with_name("banks")
    return installed if installed.is_dir() else Path(__file__).parents[3] / "quizzes"


def load(path: str | Path) -> Bank:
    """Read and check one bank.

    Raises:
        BankError: naming the file and, for each fault, the question, the field and what is wrong with it.
    """
    path = Path(path)
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise BankError(f"{path.name} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise BankError(f"{path.name} is not UTF-8 text; save it with that encoding.") from None
    except yaml.YAMLError as error:
        raise BankError(f"{path.name} is not valid YAML: {_yaml_fault(error)}") from None
    if not isinstance(raw, dict):
        raise BankError(f"{path.name} is no question bank: it must have 'title' and 'questions'.")
    try:
        bank = Bank.model_validate(raw).model_copy(update={"lesson": path.stem})
    except ValidationError as error:
        faults = [_fault(raw, one) for one in error.errors()]
    else:
        faults = list(_rules(bank))
    if faults:
        lines = "".join(f"\n  {path.name}, {fault}" for fault in faults)
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise BankError(f"{path.name} has {count}:{lines}")
    return bank


def strip(bank: Bank) -> str:
    """Return the bank as YAML text without keys, feedback, rubrics, model answers and variants, to give to a class."""
    kept = dict.fromkeys(("id", "kind", "text", "source", "points", "unit", "items"), True)
    questions = {"__all__": kept | {"choices": {"__all__": {"text"}}}}
    data = bank.model_dump(
        include={"title": True, "objectives": True, "questions": questions}, exclude_none=True, exclude_defaults=True
    )
    return yaml.safe_dump({"stripped": True} | data, allow_unicode=True, sort_keys=False, width=110)


def _rules(bank: Bank) -> Iterator[str]:
    """Yield a sentence for everything in a well-formed bank that cannot be right."""
    seen: set[str] = set()
    for first in bank.questions:
        for dress in (first, *first.variants):
            where = f"question {dress.id}"
            if dress.id in seen:
                yield f"{where}, field id: another question has this id; give each one its own."
            seen.add(dress.id)
            for field, sentence in _question_rules(dress, bank.stripped):
                yield f"{where}, field {field}: {sentence}"
        yield from (f"question {first.id}, field {field}: {sentence}" for field, sentence in _place_rules(first, bank))
    used = {slug for first in bank.questions for dress in (first, *first.variants) for slug in _slugs(dress)}
    for slug in sorted(used - set(bank.misconceptions)):
        yield f"field misconceptions: '{slug}' is used by a question but not described here."
    for slug in sorted(set(bank.misconceptions) - used):
        yield f"field misconceptions, {slug}: no question uses it; is it spelled differently there?"


def _slugs(question: Question) -> list[str]:
    parts = [
        *getattr(question, "choices", ()),
        *getattr(question, "mistakes", ()),
        *getattr(question, "self_check", ()),
    ]
    return [part.misconception for part in parts if part.misconception]


def _place_rules(first: Question, bank: Bank) -> Iterator[tuple[str, str]]:
    source = first.source
    if source is None or (source.wrong_answer is None) == (source.objective is None):
        yield "source", "say where the question comes from, with 'wrong_answer: 1' or 'objective: its-id'."
    elif source.objective is not None and source.objective not in bank.objectives:
        known = ", ".join(bank.objectives) or "none"
        yield "source", f"there is no objective '{source.objective}'; this bank has: {known}."
    elif source.wrong_answer is not None and len(first.variants) < 3 and not bank.stripped:
        yield "variants", "a recorded wrong answer needs at least three variants."
    if first.kind == "open" and not bank.stripped:
        total = sum(line.points for line in first.rubric)
        if total != first.points:
            yield "rubric", f"its points add up to {total}, but the question has {first.points}."
    for variant in first.variants:
        extra = sorted({"source", "points", "rubric", "variants"} & variant.model_fields_set)
        if extra:
            yield f"variants, {variant.id}", f"a variant has no {' and no '.join(extra)} of its own; leave it out."


def _question_rules(question: Question, stripped: bool) -> Iterator[tuple[str, str]]:
    if question.kind in ("one", "several"):
        yield from _choice_rules(question, stripped)
        return
    needed = {
        "number": ("answer", "why", "mistakes"),
        "text": ("accepted", "why", "mistakes"),
        "order": ("answer", "why", "mistakes"),
        "open": ("model_answer", "self_check", "mistakes"),
    }
    for field in needed[question.kind]:
        empty = getattr(question, field) in (None, [])
        if stripped and not empty:
            yield field, "a stripped bank must not hold it."
        elif not stripped and empty:
            yield field, "is missing."
    if stripped:
        return
    if question.kind == "text":
        forms = question.accepted + [form for mistake in question.mistakes for form in mistake.answers]
        yield from (("accepted", f"'{form}' has neither a letter nor a digit.") for form in forms if not plain(form))
        both = {plain(form) for form in question.accepted} & {plain(f) for m in question.mistakes for f in m.answers}
        yield from (("mistakes", f"'{form}' is also an accepted answer.") for form in sorted(both))
    if question.kind == "number" and question.answer is not None:
        for mistake in question.mistakes:
            if abs(mistake.answer - question.answer) <= question.tolerance:
                yield "mistakes", f"{mistake.answer:g} is within the tolerance, so it counts as right."
    if question.kind == "order" and question.answer is not None:
        if sorted(question.answer) != sorted(question.letters):
            yield "answer", f"must hold each letter from A to {question.letters[-1]} once, not '{question.answer}'."
            return
        if question.answer == question.letters:
            yield "items", "they stand in the right order already; mix them."
        for mistake in question.mistakes:
            places = [question.answer.find(letter) for letter in mistake.swapped]
            if min(places) < 0 or places[0] <= places[1]:
                yield "mistakes", f"'{mistake.swapped}' is no mistake: that is the right order, or no item."


def _choice_rules(question: OneQuestion | SeveralQuestion, stripped: bool) -> Iterator[tuple[str, str]]:
    for letter, choice in zip(question.letters, question.choices, strict=True):
        where = f"choices, {letter}"
        if not (markup.is_one_line(choice.text.en) and markup.is_one_line(choice.text.ko)):
            yield f"{where}, text", "a choice is one paragraph, without a block of code."
        if stripped:
            if choice.model_fields_set - {"text"}:
                yield where, "a choice of a stripped bank has a text and nothing else."
            continue
        if choice.why is None:
            yield f"{where}, why", "is missing: say how to see that it is right or wrong."
        if choice.right and choice.misconception:
            yield f"{where}, misconception", "a right choice has none."
        if not choice.right and not choice.misconception:
            yield f"{where}, misconception", "is missing: a wrong choice names the misconception behind it."
    if stripped:
        return
    right = len(question.key)
    if question.kind == "one" and right != 1:
        yield "choices", f"exactly one must be 'right: true'; {right} are."
    if question.kind == "several" and not 0 < right < len(question.choices):
        yield "choices", "at least one must be 'right: true' and at least one must not."


@functools.lru_cache(maxsize=32)
def _loaded(path: Path, _modified: int, _size: int) -> Bank:
    return load(path)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """Reads YAML as `safe_load` does, but refuses a key that stands twice instead of forgetting the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _value in node.value:
            name = getattr(key, "value", None)
            if isinstance(name, str) and name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{name}' stands twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep=deep)


def _yaml_fault(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return str(error)
    return f"line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', None) or 'cannot be read'}."


def _fault(raw: dict, error: dict[str, Any]) -> str:
    """Turn one of pydantic's errors into a sentence that names the question and the field."""
    question, fields, node = None, [], raw
    steps = iter(error["loc"])
    for step in steps:
        within = fields[-1] if fields else ""
        try:
            node = node[step]
        except (KeyError, IndexError, TypeError):
            node = None
        if isinstance(step, str):
            fields.append(step)
        elif within in ("questions", "variants"):
            name = node.get("id") if isinstance(node, dict) else None
            question, fields = name or f"number {step + 1} of the {within}", []
            next(steps, None)  # pydantic names the kind of the question here, which is no field
        else:
            fields.append(LETTERS[step] if within in ("choices", "items") and step < len(LETTERS) else str(step + 1))
    where = [f"question {question}"] if question else []
    where += [f"field {', '.join(fields)}"] if fields else []
    return f"{', '.join(where) or 'the whole'}: {_sentence(error)}"


def _sentence(error: dict[str, Any]) -> str:
    value, context = error.get("input"), error.get("ctx", {})
    kinds = f"the kinds are {', '.join(KINDS)}."
    match error["type"]:
        case "missing":
            return "is missing."
        case "extra_forbidden":
            return "is not known; see quizzes/README.md for the fields that there are."
        case "string_type" if isinstance(value, bool | int | float):
            return f"must be text; put {value!r} between quotes."
        case "string_type":
            return "must be text."
        case "string_too_short":
            return "must not be empty."
        case "string_pattern_mismatch" if "a-z" in context.get("pattern", ""):
            return f"'{value}' must be lower-case words joined by hyphens, such as sum-not-mean."
        case "union_tag_invalid":
            return f"'{context.get('tag')}' is no kind; {kinds}"
        case "union_tag_not_found":
            return f"'kind' is missing; {kinds}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"must be a group of fields, such as en and ko, not {value!r}."
        case "too_short":
            return f"needs at least {context['min_length']} entries."
        case "too_long":
            return f"takes at most {context['max_length']} entries."
    return f"{error['msg'][:1].lower()}{error['msg'][1:]}, not {value!r}."
