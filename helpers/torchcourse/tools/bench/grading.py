"""Grading a class: `make grade` and stock nbgrader in turn, on the same submissions, with gradebook and feedback."""

import contextlib
import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from nbgrader.converters import Autograde, GenerateAssignment, GenerateFeedback
from nbgrader.coursedir import CourseDirectory
from traitlets.config import Config

from torchcourse.tools.bench.report import Table
from torchcourse.tools.build import notebooks
from torchcourse.tools.classroom import execution, gradebook
from torchcourse.tools.classroom.grade import grade_class
from torchcourse.tools.repository import ROOT, nbgrader_config

QUIZ = ("04_monitoring_and_checkpoints", "quiz")
LESSON = ("00_start_here", "1_start_here")
ROUNDS = 3


def table() -> Table:
    """Return submissions per minute of both ways, for a quiz and for a lesson that runs ranks."""
    execution.warm()  # once per class, and so no part of a submission
    rows = []
    for name, (lesson, notebook), count in (("quiz of lesson 04", QUIZ, 12), ("lesson 00, with ranks", LESSON, 2)):
        seconds: dict[str, list[float]] = {"make grade": [], "stock nbgrader": []}
        for _ in range(ROUNDS):
            earned = []
            for way, run in (("make grade", _ours), ("stock nbgrader", _stock)):
                with tempfile.TemporaryDirectory() as folder:
                    hand_in(Path(folder), lesson, notebook, count)
                    took, scores = run(Path(folder), lesson)
                seconds[way].append(took)
                earned.append(scores)
            if earned[0] != earned[1]:
                raise RuntimeError(f"The two ways disagree about the {name}: {earned}.")
        middle = {way: median(every) for way, every in seconds.items()}
        for way, each in middle.items():
            ratio = middle["stock nbgrader"] / each
            rows.append([name, way, f"{each / count:.2f} s", f"{60 * count / each:.1f}", f"{ratio:.1f}"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    how = (
        f"{os.cpu_count()} cores, right answers, {ROUNDS} rounds in turn, medians; gradebook, feedback and what is "
        f"done once per lesson included. Both gave the same scores. The grader itself had at most {peak:.0f} MiB."
    )
    return Table("Grading", ["work", "way", "per submission", "per minute", "times stock"], rows, how)


def wanted_lessons() -> list[str]:
    """Return all lessons, or those with TORCHCOURSE_BENCH_NOTEBOOKS, such as 06_, in their names."""
    return [name for name in notebooks.lessons(ROOT) if os.environ.get("TORCHCOURSE_BENCH_NOTEBOOKS", "") in name]


def hand_in(folder: Path, lesson: str, notebook: str, count: int) -> None:
    """Let `count` students hand in one notebook, with right answers."""
    (text,) = (text for path, text in notebooks.solutions(ROOT, lesson).items() if Path(path).stem == notebook)
    for number in range(count):
        notebooks.write_text(folder / "submitted" / f"student-{number:04}" / lesson / f"{notebook}.ipynb", text)


def _ours(folder: Path, lesson: str) -> tuple[float, list[float | None]]:
    start = time.perf_counter()
    grades = grade_class(folder, [lesson])
    return time.perf_counter() - start, [grade.score for grade in grades]


def _stock(folder: Path, lesson: str) -> tuple[float, list[float | None]]:
    start = time.perf_counter()
    run_stock(folder, lesson)
    took = time.perf_counter() - start
    with gradebook.opened(folder) as book:
        found = sorted((one.student.id, one.score) for one in book.assignment_submissions(lesson))
    return took, [score for _, score in found]


def run_stock(folder: Path, lesson: str) -> None:
    """Register, autograde and write feedback as nbgrader does it, with its own settings."""
    config = Config()
    config.CourseDirectory.root = str(folder)
    config.CourseDirectory.course_id = "torchcourse"
    config.CourseDirectory.source_directory = "solutions"
    config.CourseDirectory.assignment_id = lesson
    config.ClearSolutions.enforce_metadata = False  # no student sees this release
    # An answer in words that is still this text gets 0 points, and any other waits for a person.
    config.ClearSolutions.text_stub = nbgrader_config(ROOT, folder).ClearSolutions.text_stub
    config.Execute.timeout = 600
    config.NbGrader.log_level = "ERROR"
    with _commands_found():
        for path, text in notebooks.solutions(ROOT, lesson).items():
            notebooks.write_text(folder / path, text)
        for converter in (GenerateAssignment, Autograde, GenerateFeedback):
            converter(coursedir=CourseDirectory(config=config), config=config).start()


@contextlib.contextmanager
def _commands_found() -> Iterator[None]:
    """Let nbgrader find the command of its database tool, which lies beside this Python, and be quiet about itself."""
    before = os.environ["PATH"]
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), before])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.environ["PATH"] = before
