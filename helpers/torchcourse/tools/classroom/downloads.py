"""Sort what Moodle or Canvas downloads into the folder of a class: `python -m torchcourse.tools.classroom.downloads`.

    make collect ARGS="downloads.zip --lesson 04_monitoring_and_checkpoints --folder ~/algo-2027"

Moodle names a file `Ada Lovelace_4711_assignsubmission_file_/quiz.ipynb`, or with all of it in one name; Canvas names
it `lovelaceada_LATE_311_9001_quiz-1.ipynb`. Whose it is, the roster in the gradebook tells by the name; who is not in
it, or shares a name, gets a folder of the file's own name and number. Nothing of an archive is unpacked to a place that
the archive chooses. A notebook that is handed in again, under whatever name, takes the place of the one that was
collected before, which goes to the folder `.earlier` beside it: nothing there is graded, and nothing is lost.
"""

import argparse
import itertools
import re
import sys
import unicodedata
import zipfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import nbformat

from torchcourse.tools.build import notebooks
from torchcourse.tools.classroom import class_final, gradebook, staging
from torchcourse.tools.repository import ROOT

MOST_FILES = 5000
EARLIER = ".earlier"
"""The folder, beside a student's notebooks, of those that were collected before them."""

_MOODLE = re.compile(r"(?P<name>[^/_]+)_(?P<number>\d+)_assignsubmission_(?:file|onlinetext)_?/?(?P<file>.+)")
_CANVAS = re.compile(r"(?P<name>[^/_]+)_(?:LATE_)?(?P<number>\d+)_\d+_(?P<file>.+)")


@dataclass(frozen=True)
class Member:
    """A notebook of an archive: whose, by the names that the file has, and what it is called there."""

    name: str
    number: str
    file: str


def parse(path: str) -> Member | None:
    """Return whose notebook a path within an archive is; None for what is no notebook or has no such name."""
    parts = [part for part in PurePosixPath(path.replace("\\", "/")).parts if part not in ("/", "..", ".")]
    joined = "/".join(parts)
    if not joined.lower().endswith(".ipynb") or any(part.startswith(("__MACOSX", ".")) for part in parts):
        return None
    for pattern in (_MOODLE, _CANVAS):
        # Moodle may put a folder around everything; Canvas never nests.
        for start in range(len(parts)):
            if found := pattern.fullmatch("/".join(parts[start:])):
                return Member(found["name"].strip(), found["number"], PurePosixPath(found["file"]).name)
    return None


def collect(archive: Path, lesson: str, folder: Path, root: Path = ROOT) -> list[str]:
    """Put an archive's notebooks below `folder`/submitted/STUDENT/`lesson`, and return what was done, a line each.

    Raises:
        ValueError: in a sentence, for what is no archive, or a lesson that the course does not have.
    """
    if lesson not in (names := notebooks.lessons(root)):
        raise ValueError(f"There is no lesson '{lesson}'. The lessons are {', '.join(names)}.")
    taker = _Taker(folder, lesson, root)
    try:
        with zipfile.ZipFile(archive) as opened:
            infos = [info for info in opened.infolist() if not info.is_dir()]
            if len(infos) > MOST_FILES:
                raise ValueError(f"{archive.name} holds {len(infos)} files, and at most {MOST_FILES} are taken.")
            return [taker.take(opened, info) for info in infos]
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"{archive} cannot be read as a zip file: {error}") from error


