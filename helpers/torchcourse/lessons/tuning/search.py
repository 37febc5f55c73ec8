"""Searching by hand: trials, a budget in epochs, and where the next setting comes from.

    search = Search(accuracies, budget=90)
    random_search(search, random_settings(SPACE, seed=0), epochs=9)
    print(search.best.settings, search.best.values[-1])

The objective is a generator that yields a value after each epoch, as for a study (`study`). It stops between two
epochs and goes on when it is asked again: so a trial can be paused with its weights in memory, and continued later.
"""

import decimal
import itertools
import math
import numbers
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torchcourse.lessons.tuning.space import Space, plain_space
from torchcourse.units import is_whole_number

Settings = dict[str, Any]
Objective = Callable[[Settings], Iterable[float]]


GIVE_UP = 10
"""So many failures in a row mean that the objective is broken, and not that a setting is bad."""


def begin(objective: Objective, settings: Settings) -> Iterator[Any]:
    """Start an objective on settings of its own; return what yields its values, each of which `number` looks at.

    Raises:
        TypeError: for an objective that returns a number where it has to yield one after each epoch.
    """
    values = objective(_own(settings))  # so that what it changes in them stays in this trial
    if isinstance(values, Mapping | str) or not isinstance(values, Iterable):
        raise TypeError(
            f"the objective returned {values!r}, and it has to yield a value after each epoch: `yield` it in the loop"
        )
    return iter(values)


def _own(value: Any) -> Any:
    """Return a copy of dicts and lists, and of those in them; all else, such as a dataset, as it is."""
    if type(value) is dict:
        return {name: _own(each) for name, each in value.items()}
    return [_own(each) for each in value] if type(value) is list else value


def number(value: Any, best: float = math.inf) -> float:
    """Return an objective's value as a number; a tensor or an array of one number is one.

    Raises:
        ValueError: for what is no number, for NaN, and for `best`: infinity in the direction that the search goes.
    """
    try:
        plain = value.item() if hasattr(value, "item") else value
    except (RuntimeError, ValueError):  # of more than one number
        plain = value
    if not isinstance(plain, numbers.Real | decimal.Decimal):
        raise ValueError(f"a value has to be one number, and the objective yielded {value!r}")
    if math.isnan(plain) or plain == best:
        raise ValueError(f"a value is {'NaN' if math.isnan(plain) else 'infinite'}")
    return float(plain)


class SearchError(RuntimeError):
    """`GIVE_UP` trials in a row failed. The message says why the last one did; the others are kept."""


@dataclass
class Trial:
    """A setting, and the value that it had after each epoch; larger is better.

    Attributes:
        number: its place in `Search.trials`.
        settings: hyperparameter → value.
        values: one for each epoch so far.
        error: why it failed, in words; empty for a trial that did not.
    """

    number: int
    settings: Settings
    values: list[float] = field(default_factory=list)
    error: str = ""

    @property
    def epochs(self) -> int:
        return len(self.values)

    @property
    def failed(self) -> bool:
        return bool(self.error)

    def value_after(self, epochs: int) -> float:
        """Return its value after so many epochs; −∞ where it failed before."""
        return self.values[epochs - 1] if self.epochs >= epochs else -math.inf


