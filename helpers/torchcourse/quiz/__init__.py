"""Questions, predictions and the learner's own record of them. Importing this imports neither torch nor a widget."""

from typing import Any

from torchcourse.quiz.cards import card
from torchcourse.quiz.completion_page import completion
from torchcourse.quiz.daily_page import retrospective
from torchcourse.quiz.final_quiz import final, final_elsewhere, final_result
from torchcourse.quiz.front_page import where_was_i
from torchcourse.quiz.grade_line import received
from torchcourse.quiz.placement_quiz import placement
from torchcourse.quiz.predictions import outcome, predict
from torchcourse.quiz.progress_report import progress
from torchcourse.quiz.reviews import recall, review

__all__ = [
    "bank",
    "card",
    "completion",
    "final",
    "final_elsewhere",
    "final_result",
    "outcome",
    "placement",
    "predict",
    "progress",
    "recall",
    "received",
    "retrospective",
    "review",
    "where_was_i",
]


def __getattr__(name: str) -> Any:
    """Import `bank`, which needs pydantic, when it is first asked for."""
    if name == "bank":
        import importlib

        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
