"""Pruning when trials are killed or fail: such a trial neither ends others, nor is ended by its own first attempt."""

import optuna
import pytest
from optuna.trial import TrialState

from torchcourse.lessons.tuning._database import run_again
from torchcourse.lessons.tuning._pruning import FairPruner
from torchcourse.lessons.tuning.study import StudyError, _follow, open_study, run, suggest

SPACE = {"lr": (0.001, 0.01, 0.1, 1.0)}

SLOW_STARTER = (0.5, 0.8, 0.9, 0.95)
QUICK_STARTER = (0.6, 0.7, 0.75, 0.8)

PRUNERS = {
    "halving": None,
    "halving, half of them": optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
    "hyperband": optuna.pruners.HyperbandPruner(min_resource=1, max_resource=4, reduction_factor=3),
    "median": optuna.pruners.MedianPruner(n_startup_trials=1),
    "percentile": optuna.pruners.PercentilePruner(25, n_startup_trials=1),
}


def quick(settings):
    yield from QUICK_STARTER


def slow(settings):
    yield from SLOW_STARTER


def fails_late(settings):
    yield from SLOW_STARTER[:3]
    raise RuntimeError("out of memory")


def a_trial_that_dies_after(study, epoch):
    """Leave a trial in the study as a kill does: it runs, and its pruner has let it go on so far."""
    trial = study.ask()
    suggest(trial, SPACE)
    for number, value in enumerate(SLOW_STARTER[:epoch], 1):
        trial.report(value, number)
        assert not trial.should_prune()
    return trial


@pytest.mark.parametrize("pruner", PRUNERS.values(), ids=PRUNERS)
@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_trial_that_is_run_again_gets_as_far_as_before(pruner, epoch):
    study = open_study(None, SPACE, pruner=pruner)
    dead = a_trial_that_dies_after(study, epoch)
    for _ in range(4):  # `run` would wait for the dead one
        study.optimize(lambda trial: _follow(trial, quick, study, 0), n_trials=1)
    study.tell(dead, state=TrialState.FAIL)
    run_again(study, study.trials[0])
    run(study, slow, 5, progress=False)
    second = study.trials[-1]
    assert second.user_attrs["again"] == 0
    assert second.last_step > epoch
    assert study.best_value in (SLOW_STARTER[-1], QUICK_STARTER[-1])


def test_a_trial_cut_short_twice_gets_as_far_as_its_best_attempt():
    study = optuna.create_study(direction="maximize", pruner=FairPruner(optuna.pruners.ThresholdPruner(lower=2)))
    for number, reached in enumerate((3, 1)):
        trial = study.ask()
        if number:
            trial.set_user_attr("again", number - 1)
        for epoch in range(1, reached + 1):
            trial.report(0.5, epoch)
        study.tell(trial, state=TrialState.FAIL)
    third = study.ask()
    third.set_user_attr("again", 1)
    pruned = []
    for epoch in range(1, 6):
        third.report(0.5, epoch)
        pruned.append(third.should_prune())
    assert pruned == [False, False, False, True, True]


def test_what_a_failed_trial_reported_ends_no_other():
    study = open_study(None, SPACE)
    objectives = iter([fails_late, quick])
    run(study, lambda settings: next(objectives)(settings), 1, progress=False)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]


def test_a_study_without_a_result_says_so():
    study = open_study(None, SPACE, pruner=optuna.pruners.ThresholdPruner(lower=2))
    with pytest.raises(StudyError, match=r"No trial of the study is complete \(no trial yet\)"):
        _ = study.best_params
    run(study, quick, 3, progress=False)
    with pytest.raises(StudyError, match=r"complete \(3 pruned\), so none is the best: run more trials"):
        _ = study.best_params
