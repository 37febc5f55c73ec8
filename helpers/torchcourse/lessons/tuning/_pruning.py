"""Pruning and sampling that stay fair when trials fail or are killed.

Optuna's pruners compare a trial with all others, also with those that were cut short: their values stand, and no result
comes of them. A trial that was run again would be judged against its own first attempt and all that followed it. In a
study whose best trial was killed near its end, every trial could end up pruned, and none complete. Its sampler sees no
failed trials.
"""

import copy
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState


class FairPruner(optuna.pruners.BasePruner):
    """A pruner that leaves out failed trials, and does not end a second attempt before the epoch the first one reached.

    Args:
        pruner: the one that decides otherwise.

    Raises:
        ValueError: for what is no pruner, such as its name or its class.
    """

    def __init__(self, pruner: optuna.pruners.BasePruner) -> None:
        if not isinstance(pruner, optuna.pruners.BasePruner):
            raise ValueError(f"A pruner is one of Optuna's, such as optuna.pruners.NopPruner(), but not {pruner!r}.")
        self._pruner = pruner

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Return whether to end `trial` after the last value that it has reported."""
        without_failures = copy.copy(study)
        without_failures.__class__ = _WithoutFailures
        prune = self._pruner.prune(without_failures, trial)  # asked in any case: halving keeps a record of each answer
        return prune and (trial.last_step or 0) > _reached_before(study, trial)


class LearnsFromFailures(optuna.samplers.TPESampler):
    """TPE that takes failed trials for the worst. Optuna's own does not see them, and proposes the like again."""

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: dict) -> dict[str, Any]:
        return super().sample_relative(_with_failures(study), trial, search_space)

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, *parameter: Any) -> Any:
        return super().sample_independent(_with_failures(study), trial, *parameter)


def _reached_before(study: optuna.Study, trial: FrozenTrial) -> int:
    """The last epoch of the earlier attempts at this trial, which the pruner had let go on; 0 without any."""
    reached, trials = 0, study.get_trials(deepcopy=False)
    while (number := trial.user_attrs.get("again")) is not None:
        trial = trials[number]
        reached = max(reached, trial.last_step or 0)
    return reached


class _WithoutFailures(optuna.Study):
    def _get_trials(self, deepcopy: bool = True, states: Any = None, use_cache: bool = False) -> list[FrozenTrial]:
        trials = super()._get_trials(deepcopy, states, use_cache)
        return [trial for trial in trials if trial.state != TrialState.FAIL]


def _with_failures(study: optuna.Study) -> optuna.Study:
    """Return the study as a sampler is to see it: a failed trial as one that was pruned before its first value."""
    seen = copy.copy(study)
    seen.__class__ = _FailuresArePruned
    return seen


class _FailuresArePruned(optuna.Study):
    def _get_trials(self, deepcopy: bool = True, states: Any = None, use_cache: bool = False) -> list[FrozenTrial]:
        trials = super()._get_trials(deepcopy, states, use_cache)
        if states is None or TrialState.PRUNED not in states:
            return trials
        failed = [copy.copy(trial) for trial in super()._get_trials(False, (TrialState.FAIL,))]
        failed = [trial for trial in failed if "error" in trial.user_attrs]
        for trial in failed:
            trial.state, trial.intermediate_values = TrialState.PRUNED, {}
        return sorted([*trials, *failed], key=lambda trial: trial.number)
