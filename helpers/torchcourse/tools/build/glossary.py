"""The glossary of the course, made from the glossaries of its lessons: docs/GLOSSARY.md.

A term stands once, with the words of the notebook that introduces it, and the others that use it.
"""

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from torchcourse.tools.build.links import number_of

PATH = "docs/GLOSSARY.md"
SEVERAL_SENSES = {"group", "head", "padding", "sampler", "shard", "warm up"}
"""Terms, as `key` has them, that mean something else in another lesson: there, each notebook's words are shown."""

HEAD = """\
# Glossary

The terms of the course, with the notebook that introduces each of them. Made by `make build` from the glossaries at the
end of the notebooks: change a term there.

| English | 한국어 | meaning | lesson |
|---|---|---|---|
"""


@dataclass(frozen=True)
class Term:
    """A line of a notebook's glossary. `notebook` is its path in the repository, as learners get it."""

    english: str
    korean: str
    meaning: str
    notebook: str

    @property
    def key(self) -> str:
        """The term as it is compared: all-gather and all gather, activation and activations are one."""
        words = re.sub(r"[-\s]+", " ", self.english.casefold())
        return words if words.endswith("ss") else words.removesuffix("s")


def terms(root: Path) -> list[Term]:
    """Return the terms of all notebooks in the order of the lessons.

    Raises:
        ValueError: for a line of a glossary that does not have its three parts.
    """
    return [term for source in sorted((root / "solutions").glob("*/*.py")) for term in _of_notebook(source, root)]


def glossary_page(found: list[Term]) -> str:
    """Return the page as Markdown."""
    by_key: dict[str, list[Term]] = defaultdict(list)
    for term in found:
        by_key[term.key].append(term)
    ordered = sorted(by_key.items(), key=lambda item: item[1][0].english.casefold())
    return HEAD + "".join(_row(key, same) for key, same in ordered)


def _row(key: str, same: list[Term]) -> str:
    first, senses = same[0], [f"{number_of(term.notebook)}: {term.meaning}" for term in same]
    meaning = "; ".join(senses) if key in SEVERAL_SENSES else first.meaning
    lessons = ", ".join(f"[{number_of(term.notebook)}](../{term.notebook})" for term in same)
    return f"| {first.english} | {first.korean} | {meaning} | {lessons} |\n"


def _of_notebook(source: Path, root: Path) -> list[Term]:
    notebook = source.relative_to(root / "solutions").with_suffix(".ipynb").as_posix()
    table = re.search(r"(?m)^(# \| English \| 한국어 \|.*\n(?:# \|.*\n)+)", source.read_text(encoding="utf-8"))
    found = []
    for line in table[1].splitlines()[2:] if table else []:
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.removeprefix("# "))[1:-1]]
        if len(cells) != 3 or not all(cells):
            where = f"solutions/{source.parent.name}/{source.name}"
            raise ValueError(
                f"{where}: a line of a glossary has a term, its Korean word and its meaning, unlike {line}"
            )
        found.append(Term(cells[0], cells[1], cells[2], f"notebooks/{notebook}"))
    return found
