"""The check of lesson 07's measure of what was forgotten. It names the symptom of a mistake."""

from collections.abc import Callable

import torch

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import number_of, refuse_formula, result_of, same


@check
def forgetting(learner: Callable[[torch.Tensor], float]) -> str:
    """Compare the measure on tables of two to four tasks, one of which got better again in between."""
    tables = [
        [[0.9, 0.1], [0.6, 0.8]],
        [[0.9, 0.2, 0.1], [0.7, 0.8, 0.1], [0.5, 0.6, 0.9]],
        [[0.6, 0.2, 0.1], [0.8, 0.7, 0.3], [0.7, 0.75, 0.9]],
        [[0.8, 0.5, 0.1, 0.1], [0.6, 0.9, 0.2, 0.1], [0.9, 0.5, 0.8, 0.3], [0.4, 0.6, 0.7, 0.95]],
        [[0.9, 0.85, 0.1], [0.7, 0.8, 0.2], [0.6, 0.5, 0.9]],
    ]
    cases = [torch.tensor(table, dtype=torch.float64) for table in tables]
    given = [number_of(result_of(learner, table, what="the table"), "the mean over the old tasks") for table in cases]
    right = [_lost(accuracy).mean().item() for accuracy in cases]
    if not same(given, right, tolerance=1e-6):
        refuse_formula(given, [(accuracy,) for accuracy in cases], _OTHER_MEASURES)
        first = next(i for i, got in enumerate(given) if not same(got, right[i], tolerance=1e-6))
        raise Wrong(
            "wrong_value",
            f"After {len(tables[first])} tasks with the accuracies {tables[first]}, you return {given[first]:.4g}. "
            "For each old task there are two numbers to compare: which are they in this table?",
        )
    return f"{len(tables)} tables: from each old task's best, to the end, and the mean of it."


def _lost(accuracy: torch.Tensor) -> torch.Tensor:
    """For each old task: the best accuracy at an earlier moment, less the last one."""
    return accuracy[:-1, :-1].max(dim=0).values - accuracy[-1, :-1]


_OTHER_MEASURES: dict[str, tuple[list[Callable[[torch.Tensor], float]], str]] = {
    "sign": (
        [lambda a: -_lost(a).mean().item()],
        "You return the gain. Forgetting is positive where accuracy was lost.",
    ),
    "newest_counted": (
        [
            lambda a: (a.max(dim=0).values - a[-1]).mean().item(),
            lambda a: (a[:-1].max(dim=0).values - a[-1]).mean().item(),
            lambda a: _lost(a).sum().item() / len(a),
        ],
        "Your mean is over all tasks. The newest one had no time to be forgotten.",
    ),
    "last_counted": (
        [lambda a: (a.max(dim=0).values - a[-1])[:-1].mean().item(), lambda a: _lost(a).clamp(min=0).mean().item()],
        "A task that is better now than ever before counts as 0 for you. Its best *earlier* moment counts, and then it "
        "was forgotten by less than nothing.",
    ),
    "from_another_moment": (
        [
            lambda a: (a.diagonal()[:-1] - a[-1, :-1]).mean().item(),
            lambda a: (a[0, :-1] - a[-1, :-1]).mean().item(),
            lambda a: (a[-2, :-1] - a[-1, :-1]).mean().item(),
            lambda a: _lost(torch.cat([a[:-1].tril(), a[-1:]])).mean().item(),
        ],
        "You do not count from a task's best. *Any* earlier moment may be that: also before the task was learned, or "
        "after it.",
    ),
    "transposed": (
        [lambda a: _lost(a.T).mean().item(), lambda a: (a[:-1, :-1].max(dim=1).values - a[-1, :-1]).mean().item()],
        "You take rows for columns: a row is a moment, a column a task.",
    ),
    "percent": ([lambda a: 100 * _lost(a).mean().item()], "That is in percent. The table holds shares."),
    "sum": ([lambda a: _lost(a).sum().item()], "That is the sum over the old tasks, not the mean."),
}