class _Taker:
    """Takes the notebooks of one archive."""

    def __init__(self, folder: Path, lesson: str, root: Path) -> None:
        self._submitted, self._lesson = folder / "submitted", lesson
        self._students = students_by_name(folder)
        texts = class_final.solutions(folder, root, lesson)
        self._known = {Path(path).stem: nbformat.reads(text, as_version=4) for path, text in texts.items()}
        self._taken = set[Path]()

    def take(self, opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> str:
        member = parse(info.filename)
        shown = ascii(info.filename)
        if member is None:
            return f"{shown} was left out: it is no notebook with a name of Moodle's or Canvas's"
        try:
            with opened.open(info) as file:
                data = file.read(staging.MOST + 1)  # whatever size the archive claims
        except (RuntimeError, OSError, zipfile.BadZipFile, EOFError) as error:
            return f"{shown} was left out: {str(error).partition(chr(10))[0]}"
        if len(data) > staging.MOST:
            return f"{shown} was left out: it has more than {staging.MOST / 2**20:.0f} MiB"
        found = self._students.get(key(member.name), set())
        student = next(iter(found)) if len(found) == 1 else _plain(f"{member.name}-{member.number}")
        unknown = ", since several have this name" if found else ", who is not in the roster"
        note = "" if len(found) == 1 else unknown
        place = self._submitted / student / self._lesson
        return f"{shown} is {student}'s{note}{self._put(place / (_plain(Path(member.file).stem) + '.ipynb'), data)}"

    def _put(self, wanted: Path, data: bytes) -> str:
        """Write a notebook; return what became of others, after a comma."""
        wanted.parent.mkdir(parents=True, exist_ok=True)
        incoming = wanted.with_name(".incoming")
        incoming.write_bytes(data)
        name = self._which(incoming, wanted)
        before = [path for path in sorted(wanted.parent.glob("*.ipynb")) if path not in self._taken]
        same = [path for path in before if self._which(path, path) == name]
        moved = [_set_aside(path) for path in same if path != wanted or path.read_bytes() != data]
        path = wanted if wanted in same else _free(wanted)
        incoming.replace(path)
        self._taken.add(path)
        told = f", kept as {path.name} beside a file of the same name" if path != wanted else ""
        return told + (f", in the place of {', '.join(moved)}, which is in {EARLIER} now" if moved else "")

    def _which(self, path: Path, called: Path) -> str:
        """Return which of the lesson's notebooks a file is; of what is none, the name that it has."""
        try:
            return staging.which(called, staging.read(path), self._known) or called.name
        except ValueError:
            return called.stem if called.stem in self._known else called.name


def _set_aside(path: Path) -> str:
    """Move a notebook out of what is graded; return its name."""
    (path.parent / EARLIER).mkdir(exist_ok=True)
    path.rename(_free(path.parent / EARLIER / path.name))
    return path.name


def _free(path: Path) -> Path:
    """Return this path, or the first one with a number where there is nothing."""
    names = itertools.chain([path], (path.with_stem(f"{path.stem} ({number})") for number in itertools.count(2)))
    return next(one for one in names if not one.exists())


def students_by_name(folder: Path) -> defaultdict[str, set[str]]:
    """Return the ids of the roster by the `key` of what Moodle ("Ada Lovelace") and Canvas ("lovelaceada") write.

    That may be a name, an id or an email address; two students may have one name.
    """
    found = defaultdict[str, set[str]](set)
    if gradebook.exists(folder):
        with gradebook.opened(folder) as book:
            for student in book.students:
                first, last = student.first_name or "", student.last_name or ""
                for name in {first + last, last + first, student.email or "", student.id} - {""}:
                    found[key(name)].add(student.id)
    return found


def key(name: str) -> str:
    """Return a name's letters and digits alone: Canvas drops everything else."""
    return "".join(letter for letter in unicodedata.normalize("NFKC", name).casefold() if letter.isalnum())


def _plain(name: str) -> str:
    """Return a name that is one folder's or file's, on every system."""
    plain = re.sub(r"[^\w .()-]", "-", unicodedata.normalize("NFC", name)).strip(" .")
    return plain[:100] or "nameless"


def main() -> int:
    parser = argparse.ArgumentParser(description="Sort a download of Moodle or Canvas into the folder of a class.")
    parser.add_argument("archives", nargs="+", type=Path, help="zip files")
    parser.add_argument("--lesson", required=True, help="the lesson that was handed in, such as 00_start_here")
    parser.add_argument("--folder", type=Path, required=True, help="the folder of the class")
    options = parser.parse_args()
    try:
        for archive in options.archives:
            for line in collect(archive, options.lesson, options.folder.expanduser()):
                print(line)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
