"""The same space and the same objective with Ray Tune, on this machine or on a Ray cluster.

    best = run(SPACE, accuracies, trials=60, epochs=9)

It needs the extra: `pip install "torchcourse[ray]"`. Ray starts its own processes, which takes about 15 seconds; a
study in a database (`study.run_workers`) is lighter for a few workers.
Source: https://docs.ray.io/en/latest/tune/index.html.
"""

import math
from typing import Any

from torchcourse.lessons.tuning._database import StudyError
from torchcourse.lessons.tuning.search import Objective, begin, number
from torchcourse.lessons.tuning.space import Space, plain_space


def run(
    space: Space, objective: Objective, trials: int, epochs: int, gpus_a_trial: float = 0, seed: int = 0
) -> tuple[dict[str, Any], float]:
    """Search by TPE with ASHA on all of Ray's workers; return the best setting and the value it reached last.

    Args:
        space: hyperparameter → its values.
        objective: yields a value after each epoch; larger is better.
        trials: how many settings to try.
        epochs: the most that a trial may take.
        gpus_a_trial: 1 gives each trial a GPU of its own, 0.5 half of one; 0 trains on CPU cores.

    Raises:
        ImportError: where Ray is not installed; the message has the command.
        StudyError: when no trial ended well.
    """
    try:
        from ray import tune
        from ray.tune.schedulers import ASHAScheduler
        from ray.tune.search.optuna import OptunaSearch
    except ImportError as error:
        raise ImportError('Ray Tune is an extra of this course: pip install "torchcourse[ray]".') from error

    def trainable(settings: dict[str, Any]) -> None:
        for value in begin(objective, settings):
            tune.report({"value": number(value)})

    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1, "gpu": gpus_a_trial}),
        param_space={name: tune.choice(list(values)) for name, values in plain_space(space).items()},
        tune_config=tune.TuneConfig(
            metric="value",
            mode="max",
            num_samples=trials,
            search_alg=OptunaSearch(seed=seed),
            scheduler=ASHAScheduler(max_t=epochs, grace_period=1, reduction_factor=3),
        ),
        run_config=tune.RunConfig(verbose=0),
    )
    results: Any = tuner.fit()  # Ray's types do not know that one may loop over it, nor that an ended trial has metrics
    ended = [
        result
        for result in results
        if result.error is None and math.isfinite((result.metrics or {}).get("value", math.nan))
    ]
    if not ended:
        raise StudyError(f"None of {trials} trials ended well; the first error: {results.errors[:1]}.")
    best = max(ended, key=lambda result: result.metrics["value"])
    return dict(best.config), best.metrics["value"]
