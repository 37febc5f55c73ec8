"""Pictures of studies show what is in them."""

from typing import Any

import numpy as np
import optuna
import pytest

from torchcourse.figures import COLORS
from torchcourse.lessons.tuning import replay, selection, selection_picture
from torchcourse.lessons.tuning.digits_task import BATCHES, SPACE
from torchcourse.lessons.tuning.study import open_study, run
from torchcourse.lessons.tuning.study_picture import (
    draw_history,
    draw_importance,
    draw_parallel,
    draw_slices,
    history_finding,
    importances,
    parallel_finding,
)


@pytest.fixture(scope="module")
def study():
    return run(open_study(None, SPACE), replay.replayed, 40)


def complete(study):
    return [trial for trial in study.trials if trial.state.name == "COMPLETE"]


def test_the_history_has_each_trial_and_the_best_so_far(study):
    axis: Any = draw_history(study).axes[0]  # its lines and patches are typed too loosely
    dots, pruned, best = axis.lines
    assert len(dots.get_xdata()) + len(pruned.get_xdata()) == 40
    assert max(dots.get_ydata()) == best.get_ydata()[-1] == study.best_value
    assert f"{study.best_value:.3f}, is trial {study.best_trial.number}" in axis.get_title()
    assert history_finding(open_study(None, SPACE)) == "No trial is complete yet, 0 were pruned"


def test_importance_is_a_share_of_whole_trials_and_every_study_is_a_dot(study):
    whole = run(open_study(None, SPACE, pruner=optuna.pruners.NopPruner()), replay.replayed, 20)
    shares = [importances(whole, SPACE), {"lr": 0.1, "width": 0.7, "optimizer": 0.1, "weight_decay": 0.1}]
    assert sum(shares[0].values()) == pytest.approx(1)
    axis: Any = draw_importance(shares).axes[0]
    assert len(axis.lines) == 2
    assert [bar.get_width() for bar in axis.patches] == pytest.approx(
        [np.mean([share[name] for share in shares]) for name in SPACE]
    )
    with pytest.raises(ValueError, match="run the study further"):
        importances(open_study(None, SPACE), SPACE)
    with pytest.raises(ValueError, match=r"trials of this study were pruned, the bad ones.*NopPruner"):
        importances(study, SPACE)


@pytest.mark.parametrize(("direction", "sign"), [("maximize", 1), ("minimize", -1)])
def test_a_rate_that_fails_is_important_and_the_best_is_so_in_both_directions(direction, sign):
    """Among the others width alone matters: without the failed ones the rate had a share of 0.01."""
    space = {"width": (8, 16, 32), "lr": (0.001, 0.01, 0.1, 1.0)}
    study = open_study(None, space, direction=direction, pruner=optuna.pruners.NopPruner())
    nan = float("nan")
    run(study, lambda tried: [nan if tried["lr"] > 0.05 else sign * tried["width"]], 30, progress=False)
    failed = sum(trial.state.name == "FAIL" for trial in study.trials)
    assert failed > 2
    assert importances(study, space)["lr"] > 0.2
    assert parallel_finding(study, space) == "30 complete; the best 6: width 32"
    assert draw_parallel(study, space).axes[0].lines[-1].get_linewidth() > 2


def test_parallel_coordinates_have_a_line_for_each_trial(study):
    lines = draw_parallel(study, SPACE).axes[0].lines
    assert len(lines) == 40
    assert sum(str(line.get_color()) == COLORS["light gray"] for line in lines) == 40 - len(complete(study))
    assert lines[-1].get_ydata()[0] == study.best_trial.params["lr"] / 12


def test_a_study_without_a_finished_trial_is_drawn_empty():
    empty = open_study(None, SPACE)
    assert draw_parallel(empty, SPACE).axes[0].get_title() == "No trial is complete yet"
    draw_history(empty)
    draw_slices(empty, SPACE)


def test_slices_have_a_panel_for_each_hyperparameter(study):
    axes: Any = draw_slices(study, SPACE).axes
    assert [axis.get_xlabel() for axis in axes] == list(SPACE)
    assert all(len(axis.collections[1].get_offsets()) == len(complete(study)) for axis in axes)


def test_the_chosen_one_is_the_best_on_validation():
    order = np.random.default_rng(1).permutation(780)
    val, test = (part[0][order] for part in selection.own_split())
    scores = selection.chosen_scores(val, test)
    for trials in (*range(1, 100), 300, 780):
        where = np.unravel_index(val[:trials].argmax(), (trials, 9))
        assert tuple(scores[trials - 1]) == (val[where], test[where])


@pytest.mark.slow
def test_a_new_split_counts_the_same_images_anew():
    val, test = selection.split_accuracies(splits=3, validation=400, seed=4)
    right = replay.right_images().reshape(780, 9, 1297)
    assert (right.sum(axis=-1) == np.rint(400 * val[1] + 897 * test[1])).all()
    first = np.random.default_rng(4).permutation(1297)[:400]
    assert np.allclose(val[0], right[..., first].mean(axis=-1))
    assert (right[..., :500].mean(axis=-1) == selection.own_split()[0][0]).all()
    with pytest.raises(ValueError, match="1 to 1296 of the 1297 images, but not 1297"):
        selection.split_accuracies(1, validation=1297)


def test_over_many_splits_the_choice_gets_better_and_its_score_too_good():
    scores = selection.mean_scores(*selection.split_accuracies(40), orders=4)
    val, test = (scores[:, 779] - scores[:, 49]).T
    assert 0.001 < test.mean() < val.mean()
    assert 0.02 < (test < -0.002).mean() < 0.4  # and one split in several shows the opposite


def test_the_pictures_of_the_table():
    scores = selection.mean_scores(*selection.split_accuracies(3), orders=2)
    picture = selection_picture.draw_selection(20, scores, scores[0]).axes[0]
    assert f"{100 * scores[:, 19, 0].mean():.1f}% on validation" in picture.get_title()
    with pytest.raises(ValueError, match="1 to 780"):
        selection_picture.draw_selection(0, scores, scores[0])
    rates = selection_picture.draw_rates(64).axes[0]
    assert len(rates.lines) == len(BATCHES)
    window = selection.window(64)
    assert 0.001 < window[0] < window[-1] < 1


def test_numbers_that_are_not_in_order_are_drawn_at_their_places():
    space = {"width": (32, 8, 16)}
    study = open_study(None, space)
    for width in space["width"]:
        study.enqueue_trial({"width": width})
    run(study, lambda settings: iter([settings["width"] / 32]), 3)
    dots = [tuple(dot) for part in draw_slices(study, space).axes[0].collections for dot in part.get_offsets()]
    assert sorted(dots) == [(0, 1.0), (1, 0.25), (2, 0.5)]
