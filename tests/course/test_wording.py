"""Patterns that a reader of English as a second language should not meet, in all text of the course.

Looked at are the lessons' prose, the strings and comments of all Python, the question banks and the READMEs. Code in
backquotes and Korean are left out. What no pattern can hold, a person has to read.
"""

import functools
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
LESSONS = sorted((ROOT / "solutions").glob("*/*.py"))
BANKS = sorted((ROOT / "quizzes").glob("*.yaml"))

_UNIT = (
    "rank|step|second|token|layer|GPU|sample|image|parameter|epoch|micro-batch|batch|hour|minute|worker|process|node|"
    "class|digit|frame|row|value|run|save|saving|stage|piece|student|picture|message"
)
_COUNTED = (
    "(?:milli|micro)?seconds|ms|[kMG]i?B|bytes|blocks|states|T?FLOP(?:/s)?|samples?|labels?|images|tokens|steps|values?|numbers|messages|sequences|pieces?|"
    "batches|pictures|epochs|rows|nodes|growth|times|all-reduces|gradients|records|one process"
)
_DIFFERS = (
    "order|answer|noise|seed|space|scaling|shape|type|stage|value|remedy|mode|encoding|draw|share|setting|scale|"
    "direction|form|kind|size|optimizer|rate|length|training|learning rate|batch size|layout|recipe|spelling|format"
)
_BRITISH = (
    "colour|neighbour|behaviour|favour|labour|learnt|spoilt|grey|labell|modell|travell|cancell|centre|licence|towards|"
    "whilst|amongst|judgement|analys(?=e)|artefact|programme(?!r|d)|(?:normal|util|initial|optim|recogn|organ|standard|"
    "general|quant|summar|minim|maxim|synchron|serial|parallel|vector|memor|visual|regular|special|real)is(?=e|ing|ation)"
)


class Fault(NamedTuple):
    """A pattern that is wrong, what to write, and a sentence with it."""

    pattern: str
    use: str
    wrong: str


FAULTS = {
    "percent": Fault(r"[\d}] %(?![\w(=%.\[])", "close it up: 17%", "It waits 17 % of the time"),
    "per": Fault(rf"\b(?:{_COUNTED}) an? (?:{_UNIT})\b(?! (?:of|that|to|is|has)\b)", "per", "6 FLOP a token"),
    "another": Fault(
        rf"(?<!one )(?<!yet )(?<!to )(?<!from )(?<!is )\banother (?:{_DIFFERS})s?\b",
        "a different",
        "it gets another answer",
    ),
    "training": Fault(
        r"\btrainings\b|"
        r"\b(?:a|one|each|every|whole) training(?=[.,;:?!]| (?:that|on|with|whose|for|of|and|ends|begins|stops|is|was|"
        r"goes|has|may|can|needs|takes)\b)",
        "a training run, training runs",
        "Real trainings stop like this, and a training ends.",
    ),
    "American": Fault(rf"(?<![\w./])(?:{_BRITISH})\w*", "American spelling", "the neighbouring rank"),
    "one spelling": Fault(
        r"\b(?:over|under)-fit\w*|\bdata sets?\b(?! (?:by|to|for|aside|apart))|\bper cent\b",
        "overfitting, dataset, percent",
        "how over-fitting looks on a data set",
    ),
    "dated": Fault(
        r"\b(?:shall|dearer|dearest|afresh|anew|rightly|in place of|belongs? into|by heart)\b|\bdear\b(?!,)",
        "should, expensive, again, correctly, instead of, belongs in, memorized",
        "the training shall be faster",
    ),
    "order of a question": Fault(
        r"\bwhich \w+ (?:has|have) (?:the|your|each)\b(?! \w+est\b)|\bhow many \w+ (?:has|have) (?:the|a|an)\b|"
        r"\bso it (?:is with|goes on|would be|came)\b",
        "What is the … of, How many … does … have",
        "Which shape has the tensor?",
    ),
    "behind": Fault(r"\bbehind (?:the (?:loop|last|layer|block|newline))\b", "after", "a barrier behind the loop"),
    "stand": Fault(
        r"\bstands? (?:twice|in (?:no|two|a|each other's) (?:groups?|line|place)|at (?:one|the same) place)\b",
        "is, are",
        "it stands in two groups",
    ),
    "across": Fault(r"\b(?:share[sd]?|deals?|dealt) out over\b", "across", "shared out over the ranks"),
    "a person": Fault(r"(?-i:\b(?:he|[Ss]he|him|[Hh]is|[Hh]er)\b)", "they", "a colleague says that he"),
    "hype": Fault(
        r"\b(?:obviously|of course|powerful|amazing|seamless\w*|effortless\w*|blazing\w*|state-of-the-art|"
        r"cutting-edge|game-chang\w*|incredibl\w+|leverag\w+|delve\w*|magic(?:al)?ly)\b|[\U0001f300-\U0001faff]",
        "nothing",
        "a powerful tool",
    ),
}


