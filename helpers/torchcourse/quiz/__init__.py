"""Questions, predictions and the learner's own record of them. Importing this imports neither torch nor a widget."""

from typing import Any

from torchcourse.quiz import journal
from torchcourse.quiz.card import card
from torchcourse.quiz.graded import received
from torchcourse.quiz.predict import outcome, predict
from torchcourse.quiz.progress import progress
from torchcourse.quiz.retrospective import retrospective
from torchcourse.quiz.review import recall, review

__all__ = [
    "bank",
    "card",
    "journal",
    "notebook",
    "outcome",
    "predict",
    "progress",
    "recall",
    "received",
    "retrospective",
    "review",
]


def __getattr__(name: str) -> Any:
    """Import `bank` and `notebook`, which need pydantic, when they are first asked for."""
    if name in ("bank", "notebook"):
        import importlib

        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
