"""What the planner asks of the numbers that it is given, each refused in one sentence."""

from numbers import Integral, Real

from torchcourse.units import is_whole_number

FEWEST = 1e6
"""Fewer bytes or operations (per second) than this are a number in giga or tera without its power of ten."""


def count_as_python(described: object) -> None:
    """Turn NumPy's whole numbers in a frozen dataclass into Python's, which have no largest one to overflow at."""
    for name, number in vars(described).items():
        if isinstance(number, Integral) and not isinstance(number, bool):
            object.__setattr__(described, name, int(number))


def check_kind(owner: str, **given: tuple[object, type]) -> None:
    """Raise a `ValueError` if something is not of its kind: a name, say, instead of what the name stands for."""
    for name, (thing, kind) in given.items():
        if not isinstance(thing, kind):
            raise ValueError(f"{owner}: {name} must be of the class {kind.__name__}, but is {thing!r}.")


def check_whole(owner: str, least: int = 1, **given: object) -> None:
    """Raise a `ValueError` if a number is not whole, or less than `least`. `owner` is whose numbers they are."""
    for name, number in given.items():
        if not is_whole_number(number):
            hint = " Divide with // to keep it whole." if isinstance(number, float) else ""
            raise ValueError(f"{owner}: {name} must be a whole number, but is {number!r}.{hint}")
        if number < least:
            raise ValueError(f"{owner}: {name} must be at least {least}, but is {number}.")


def check_above_zero(owner: str, **given: object) -> None:
    """Raise a `ValueError` if something is not a number above 0."""
    for name, number in given.items():
        if isinstance(number, bool) or not isinstance(number, Real) or not float(number) > 0:
            raise ValueError(f"{owner}: {name} must be a number above 0, but is {number!r}.")


def check_unit(owner: str, unit: str, **given: float) -> None:
    """Raise a `ValueError` for what is no number above 0, or so small that it cannot be in this unit."""
    check_above_zero(owner, **given)
    for name, number in given.items():
        if number < FEWEST:
            raise ValueError(
                f"{owner}: {name} is in {unit}, so {number!r} is too few: is its power of ten missing? Giga is e9, "
                "tera e12."
            )


def check_seconds(owner: str, **given: float) -> None:
    """Raise a `ValueError` for what is no number of at least 0, or above 1: seconds, and not microseconds."""
    check_not_negative(owner, **given)
    for name, number in given.items():
        if number > 1:
            raise ValueError(f"{owner}: {name} is in seconds, so {number!r} is too many: microseconds are e-6.")


def check_share(owner: str, **given: float) -> None:
    """Raise a `ValueError` for what is no number above 0, or above 1."""
    check_above_zero(owner, **given)
    for name, number in given.items():
        if number > 1:
            raise ValueError(f"{owner}: {name} is a share, at most 1, but is {number!r}: 79% is 0.79.")


def check_not_negative(owner: str, **given: object) -> None:
    """Raise a `ValueError` if something is not a number of at least 0."""
    for name, number in given.items():
        if isinstance(number, bool) or not isinstance(number, Real) or not float(number) >= 0:
            raise ValueError(f"{owner}: {name} must be a number of at least 0, but is {number!r}.")


def check_yes_or_no(owner: str, **given: object) -> None:
    """Raise a `ValueError` if something is neither True nor False."""
    for name, answer in given.items():
        if not isinstance(answer, bool):
            raise ValueError(f"{owner}: {name} must be True or False, but is {answer!r}.")
