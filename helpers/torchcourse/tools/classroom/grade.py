"""Grade a class with nbgrader, several submissions at a time: `python -m torchcourse.tools.classroom.grade`.

The folder of the class holds what was handed in, as nbgrader collects it:

    submitted/STUDENT/LESSON/*.ipynb

Beside it appear gradebook.db (nbgrader's own, for manual grading in its formgrader), autograded/, feedback/, grades.csv
and grading.json, which says what was graded already. A submission is graded again only when it or its lesson changed;
scores and comments that were given by hand since are taken over into grades.csv and feedback without running anything.

What is handed in is code. It runs in a sandbox (`execution`), several notebooks at a time; one process alone writes
into the gradebook. A submission that fails is named with the reason, and the others go on.
"""

import argparse
import contextlib
import difflib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from torchcourse.tools.build import notebooks
from torchcourse.tools.classroom import execution, gradebook, roster, staging
from torchcourse.tools.classroom.cluster import Cluster, RayCluster
from torchcourse.tools.classroom.grader import Grader, Runs
from torchcourse.tools.classroom.roster import Grade
from torchcourse.tools.classroom.sandbox.box import POSSIBLE
from torchcourse.tools.repository import ROOT

Key = tuple[str, str]  # student and lesson

UNNAMED = "the name of the student's folder is in no encoding that is known; rename the folder"


def grade_class(
    folder: Path,
    lessons: list[str] | None = None,
    root: Path = ROOT,
    student: str | None = None,
    again: bool = False,
    cluster: Cluster | None = None,
) -> list[Grade]:
    """Grade every submission below `folder`/submitted that is not graded yet; write feedback and `grades.csv`.

    Args:
        folder: the folder of the class.
        lessons: grade only these; by default all that somebody handed in.
        root: the repository with solutions/ and nbgrader_config.py.
        student: grade only this student's work.
        again: grade what was graded already, too.
        cluster: where notebooks are executed; here by default.

    Returns:
        A row for each student and each of these lessons, also for those who handed in nothing.

    Raises:
        FileNotFoundError: when there is nothing to grade, or a lesson does not exist; the message says what does.
        ValueError: for rules of late work that cannot be read (`late`).
    """
    submissions = find_submissions(folder, lessons, root, student)
    table, record = roster.read(folder / "grades.csv"), _Record(folder / "grading.json")
    table = {key: row for key, row in table.items() if row.note != UNNAMED}
    for name, lesson in [key for key in submissions if not roster.can_be_written(key[0])]:
        submissions.remove((name, lesson))
        name = roster.printable(name)
        table[name, lesson] = Grade(name, lesson, "could not be graded", None, None, UNNAMED)
    with gradebook.at_work():
        grader = Grader(folder, root)
        digests = {lesson: grader.register(lesson) for lesson in sorted({lesson for _, lesson in submissions})}
        changed = []
        for key in submissions:
            digest = digests[key[1]] + staging.digest(folder / "submitted" / key[0] / key[1], grader.drawn(*key))
            graded = key in table and table[key].state in ("graded", "needs manual grading")
            graded = record.is_graded(key, digest) and graded
            if graded and not again:
                table[key] = _followed(grader, key, table[key], record)
                continue
            changed.append(key)
            if not graded:  # which a grader that is stopped leaves so: a score of work that changed would be untrue
                table[key] = Grade(*key, "not graded yet", None, None)
        try:
            _grade(grader, changed, table, record, cluster)
        finally:
            if student is None:
                _add_absent(table, sorted(digests), {*grader.students(), *(key[0] for key in submissions)})
            roster.write(folder / "grades.csv", table)
    wanted = {*digests, *(key[1] for key, row in table.items() if row.note == UNNAMED)}
    rows = [table[key] for key in sorted(table, key=lambda key: (key[1], key[0])) if key[1] in wanted]
    return [row for row in rows if student in (None, row.student)]


def _grade(
    grader: Grader, keys: list[Key], table: dict[Key, Grade], record: "_Record", cluster: Cluster | None
) -> None:
    progress = tqdm(keys, desc="Grading", unit="submission", file=sys.stdout, disable=None)
    with Runs(grader, keys, cluster) as runs:
        for number, key in enumerate(progress):
            work = runs.take(number)
            table[key] = grader.grade(work)
            # So that a grader that is killed goes on with the next one.
            roster.write(grader.folder / "grades.csv", table)
            record.note(key, work.fingerprint, failed=table[key].state == "could not be graded")


def _followed(grader: Grader, key: Key, before: Grade, record: "_Record") -> Grade:
    """Return the row of work that did not change, with what was done by hand since."""
    if grader.fingerprint(*key) == record.fingerprint(key):
        return before
    followed, fingerprint = grader.follow(*key)
    record.note(key, fingerprint, failed=False)
    return replace(followed, note=before.note)


