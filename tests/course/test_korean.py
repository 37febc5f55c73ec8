"""All Korean text of the course uses one word for each concept: that of `quiz/korean_words.yaml`."""

import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "helpers/torchcourse/quiz/korean_words.yaml"
WORDS: list[dict[str, str]] = yaml.safe_load(TABLE.read_text("utf-8"))


def korean() -> Iterator[tuple[str, str]]:
    """Yield each line with Korean, and where it is; without code, and without what the learner's log says in quotes."""
    paths = [*(ROOT / "quizzes").glob("*.yaml"), *(ROOT / "solutions").glob("*/*.py")]
    paths += [path for path in (ROOT / "helpers").rglob("*") if path.suffix in (".py", ".yaml") and path != TABLE]
    for path in sorted(paths):
        text = path.read_text("utf-8")
        for number, line in enumerate(text.splitlines(), start=1) if re.search("[가-힣]", text) else ():
            if re.match(r"\s*(?:- )?(?:accepted|answers): ", line):  # what a learner may type, in any spelling
                continue
            said = re.sub(r"`[^`]*`|“[^”]*”|\*[^*]*[가-힣][^*]*\*(?!\*)", "", line)
            if re.search("[가-힣]", said):
                yield f"{path.relative_to(ROOT).as_posix()}:{number}", said


@functools.cache
def text() -> list[tuple[str, str]]:
    return list(korean())


@pytest.mark.parametrize("word", WORDS, ids=lambda word: word["term"])
def test_a_concept_has_one_word(word):
    found = [f"{where}: {line.strip()}" for where, line in text() if re.search(word["not"], line)]
    assert found == [], f"for {word['term']} write {word['use']}"


@pytest.mark.parametrize("word", WORDS, ids=lambda word: word["term"])
def test_the_word_itself_is_allowed(word):
    assert not re.search(word["not"], word["use"])


def in_korean(part: object) -> Iterator[str]:
    """Yield each text of a bank that has Korean, without its code."""
    if isinstance(part, dict):
        if isinstance(part.get("ko"), str):
            yield re.sub(r"```.*?```|`[^`]*`", "", part["ko"], flags=re.DOTALL)
        part = list(part.values())
    for each in part if isinstance(part, list) else ():
        yield from in_korean(each)


@pytest.mark.parametrize("path", sorted((ROOT / "quizzes").glob("*.yaml")), ids=lambda path: path.stem)
def test_quotation_marks_are_those_of_korean(path):
    bank = yaml.load(path.read_text("utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    assert [text for text in in_korean(bank) if '"' in text] == [], "write “ ” or ‘ ’"


def test_glossaries_give_a_term_one_korean_word():
    rows: dict[str, set[str]] = {}
    for path in sorted((ROOT / "solutions").glob("*/*.py")):
        for term, word in re.findall(r"^# \| ([^|]+) \| ([^|]*[가-힣][^|]*) \|", path.read_text("utf-8"), re.MULTILINE):
            rows.setdefault(term.strip().lower(), set()).add(word.strip())
    assert {term: words for term, words in rows.items() if len(words) > 1} == {}


def test_a_term_has_its_korean_in_the_text_that_introduces_it():
    """Beside its first use, and not in the glossary alone."""
    introduced: set[str] = set()
    missing = []
    for path in sorted((ROOT / "solutions").glob("*/*.py")):
        prose, _, glossary = path.read_text("utf-8").partition("# ### Glossary")
        for term, word in re.findall(r"^# \| (?!English)([^|]+) \| ([^|]*[가-힣][^|]*) \|", glossary, re.MULTILINE):
            if term.lower() not in introduced and re.split("[(,]", word)[0].strip() not in prose:
                missing.append(f"{path.parent.name}/{path.name}: {term}: {word}")
            introduced.add(term.lower())
    assert missing == []
