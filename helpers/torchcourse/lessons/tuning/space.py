"""The space of a search: hyperparameter → the values that it may take, in an order that lasts.

Numbers in ascending order are searched by their position, all else by category. Values that JSON does not know (a
class, a dtype, a member of an enum, a tuple) are kept in a study by their names; the objective gets the values.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

Space = Mapping[str, tuple]

_PLAIN = (bool, int, float, str, type(None))


def plain_space(space: Mapping[str, Any]) -> dict[str, tuple]:
    """Return the space with tuples of values, and numbers of NumPy and PyTorch as Python's.

    Raises:
        ValueError: for no hyperparameter; for values that are no sequence, such as a single text, for none at all, for
            NaN, and for two that are equal, such as 1 and True.
    """
    if not isinstance(space, Mapping):
        raise ValueError(
            "A space maps each hyperparameter to its values, such as {'lr': (0.1, 0.01)}, but this one is a "
            f"{type(space).__name__}."
        )
    if not space:
        raise ValueError("The space has no hyperparameter, so that all trials would be alike: write one into it.")
    plain = {}
    for name, values in space.items():
        if not isinstance(name, str):
            raise ValueError(f"The name of a hyperparameter is a text, but this one is {name!r}.")
        sequence = isinstance(values, Sequence) or getattr(values, "ndim", 0) == 1
        if isinstance(values, str | bytes) or not sequence:
            raise ValueError(
                f"The values of {name!r} are a {type(values).__name__}, {values!r}: write a tuple of values in a fixed "
                "order, such as (0.1, 0.01) or ('sgd', 'adam')."
            )
        plain[name] = tuple(_plain_value(value) for value in values)
        if not plain[name]:
            raise ValueError(f"{name!r} has no values: write at least one, or leave it out of the space.")
        if any(isinstance(value, float) and math.isnan(value) for value in plain[name]):
            raise ValueError(f"NaN is among the values of {name!r}: no trial can be found by it. Take it out.")
        categories(name, plain[name])
        if all(type(value) in _PLAIN for value in plain[name]) and len(set(plain[name])) < len(plain[name]):
            twice = next(value for place, value in enumerate(plain[name]) if value in plain[name][:place])
            raise ValueError(f"{twice!r} equals an earlier value of {name!r}, so no trial would have it. Take it out.")
    return plain


def is_ordered(values: tuple) -> bool:
    """Say whether the values are numbers in ascending order, so that neighbors are alike."""
    return all(isinstance(value, int | float) for value in values) and list(values) == sorted(set(values))


def categories(name: str, values: tuple) -> tuple:
    """Return what a study keeps instead of the values: themselves, or their labels where JSON does not know one.

    Raises:
        ValueError: for values whose labels are the same, or would be different in the next process.
    """
    if all(type(value) in _PLAIN for value in values):
        return values
    labels = tuple(_label(value) for value in values)
    for label in labels:
        if " at 0x" in label or "<lambda>" in label or labels.count(label) > 1:
            raise ValueError(
                f"A value of {name!r} has no name of its own that lasts ({label}), so a study cannot keep it: write "
                "texts into the space, and look up in the objective what they stand for."
            )
    return labels


def place_of(stored: Any, name: str, values: tuple) -> int:
    """Return the position in `values` of what a trial has stored for the hyperparameter."""
    return stored if is_ordered(values) else categories(name, values).index(stored)


def _plain_value(value: Any) -> Any:
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def _label(value: Any) -> str:
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return value if type(value) is str else repr(value)