def _add_absent(table: dict[Key, Grade], lessons: list[str], students: set[str]) -> None:
    for lesson in lessons:
        for student in students:
            table.setdefault((student, lesson), Grade(student, lesson, "not handed in", None, None))


class _Record:
    """What was graded already, in a file: for each submission its digest, and what the gradebook held by hand."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.digests: dict[Key, str] = {}
        self._graded: dict[str, list[str]] = {}
        with contextlib.suppress(FileNotFoundError, ValueError):  # of what cannot be read, all is graded again
            found = json.loads(path.read_text(encoding="utf-8"))
            self._graded = {name: list(value) for name, value in found.items()}

    def is_graded(self, key: Key, digest: str) -> bool:
        self.digests[key] = digest
        return self._graded.get("/".join(key), [""])[0] == digest

    def fingerprint(self, key: Key) -> str:
        return self._graded["/".join(key)][1]

    def note(self, key: Key, fingerprint: str, failed: bool) -> None:
        """Note that a submission is graded; one that could not be is tried again the next time."""
        if failed:
            self._graded.pop("/".join(key), None)
        else:
            self._graded["/".join(key)] = [self.digests[key], fingerprint]
        with roster.replaced(self._path) as file:
            json.dump(self._graded, file, indent=0)


def find_submissions(folder: Path, lessons: list[str] | None, root: Path, student: str | None = None) -> list[Key]:
    """Return (student, lesson) for each folder below submitted/; name those whose lesson the course does not have."""
    known = notebooks.lessons(root)
    for lesson in lessons or []:
        if lesson not in known:
            raise FileNotFoundError(f"There is no lesson '{lesson}'. The lessons are {', '.join(known)}.")
    found = sorted(key for key in _handed_in(folder / "submitted") if student in (None, key[0]))
    for name, lesson in found:
        if lesson not in known and not lesson.startswith("."):
            close = difflib.get_close_matches(lesson, known, 1)
            meant = f" Did you mean {close[0]}?" if close else ""
            place = roster.printable(f"submitted/{name}/{lesson}")
            print(f"{place} was not graded: the course has no such lesson.{meant}")
    wanted = [key for key in found if key[1] in (lessons or known)]
    if not wanted:
        raise FileNotFoundError(
            f"Nothing to grade below {folder / 'submitted'}. Put each notebook at submitted/STUDENT/LESSON/, "
            f"with LESSON one of {', '.join(known)}."
        )
    return wanted


def _handed_in(place: Path) -> Iterator[Key]:
    """Yield student and folder; name the students whose folder cannot be read, as archives with odd rights leave it."""
    for student in sorted(place.glob("*")):
        try:
            yield from [(student.name, path.name) for path in student.iterdir() if path.is_dir()]
        except NotADirectoryError:
            continue
        except OSError as error:
            name = roster.printable(f"submitted/{student.name}")
            print(f"{name} was not graded: it cannot be read ({error.strerror}). {staging.RIGHTS}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Grade what a class handed in.")
    parser.add_argument("lessons", nargs="*", help="lessons to grade; all that were handed in if none is named")
    parser.add_argument("--folder", type=Path, default=ROOT, help="the folder that holds submitted/ (default: here)")
    parser.add_argument("--student", help="grade only this student's work")
    parser.add_argument("--again", action="store_true", help="grade also what did not change since it was graded")
    parser.add_argument("--ray", metavar="ADDRESS", help="execute notebooks on this Ray cluster, such as 10.0.0.1:6379")
    options = parser.parse_args()
    try:
        with RayCluster(options.ray) if options.ray else contextlib.nullcontext() as cluster:
            wanted = (options.lessons or None, ROOT, options.student, options.again)
            grades = grade_class(options.folder, *wanted, cluster=cluster)
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. What was graded is kept; the same command goes on with the rest.", file=sys.stderr)
        return 130
    if cluster:
        print(*cluster.report(), sep="\n")
    else:
        print(execution.PROTECTION[execution.warm().kind] if POSSIBLE else execution.UNPROTECTED)
    width = max(len(roster.printable(grade.student)) for grade in grades)
    for grade in grades:
        score = "   –" if grade.score is None else f"{grade.score:4g} of {grade.max_score:g}"
        print(f"{roster.printable(grade.student):{width}}  {grade.lesson:28} {score:12} {grade.state}  {grade.note}")
    print(f"Scores: {options.folder / 'grades.csv'}")
    print(f"Feedback pages, which show the model answers to open questions: {options.folder / 'feedback'}")
    if any(grade.state == "needs manual grading" for grade in grades):
        print("Answers in words wait for you: TEACHING.md, step 5, says how to grade them.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
