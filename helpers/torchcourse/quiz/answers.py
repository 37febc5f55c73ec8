"""What a typed answer means, and what share of the points it is worth. Needs no question bank.

| kind    | answer                     | share of the points                                                       |
|---------|----------------------------|---------------------------------------------------------------------------|
| one     | one letter                 | all or nothing                                                            |
| several | letters, in any order      | (ticked right / all right) − (ticked wrong / all wrong), never below 0    |
| number  | a number, or "1/3"         | all or nothing, within the tolerance                                      |
| text    | a few words                | all or nothing; case, spaces, hyphens and punctuation do not count        |
| order   | all letters, in your order | (pairs in the right order − pairs in the wrong order) / pairs, never < 0  |

So ticking everything earns nothing, nor does ticking nothing or guessing, on average. An open question is read by a
person.
"""

import itertools
import math
import re
import unicodedata
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

KINDS = ("one", "several", "number", "text", "order", "open")
LETTERS = "ABCDEFGH"
SURE = (1, 2, 3)
"""How sure a learner is: guessing, fairly sure, certain."""


class AnswerError(ValueError):
    """An answer that cannot be understood; the message says what to type instead."""


def read(kind: str, answer: Any, letters: str = LETTERS) -> str | float | None:
    """Return the answer in its one normal form, or None where there is none yet (`...`, None, an empty text).

    Letters come back in capitals: sorted for `several`, as typed for `order`. `letters` are the ones that exist.

    Raises:
        AnswerError: for an answer with more than one meaning, or none.
    """
    if answer is ... or answer is None or (isinstance(answer, str | list | tuple | set) and not answer):
        return None
    if kind == "number":
        return _number(answer)
    if kind in ("text", "open"):
        return str(answer).strip() or None
    return _letters(kind, answer, letters)


def score(kind: str, answer: Any, key: Any, letters: str = LETTERS, tolerance: float = 0.0) -> float:
    """Return the share of the points, from 0 to 1, for an answer in its normal form.

    Args:
        kind: one of `KINDS` but "open".
        answer: what `read` returned; None earns 0.
        key: the right letters; the right number; or the list of accepted texts.
        letters: all letters of the question, right and wrong.
        tolerance: how far a number may be from the key.
    """
    if answer is None:
        return 0.0
    if kind == "number":
        return float(is_close(answer, key, tolerance))
    if kind == "text":
        return float(plain(answer) in {plain(form) for form in key})
    if kind == "order":
        pairs = list(itertools.combinations(answer, 2))
        wrong = sum(key.index(first) > key.index(second) for first, second in pairs)
        return max(0.0, 1 - 2 * wrong / len(pairs))
    if kind == "several":
        right, wrong = set(key), set(letters) - set(key)
        ticked = set(answer)
        return max(0.0, len(ticked & right) / len(right) - len(ticked & wrong) / len(wrong))
    return float(answer == key)


def is_close(number: float, key: float, tolerance: float) -> bool:
    """Whether a number is within the tolerance of a key, give or take what floating point loses."""
    return abs(number - key) <= tolerance + 1e-9 * max(1.0, abs(key))


def plain(text: str) -> str:
    """Return the letters and digits of a text in lower case: 'All-Reduce' and 'all_reduce' are the same answer."""
    return "".join(sign for sign in unicodedata.normalize("NFKC", text).casefold() if sign.isalnum())


def show(answer: str | float | None, kind: str) -> str:
    """Return a normal form as a reader likes it: 'A, C', '0.25'."""
    if answer is None:
        return ""
    if kind in ("several", "order"):
        return ", ".join(str(answer))
    return f"{answer:g}" if isinstance(answer, float) else str(answer)


def _number(answer: Any) -> float:
    if isinstance(answer, bool):
        raise AnswerError("Type a number, such as 0.25, not True or False.")
    try:
        number = float(Fraction(answer.replace(" ", ""))) if isinstance(answer, str) else float(answer)
    except (ValueError, TypeError, OverflowError, ZeroDivisionError):
        raise AnswerError(
            f"{_quote(answer)} is not read as a number. Type it with a point and nothing else, such as 0.25."
        ) from None
    if not math.isfinite(number):
        raise AnswerError("Type a finite number.")
    return number


def _letters(kind: str, answer: Any, letters: str) -> str | None:
    span = f"{letters[0]} to {letters[-1]}"
    signs = answer if isinstance(answer, str) else _joined(answer)
    if signs is None:
        raise AnswerError(f'Type letters between quotes, such as "{_example(kind, letters)}"; the choices are {span}.')
    signs = re.sub(r"[\s,;.:/&+>\-()\[\]'\"]", "", unicodedata.normalize("NFKC", signs)).upper()
    unknown = [sign for sign in signs if sign not in letters]
    if unknown:
        raise AnswerError(f"There is no choice {unknown[0]} here: type letters from {span}, and nothing else.")
    if not signs:
        return None
    if kind == "order":
        if sorted(signs) != sorted(letters):
            raise AnswerError(f"Type each letter from {span} once, in your order.")
        return signs
    chosen = "".join(sorted(set(signs)))
    if kind == "one" and len(chosen) > 1:
        raise AnswerError(f"This question has one answer: type one letter, not {len(chosen)}.")
    return chosen


def _joined(answer: Any) -> str | None:
    if isinstance(answer, Iterable):
        parts = list(answer)
        if all(isinstance(part, str) and len(part.strip()) == 1 for part in parts):
            return "".join(parts)
    return None


def _example(kind: str, letters: str) -> str:
    return {"one": letters[0], "several": letters[0] + letters[2:3]}.get(kind, letters[::-1])


def _quote(answer: Any) -> str:
    text = repr(answer)
    return text if len(text) <= 40 else f"{text[:37]}…"
