"""All pages of the site together, as Sphinx reads them. Paths are those of the repository, so that its links hold.

Only files whose text changes are written: Sphinx then reads only these again.
"""

import shutil
import tomllib
from pathlib import Path

import nbformat

from torchcourse.lessons.start_here.course_map import Notebook, read_notebooks
from torchcourse.quiz import bank
from torchcourse.tools.site import CACHE
from torchcourse.tools.site.api_pages import pages_of
from torchcourse.tools.site.execution import with_outputs
from torchcourse.tools.site.lesson_pages import lesson_page
from torchcourse.tools.site.links import START, mend_links
from torchcourse.tools.site.question_pages import question_page

GUIDES = (
    "README.md",
    "TEACHING.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/GLOSSARY.md",
    "docs/REAL_MACHINES.md",
    "quizzes/README.md",
)
"""Pages of the repository that the site has too."""

INDEX = """\
# PyTorch beyond one GPU

An interactive course for JupyterLab, to read here and to do on a machine of yours: each notebook can be downloaded from
its page, and [README](README.md) says how all of them start with one command. Korean is folded below the questions.

| lesson | notebooks |
|---|---|
{rows}

{toctrees}"""


def write_sources(root: Path, folder: Path, *, only: list[str], again: bool = False) -> int:
    """Write the sources of the site of the course at `root` into `folder`; return how many pages are new or changed.

    Args:
        only: numbers of lessons, such as ["00", "06"]; empty for all. again: run notebooks that ran before.
    """
    notebooks = [notebook for notebook in read_notebooks(root / "notebooks") if not only or notebook.lesson[:2] in only]
    texts = pages_of(root / "helpers" / "torchcourse")
    paths = [_page_path(root, notebook) for notebook in notebooks]
    pages = {START, *GUIDES, *texts, *paths}
    repository = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]["torchcourse"]["repository"]
    texts |= _guides(root, pages, repository)
    for notebook, page in zip(notebooks, paths, strict=True):
        path = root / "notebooks" / notebook.path
        if page.endswith(".md"):
            questions = bank.load(_bank_path(root, notebook))
            texts[page] = question_page(questions, f"notebooks/{notebook.path}", repository)
        else:
            executed = with_outputs(path, CACHE, again=again)
            made = lesson_page(executed, page, pages, repository)
            texts[page] = nbformat.writes(made, version=4)
        # The notebook itself lies beside its page, to be downloaded.
        beside = folder / "downloads" / "notebooks" / notebook.path
        beside.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, beside)
    texts[START] = _index(notebooks, paths)
    (folder / "source" / "docs").mkdir(parents=True, exist_ok=True)
    for picture in pictures(root):
        shutil.copyfile(root / picture, folder / "source" / picture)
    return write_pages(folder / "source", texts)


def _bank_path(root: Path, notebook: Notebook) -> Path:
    return root / "quizzes" / f"{notebook.lesson}.yaml"


def _page_path(root: Path, notebook: Notebook) -> str:
    """Return where the page of a notebook lies. A quiz is made of its bank, and is no notebook here."""
    quiz = Path(notebook.path).stem == "quiz" and _bank_path(root, notebook).exists()
    path = f"notebooks/{notebook.path}"
    return path.removesuffix(".ipynb") + ".md" if quiz else path


def _guides(root: Path, pages: set[str], repository: str) -> dict[str, str]:
    known = pages | pictures(root)
    return {name: mend_links((root / name).read_text(encoding="utf-8"), name, known, repository) for name in GUIDES}


def pictures(root: Path) -> set[str]:
    """Return the paths of the pictures that the guides show."""
    return {f"docs/{path.name}" for path in (root / "docs").glob("*.png")}


def _index(notebooks: list[Notebook], paths: list[str]) -> str:
    """Return the first page: a table of the lessons, and what the side bar lists."""
    lessons: dict[str, list[tuple[str, str]]] = {}
    for notebook, path in zip(notebooks, paths, strict=True):
        lessons.setdefault(notebook.lesson, []).append((notebook.title, path))
    rows, toctrees = [], []
    for lesson, listed in lessons.items():
        name = f"{lesson[:2]} {lesson[3:].replace('_', ' ').capitalize()}"
        rows.append(f"| {name} | {' · '.join(f'[{title}]({path})' for title, path in listed)} |")
        toctrees.append(_toctree(name, [path for _, path in listed]))
    toctrees.append(_toctree("To look up", ["docs/GLOSSARY.md", "api/index.md", "quizzes/README.md"]))
    toctrees.append(_toctree("Start, teach, change", [*GUIDES[:4], "docs/REAL_MACHINES.md"]))
    return INDEX.format(rows="\n".join(rows), toctrees="\n".join(toctrees))


def _toctree(caption: str, paths: list[str]) -> str:
    listed = "\n".join(str(Path(path).with_suffix("")) for path in paths)
    return f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{listed}\n```\n"


def write_pages(folder: Path, texts: dict[str, str]) -> int:
    """Write the pages that changed, remove those that are no more; return how many were written."""
    written = 0
    for name, text in texts.items():
        path = folder / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
        written += 1
    for path in [*folder.rglob("*.md"), *folder.rglob("*.ipynb")]:
        if path.relative_to(folder).as_posix() not in texts:
            path.unlink()
    return written
