"""Where the course leads outside: the addresses of all notebooks and quizzes in one list, docs/LINKS.md.

Only primary sources are linked: a paper, the documentation or the code of a library, or a text by the one who did it.
`HOSTS` says which kind each host is; a new host is added there, or the link is replaced.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

PATH = "docs/LINKS.md"

_PAPERS, _MANUALS, _CODE, _ESSAYS = (
    "Papers",
    "Documentation and standards",
    "Code and issues",
    "Texts by those who did it",
)
HOSTS = {
    "arxiv.org": _PAPERS,
    "distill.pub": _PAPERS,
    "doi.org": _PAPERS,
    "inria.hal.science": _PAPERS,
    "jmlr.org": _PAPERS,
    "papers.nips.cc": _PAPERS,
    "proceedings.mlr.press": _PAPERS,
    "proceedings.neurips.cc": _PAPERS,
    "www.usenix.org": _PAPERS,
    "docs.python.org": _MANUALS,
    "docs.pytorch.org": _MANUALS,
    "docs.ray.io": _MANUALS,
    "huggingface.co": _MANUALS,
    "jupyterlab.readthedocs.io": _MANUALS,
    "numpy.org": _MANUALS,
    "optuna.readthedocs.io": _MANUALS,
    "pubs.opengroup.org": _MANUALS,
    "www.tensorflow.org": _MANUALS,
    "github.com": _CODE,
    "karpathy.github.io": _ESSAYS,
    "sgugger.github.io": _ESSAYS,
}

HEAD = """\
# Links

The addresses outside the course that its notebooks lead to: primary sources only. Made by `make build` from the
notebooks: change a link there. Nothing in the course needs them to run.
"""


@dataclass(frozen=True)
class Link:
    """A link to outside. `notebook` is the path in the repository of the notebook that has it, as learners get it."""

    text: str
    address: str
    notebook: str

    @property
    def kind(self) -> str:
        """What kind of source the host is.

        Raises:
            ValueError: for a host that is not in `HOSTS`.
        """
        host = urlsplit(self.address).netloc
        if host not in HOSTS or not self.address.startswith("https://"):
            raise ValueError(
                f"{self.notebook} links {self.address}: the course links primary sources, by https. Link the paper, "
                "the documentation or the code, and add its host to HOSTS in tools/build/links.py."
            )
        return HOSTS[host]


def links_to_outside(root: Path) -> list[Link]:
    """Return the links to outside of all notebooks and quizzes, in the order of the lessons."""
    return [link for source in _sources(root) for link in _of_source(source, root)]


def links_page(found: list[Link]) -> str:
    """Return the page as Markdown: a list for each kind of source, an address once, with the notebooks that link it.

    Raises:
        ValueError: for a link to a host that is not in `HOSTS`.
    """
    by_address: dict[str, list[Link]] = defaultdict(list)
    for link in found:
        by_address[link.address].append(link)
    page = HEAD
    for kind in dict.fromkeys(HOSTS.values()):
        rows = sorted(_row(same) for same in by_address.values() if same[0].kind == kind)
        page += f"\n## {kind}\n\n" + "".join(rows) if rows else ""
    return page


def _row(same: list[Link]) -> str:
    notebooks = ", ".join(f"[{number_of(path)}](../{path})" for path in dict.fromkeys(link.notebook for link in same))
    return f"- [{same[0].text}]({same[0].address}): {notebooks}\n"


def number_of(notebook: str) -> str:
    """Return the lesson and the notebook in it, such as 01/2."""
    _notebooks, lesson, name = notebook.split("/")
    return f"{lesson.partition('_')[0]}/{name.partition('_')[0].removesuffix('.ipynb')}"


def _sources(root: Path) -> Iterator[Path]:
    """Yield the sources of the notebooks; a lesson's quiz comes after them."""
    names = {path.parent.name for path in (root / "solutions").glob("*/*.py")}
    for lesson in sorted(names | {path.stem for path in (root / "quizzes").glob("*.yaml")}):
        yield from sorted((root / "solutions" / lesson).glob("*.py"))
        yield from (root / "quizzes").glob(f"{lesson}.yaml")


def _of_source(source: Path, root: Path) -> Iterator[Link]:
    notebook = f"{source.stem}/quiz" if source.suffix == ".yaml" else f"{source.parent.name}/{source.stem}"
    text = re.sub(r"(?m)^# ?", "", source.read_text(encoding="utf-8"))
    for words, address in re.findall(r"\[([^\]]+)\]\((\w+://[^)\s]+)\)", text):
        yield Link(" ".join(words.split()), address, f"notebooks/{notebook}.ipynb")