class Search:
    """Trains trials, pauses and continues them, and counts the epochs.

    A trial that raises, or whose value is NaN, has failed: it counts as the worst, and the search goes on. A search
    that was stopped goes on where it was when its method is called again: trials that are there are finished, and
    settings that they have are not started again.

    Args:
        objective: yields a value after each epoch of a setting.
        budget: how many epochs all trials may take together. An epoch that fails has been spent, too.

    Raises:
        ValueError: for a budget that is no number of epochs.
    """

    def __init__(self, objective: Objective, budget: int) -> None:
        if not is_whole_number(budget) or budget < 0:
            raise ValueError(f"A budget is a whole number of epochs, but this one is {budget!r}.")
        self.objective = objective
        self.budget = budget
        self.spent = 0
        self.trials: list[Trial] = []
        self._runs: dict[int, Iterator[float]] = {}
        self._failed_in_a_row, self._failed_in = 0, 1  # so many trials, the last one in that epoch

    def affords(self, epochs: int) -> bool:
        """Say whether so many more epochs fit into the budget."""
        return self.spent + epochs <= self.budget

    def cost(self, trial: Trial, until: int) -> int:
        """Return the epochs that `train` takes: those that are missing, or all where the trial has to begin again."""
        if trial.failed or trial.epochs >= until:
            return 0
        return until - trial.epochs if trial.number in self._runs else until

    def start(self, settings: Settings) -> Trial:
        """Add a trial; nothing is trained yet."""
        trial = Trial(len(self.trials), _own(settings))
        self.trials.append(trial)
        return trial

    def fresh(self, settings: Iterable[Settings]) -> Iterator[Settings]:
        """Yield the settings that no trial has from before: what a search has started, it does not start again."""
        earlier = [trial.settings for trial in self.trials]
        for setting in settings:
            if setting in earlier:
                earlier.remove(setting)
            else:
                yield setting

    def train(self, trial: Trial, until: int) -> float:
        """Train a trial, from where it stopped, until it has had so many epochs; return its value there.

        Returns:
            The value, or −∞ for a trial that fails or has failed: `trial.error` says why.

        Raises:
            SearchError: when `GIVE_UP` trials in a row have failed.
            ValueError: for more epochs than the budget has left, and for no epoch at all.
        """
        check_epochs([until])
        cost = self.cost(trial, until)
        if not cost:
            return trial.value_after(until)
        if not self.affords(cost):
            left = self.budget - self.spent
            raise ValueError(f"{cost} epochs are asked for, and the budget has {left} left.")
        try:
            if trial.number not in self._runs:
                trial.values.clear()
                self._runs[trial.number] = begin(self.objective, trial.settings)
            while trial.epochs < until:
                self.spent += 1
                trial.values.append(self._next(trial))
        except Exception as error:
            trial.error = f"{type(error).__name__}: {error}"
            self._runs.pop(trial.number, None)  # with its weights
            self._failed_in_a_row, self._failed_in = self._failed_in_a_row + 1, trial.epochs + 1
            if self._failed_in_a_row >= GIVE_UP:
                self._give_up(trial, error)
            return -math.inf
        except BaseException:  # Ctrl-C: its weights are lost, so it begins again when the search goes on
            self._restart(trial)
            raise
        if trial.epochs >= self._failed_in:  # an epoch that comes before says nothing of the one that fails
            self._failed_in_a_row = 0
        return trial.value_after(until)

    def retry(self, objective: Objective | None = None) -> None:
        """Have the failed trials run again, from their start, when the search goes on.

        Args:
            objective: the mended one, where it is a different function. Then trials that were paused begin again when
                they are to go on: their weights belong to the old one.
        """
        if objective:
            self.objective = objective
            self._runs.clear()
        self._failed_in_a_row = 0
        for trial in self.trials:
            if trial.failed:
                trial.error = ""
                self._restart(trial)

    @property
    def failures(self) -> list[str]:
        """A sentence on each failed trial."""
        return [
            f"Trial {trial.number} with {trial.settings} failed in epoch {trial.epochs + 1}: {trial.error}."
            for trial in self.trials
            if trial.failed
        ]

    @property
    def best(self) -> Trial:
        """The trial with the highest last value, among those that were trained longest.

        Raises:
            ValueError: when no trial has a value yet.
        """
        tried = [trial for trial in self.trials if trial.values and not trial.failed]
        if not tried and self.failures:
            raise ValueError(f"All of the {len(self.failures)} trials so far have failed. {self.failures[0]}")
        if not tried:
            raise ValueError(f"No trial has a value yet: the budget of {self.budget} epochs may be too small for one.")
        return max(tried, key=lambda trial: (trial.epochs, trial.values[-1]))

    def _restart(self, trial: Trial) -> None:
        self._runs.pop(trial.number, None)
        trial.values.clear()

    def _give_up(self, trial: Trial, error: Exception) -> None:
        kept = sum(bool(other.values) and not other.failed for other in self.trials)
        raise SearchError(
            f"{GIVE_UP} trials in a row have failed, the last one, trial {trial.number} with {trial.settings}, in "
            f"epoch {trial.epochs + 1}: {trial.error}. {kept} other trials are kept in `search.trials`. Mend the "
            "objective, call `search.retry(objective)`, then go on with the same search."
        ) from error

    def _next(self, trial: Trial) -> float:
        value = next(self._runs[trial.number], _ENDED)
        if value is _ENDED:
            raise ValueError(f"the objective yielded {trial.epochs} values and then ended")
        return number(value)