def sources() -> list[Path]:
    """Return every file with text that a learner, teacher or author reads."""
    python = [ROOT / "course.py", *(ROOT / "setup").glob("*.py"), *(ROOT / "helpers").rglob("*.py")]
    pages = [
        *ROOT.glob("*.md"),
        *ROOT.glob("*/README.md"),
        ROOT / "docs/REAL_MACHINES.md",
        *(ROOT / "helpers").rglob("texts.yaml"),
        *BANKS,
    ]
    return sorted([*python, *(ROOT / "solutions").glob("*/*.py"), *pages])


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of text in a file, with their numbers: without code in backquotes, addresses and Korean."""
    text = path.read_text("utf-8")
    lines = list(_in_python(text)) if path.suffix == ".py" else list(enumerate(text.splitlines(), start=1))
    fenced = False
    for number, line in lines:
        if line.lstrip("# ").startswith("```"):
            fenced = not fenced
        if not fenced and not _NO_ENGLISH.match(line):
            yield number, re.sub(r"`[^`]*`|https?://\S+|\bko: .*|[가-힣]+", "", line)


_NO_ENGLISH = re.compile(r"\s*(?:- )?(?:ko|id|source|misconception|accepted|answers):|\s*[\w-]+:$|.*\S {3,}\S")
"""Lines of a bank with Korean, a name, or a row of a table whose columns are aligned."""


def _in_python(text: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        name = re.fullmatch(
            r"['\"]\w+['\"]|# %%.*", token.string
        )  # of a thing, not a text: a name that journals know stays
        if token.type in (tokenize.STRING, tokenize.COMMENT) and not name:
            yield from enumerate(token.string.splitlines(), start=token.start[0])


@functools.cache
def _pattern(name: str) -> re.Pattern:
    return re.compile(FAULTS[name].pattern, re.IGNORECASE)


@functools.cache
def found() -> dict[str, list[str]]:
    """Return the places of each fault: "path:line: the text"."""
    result: dict[str, list[str]] = {name: [] for name in FAULTS}
    for path in sources():
        text = path.read_text("utf-8")
        suspects = [
            name for name in FAULTS if _pattern(name).search(text)
        ]  # most files have none: no need to read them
        for number, line in prose(path) if suspects else ():
            for name in suspects:
                if _pattern(name).search(line):
                    result[name].append(f"{path.relative_to(ROOT).as_posix()}:{number}: {line.strip()}")
    return result


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_the_text_has_no_such_fault(fault):
    assert found()[fault] == [], f"write {FAULTS[fault].use}"


@pytest.mark.parametrize("fault", FAULTS)
def test_each_pattern_finds_its_fault(fault):
    assert _pattern(fault).search(FAULTS[fault].wrong)


@pytest.mark.parametrize(
    "right",
    [
        "It waits 17% of the time, and `7 % 3` is 1.",
        "6 FLOP per token, once a day, and it takes steps a rank has to wait for",
        "one after another, and another rank waits; this is another way to do it",
        "a training set, each training step, and one training loss",
        "a programmer analyzes the neighbor's gray colors",
        "He et al. 2016; which layout has the shortest step?",
    ],
)
def test_what_is_right_is_left_alone(right):
    text = re.sub(r"`[^`]*`", "", right)
    assert [name for name in FAULTS if _pattern(name).search(text)] == []


WORDS_OF_A_SENTENCE = 16
"""On average over a notebook: short enough for those who have learned English at school."""
LONGEST = 34
"""Words of a sentence: what is longer is read twice."""


def sentence_lengths(lesson: str) -> list[int]:
    """Return the number of words of each sentence in the markdown cells of a lesson's source, without tables."""
    cells = re.split(r"^# %%", lesson, flags=re.MULTILINE)
    read = [
        body.split("### Glossary")[0]
        for title, _, body in (cell.partition("\n") for cell in cells)
        if "[markdown]" in title
    ]
    text = "\n".join(read)
    text = re.sub(r"^# ```.*?^# ```|^# *[|<#].*?$|^# ?", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"\$\$.*?\$\$", "", text, flags=re.DOTALL)
    text = re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`]*`", "code", text))
    sentences = re.split(r"(?<=[.?!])[*)”\"]*\s+|\n\s*\n|\n(?=[*-] |\d+\. )", text)
    return [count for sentence in sentences if (count := len(re.findall(r"[\w'’-]+", sentence)))]


def test_sentences_are_counted_without_tables_code_and_headings():
    markdown = "# %% [markdown]\n# # Title\n#\n# Two words.\n# Four words with `x = 1`:\n#\n# | a | b |\n"
    lesson = markdown + "\n# %%\nx = 1  # no. no.\n"
    assert sentence_lengths(lesson) == [2, 4]


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_sentences_of_a_lesson_are_short(path):
    lengths = sentence_lengths(path.read_text("utf-8"))
    assert sum(lengths) / len(lengths) <= WORDS_OF_A_SENTENCE
    assert max(lengths) <= LONGEST


def test_a_title_is_computed_from_what_was_measured():
    """A finding can come out otherwise, and a fixed title would go on to state it."""
    fixed = r"(?:set_title\(|suptitle\(|headline\(\w+,|\btitle=)\s*['\"]"
    assert [f"{path.parent.name}/{path.name}" for path in LESSONS if re.search(fixed, path.read_text("utf-8"))] == []


ODD_FORMS = (
    r"^# [●○]{3} · \d+ minutes · (?!good for: ).*|^# #+ (?:Take-away|Takeaway|Summary)\b.*|^# \*\*Further reading\b.*"
)
"""What other lessons write as "●●○ · 8 minutes · good for: …", "## Take away" and "### Further reading"."""


def test_exercises_and_ends_of_notebooks_have_one_form():
    assert re.search(ODD_FORMS, "# ●●○ · 8 minutes · for every model", re.MULTILINE)
    assert re.search(ODD_FORMS, "# ## Take-away\n", re.MULTILINE)
    found = {path.stem: re.findall(ODD_FORMS, path.read_text("utf-8"), re.MULTILINE) for path in LESSONS}
    assert {name: lines for name, lines in found.items() if lines} == {}
