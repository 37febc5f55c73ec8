"""What a student handed in, sorted before it is graded: which file is which notebook, and what cannot be read.

Browsers and mail programs rename files, editors add byte-order marks, and a student may hand in two of one. nbgrader
wants each notebook under the name of its lesson, and gives up the whole submission for one that it cannot read.
"""

import base64
import contextlib
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from nbformat.notebooknode import NotebookNode

from torchcourse.tools.classroom import plain_notebook

MOST = 50 * 2**20
"""Bytes that a notebook may have; one with its pictures has about a million."""
MOST_CELLS = 5000
MOST_FILES, MOST_BESIDE = 200, 16 * 2**20
"""Files, and their bytes together, that a notebook finds beside it."""
_MOST_SEEN = 5000
"""Files that are looked at for it; a folder may hold a million of them."""
_DEEPEST = 20
"""Folders within each other that are looked into."""
MOST_NOTEBOOKS = 50
"""Notebooks of a submission that are read, those with the lesson's names first."""
RIGHTS = "Give yourself the right to: chmod -R u+rwX submitted"
TIMESTAMP = "timestamp.txt"
_NOT_GIVEN = {TIMESTAMP, "__pycache__", "__MACOSX", "journal.jsonl", "journal.torn", "retrospectives"}
_LONGEST_STAMP = 1000


@dataclass
class Staged:
    """A submission, ready for nbgrader."""

    notebooks: dict[str, NotebookNode] = field(default_factory=dict)
    """The notebooks that will be graded, by the names that the lesson gave them."""
    notes: list[str] = field(default_factory=list)
    """What a teacher has to know, a sentence each."""
    files: dict[str, str] = field(default_factory=dict)
    """What lies beside the notebooks, such as a module that they import: by its path, in base64."""


class Refused(Exception):
    """The whole folder is not read; the message says why."""


def stage(source: Path, known: Mapping[str, NotebookNode]) -> Staged:
    """Read the notebooks of a submission.

    Args:
        source: the folder of one student's submission.
        known: the lesson's notebooks, by name.

    Raises:
        Refused: if the folder is a link, which may lead to a neighbor's work, or cannot be read.
    """
    if source.is_symlink() or source.parent.is_symlink():
        raise Refused("the folder is a link, and links are not followed")
    if not os.access(source, os.R_OK | os.X_OK):
        raise Refused(f"the folder cannot be read. {RIGHTS}")
    staged, candidates = Staged(), dict[str, list[tuple[Path, NotebookNode]]]()
    handed_in, source = source, _unwrapped(source)
    paths = sorted(_notebooks(source), key=lambda path: (_stem(path) not in known, path))
    for path in paths[:MOST_NOTEBOOKS]:
        try:
            notebook = read(path)
        except ValueError as error:
            staged.notes.append(f"{path.name} could not be read: {error}")
            continue
        name = which(path, notebook, known)
        if name is None:
            staged.notes.append(f"{path.name} is no notebook of this lesson, and was ignored")
        else:
            candidates.setdefault(name, []).append((path, notebook))
    for name, found in sorted(candidates.items()):
        newest, notebook = max(found, key=lambda one: (one[0].name == f"{name}.ipynb", one[0].stat().st_mtime))
        if len(found) > 1:
            others = _some([path.name for path, _ in found if path != newest])
            staged.notes.append(f"{newest.name} was graded, and not {others}, which is the same notebook")
        elif newest.name != f"{name}.ipynb":
            staged.notes.append(f"{newest.name} was taken for {name}.ipynb")
        staged.notebooks[name] = notebook
    if paths[MOST_NOTEBOOKS:]:
        staged.notes.append(f"{len(paths)} notebooks are in the folder, and {MOST_NOTEBOOKS} of them were read")
    seen = itertools.islice(_visible(source), _MOST_SEEN)
    deeper = [path.relative_to(source).as_posix() for path in seen if _is_notebook(path.name) and path.parent != source]
    if deeper:
        staged.notes.append(f"{_some(deeper)} was not read: only the folder itself is searched for notebooks")
    around = [path for path in itertools.islice(_visible(handed_in), _MOST_SEEN) if not path.is_relative_to(source)]
    if around:
        names = _some([path.relative_to(handed_in).as_posix() for path in around])
        staged.notes.append(f"the notebooks ran without {names}, outside their folder {source.name}")
    staged.files, left = beside(source)
    if not paths and not deeper and staged.files:
        staged.notes.append(f"there is no notebook in the folder, but {_some(sorted(staged.files))}")
    if left:
        staged.notes.append(f"the notebooks ran without {_some(left)}: too much lies beside them")
    return staged


