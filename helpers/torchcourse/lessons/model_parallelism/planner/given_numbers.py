"""What the planner asks of the numbers that it is given, each refused in one sentence."""

from numbers import Integral


def check_whole(owner: str, least: int = 1, **given: object) -> None:
    """Raise a `ValueError` if a number is not whole, or less than `least`. `owner` is whose numbers they are."""
    for name, number in given.items():
        if isinstance(number, bool) or not isinstance(number, Integral):
            hint = " Divide with // to keep it whole." if isinstance(number, float) else ""
            raise ValueError(f"{owner}: {name} must be a whole number, but is {number!r}.{hint}")
        if number < least:
            raise ValueError(f"{owner}: {name} must be at least {least}, but is {number}.")


def check_above_zero(owner: str, **given: object) -> None:
    """Raise a `ValueError` if something is not a number above 0."""
    for name, number in given.items():
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not number > 0:
            raise ValueError(f"{owner}: {name} must be a number above 0, but is {number!r}.")
