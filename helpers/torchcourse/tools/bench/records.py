"""How long a learner's pages take with a journal of 10,000 answers."""

import contextlib
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

from torchcourse import journal
from torchcourse.lessons.final.completion_page import completion
from torchcourse.lessons.final.final_quiz import final
from torchcourse.lessons.start_here.daily_page import retrospective
from torchcourse.lessons.start_here.front_page import where_was_i
from torchcourse.lessons.start_here.placement_quiz import placement
from torchcourse.lessons.start_here.progress_report import progress
from torchcourse.quiz import bank, recall, review
from torchcourse.tools.bench.report import Table

LINES = 10_000
PAGES: dict[str, Callable[[], object]] = {
    "front page": lambda: where_was_i()._repr_html_(),
    "progress": lambda: progress()._repr_html_(),
    "review": lambda: review()._repr_html_(),
    "recall": lambda: recall("08_convolution")._repr_html_(),
    "daily page": lambda: retrospective().text,
    "final": lambda: final()._repr_html_(),
    "placement": lambda: placement()._repr_html_(),
    "page of completion": lambda: completion().text,
}


def table() -> Table:
    rows = []
    with _journal(LINES):
        bank.lesson(bank.lessons()[0])
        for name, make in PAGES.items():
            seconds = []
            for _time in range(2):
                start = time.perf_counter()
                make()
                seconds.append(time.perf_counter() - start)
            rows.append([name, *(f"{each:.2f} s" for each in seconds)])
    return Table(
        f"A learner's pages after {LINES:,} answers",
        ["page", "first", "again"],
        rows,
        "One process, in this order; the first page also reads the journal and the question banks.",
    )


@contextlib.contextmanager
def _journal(lines: int) -> Iterator[None]:
    """Keep the journal in a temporary folder, with answers of sixty days in it."""
    before = os.environ.get("TORCHCOURSE_WORK")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHCOURSE_WORK"] = folder
        try:
            Path(journal.path()).write_text("".join(_answers(lines)), encoding="utf-8")
            yield
        finally:
            del os.environ["TORCHCOURSE_WORK"]
            if before is not None:
                os.environ["TORCHCOURSE_WORK"] = before


def _answers(lines: int) -> Iterator[str]:
    chance = random.Random(0)
    asked = [(name, question.id) for name in bank.lessons() for question in bank.lesson(name).questions]
    end = datetime.now().astimezone()
    for number in range(lines):
        lesson, question = chance.choice(asked)
        moment = end - timedelta(days=60) * (1 - number / lines)
        entry: journal.Entry = {"time": moment.isoformat(timespec="seconds"), "kind": "quiz"}
        entry |= {"lesson": lesson, "question": question, "asked": question, "answer": "A", "misconceptions": []}
        entry |= {"sure": chance.randint(1, 3), "right": chance.random() < 0.6}
        yield json.dumps(entry) + "\n"
