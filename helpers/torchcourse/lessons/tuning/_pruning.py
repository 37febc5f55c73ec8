"""Pruning that stays fair when trials fail or are killed.

Optuna's pruners compare a trial with all others, also with those that were cut short: their values stand, and no result
comes of them. A trial that was run again would be judged against its own first attempt and all that followed it. In a
study whose best trial was killed near its end, every trial could end up pruned, and none complete.
"""

import copy
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState


class FairPruner(optuna.pruners.BasePruner):
    """A pruner that leaves out failed trials, and does not end a second attempt before the epoch the first one reached.

    Args:
        pruner: the one that decides otherwise.
    """

    def __init__(self, pruner: optuna.pruners.BasePruner) -> None:
        self._pruner = pruner

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Return whether to end `trial` after the last value that it has reported."""
        without_failures = copy.copy(study)
        without_failures.__class__ = _WithoutFailures
        prune = self._pruner.prune(without_failures, trial)  # asked in any case: halving keeps a record of each answer
        return prune and (trial.last_step or 0) > _reached_before(study, trial)


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