_ENDED = object()


def check_epochs(epochs: Iterable[Any]) -> None:
    """Raise ValueError for what is no ascending list of whole numbers from 1 on, at which trials could be looked at."""
    epochs = list(epochs)
    whole = all(is_whole_number(epoch) and epoch >= 1 for epoch in epochs)
    if not epochs or not whole or epochs != sorted(set(epochs)):
        listed = ", ".join(map(repr, epochs)) or "none"
        raise ValueError(
            f"A trial has epochs from 1 on, and rungs ascend, such as 1, 3, 9; what was asked for is {listed}."
        )


def random_search(search: Search, settings: Iterable[Settings], epochs: int) -> None:
    """Train each setting in full, until the budget does not afford another one. Trials that are there come first.

    With `random_settings` this is random search (Bergstra and Bengio 2012, https://jmlr.org/papers/v13/bergstra12a.html),
    with `grid_settings` a grid search, with `even_settings` a search by a Latin hypercube.

    Raises:
        ValueError: for no epochs.
    """
    check_epochs([epochs])
    for trial in [trial for trial in search.trials if not trial.failed and trial.epochs < epochs]:
        if not search.affords(search.cost(trial, epochs)):
            return
        search.train(trial, epochs)
    for setting in search.fresh(settings):
        if not search.affords(epochs):
            return
        search.train(search.start(setting), epochs)


def random_settings(space: Space, seed: int) -> Iterator[Settings]:
    """Yield settings without end; each value is drawn by itself, all with the same probability."""
    generator, space = _generator(seed), plain_space(space)
    while True:
        yield {name: generator.choice(values) for name, values in space.items()}


def even_settings(space: Space, trials: int, seed: int = 0) -> list[Settings]:
    """Return so many settings whose values are spread evenly over each axis, and combined at random.

    This is a Latin hypercube (라틴 하이퍼큐브): on each axis every n-th part of the values has one of n trials.
    Source: McKay, Beckman and Conover 1979, https://doi.org/10.1080/00401706.1979.10489755.

    Raises:
        ValueError: for fewer than one trial.
    """
    if not is_whole_number(trials) or trials < 1:
        raise ValueError(f"A search has one trial or more, but trials is {trials!r}.")
    generator = _generator(seed)
    columns = {name: _spaced(values, trials, generator) for name, values in plain_space(space).items()}
    for values in columns.values():
        generator.shuffle(values)
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def grid_settings(space: Space, trials: int, seed: int = 0) -> list[Settings]:
    """Return a grid of at most so many settings, evenly spaced on each axis, in a random order.

    Each axis gets 1, 2, 3 … values in turn, as long as the grid does not become too large. A grid has no randomness of
    its own: here the seed shifts it along each axis, so that its luck can be averaged over seeds.

    Raises:
        ValueError: for fewer than one trial.
    """
    if not is_whole_number(trials) or trials < 1:
        raise ValueError(f"A grid has one trial or more, but trials is {trials!r}.")
    space = plain_space(space)
    counts, grown = dict.fromkeys(space, 1), True
    while grown:
        grown = False
        for name, values in space.items():
            larger = counts | {name: counts[name] + 1}
            if larger[name] <= len(values) and math.prod(larger.values()) <= trials:
                counts, grown = larger, True
    generator = _generator(seed)
    axes = [_spaced(values, counts[name], generator) for name, values in space.items()]
    settings = [dict(zip(space, values, strict=True)) for values in itertools.product(*axes)]
    generator.shuffle(settings)
    return settings


def _generator(seed: int) -> random.Random:
    return random.Random(int(seed) if is_whole_number(seed) else seed)  # `random` takes none of NumPy's numbers


def _spaced(values: tuple, count: int, generator: random.Random) -> list:
    shift = generator.random()
    return [values[int((place + shift) * len(values) / count)] for place in range(count)]
