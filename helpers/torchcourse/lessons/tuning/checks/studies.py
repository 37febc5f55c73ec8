"""Checks of lesson 03, notebook 2: studies. Each names the symptom of a mistake.

In the notebook's order: `objective`, `revive`, `sampler_of`, `honest`, `main_effect`.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState

from torchcourse.checks import Wrong, check

EPOCHS = 9


@check
def objective(learner: Callable[..., float]) -> str:
    """Run 30 trials on planted curves with a strict pruner; count the epochs that were trained."""
    trained, pruned = 0, 0
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.RandomSampler(seed=3),
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
    )
    for _ in range(30):
        trial, seen = study.ask(), []
        try:
            value = learner(trial, lambda rate, seen=seen: planted(rate, seen))
        except optuna.TrialPruned:
            value = None
        _judge_trial(study.trials[-1], seen, value)
        study.tell(trial, value, state=TrialState.PRUNED if value is None else TrialState.COMPLETE)
        trained, pruned = trained + len(seen), pruned + (value is None)
    if not pruned:
        raise Wrong("never_pruned", f"30 trials, {trained} epochs: no trial was ended early. Who asks the pruner?")
    near = abs(math.log10(study.best_params["lr"]) + 2)
    if near > 0.5:
        raise Wrong("not_found", f"The best learning rate found is {study.best_params['lr']:.2g}; 0.01 is best here.")
    return f"The planted optimum was found in {trained} epochs; {30 * EPOCHS} without pruning."


def planted(rate: float, seen: list[float]) -> Iterator[float]:
    """Yield the accuracies of a made-up training, best at 0.01; each epoch that is trained is put into `seen`."""
    height = 0.95 - 0.25 * abs(math.log10(rate) + 2)
    for epoch in range(1, EPOCHS + 1):
        seen.append(height * (1 - 0.5**epoch))
        yield seen[-1]


@check
def revive(learner: Callable[..., None]) -> str:
    """Let it mend a study with finished, failed, living and dead trials; then ask for the next ones; then once more."""
    study, alive, dead = _study_after_a_crash()
    settings = [trial.params for trial in study.trials]
    learner(study, alive)
    for number, trial in enumerate(study.trials):
        if number in alive and trial.state != TrialState.RUNNING:
            raise Wrong(
                "killed_the_living", f"A worker is still training trial {number}, and you made it {trial.state.name}."
            )
        if number in dead and trial.state != TrialState.FAIL:
            raise Wrong(
                "left_running",
                f"Nobody trains trial {number} any more, and it is {trial.state.name}. It has failed, for good.",
            )
    once = _waiting(study)
    learner(study, alive)
    if _waiting(study) > once:
        raise Wrong(
            "twice", f"Called a second time, it puts trials into the queue again: first {once}, then {_waiting(study)}."
        )
    _judge_queue(study, dead, settings)
    return f"{len(dead)} dead trials wait to be run again; finished, failed and living ones are as they were."


@check
def sampler_of(learner: Callable[[int, int, int], optuna.samplers.BaseSampler]) -> str:
    """Draw the first settings of several workers, and of a worker that comes back."""
    if not isinstance(learner(0, 0, 0), optuna.samplers.BaseSampler):
        raise Wrong("no_sampler", "Return a sampler of Optuna, such as TPESampler(seed=…).")
    if _draw(learner(7, 1, 3)) != _draw(learner(7, 1, 3)):
        raise Wrong("not_repeatable", "The same seed, worker and count draw something else the second time.")
    if _draw(learner(7, 0, 0)) == _draw(learner(7, 1, 0)):
        raise Wrong("same_for_workers", "Workers 0 and 1 draw the same setting: every trial would be run twice.")
    if _draw(learner(7, 0, 0)) == _draw(learner(7, 0, 12)):
        raise Wrong(
            "same_on_resume",
            "A worker that comes back after 12 trials draws what it drew first: a resumed study repeats.",
        )
    if _draw(learner(7, 1, 5)) == _draw(learner(8, 1, 5)):
        raise Wrong("seed_ignored", "Two searches with the seeds 7 and 8 draw the same.")
    draws: dict[float, tuple] = {}
    for key in itertools.product((0, 1), range(4), range(12)):
        other = draws.setdefault(_draw(learner(*key)), key)
        if other != key:
            raise Wrong(
                "collide",
                f"(seed, worker, count) = {other} and {key} draw the same. Three numbers that are added up lose who is "
                "who.",
            )
    return f"{len(draws)} combinations of seed, worker and count draw {len(draws)} different settings, repeatably."


@check
def honest(learner: Callable[[np.ndarray, np.ndarray], float]) -> str:
    """Choose on validation, report on test: compare on random tables."""
    generator = np.random.default_rng(5)
    for trials, epochs in ((12, 9), (40, 3), (1, 4), (200, 9)):
        val, test = (generator.uniform(0.6, 0.98, (trials, epochs)) for _ in range(2))
        given = learner(val.copy(), test.copy())
        if not isinstance(given, float | int | np.floating):
            raise Wrong("no_number", f"Return one accuracy. You returned {type(given).__name__}.")
        chosen = np.unravel_index(val.argmax(), val.shape)
        if not math.isclose(given, test[chosen], abs_tol=1e-9):
            _judge_honest(float(given), val, test)
    return "Chosen on validation alone, reported on images that chose nothing: four tables."


@check
def main_effect(learner: Callable[[np.ndarray, int], float]) -> str:
    """Compare with the variance of an axis's means over the variance of the whole table."""
    generator = np.random.default_rng(2)
    for shape in ((4, 3), (2, 5, 3), (3, 2, 2, 4)):
        table = generator.random(shape) + generator.random((shape[0],) + (1,) * (len(shape) - 1))
        for axis in range(len(shape)):
            given = float(learner(table.copy(), axis))
            others = tuple(other for other in range(len(shape)) if other != axis)
            means = table.mean(axis=others)
            if not math.isclose(given, means.var() / table.var(), rel_tol=1e-6):
                _judge_effect(given, table, means, axis)
    return "The share of each axis, on tables of two, three and four hyperparameters."


