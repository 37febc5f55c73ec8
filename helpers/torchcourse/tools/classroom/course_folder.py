"""Make the folder of a class: `python -m torchcourse.tools.classroom.course_folder FOLDER --roster students.csv`.

    FOLDER/nbgrader_config.py      the course's configuration, so that nbgrader's commands and formgrader work there
    FOLDER/solutions/LESSON/       the teacher's notebooks, with solutions and hidden tests: not for students
    FOLDER/notebooks/LESSON/       what students get
    FOLDER/grading.toml            due dates, and the rule for late work
    FOLDER/gradebook.db            nbgrader's, with the students of the roster
    FOLDER/final-seed.txt          from this the final's ten questions are drawn, the same for the whole class
    FOLDER/personal/STUDENT/       quizzes of the student's own, if grading.toml wants them (`per_student`)

What is there already stays as it is: a second run adds lessons and students that are missing.
"""

import argparse
import csv
import logging
import sys
from pathlib import Path

from nbgrader.converters import GenerateAssignment
from nbgrader.coursedir import CourseDirectory

from torchcourse.tools.build import notebooks
from torchcourse.tools.classroom import class_final, gradebook, late, per_student
from torchcourse.tools.repository import ROOT, nbgrader_config

COLUMNS = ("id", "first_name", "last_name", "email")

CONFIG = '''\
"""nbgrader in the folder of a class: the course's configuration, with this folder's notebooks and gradebook."""

from pathlib import Path

from torchcourse.tools.classroom import gradebook

repository = {root!r}
if not Path(repository, "nbgrader_config.py").is_file():
    raise SystemExit(f"The course was at {{repository}} and is no longer; write its new place into {{__file__}}.")

c = get_config()
load_subconfig("nbgrader_config.py", path=repository)
c.CourseDirectory.root = str(Path(__file__).resolve().parent)
c.CourseDirectory.db_url = gradebook.address(Path(c.CourseDirectory.root))
'''


def make(folder: Path, roster: Path | None = None, root: Path = ROOT) -> list[str]:
    """Bring the folder of a class up to date, and return what was added, a line each.

    Args:
        folder: the folder of the class; it is made if it is missing.
        roster: a CSV file with the columns id, first_name, last_name and email.
        root: the repository with solutions/ and nbgrader_config.py.

    Raises:
        ValueError: in a sentence, for a roster or rules that cannot be read, or the repository as folder.
    """
    folder, root = folder.expanduser().resolve(), root.resolve()
    if folder == root:
        raise ValueError("The folder of a class must be outside the course; name a different one.")
    students = read_roster(roster) if roster else []
    folder.mkdir(parents=True, exist_ok=True)
    added = []
    config = folder / "nbgrader_config.py"
    if not config.exists():
        notebooks.write_text(config, CONFIG.format(root=str(root)))
        added.append(f"nbgrader's configuration: {config.name}")
    if not (folder / late.NAME).exists():
        notebooks.write_text(folder / late.NAME, late.TEMPLATE)
        added.append(f"due dates, none so far: {late.NAME}")
    with gradebook.at_work():
        missing = [lesson for lesson in notebooks.lessons(root) if not (folder / "notebooks" / lesson).exists()]
        for lesson in missing:
            _add_lesson(folder, root, lesson)
            added.append(f"lesson {lesson}")
        added += _add_students(folder, students)
        rules = late.read(folder)
        if rules and rules.per_student:
            with gradebook.opened(folder) as book:
                everybody = [student.id for student in book.students]
            count = per_student.hand_out(folder, root, everybody)
            added += [f"{count} notebooks below {per_student.FOLDER}/, each for one student"] if count else []
    return added


def read_roster(path: Path) -> list[dict[str, str]]:
    """Return the students of a CSV file, in its order; a spreadsheet's byte-order mark is no part of it.

    Raises:
        ValueError: in a sentence, for a file that cannot be read, a missing column, or an id that names no folder.
    """
    try:
        with path.expanduser().open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            absent = [name for name in COLUMNS if name not in (reader.fieldnames or [])]
            rows = [{name: (row[name] or "").strip() for name in COLUMNS} for row in reader if not absent]
    except OSError as error:
        raise ValueError(f"The roster {path} cannot be read: {error.strerror}.") from error
    except (UnicodeError, csv.Error) as error:
        raise ValueError(f"The roster {path} is no CSV file in UTF-8; save it as one.") from error
    if absent:
        raise ValueError(f"The roster {path} lacks {', '.join(absent)}; its first line must be {','.join(COLUMNS)}.")
    seen: set[str] = set()
    for number, row in enumerate(rows, start=1):
        student = row["id"]
        if not student or student.startswith(".") or set(student) & set("/\\\0"):
            raise ValueError(f"Student {number} of the roster has the id {student!r}, which cannot name a folder.")
        if student in seen:
            raise ValueError(f"The roster has the id {student!r} twice; each student needs one of their own.")
        seen.add(student)
    return rows


def _add_lesson(folder: Path, root: Path, lesson: str) -> None:
    """Write a lesson's solutions where there are none, release it, and put its cells and points into the gradebook."""
    if lesson == class_final.LESSON:
        class_final.draw_seed(folder)
    for path, text in class_final.solutions(folder, root, lesson).items():
        if not (folder / path).exists():
            notebooks.write_text(folder / path, text)
    config = nbgrader_config(root, folder)
    config.CourseDirectory.db_url = gradebook.address(folder)
    config.CourseDirectory.assignment_id = lesson
    log = logging.Logger(f"nbgrader-{lesson}")
    log.addHandler(logging.NullHandler())
    GenerateAssignment(coursedir=CourseDirectory(config=config), config=config, log=log).start()


def _add_students(folder: Path, students: list[dict[str, str]]) -> list[str]:
    with gradebook.opened(folder) as book:
        known = {student.id for student in book.students}
        new = [row for row in students if row["id"] not in known]
        for row in new:
            book.add_student(row["id"], **{name: row[name] or None for name in COLUMNS[1:]})
    return [f"{len(new)} students"] if new else []


def main() -> int:
    parser = argparse.ArgumentParser(prog="course.py class", description="Make the folder of a class.")
    parser.add_argument("folder", type=Path, help="the folder; what is there already stays as it is")
    parser.add_argument("--roster", type=Path, help=f"a CSV file of students with the columns {', '.join(COLUMNS)}")
    options = parser.parse_args()
    try:
        added = make(options.folder, options.roster)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error.strerror}: {error.filename}.", file=sys.stderr)
        return 1
    print("\n".join(f"Added {line}" for line in added) or "Nothing was missing, and nothing was changed.")
    for path in per_student.left(options.folder.expanduser()):
        print(f"{path} was edited, so it stays. Do not hand it out: each student is graded by a quiz of their own.")
    print(f"Hand out {options.folder / 'notebooks'}; collect into submitted/STUDENT/LESSON/ beside it. Then:")
    print(f'  make grade ARGS="--folder {options.folder}"')
    return 0


if __name__ == "__main__":
    sys.exit(main())
