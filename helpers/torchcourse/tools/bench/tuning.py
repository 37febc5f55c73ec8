"""Search methods at equal budgets: those that the course writes by hand, and Optuna's, on the trained table."""

import time

import numpy as np
import optuna

from torchcourse.error_bars import paired, standard_error, t95
from torchcourse.lessons.tuning.comparison import METHODS, Method, compare
from torchcourse.lessons.tuning.digits_task import EPOCHS, SPACE
from torchcourse.lessons.tuning.search import Search
from torchcourse.lessons.tuning.study import suggest
from torchcourse.tools.bench.report import Table

BUDGETS = (54, 90, 270)
SEEDS = range(40)


def table() -> Table:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    halving = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    methods = METHODS | {
        "Optuna: TPE": _optuna(optuna.pruners.NopPruner()),
        "Optuna: TPE, successive halving": _optuna(halving),
    }
    scores: dict[str, np.ndarray] = {}
    seconds: dict[str, float] = {}
    for name, method in methods.items():
        start = time.process_time()
        scores |= compare({name: method}, BUDGETS, SEEDS)
        seconds[name] = (time.process_time() - start) / (len(BUDGETS) * len(SEEDS))
    rows = []
    for name, values in scores.items():
        halves = t95(len(SEEDS) - 1) * standard_error(values)
        cells = [f"{mean:.2f} ± {half:.2f}%" for mean, half in zip(values.mean(axis=1), halves, strict=True)]
        gain = paired(values[1], scores["random"][1])
        rows.append([name, *cells, "–" if name == "random" else gain.in_points(), f"{1e3 * seconds[name]:.1f} ms"])
    columns = ["method", *(f"{budget} epochs" for budget in BUDGETS)]
    return Table(
        "Search methods at equal budgets",
        [*columns, f"against random, in pairs, {BUDGETS[1]} epochs", "its own CPU time a search"],
        rows,
        "Test accuracy of the trial that the search hands over, chosen on validation images: mean and 95% interval "
        f"over {len(SEEDS)} seeds. 780 settings of a network for digits, of at most {EPOCHS} epochs each, trained once "
        "(`lessons/tuning/tables/digits.npz`) and replayed.",
    )


def _optuna(pruner: optuna.pruners.BasePruner) -> Method:
    """Return Optuna as a method: its sampler and its pruner, on the same search, which counts the epochs."""

    def method(search: Search, seed: int) -> None:
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=False)
        study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
        while search.affords(EPOCHS):
            asked = study.ask()
            trial = search.start(suggest(asked, SPACE))
            for epoch in range(1, EPOCHS + 1):
                asked.report(search.train(trial, epoch), epoch)
                if asked.should_prune():
                    break
            pruned = trial.epochs < EPOCHS
            state = optuna.trial.TrialState.PRUNED if pruned else optuna.trial.TrialState.COMPLETE
            study.tell(asked, None if pruned else trial.values[-1], state=state)

    return method
