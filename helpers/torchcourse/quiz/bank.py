"""The question banks: one YAML file per lesson, read and checked. `quizzes/README.md` says how to write one.

    bank.lessons()                                # ['04_monitoring_and_checkpoints', …]
    bank.lesson("04_monitoring_and_checkpoints")  # a Bank
    bank.find("04_monitoring_and_checkpoints", "manage-training")   # a question in it, if it is still there
    bank.load(Path("quizzes/04_….yaml"))          # a Bank, from anywhere
    bank.strip(some_bank)                         # the same as YAML without keys and feedback, for a class

The shape of a file is checked by pydantic (`questions`), what it says by `bank_rules`. Every fault of a file is
reported at once, each in one sentence with the question and the field.
"""

import functools
import itertools
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from torchcourse.quiz import bank_rules, choice_order, yaml_text
from torchcourse.quiz.answers import KINDS, LETTERS
from torchcourse.quiz.questions import Bank, BankError, Question


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


def known(name: str) -> Bank | None:
    """Return the bank of a lesson, None where it cannot be had: other versions of the course have other lessons."""
    try:
        return lesson(name)
    except BankError:
        return None


def find(name: str, question: str) -> tuple[Bank, Question, Question] | None:
    """Return a lesson's bank, and in it the question of that id as it is asked first, and as it is meant.

    None where the bank or the question has gone, so that only the journal knows them.
    """
    try:
        found = lesson(name)
        return found, *found.question(question)
    except BankError:
        return None


def folder() -> Path:
    """Return where the banks lie: in the installed package, else in the repository's `quizzes`."""
    installed = Path(__file__).with_name("banks")
    return installed if installed.is_dir() else Path(__file__).parents[3] / "quizzes"


def load(path: str | Path) -> Bank:
    """Read and check one bank; each question's choices stand in the order that `choice_order` drew.

    Raises:
        BankError: naming the file and, for each fault, the question, the field and what is wrong with it.
    """
    path = Path(path)
    try:
        raw = yaml_text.parse(path.read_text(encoding="utf-8"))
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
        faults = list(bank_rules.broken_rules(bank))
    if faults:
        lines = "".join(f"\n  {path.name}, {fault}" for fault in faults)
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise BankError(f"{path.name} has {count}:{lines}")
    return choice_order.arranged(bank)


def strip(bank: Bank, variants: bool = False) -> str:
    """Return the bank as YAML text without keys, feedback, rubrics and model answers, to give to a class.

    The choices stand in their drawn order, so that a class has the letters of the quiz notebook.

    Args:
        bank: with keys, as a teacher has it.
        variants: whether to keep them. A class whose quizzes are drawn per student is asked in all wordings.
    """
    kept = dict.fromkeys(("id", "kind", "text", "source", "points", "unit", "items", "order"), True)
    shown: dict[str, Any] = kept | {"choices": {"__all__": {"text"}}}
    questions = {"__all__": shown | ({"variants": {"__all__": shown}} if variants else {})}
    data = bank.model_dump(
        include={"title": True, "objectives": True, "questions": questions}, exclude_none=True, exclude_defaults=True
    )
    return yaml_text.write({"stripped": True} | data)


@functools.lru_cache(maxsize=32)
def _loaded(path: Path, _modified: int, _size: int) -> Bank:
    return load(path)


def _yaml_fault(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return str(error)
    return f"line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', None) or 'cannot be read'}."


def _fault(raw: dict[str, Any], error: ErrorDetails) -> str:
    """Turn one of pydantic's errors into a sentence that names the question and the field."""
    question, steps = "", list(error["loc"])
    node: Any = raw
    while len(steps) > 1 and steps[0] in ("questions", "variants"):
        within, place = steps[0], int(steps[1])
        node = node[within][place]
        name = node.get("id") if isinstance(node, dict) else None
        question = name or f"number {place + 1} of the {within}"
        steps = steps[3:]  # behind the place pydantic names the kind of the question, which is no field
    fields = [
        step if isinstance(step, str) else LETTERS[step] if within in ("choices", "items") else str(step + 1)
        for within, step in itertools.pairwise(["", *steps])
    ]
    where = [f"question {question}"] if question else []
    where += [f"field {', '.join(fields)}"] if fields else []
    return f"{', '.join(where) or 'the whole'}: {_sentence(error)}"


def _sentence(error: ErrorDetails) -> str:
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
        case "float_type":
            return f"must be a number, such as 90, 0.25 or 1e-3, not {value!r}."
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
