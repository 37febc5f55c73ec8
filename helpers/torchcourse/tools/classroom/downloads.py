"""Sort what Moodle or Canvas downloads into the folder of a class: `python -m torchcourse.tools.classroom.downloads`.

    make collect ARGS="downloads.zip --lesson 04_monitoring_and_checkpoints --folder ~/algo-2027"

Moodle names a file `Ada Lovelace_4711_assignsubmission_file_/quiz.ipynb`, or with all of it in one name; Canvas names
it `lovelaceada_LATE_311_9001_quiz-1.ipynb`. Whose it is, the roster in the gradebook tells by the name; who is not in
it, or shares a name, gets a folder of the file's own name and number. Nothing of an archive is unpacked to a place that
the archive chooses, and what is collected already is replaced by what comes later.
"""

import argparse
import re
import sys
import unicodedata
import zipfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from torchcourse.tools.build import notebooks
from torchcourse.tools.classroom import gradebook, staging
from torchcourse.tools.repository import ROOT

MOST_FILES = 5000

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
    if lesson not in (known := notebooks.lessons(root)):
        raise ValueError(f"There is no lesson '{lesson}'. The lessons are {', '.join(known)}.")
    students, lines = students_by_name(folder), []
    try:
        with zipfile.ZipFile(archive) as opened:
            infos = [info for info in opened.infolist() if not info.is_dir()]
            if len(infos) > MOST_FILES:
                raise ValueError(f"{archive.name} holds {len(infos)} files, and at most {MOST_FILES} are taken.")
            for info in infos:
                lines.append(_take(opened, info, lesson, folder, students))
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"{archive} cannot be read as a zip file: {error}") from error
    return lines


def _take(
    opened: zipfile.ZipFile, info: zipfile.ZipInfo, lesson: str, folder: Path, students: Mapping[str, set[str]]
) -> str:
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
    found = students.get(key(member.name), set())
    student = next(iter(found)) if len(found) == 1 else _plain(f"{member.name}-{member.number}")
    place = folder / "submitted" / student / lesson
    place.mkdir(parents=True, exist_ok=True)
    (place / (_plain(Path(member.file).stem) + ".ipynb")).write_bytes(data)
    note = "" if len(found) == 1 else ", who is not in the roster" if not found else ", since several have this name"
    return f"{shown} is {student}'s{note}"


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
