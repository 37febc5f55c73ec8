"""The check of lesson 04, notebook 2, that asks for the names of runs which the lesson has not shown."""

import re
from collections.abc import Mapping
from pathlib import Path

from torchcourse.checks import NotDone, Wrong, check
from torchcourse.lessons.monitoring import sick_runs
from torchcourse.training.events import RunLog

_UNKNOWN: dict[str, tuple[str, sick_runs.Family, int]] = {
    "A": ("vanishing", "narrow", 21),
    "B": ("overfitting", "conv", 22),
    "C": ("exploding", "narrow", 23),
    "D": ("healthy", "conv", 24),
    "E": ("dead units", "conv", 25),
    "F": ("underfitting", "narrow", 26),
    "G": ("saturated", "narrow", 27),
}
"""The runs that the learner names: other networks and seeds than those that the lesson shows."""

_SEE = {
    "vanishing": "the gradients from layer to layer, on their log axis",
    "exploding": "the size of the gradients and of the loss, and how far the weights spread",
    "dead units": "the third panel, and what it counts",
    "saturated": "the third panel, and what it counts",
    "overfitting": "the two curves of the loss: nothing else tells",
    "underfitting": "the two curves of the loss: nothing else tells",
    "healthy": "whether any of the four panels is out of order",
}


def train_unknown(folder: str | Path) -> dict[str, RunLog]:
    """Train the runs A to G, each into a folder of its own."""
    return {
        letter: sick_runs.train(kind, Path(folder) / letter, family=family, seed=seed)
        for letter, (kind, family, seed) in _UNKNOWN.items()
    }


def spelled(name: object) -> object:
    """Return a recipe's name as the lesson spells it: capitals, spaces and hyphens do not count."""
    if not isinstance(name, str):
        return name
    return next((kind for kind in sick_runs.RECIPES if _letters(kind) == _letters(name)), name)


def _letters(name: str) -> str:
    return re.sub(r"[\s_-]", "", name.lower())


@check
def names_of_runs(learner: Mapping[str, str]) -> str:
    """Compare the names with the recipes of the runs A to G."""
    if not isinstance(learner, Mapping) or set(learner) != set(_UNKNOWN):
        raise Wrong("letters", f"Give a dictionary with a name for each of {', '.join(_UNKNOWN)}.")
    if any(name is ... for name in learner.values()):
        raise NotDone
    names = {letter: spelled(name) for letter, name in learner.items()}
    for letter, name in names.items():
        if not isinstance(name, str) or name not in sick_runs.RECIPES:
            raise Wrong("no_such_name", f"{letter}: {name!r} is none of {', '.join(sick_runs.RECIPES)}.")
    wrong = [(letter, name) for letter, name in names.items() if name != _UNKNOWN[letter][0]]
    if wrong:
        letter, name = wrong[0]
        kind = _UNKNOWN[letter][0]
        count = f"{len(wrong)} of {len(_UNKNOWN)} {'is' if len(wrong) == 1 else 'are'}"
        raise Wrong(
            f"{name}_for_{kind}".replace(" ", "_").replace("-", "_"),
            f"{count} not right yet. Begin with run {letter}, and look at {_SEE[kind]}.",
        )
    return f"All {len(_UNKNOWN)} runs named."
