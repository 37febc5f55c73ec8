"""What a typed answer means, and what share of the points it is worth. Needs no question bank.

| kind    | answer                     | share of the points                                                       |
|---------|----------------------------|---------------------------------------------------------------------------|
| one     | one letter                 | all or nothing                                                            |
| several | letters, in any order      | (ticked right / all right) − (ticked wrong / all wrong), never below 0    |
| number  | a number, or "1/3"         | all or nothing, within the tolerance                                      |
| text    | a few words                | all or nothing; case, spaces, hyphens and punctuation do not count        |
| order   | all letters, in your order | (pairs in the right order − pairs in the wrong order) / pairs, never < 0  |

A number may be typed as 0.25, 0,25, 1/4, 2 1/2, 2.5e-1, 2.5*10^-1, 1,250 or 1 250. A comma before exactly three
digits stands between thousands, unless only a zero is before it: 1,250 is 1250, and 0,125 is an eighth. A name may be
typed as a call, with its module or its arguments: `torch.load(path)` is `load`. Where several orders are right, the
nearest one counts.

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

from torchcourse.quiz import texts

KINDS = ("one", "several", "number", "text", "order", "open")
LETTERS = "ABCDEFGH"
SURE = (1, 2, 3)
"""How sure a learner is: guessing, fairly sure, certain."""


class AnswerError(ValueError):
    """An answer that cannot be understood; the message says what to type instead, in the reader's language."""


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


def how_sure(value: Any) -> int | None:
    """Return what a journal says of a learner's confidence, None where that is none of `SURE`."""
    return value if type(value) is int and value in SURE else None


def score(kind: str, answer: Any, key: Any, letters: str = LETTERS, tolerance: float = 0.0) -> float:
    """Return the share of the points, from 0 to 1, for an answer in its normal form.

    Args:
        kind: one of `KINDS` but "open".
        answer: what `read` returned; None earns 0.
        key: the right letters, or for `order` a list of all right orders; the right number; the list of accepted texts.
        letters: all letters of the question, right and wrong.
        tolerance: how far a number may be from the key.
    """
    if answer is None:
        return 0.0
    if kind == "number":
        return float(is_close(answer, key, tolerance))
    if kind == "text":
        return float(is_same(answer, key))
    if kind == "order":
        return max(_order_score(answer, right) for right in ([key] if isinstance(key, str) else key))
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


def is_same(answer: str, forms: Iterable[str]) -> bool:
    """Whether a text is one of some forms: as it is written, or as the name in a call, an argument or a sentence."""
    return bool({plain(answer), plain(_core(answer))} & {plain(form) for form in forms})


def show(answer: str | float | None, kind: str) -> str:
    """Return a normal form as a reader likes it: 'A, C', '0.25'."""
    if answer is None:
        return ""
    if kind in ("several", "order"):
        return ", ".join(str(answer))
    return f"{answer:g}" if isinstance(answer, float) else str(answer)


def _order_score(answer: str, key: str) -> float:
    pairs = list(itertools.combinations(answer, 2))
    wrong = sum(key.index(first) > key.index(second) for first, second in pairs)
    return max(0.0, 1 - 2 * wrong / len(pairs))


def _core(text: str) -> str:
    """Return the name in `raise optuna.TrialPruned()`, `map_location="cpu"`, `올리듀스(all-reduce)입니다`.

    What is set to False or None is not set: `strict=False` is no answer `strict`.
    """
    text = " ".join(text[:200].split())
    text = re.sub(r"^(raise|import|from|the|an?)\s+", "", text.strip("`'\" "), flags=re.IGNORECASE)
    text = re.sub(r"\s*(입니다|이에요|예요|이다)?\s*[.!]?$", "", text)
    text = re.sub(r"\(.*\)$", "", text, flags=re.DOTALL)
    text = re.sub(r"\s*=(?!\s*(False|None)\b).+$", "", text, flags=re.DOTALL)
    return re.sub(r"^([A-Za-z_]\w*\.)+(?=[A-Za-z_])", "", text)


def _number(answer: Any) -> float:
    if isinstance(answer, bool):
        raise AnswerError(texts.say("not_a_number"))
    try:
        number = _parsed(answer) if isinstance(answer, str) else float(answer)
    except (ValueError, TypeError, OverflowError, ZeroDivisionError):
        raise AnswerError(texts.say("unreadable_number", given=_quote(answer))) from None
    if not math.isfinite(number):
        raise AnswerError(texts.say("not_finite"))
    return number


