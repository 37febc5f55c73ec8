"""What the cards and pages say around a question, in English and in Korean, and which of the two is shown now.

The sentences are in `texts.yaml`.
"""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

from torchcourse import journal
from torchcourse.quiz import yaml_text

LANGUAGES = {"en": "EN", "ko": "한국어"}

_chosen: str | None = None


def current() -> str:
    """Return the language last chosen, `en` or `ko`; it is kept in the journal."""
    global _chosen
    if _chosen is None:
        choices = [str(entry.get("value")) for entry in journal.read() if entry["kind"] == "language"]
        _chosen = choices[-1] if choices and choices[-1] in LANGUAGES else "en"
    return _chosen


def choose(language: str) -> None:
    """Show everything in this language from now on."""
    global _chosen
    if known(language) != current():
        _chosen = language
        journal.record("language", value=language)


def known(language: str) -> str:
    """Return the language.

    Raises:
        ValueError: if the course is not in it.
    """
    if language not in LANGUAGES:
        raise ValueError(f"'{language}' is not a language of this course; choose 'en' or 'ko'.")
    return language


@contextlib.contextmanager
def spoken(language: str) -> Iterator[None]:
    """Say everything inside the block in this language, whatever the learner chose."""
    global _chosen
    before = current()
    _chosen = known(language)
    try:
        yield
    finally:
        _chosen = before


def say(name: str, /, language: str | None = None, **values: object) -> str:
    """Return one of the sentences in the language, with its gaps filled."""
    return sentences()[name][language or current()].format(**values)


@functools.cache
def sentences() -> dict[str, dict[str, str]]:
    """Return all sentences: {name: {language: sentence with its gaps}}."""
    return yaml_text.parse(Path(__file__).with_name("texts.yaml").read_text(encoding="utf-8"))
