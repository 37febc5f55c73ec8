"""The fold-outs of the lessons ("Help – I get …") quote only what a check really says.

The clinic's own test holds each quote against the hints of its patient; here a quote may be a hint of the whole wing.
"""

import ast
import html
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import torchcourse
from torchcourse.tools.repository import ROOT

PACKAGE = Path(torchcourse.__file__).parent
SOURCES = sorted((ROOT / "solutions").glob("*/*.py"))

VALUE = "\0"
"""Stands in a hint for what the check fills in."""

NO_HINTS = {
    "The size of tensor a (10) must match the size of tensor b (1000)": "PyTorch's error for shapes that do not fit",
    "mat1 and mat2 shapes cannot be multiplied": "PyTorch's error for a matrix product",
    "a module doesn't have any parameter that requires a gradient": "the error of DistributedDataParallel",
    "needs … GPUs, but the cluster has …": "the planner's error, which the check passes on",
}
"""Quotes that no check gives, each with where the text comes from."""


def plain(text: str, marks: str = "*“”`") -> str:
    """Return the text as it is compared: one line, small letters, no marks of emphasis, quotation or code."""
    return " ".join(text.split()).lower().translate(dict.fromkeys(map(ord, marks)))


def strings(module: ast.Module) -> Iterator[str]:
    """Yield the strings of a module, docstrings left out; adjacent literals are one."""
    docstrings = {id(node.value) for node in ast.walk(module) if isinstance(node, ast.Expr)}
    for node in ast.walk(module):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else VALUE for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield re.sub(r"\{\w+(?::\w+)?\}", VALUE, node.value)  # a template for str.format


@cache
def hints(wing: str, in_clinic: bool) -> list[str]:
    """Return what the checks of a wing say, or its clinic and the clinic's checks, and what all checks say."""
    room = PACKAGE / "lessons" / wing
    paths = [room / "checks.py", *(room / "checks").rglob("*.py"), *(room / "clinic").rglob("*.py")]
    paths = [path for path in paths if path.is_file() and ("clinic" in str(path.relative_to(room))) == in_clinic]
    modules = [ast.parse(path.read_text("utf-8")) for path in [*paths, *(PACKAGE / "checks").rglob("*.py")]]
    return [plain(text) for module in modules for text in strings(module)]


MAY_BE_FILLED_IN = r"`[^`]+`|\[[^\]]*\]|\b\d+(?:[.,]\d+)*\b|\b\w+\.\w+\b"
"""Names in backticks, lists, numbers and dotted names: a quote has the value where the hint has a place for it."""


def pattern(quote: str) -> re.Pattern[str]:
    """Return what a hint must contain; … in a quote leaves a few words out."""

    def piece(text: str) -> str:
        if text == "…":
            return ".{1,40}?"
        literal = re.escape(text.strip("`"))
        return f"(?:{literal}|{VALUE})" if re.fullmatch(MAY_BE_FILLED_IN, text) else literal

    return re.compile("".join(map(piece, re.split(f"({MAY_BE_FILLED_IN}|…)", plain(quote, "*“”").strip(" …")))))


def quotes(source: Path) -> list[str]:
    """Return what the fold-outs of a lesson's source quote."""
    text = re.sub(r"(?m)^# ?", "", source.read_text(encoding="utf-8"))
    folded = re.findall(r"(?s)<details>(.*?)</details>", text)
    parts = [html.unescape(re.sub(r"<[^>]+>", "", part)) for part in folded]
    return [" ".join(quote.split()) for part in parts for quote in re.findall(r'"([^"]+)"', part)]


def unknown(source: Path) -> list[str]:
    """Return the quotes of a lesson that none of the checks gives which it imports as `check`, if it has any."""
    imported = r"(?m)^from torchcourse\.lessons\.(\w+)\S* import (\w+) as check$"
    rooms = re.findall(imported, source.read_text(encoding="utf-8"))
    assert len(rooms) == (0 if source.stem == "1_final" else 1)
    # the patients of every lesson are those of one clinic
    texts = [
        text
        for wing, module in rooms
        for text in hints("troubleshooting" if module == "clinic" else wing, module == "clinic")
    ]
    return [quote for quote in quotes(source) if not any(pattern(quote).search(text) for text in texts)]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: f"{source.parent.name}/{source.stem}")
def test_each_help_quotes_a_hint_of_the_lessons_checks(source: Path) -> None:
    assert [quote for quote in unknown(source) if quote not in NO_HINTS] == []


@pytest.mark.slow
def test_each_exception_is_quoted_and_is_no_hint() -> None:
    assert {quote for source in SOURCES for quote in unknown(source)} >= set(NO_HINTS)


def test_values_and_marks_do_not_count_but_words_do() -> None:
    hint = plain(f"Record {VALUE} comes {VALUE} times: the *same* `number`")
    assert pattern("comes 2 times: the same number").search(hint)
    assert pattern("Record … times").search(hint)
    assert not pattern("comes 2 times: a different number").search(hint)
