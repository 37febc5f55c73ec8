"""The notebook of the front page, `start.ipynb` in the learner's folder.

`make lab` runs this module before JupyterLab starts. The page is then the output of the notebook's first code cell, to
be read before anything runs. The cells that this module wrote are made again, unless the learner has changed them; all
others stay, in their order.
"""

import contextlib
import hashlib
import html
import json
import os
import sys
from pathlib import Path
from typing import Any

from torchcourse import journal
from torchcourse.lessons.start_here.daily_page import write_page
from torchcourse.lessons.start_here.front_page import FrontPage, where_was_i

NAME = "start.ipynb"
HEAD = "# Where was I? (어디까지 했나요?)"
PAGE = "# @title Where was I?\nfrom torchcourse.lessons.start_here.front_page import where_was_i\n\nwhere_was_i()"
DUE = "# @title What is due today\nfrom torchcourse.quiz import review\n\nreview()"
NOTES = (
    "Your own notes can stand below: what you write on this page stays.\n\n"
    "여기 아래에 메모를 남기세요. 쓴 것은 그대로 남습니다."
)

Cell = dict[str, Any]


def main() -> int:
    """Bring the page in the learner's folder up to date; what cannot be done ends in one sentence."""
    path = journal.path().with_name(NAME)
    try:
        write(path, where_was_i())
    except OSError as error:
        print(f"The front page is not made: {path} cannot be written ({error.strerror}). The lessons open without it.")
        return 1
    return 0


def write(path: Path, page: FrontPage) -> None:
    """Write the page into the notebook at `path`. A file that is no notebook is kept under a different name.

    Raises:
        OSError: when the file cannot be read or written.
    """
    old = _read(path)
    cells = made(page)
    notebook = old or {"metadata": _METADATA, "nbformat": 4, "nbformat_minor": 5}
    notebook["cells"] = [*cells, *([_notes()] if old is None else _kept(old["cells"]))]
    write_page(path, json.dumps(notebook, ensure_ascii=False, indent=1) + "\n")
    _trust(path)


def made(page: FrontPage) -> list[Cell]:
    """Return the cells of this module: a title, the page, what is due."""
    due = page.due("front_due_here")
    return [
        _signed({"cell_type": "markdown", "id": "where-was-i", "metadata": {}, "source": HEAD}),
        _code("front-page", PAGE, page._repr_html_(), repr(page)),
        _code("due-today", DUE, f"<p>{html.escape(due)}</p>", due),
    ]


_METADATA = {
    "kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"},
    "language_info": {"name": "python"},
}


def _notes() -> Cell:
    return {"cell_type": "markdown", "id": "your-notes", "metadata": {}, "source": NOTES}


def _code(name: str, source: str, shown: str, text: str) -> Cell:
    output = {"output_type": "display_data", "metadata": {}, "data": {"text/html": shown, "text/plain": text}}
    metadata = {"jupyter": {"source_hidden": True}, "cellView": "form"}
    cell = {"cell_type": "code", "id": name, "execution_count": None, "metadata": metadata, "source": source}
    return _signed(cell | {"outputs": [output]})


def _signed(cell: Cell) -> Cell:
    """Note in a cell what this module wrote, so that a change by hand shows."""
    cell["metadata"]["torchcourse"] = {"front_page": _digest(cell["source"])}
    return cell


def _digest(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def _kept(cells: list[Cell]) -> list[Cell]:
    """Return the cells that are the learner's: those without this module's mark, and those changed since."""
    kept: list[Cell] = []
    for cell in cells:
        mark = cell["metadata"].get("torchcourse", {}).get("front_page")
        source = cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])
        if mark == _digest(source):
            continue
        if mark:
            cell["metadata"].pop("torchcourse")
            cell["id"] = f"mine-{hashlib.sha256(source.encode()).hexdigest()[:8]}-{len(kept)}"
        kept.append(cell)
    return kept


def _read(path: Path) -> dict[str, Any] | None:
    """Return the notebook that is there, None where there is none. What is no notebook is moved aside."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        notebook = json.loads(text)
        if notebook["nbformat"] == 4 and all("source" in cell and "metadata" in cell for cell in notebook["cells"]):
            return notebook
    except (ValueError, KeyError, TypeError):
        pass
    number = 1
    while (aside := path.with_name(f"start-unreadable-{number}.ipynb")).exists():
        number += 1
    os.replace(path, aside)
    print(f"{path.name} was no notebook that can be read. It is kept as {aside.name}, and a new one is made.")
    return None


def _trust(path: Path) -> None:
    """Let JupyterLab show the page with its styles: a notebook that nobody has signed is shown without them."""
    import nbformat
    from nbformat.sign import NotebookNotary

    with contextlib.suppress(Exception):  # without a signature the page can still be read
        NotebookNotary().sign(nbformat.read(path, as_version=4))


if __name__ == "__main__":
    sys.exit(main())
