"""Comparing search methods at equal budgets, over many seeds, with error bars.

    scores = compare({"random": METHODS["random"], "ASHA": METHODS["ASHA"]}, budgets=(90,), seeds=range(400))
    print(paired(scores["ASHA"][0], scores["random"][0]).in_points())

The budget is epochs, not trials. A method sees validation images only. What is compared is the accuracy, on test
images, of the one trial that it hands over. All methods have the same seeds, so that a difference is taken in pairs.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from torchcourse.error_bars import t95
from torchcourse.lessons.tuning import replay
from torchcourse.lessons.tuning.digits_task import EPOCHS, SPACE
from torchcourse.lessons.tuning.halving import asha, successive_halving
from torchcourse.lessons.tuning.search import (
    Objective,
    Search,
    Trial,
    even_settings,
    grid_settings,
    random_search,
    random_settings,
)
from torchcourse.units import is_whole_number

Method = Callable[[Search, int], None]

METHODS: dict[str, Method] = {
    "grid": lambda search, seed: random_search(
        search, grid_settings(SPACE, max(search.budget // EPOCHS, 1), seed), EPOCHS
    ),
    "random": lambda search, seed: random_search(search, random_settings(SPACE, seed), EPOCHS),
    "evenly drawn": lambda search, seed: random_search(
        search, even_settings(SPACE, max(search.budget // EPOCHS, 1), seed), EPOCHS
    ),
    "successive halving": lambda search, seed: successive_halving(search, random_settings(SPACE, seed)),
    "ASHA": lambda search, seed: asha(search, random_settings(SPACE, seed)),
}
"""Name → what spends a search's budget on `digits_task.SPACE`, given a seed."""


def compare(
    methods: Mapping[str, Method],
    budgets: Iterable[int],
    seeds: Iterable[int],
    objective: Objective = replay.replayed,
    score: Callable[[Trial], float] | None = None,
) -> dict[str, np.ndarray]:
    """Return for each method its scores [budgets, seeds], in percent.

    Args:
        methods: name → `method(search, seed)`, which spends the budget of the search.
        budgets: epochs that a search may take.
        seeds: the same for all methods.
        objective: what is searched; by default the trained table.
        score: what the chosen trial is worth, from 0 to 1; by default its accuracy on the test images.

    Raises:
        SearchError: from an objective that raises or gives NaN.
        ValueError: for a budget that is too small for a method.
    """
    seeds, score = tuple(seeds), score or tested

    def one(method: Method, budget: int, seed: int) -> float:
        search = Search(objective, budget)
        method(search, seed)
        return 100 * score(search.best)

    budgets = tuple(budgets)
    return {
        name: np.array([[one(method, budget, seed) for seed in seeds] for budget in budgets])
        for name, method in methods.items()
    }


def tested(trial: Trial) -> float:
    """Return the accuracy on the test images, from 0 to 1, of a replayed trial as far as it was trained."""
    return float(replay.accuracies("space", "test")[(*replay.position(trial.settings), trial.epochs - 1)])


def clear_share(first: np.ndarray, second: np.ndarray, seeds: int, repeats: int = 1000, seed: int = 0) -> float:
    """Return how often an experiment with so many seeds per side finds the difference (its **power**), from 0 to 1.

    Each repeat draws `seeds` runs of each side, with replacement, and asks whether the 95% interval of the difference
    of the means leaves out zero. For a difference that is there, large is good; without one it should be 0.05.

    Raises:
        ValueError: for fewer than two seeds, and for a side that is no list of finite numbers.
    """
    if not is_whole_number(seeds) or seeds < 2:
        raise ValueError(f"An experiment with error bars has two seeds or more, but seeds is {seeds!r}.")
    sides = [np.asarray(side, dtype=float) for side in (first, second)]
    for side in sides:
        if side.ndim != 1 or not len(side) or not np.isfinite(side).all():
            raise ValueError(
                f"A side is a list of finite numbers, one per run, but this one is {side}. Give a failed run the worst "
                "value that it can have."
            )
    generator = np.random.default_rng(seed)
    draws = [generator.choice(side, (repeats, seeds)) for side in sides]
    gaps = draws[0].mean(axis=1) - draws[1].mean(axis=1)
    errors = np.sqrt(sum(draw.var(axis=1, ddof=1) for draw in draws) / seeds)
    return float(np.mean(np.abs(gaps) > t95(2 * seeds - 2) * errors))