def _judge_trial(trial: optuna.trial.FrozenTrial, seen: list[float], value: Any) -> None:
    reported = list(trial.intermediate_values.values())
    if "lr" not in trial.params:
        raise Wrong("no_lr", "The trial has no hyperparameter named lr: ask the trial to suggest one.")
    kind = trial.distributions["lr"]
    if isinstance(kind, IntDistribution) or not isinstance(kind, FloatDistribution) or not kind.log:
        raise Wrong("not_log", "The learning rate is not drawn on a log scale: nine of ten draws would be above 0.1.")
    if (kind.low, kind.high) != (1e-4, 1.0):
        raise Wrong("range", f"The learning rate goes from {kind.low:g} to {kind.high:g}, not from 1e-4 to 1.")
    if not seen:
        raise Wrong("not_trained", "Nothing was trained: `train(lr)` gives an accuracy for each epoch.")
    if not reported:
        raise Wrong("no_report", f"{len(seen)} epochs were trained, and the pruner heard of none of them.")
    if value is not None and len(reported) == 1 < len(seen):
        raise Wrong("one_step", f"{len(seen)} epochs were trained, but all are reported as the same step, or only one.")
    if value is None and len(seen) > len(reported):
        raise Wrong(
            "trained_already", f"Pruned after report {len(reported)}, when all {len(seen)} epochs were trained already."
        )
    if not np.allclose(reported, seen[: len(reported)]):
        raise Wrong("other_value", f"Reported: {reported[0]:.3f}, after an epoch with the accuracy {seen[0]:.3f}.")
    if value is not None and len(seen) < EPOCHS:
        raise Wrong(
            "not_pruned", "A trial that was ended early returned a value: it counts as complete, and it is not."
        )
    if value is None:
        return
    if not isinstance(value, float) or not math.isclose(value, seen[-1]):
        raise Wrong("value", f"Return the accuracy of the last epoch ({seen[-1]:.3f}). You returned {value!r}.")


