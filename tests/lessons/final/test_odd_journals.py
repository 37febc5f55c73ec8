"""Whatever a journal of another version says, every page is made, and the journal stays as it is."""

import json
import random
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest

import example_bank as example
from torchcourse import journal
from torchcourse.lessons.final.completion_page import completion
from torchcourse.lessons.final.final_quiz import final, final_result
from torchcourse.lessons.start_here.daily_page import retrospective
from torchcourse.lessons.start_here.placement_quiz import placement
from torchcourse.lessons.start_here.progress_report import progress
from torchcourse.quiz import recall, review

KINDS = ["quiz", "check", "prediction", "outcome", "final", "placement", "reasoning", "written", "language", "later"]
RIGHT_TYPES: dict[str, list[Any]] = {
    "lesson": [example.LESSON, "42_gone"],
    "question": ["pick-one", "type-number", "type-text", "put-in-order", "write", "gone"],
    "asked": ["pick-one", "pick-one-again", "type-number", "type-text", "put-in-order", "write"],
    "answer": ["A", "AC", 0.5, "0.5", "a word"],
    "right": [True, False],
    "sure": [1, 2, 3],
    "misconceptions": [["odd"], []],
    "order": ["BA"],
    "form": ["one", "number", "order", "open"],
    "exercise": ["lesson07.x"],
    "state": ["begun", "done", "elsewhere", "right", "wrong"],
    "final": ["f"],
    "questions": [[[example.LESSON, "pick-one", "pick-one", 1]]],
    "day": ["2026-11-02"],
    "id": ["01-1.x"],
    "value": ["ko"],
    "total": [10],
}
WRONG_TYPES: list[Any] = [None, 3, -1, True, "", "x", [], [1], [[]], {"a": 1}, float("inf")]
PAGES: dict[str, Callable[[], object]] = {
    "progress": lambda: (repr(progress()), progress()._repr_html_()),
    "review": lambda: (repr(review()), review()._repr_html_()),
    "recall": lambda: recall("08_after")._repr_html_(),
    "daily page": lambda: retrospective(date(2026, 3, 2)).text,
    "final": lambda: (repr(final()), final()._repr_html_()),
    "result": lambda: repr(final_result()),
    "placement": lambda: placement()._repr_html_(),
    "completion": lambda: completion().text,
}


def odd(chance: random.Random) -> str:
    entry: dict[str, object] = {"time": "2026-03-02T10:00:00+00:00", "kind": chance.choice(KINDS)}
    for name, values in RIGHT_TYPES.items():
        if chance.random() < 0.85:
            entry[name] = chance.choice(values if chance.random() < 0.7 else WRONG_TYPES)
    return json.dumps(entry)


@pytest.mark.usefixtures("banks")
@pytest.mark.parametrize("page", PAGES)
def test_every_page_is_made_of_an_odd_journal(page: str) -> None:
    path = journal.path()
    path.parent.mkdir(parents=True)
    for seed in range(8):
        chance = random.Random(seed)
        lines = "".join(f"{odd(chance)}\n" for _ in range(60))
        path.write_text(lines, encoding="utf-8")
        PAGES[page]()
        assert path.read_text(encoding="utf-8").startswith(lines)
        assert len(journal.read()) >= 60
