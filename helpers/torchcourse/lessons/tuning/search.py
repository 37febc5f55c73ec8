"""Searching by hand: trials, a budget in epochs, and where the next setting comes from.

    search = Search(accuracies, budget=90)
    random_search(search, random_settings(SPACE, seed=0), epochs=9)
    print(search.best.settings, search.best.values[-1])

The objective is a generator that yields a value after each epoch, as for a study (`study`). It stops between two
epochs and goes on when it is asked again: so a trial can be paused with its weights in memory, and continued later.
"""

import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torchcourse.lessons.tuning.space import Space, plain_space

Settings = dict[str, Any]
Objective = Callable[[Settings], Iterable[float]]


class SearchError(RuntimeError):
    """An objective raised, or gave no number. The message says which trial it was; the others are kept."""


@dataclass
class Trial:
    """A setting, and the value that it had after each epoch; larger is better."""

    number: int
    settings: Settings
    values: list[float] = field(default_factory=list)
    failed: bool = False

    @property
    def epochs(self) -> int:
        return len(self.values)


class Search:
    """Trains trials, pauses and continues them, and counts the epochs.

    Args:
        objective: yields a value after each epoch of a setting.
        budget: how many epochs all trials may take together.
    """

    def __init__(self, objective: Objective, budget: int) -> None:
        self.objective = objective
        self.budget = budget
        self.spent = 0
        self.trials: list[Trial] = []
        self._runs: dict[int, Iterator[float]] = {}

    def affords(self, epochs: int) -> bool:
        """Say whether so many more epochs fit into the budget."""
        return self.spent + epochs <= self.budget

    def start(self, settings: Settings) -> Trial:
        """Add a trial; nothing is trained yet."""
        trial = Trial(len(self.trials), settings)
        self.trials.append(trial)
        return trial

    def train(self, trial: Trial, until: int) -> float:
        """Train a trial, from where it stopped, until it has had so many epochs; return its value there.

        Raises:
            SearchError: the objective raised, yielded too little, or something that is not a number.
            ValueError: for more epochs than the budget has left.
        """
        if not self.affords(until - trial.epochs):
            left = self.budget - self.spent
            raise ValueError(f"{until - trial.epochs} epochs are asked for, and the budget has {left} left.")
        try:
            if trial.number not in self._runs:
                self._runs[trial.number] = iter(self.objective(trial.settings))
            while trial.epochs < until:
                trial.values.append(self._next(trial))
                self.spent += 1
        except Exception as error:
            trial.failed = True
            kept = sum(bool(other.values) and not other.failed for other in self.trials)
            raise SearchError(
                f"Trial {trial.number} with {trial.settings} stopped in epoch {trial.epochs + 1}: "
                f"{type(error).__name__}: {error}. The {kept} other trials are kept in `search.trials`; mend the "
                "objective, then go on with the same search."
            ) from error
        return trial.values[-1]

    @property
    def best(self) -> Trial:
        """The trial with the highest last value, among those that were trained longest.

        Raises:
            ValueError: when no trial has a value yet.
        """
        tried = [trial for trial in self.trials if trial.values and not trial.failed]
        if not tried:
            raise ValueError(f"No trial has a value yet: the budget of {self.budget} epochs may be too small for one.")
        return max(tried, key=lambda trial: (trial.epochs, trial.values[-1]))

    def _next(self, trial: Trial) -> float:
        value = next(self._runs[trial.number], None)
        if value is None:
            raise ValueError(f"the objective yielded {trial.epochs} values and then ended")
        if math.isnan(value):
            raise ValueError("a value is NaN; yield the worst value where a training that fell apart is a result")
        return float(value)


def random_search(search: Search, settings: Iterable[Settings], epochs: int) -> None:
    """Train each setting in full, until the budget does not afford another one.

    With `random_settings` this is random search (Bergstra and Bengio 2012, https://jmlr.org/papers/v13/bergstra12a.html),
    with `grid_settings` a grid search.
    """
    for setting in settings:
        if not search.affords(epochs):
            return
        search.train(search.start(setting), epochs)


def random_settings(space: Space, seed: int) -> Iterator[Settings]:
    """Yield settings without end; each value is drawn by itself, all with the same probability."""
    generator, space = random.Random(seed), plain_space(space)
    while True:
        yield {name: generator.choice(values) for name, values in space.items()}


def grid_settings(space: Space, trials: int, seed: int = 0) -> list[Settings]:
    """Return a grid of at most so many settings, evenly spaced on each axis, in a random order.

    Each axis gets 1, 2, 3 … values in turn, as long as the grid does not become too large. A grid has no randomness of
    its own: here the seed shifts it along each axis, so that its luck can be averaged over seeds.

    Raises:
        ValueError: for fewer than one trial.
    """
    if trials < 1:
        raise ValueError(f"A grid has one trial or more, but trials is {trials}.")
    space = plain_space(space)
    counts, grown = dict.fromkeys(space, 1), True
    while grown:
        grown = False
        for name, values in space.items():
            larger = counts | {name: counts[name] + 1}
            if larger[name] <= len(values) and math.prod(larger.values()) <= trials:
                counts, grown = larger, True
    generator = random.Random(seed)
    axes = [_spaced(values, counts[name], generator) for name, values in space.items()]
    settings = [dict(zip(space, values, strict=True)) for values in itertools.product(*axes)]
    generator.shuffle(settings)
    return settings


def _spaced(values: tuple, count: int, generator: random.Random) -> list:
    shift = generator.random()
    return [values[int((place + shift) * len(values) / count)] for place in range(count)]
