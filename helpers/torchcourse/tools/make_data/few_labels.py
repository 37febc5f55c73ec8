"""Train every entry of the table of lesson 07 and keep the results: `python -m torchcourse.tools.make_data.few_labels`.

It makes `lessons/transfer/tables/few_labels.npz`: for each method the accuracies and the CPU seconds, [7 numbers of
labels, 10 or 40 seeds], and before that, for the two with learning rates, what four recipes reach on validation images,
[3 numbers of labels, 4 recipes, 3 seeds]. It takes about 15 minutes of one core. The last bits may differ from
machine to machine, and with them single images.
"""

import itertools

import numpy as np
import torch

from torchcourse.lessons.transfer.few_labels import (
    LABELS,
    METHODS,
    RECIPES,
    SEEDS,
    TABLE,
    TUNED_AT,
    TUNING_SEEDS,
    Recipe,
    best_recipe,
    run,
    validated,
)
from torchcourse.tools.make_data.provenance import processes, save_table


def tried(job: tuple[str, int, Recipe, int]) -> float:
    """Train with one recipe on one thread; return the accuracy on validation images."""
    torch.set_num_threads(1)
    method, per_class, recipe, seed = job
    return validated(method, per_class, seed, recipe)


def entry(job: tuple[str, int, int, Recipe | None]) -> tuple[float, float]:
    """Train one entry of the table on one thread; return accuracy and seconds."""
    torch.set_num_threads(1)
    method, per_class, seed, recipe = job
    result = run(method, per_class, seed, recipe)
    return result.accuracy, result.seconds


def main() -> None:
    arrays = {}
    with processes("Train the table of labels against accuracy.") as pool:
        for method, recipes in RECIPES.items():
            print(f"{method}: {len(recipes)} recipes", flush=True)
            trials = itertools.product([method], TUNED_AT, recipes, TUNING_SEEDS)
            scores = np.array(list(pool.map(tried, trials)))
            arrays[f"{method}/tuning"] = scores.reshape(len(TUNED_AT), len(recipes), len(TUNING_SEEDS))
        tuning = {method: arrays[f"{method}/tuning"] for method in RECIPES}
        for method in METHODS:
            print(f"{method}: {len(LABELS)} numbers of labels, {SEEDS[method]} seeds", flush=True)
            jobs = [
                (method, count, seed, best_recipe(method, count, tuning) if method in RECIPES else None)
                for count, seed in itertools.product(LABELS, range(SEEDS[method]))
            ]
            values = np.array(list(pool.map(entry, jobs))).reshape(len(LABELS), SEEDS[method], 2)
            arrays[f"{method}/accuracy"], arrays[f"{method}/seconds"] = values[..., 0], values[..., 1]
    save_table(TABLE, "few_labels", arrays)


if __name__ == "__main__":
    main()
