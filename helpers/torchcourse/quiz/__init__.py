"""Questions, predictions and the learner's own record of them. Importing this imports neither torch nor a widget."""

import importlib
from typing import Any

from torchcourse.quiz import bank
from torchcourse.quiz.cards import card
from torchcourse.quiz.grade_line import received
from torchcourse.quiz.predictions import outcome, predict
from torchcourse.quiz.reviews import recall, review

__all__ = ["bank", "card", "outcome", "predict", "recall", "received", "review"]

_MOVED = {
    "completion": "final.completion_page",
    "final": "final.final_quiz",
    "final_elsewhere": "final.final_quiz",
    "final_result": "final.final_quiz",
    "placement": "start_here.placement_quiz",
    "progress": "start_here.progress_report",
    "retrospective": "start_here.daily_page",
    "where_was_i": "start_here.front_page",
}
"""Where the pages are now, in the wings: the copies of notebooks that learners have already ask for them here."""


def __getattr__(name: str) -> Any:
    if name in _MOVED:
        return getattr(importlib.import_module(f"torchcourse.lessons.{_MOVED[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