def _study_after_a_crash() -> tuple[optuna.Study, set[int], list[int]]:
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(7):
        trial = study.ask()
        trial.suggest_float("lr", 1e-4, 1, log=True)
        trial.suggest_int("width", 4, 64)
    study.tell(0, 0.91)
    study.tell(2, state=TrialState.PRUNED)
    study.tell(5, state=TrialState.FAIL)  # its objective raised: to run it again would raise again
    return study, {3, 6}, [1, 4]


def _waiting(study: optuna.Study) -> int:
    return sum(trial.state == TrialState.WAITING for trial in study.trials)


def _judge_queue(study: optuna.Study, dead: list[int], settings: list[dict]) -> None:
    if not _waiting(study):
        raise Wrong(
            "not_again", "The dead trials are marked, and nothing waits to be run again: their settings are lost."
        )
    asked = []
    for _ in range(_waiting(study)):
        trial = study.ask()
        asked.append({"lr": trial.suggest_float("lr", 1e-4, 1, log=True), "width": trial.suggest_int("width", 4, 64)})
    if settings[5] in asked:
        raise Wrong("failed_again", "Trial 5 had failed by itself, with an error, and now it waits to fail again.")
    if any(settings[number] in asked for number in (3, 6)):
        raise Wrong("living_again", "A trial that a worker is still training waits to be run a second time.")
    if sorted(map(str, asked)) != sorted(str(settings[number]) for number in dead):
        raise Wrong(
            "other_settings", f"{len(dead)} dead trials had other settings than the {len(asked)} that wait now."
        )


def _draw(sampler: optuna.samplers.BaseSampler) -> float:
    return optuna.create_study(sampler=sampler).ask().suggest_float("lr", 0, 1)


def _judge_honest(given: float, val: np.ndarray, test: np.ndarray) -> None:
    chosen = np.unravel_index(val.argmax(), val.shape)
    if math.isclose(given, val.max()):
        raise Wrong(
            "validation", f"{given:.3f} is the score that chose. It is the best of {val.size} for being so lucky."
        )
    if math.isclose(given, test.max()):
        raise Wrong("test_chose", f"{given:.3f} is the best test score of all: now the test images have chosen.")
    if math.isclose(given, test[chosen[0], -1]) or math.isclose(given, test[val[:, -1].argmax(), -1]):
        raise Wrong(
            "last_epoch", "The epoch belongs to the choice too: the state that was kept is not that of the last."
        )
    if math.isclose(given, test[chosen[0]].max()):
        raise Wrong("test_chose_epoch", "The trial was chosen on validation, but its epoch by the test images.")
    raise Wrong("other", f"The chosen state scores {test[chosen]:.3f} on the test images; you report {given:.3f}.")


def _judge_effect(given: float, table: np.ndarray, means: np.ndarray, axis: int) -> None:
    if math.isclose(given, means.var(), rel_tol=1e-6):
        raise Wrong("no_share", f"{given:.4f} is a variance. A share compares it with the variance of the whole table.")
    if math.isclose(given, means.std() / table.std(), rel_tol=1e-6):
        raise Wrong("deviation", "You divide standard deviations. Shares add up for variances only.")
    if math.isclose(given, table.mean(axis=axis).var() / table.var(), rel_tol=1e-6):
        raise Wrong("wrong_axis", "You averaged over the axis itself: what is left is the effect of all the others.")
    if math.isclose(given, (means.max() - means.min()) / (table.max() - table.min()), rel_tol=1e-6):
        raise Wrong("range", "Ranges grow with the number of values. Use variances.")
    raise Wrong("other", f"For axis {axis} of a table of the shape {table.shape} the share is not {given:.4f}.")