def _parsed(text: str) -> float:
    """Return the number that a text says, in the forms of the module's docstring.

    Raises:
        ValueError: if it says none. ZeroDivisionError: for 1/0. OverflowError: beyond a float.
    """
    raised = re.sub(r"(?<=10)[⁺⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+", lambda found: f"^{found[0]}", text)
    apart = re.sub(r"(?<=\d)(?=[¼½¾⅐-⅞])", " ", raised)  # 2½ is two and a half
    text = _visible(apart).translate(_SIGNS).strip()
    mixed = re.fullmatch(r"([-+]?)(\d+)\s+(\d+)\s*/\s*(\d+)", text)
    if mixed and int(mixed[3]) < int(mixed[4]):  # 2 1/2; 1 250/2 has a space between thousands
        return float(f"{mixed[1]}1") * float(int(mixed[2]) + Fraction(int(mixed[3]), int(mixed[4])))
    text = re.sub(r"(?<=\d)\s(?=\d{3}(?!\d))|\s*([/*x^])\s*|(?<=^[-+])\s+", r"\1", text)  # 1 250, 1 / 4
    above, slash, below = text.partition("/")
    value = _factor(above)
    return float(value / _factor(below) if slash else value)


def _factor(text: str) -> Fraction:
    if power := re.fullmatch(r"(?:(.+?)[*x])?10(?:\^|\*\*)\(?([-+]?\d{1,3})\)?", text):
        return (_factor(power[1]) if power[1] else 1) * Fraction(10) ** int(power[2])
    if re.fullmatch(r"[-+]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?", text):
        text = text.replace(",", "")
    if not re.fullmatch(r"[-+]?(\d+[.,]?\d*|[.,]\d+)(e[-+]?\d{1,3})?", text, re.IGNORECASE):
        raise ValueError(text)
    return Fraction(text.replace(",", "."))


_SIGNS = str.maketrans({"−": "-", "–": "-", "⁄": "/", "÷": "/", "×": "*", "·": "*", "，": ","})


def _visible(text: str) -> str:
    """Return the plain forms of all signs (Ａ is A), without those that nobody sees, which come along by copying."""
    return "".join(sign for sign in unicodedata.normalize("NFKC", text) if unicodedata.category(sign) != "Cf")


# Letters of other alphabets that nobody can tell from A, B, C, E and H: Cyrillic and Greek.
_ALIKE = str.maketrans("АВСЕНΑΒΕΗ", "ABCEHABEH")
_BETWEEN = {"several": r"[\s,;:/&+>·()\[\]'\"]|\.(?!\.)", "order": r"[\s,;.:/&+>→⇒·\-()\[\]'\"]"}
"""What may stand between letters, by kind. A-C and A..C, where several are asked for, can mean A to C."""


def _letters(kind: str, answer: Any, letters: str) -> str | None:
    span = texts.say("letter_span", first=letters[0], last=letters[-1])
    signs = answer if isinstance(answer, str) else _joined(answer, in_order=kind == "order")
    if signs is None:
        raise AnswerError(texts.say("no_letters", example=_example(kind, letters), span=span))
    signs = re.sub(_BETWEEN.get(kind, _BETWEEN["order"]), "", _visible(signs)).upper().translate(_ALIKE)
    unknown = [sign for sign in signs if sign not in letters]
    if unknown:
        raise AnswerError(texts.say("unknown_letter", letter=unknown[0], span=span))
    if not signs:
        return None
    if kind == "order":
        if sorted(signs) != sorted(letters):
            raise AnswerError(texts.say("not_every_letter", span=span))
        return signs
    chosen = "".join(sorted(set(signs)))
    if kind == "one" and len(chosen) > 1:
        raise AnswerError(texts.say("more_than_one", count=len(chosen)))
    return chosen


def _joined(answer: Any, in_order: bool) -> str | None:
    if isinstance(answer, Iterable) and not (in_order and isinstance(answer, set | frozenset)):  # which has no order
        parts = list(answer)
        if all(isinstance(part, str) and len(part.strip()) == 1 for part in parts):
            return "".join(parts)
    return None


def _example(kind: str, letters: str) -> str:
    return {"one": letters[0], "several": letters[0] + letters[2:3]}.get(kind, letters[::-1])


def _quote(answer: Any) -> str:
    text = repr(answer)
    return text if len(text) <= 40 else f"{text[:37]}…"