def beside(source: Path) -> tuple[dict[str, str], list[str]]:
    """Return what was handed in besides notebooks, by its path there, in base64; and the paths of what is too much.

    The small ones come first: a module is small, and a dataset is not.
    """
    found, left, size = dict[str, str](), list[str](), 0
    seen = list(itertools.islice(filter(is_file, _given(source)), _MOST_SEEN))
    if len(seen) == _MOST_SEEN:
        left.append("what comes after the first files")
    for path in sorted(seen, key=lambda path: (path.stat().st_size, path)):
        within = path.relative_to(source)
        size += path.stat().st_size
        if size > MOST_BESIDE or len(found) >= MOST_FILES:
            left.append(within.as_posix())
            continue
        with contextlib.suppress(OSError):  # then the notebook does not find it either
            found[within.as_posix()] = base64.b64encode(path.read_bytes()).decode()
    return found, left


def _unwrapped(source: Path) -> Path:
    """Return the folder with the notebooks: the one folder within it, or within that, as in a zip file of a folder."""
    place = source
    for _ in range(_DEEPEST):
        with contextlib.suppress(OSError):
            folders = [entry for entry in os.scandir(place) if entry.is_dir(follow_symlinks=False)]
            folders = [entry for entry in folders if not entry.name.startswith(".") and entry.name not in _NOT_GIVEN]
            if len(folders) == 1 and not _notebooks(place):
                place = Path(folders[0])
    return place if _notebooks(place) else source


def _notebooks(source: Path) -> list[Path]:
    return [path for path in source.glob("*") if _is_notebook(path.name)]


def _is_notebook(name: str) -> bool:
    """Whether this is a notebook's name; macOS puts a file of its own beside each, which is none."""
    return _NOTEBOOK.search(name) is not None and not name.startswith("._")


def _stem(path: Path) -> str:
    return _NOTEBOOK.sub("", path.name)


_NOTEBOOK = re.compile(r"\.ipynb(\.(txt|json))?\Z", re.IGNORECASE)  # some browsers add what they take a file for


def _given(source: Path) -> Iterator[Path]:
    """Yield what may be given to a notebook."""
    return (path for path in _visible(source) if not _NOTEBOOK.search(path.name))


def _visible(source: Path) -> Iterator[Path]:
    """Yield the files of a folder, its own first; those of folders such as .git not at all."""

    def is_given(name: str) -> bool:
        return not name.startswith(".") and name not in _NOT_GIVEN

    # Not by os.walk or rglob, whose own depth ends in an error where that of the folders has no end.
    waiting = [(source, 0)]
    while waiting:
        top, depth = waiting.pop()
        with contextlib.suppress(OSError):  # of a folder that cannot be read, or whose path is too long
            entries = [entry for entry in os.scandir(top) if is_given(entry.name) and not entry.is_symlink()]
            folders = sorted(Path(entry) for entry in entries if entry.is_dir())
            yield from sorted(Path(entry) for entry in entries if not entry.is_dir())
            waiting += [(folder, depth + 1) for folder in reversed(folders) if depth < _DEEPEST]


def is_file(path: Path) -> bool:
    """Whether there is a file of the student's own: a link may show anything of the teacher's, a pipe never ends."""
    with contextlib.suppress(OSError):  # as in a folder that may not be entered
        return path.is_file() and not path.is_symlink()
    return False


def stamp(source: Path) -> str:
    """Return what nbgrader noted of the time when a folder was handed in; nothing if there is no such file.

    Raises:
        ValueError: if it is no text, or no file.
        OSError: if it cannot be read.
    """
    path = source / TIMESTAMP
    if not path.exists() and not path.is_symlink():
        return ""
    if not is_file(path) or path.stat().st_size > _LONGEST_STAMP:
        raise ValueError("it is no file with a time")
    return path.read_text(encoding="utf-8").strip()


def digest(source: Path, drawn: str) -> str:
    """Return a digest of what is read of a student's work for a lesson, and of what was drawn for the student.

    A file that is too large to be read counts with its size and time, and so do those after the first 100 MiB.
    """
    found, left = hashlib.blake2b(drawn.encode(), digest_size=16), 2 * MOST
    place = _unwrapped(source)
    read = [*_notebooks(place), source / TIMESTAMP, *itertools.islice(_given(place), _MOST_SEEN)]
    for path in sorted(filter(is_file, read)):
        found.update(path.relative_to(source).as_posix().encode(errors="surrogateescape") + b"\0")
        with contextlib.suppress(OSError):  # of which the grading says that it could not be read
            about = path.stat()
            left -= about.st_size
            large = about.st_size > MOST or left < 0
            found.update(f"{about.st_size} {about.st_mtime_ns}".encode() if large else path.read_bytes())
    return found.hexdigest()


