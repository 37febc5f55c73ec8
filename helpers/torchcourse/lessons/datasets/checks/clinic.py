"""Checks of the clinic's patients that wait in lesson 06. The judge is lesson 05's; the journal counts them here."""

from collections.abc import Callable

from torchcourse.checks import Checked, check
from torchcourse.lessons.troubleshooting import clinic


def repair(slug: str, *parts: Callable, points: float = 1) -> Checked:
    """Put the repaired parts into the patient's program and say whether it is healed, or what is to be seen instead."""

    def examined(given: tuple[Callable, ...]) -> str:
        return clinic.examine(slug, *given)

    examined.__name__ = slug  # the name of the exercise in the journal
    return check(examined)(parts, points)
