"""The glossary has every term of the lessons once, with one Korean word, the same everywhere."""

from collections import defaultdict

import pytest

from torchcourse.tools.build import glossary
from torchcourse.tools.repository import ROOT

TWO_TERMS = {"랭크"}
"""Korean words that stand for two English terms, as in the field: the rank of a process, and of a matrix."""


@pytest.fixture(scope="module")
def found() -> list[glossary.Term]:
    return glossary.terms(ROOT)


def test_the_page_is_what_the_build_gives(found: list[glossary.Term]) -> None:
    assert len(found) > 200
    assert (ROOT / glossary.PATH).read_text(encoding="utf-8") == glossary.glossary_page(found)


def test_a_term_has_one_korean_word_and_a_korean_word_one_term(found: list[glossary.Term]) -> None:
    korean, english = defaultdict(set), defaultdict(set)
    for term in found:
        korean[term.key].add(term.korean)
        english[term.korean].add(term.key)
    assert {key: words for key, words in korean.items() if len(words) > 1} == {}
    assert {word: keys for word, keys in english.items() if len(keys) > 1 and word not in TWO_TERMS} == {}


def test_a_term_of_two_notebooks_has_one_line() -> None:
    lines = [
        glossary.Term("all-gather", "올개더", "all parts for all", "notebooks/01_a/2_b.ipynb"),
        glossary.Term("head", "헤드", "the last layer", "notebooks/07_c/1_d.ipynb"),
        glossary.Term("All gathers", "올개더", "again", "notebooks/02_e/1_f.ipynb"),
        glossary.Term("head", "헤드", "one attention of several", "notebooks/02_e/2_g.ipynb"),
    ]
    rows = glossary.glossary_page(lines).splitlines()[-2:]
    assert rows == [
        "| all-gather | 올개더 | all parts for all | [01/2](../notebooks/01_a/2_b.ipynb), "
        "[02/1](../notebooks/02_e/1_f.ipynb) |",
        "| head | 헤드 | 07/1: the last layer; 02/2: one attention of several | [07/1](../notebooks/07_c/1_d.ipynb), "
        "[02/2](../notebooks/02_e/2_g.ipynb) |",
    ]
    assert {term.key for term in glossary.terms(ROOT)} >= glossary.SEVERAL_SENSES


def test_a_line_without_its_parts_is_named(tmp_path) -> None:
    source = tmp_path / "solutions" / "01_a" / "1_b.py"
    source.parent.mkdir(parents=True)
    source.write_text("# ### Glossary\n#\n# | English | 한국어 | here |\n# |---|---|---|\n# | rank | 랭크 |\n", "utf-8")
    with pytest.raises(ValueError, match=r"solutions/01_a/1_b\.py: a line of a glossary has a term"):
        glossary.terms(tmp_path)