def read(path: Path) -> NotebookNode:
    """Return a notebook, whatever program wrote it.

    Raises:
        ValueError: in a few words, if it is none.
    """
    try:
        if not is_file(path):
            raise ValueError("it is no file")
        if path.stat().st_size > MOST:
            raise ValueError(f"it has {path.stat().st_size / 2**20:.0f} MiB, and at most {MOST / 2**20:.0f} are read")
        text = _decoded(path.read_bytes())
        if plain_notebook.has_too_many_parts(text):
            raise ValueError(f"it consists of more than {plain_notebook.MOST_PARTS:,} parts; clear its outputs")
        content = json.loads(text, object_pairs_hook=_each_once, parse_int=_whole)
    except (OSError, RecursionError) as error:
        raise ValueError(str(error).partition("\n")[0]) from error
    except json.JSONDecodeError as error:
        if re.search(r"^<{7} ", text, re.MULTILINE):
            raise ValueError("a merge of git's was not finished in it, and left its marks") from error
        raise ValueError("it is no notebook, or was cut off") from error
    if not isinstance(content, dict) or not isinstance(content.get("cells", content.get("worksheets")), list):
        raise ValueError("it is no notebook")
    cells = len(plain_notebook.cells(content))
    if cells > MOST_CELLS:
        raise ValueError(f"it has {cells} cells, and at most {MOST_CELLS} are read")
    try:
        notebook = nbformat.convert(nbformat.from_dict(plain_notebook.plain(content)), 4)
        _mend(notebook)
        nbformat.validate(notebook)
    except Exception as error:  # whatever a file from elsewhere can hold
        raise ValueError(f"its cells are damaged ({type(error).__name__})") from error
    return notebook


def which(path: Path, notebook: NotebookNode, known: Mapping[str, NotebookNode]) -> str | None:
    """Return which of the lesson's notebooks this is: by its cells, by what the build wrote into it, or by its name."""
    own = _grade_ids(notebook)
    shares = {name: len(own & _grade_ids(one)) for name, one in known.items()}
    best = max(shares, key=lambda name: shares[name], default=None)
    if best is not None and shares[best] > 0:
        return best
    stamp = notebook.metadata.get("torchcourse")
    written = Path(str(stamp.get("generated_from", "")) if isinstance(stamp, dict) else "").stem
    if written in known:
        return written
    plain = {_plain(name): name for name in known}
    return plain.get(_plain(_stem(path)))


def _plain(stem: str) -> str:
    """Return a file's name without what a browser or an operating system adds to a second copy."""
    return re.sub(r"([ _-]*(\(\d+\)|copy\d*|checkpoint))+$", "", stem.casefold()).strip()


def _grade_ids(notebook: NotebookNode) -> set[str]:
    """Return the ids of graded cells; where an editor dropped the metadata, cell ids are the same."""
    found: set[str] = set()
    for cell in notebook.cells:
        role = cell.metadata.get("nbgrader")
        grade_id = role.get("grade_id") if isinstance(role, dict) else None
        found |= {value for value in (grade_id, cell.get("id")) if isinstance(value, str)}
    return {one for one in found if not re.fullmatch(r"setup|cell-\d+", one)}


def _decoded(data: bytes) -> str:
    for encoding in ("utf-8-sig", "utf-16", "cp949"):
        try:
            return data.decode(encoding)
        except UnicodeError:
            continue
    raise ValueError("its characters are in no encoding that is known")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of two entries of one name JSON keeps the last, and the other, maybe all the work, would be gone without a word.

    Raises:
        ValueError: if a name is there twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has {max(names, key=names.count)[:40]!r} twice in one place")
    return found


def _whole(digits: str) -> int:
    if len(digits) > 1000:  # Python reads no number of many thousands
        raise ValueError(f"it has a number of {len(digits):,} digits")
    return int(digits)


def _mend(notebook: NotebookNode) -> None:
    """Give each cell the parts that nbgrader reads, and an id of its own."""
    seen: set[str] = set()
    for number, cell in enumerate(notebook.cells):
        cell.setdefault("metadata", NotebookNode())
        cell.source = cell.source if isinstance(cell.source, str) else _joined(cell.source)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if (
            not isinstance(cell.get("id"), str)
            or not re.fullmatch(r"[\w-]{1,64}", cell.id, re.ASCII)
            or cell.id in seen
        ):
            cell.id = f"handed-in-{number}"
        seen.add(cell.id)
        role = cell.metadata.get("nbgrader", {})
        if not (isinstance(role, dict) and isinstance(role.get("grade_id", ""), str)):
            del cell.metadata["nbgrader"]
    notebook.nbformat_minor = max(5, notebook.get("nbformat_minor", 5))


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")


def _joined(source: Any) -> str:
    return "".join(map(str, source)) if isinstance(source, Iterable) else ""
