"""Searches by hand: the budget holds, trials are paused and continued, a failure ends none, and a cut one goes on."""

import itertools
import math
import threading
from decimal import Decimal

import numpy as np
import pytest
import torch

from torchcourse.lessons.tuning import study
from torchcourse.lessons.tuning.digits_task import SPACE
from torchcourse.lessons.tuning.halving import asha, successive_halving
from torchcourse.lessons.tuning.search import (
    Search,
    SearchError,
    even_settings,
    grid_settings,
    random_search,
    random_settings,
)
from torchcourse.lessons.tuning.search_picture import curves_finding

LEVELS = {"level": tuple(range(100))}


def rising(settings):
    """Yield values that rise to the setting's level; what is better at the end is better after each epoch."""
    for epoch in range(1, 10):
        yield settings["level"] * epoch / 9


def levels(*numbers):
    return [{"level": number} for number in numbers]


def test_a_random_search_trains_in_full_and_keeps_to_its_budget():
    search = Search(rising, budget=31)
    random_search(search, levels(5, 80, 20, 99), epochs=9)
    assert [trial.epochs for trial in search.trials] == [9, 9, 9]
    assert search.spent == 27
    assert search.best.settings == {"level": 80}


def test_settings_stay_as_they_were_drawn():
    """One dict for all settings, and an objective that takes its settings apart."""

    def drawn():
        shared = {}
        for shared["level"] in (1, 2, 3):
            yield shared

    search = Search(lambda settings: [settings.pop("level")], budget=4)
    random_search(search, drawn(), epochs=1)
    assert [trial.settings for trial in search.trials] == levels(1, 2, 3)
    lock = threading.Lock()  # of what cannot be copied, the objective gets the same one
    assert search.train(search.start({"level": 4, "lock": lock}), 1) == 4
    assert search.trials[-1].settings["lock"] is lock


def test_a_search_goes_on_where_it_stopped():
    trained = []

    def counted(settings):
        for value in rising(settings):
            trained.append(settings["level"])
            yield value

    search = Search(counted, budget=9)
    trial = search.start({"level": 9})
    assert search.train(trial, 3) == 3
    assert search.train(trial, 9) == 9
    assert len(trained) == search.spent == 9
    with pytest.raises(ValueError, match="1 epochs are asked for, and the budget has 0 left"):
        search.train(search.start({"level": 1}), 1)


def test_the_best_is_the_highest_last_value_of_those_that_were_trained_longest():
    search = Search(lambda settings: settings["values"], budget=20)
    for values in ([0.9, 0.1, 0.5], [0.2, 0.9, 0.6], [0.99]):
        search.train(search.start({"values": values}), len(values))
    assert search.best.number == 1


def test_nothing_tried_has_no_best():
    with pytest.raises(ValueError, match="No trial has a value yet: the budget of 5 epochs"):
        _ = Search(rising, budget=5).best


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0.5, float("nan")], "epoch 2: ValueError: a value is NaN"),
        ([0.5, float("inf")], "epoch 2: ValueError: a value is infinite"),
        ([0.5], "epoch 2: ValueError: the objective yielded 1 values and then ended"),
        ([0.5, None], "epoch 2: ValueError: a value has to be one number, and the objective yielded None"),
        ([0.5, "high"], "epoch 2: ValueError: a value has to be one number, and the objective yielded 'high'"),
        ([], "epoch 1: ValueError"),
    ],
)
def test_a_trial_that_fails_is_named_and_the_search_goes_on(values, words):
    search = Search(lambda settings: values if settings["level"] == 7 else rising(settings), budget=90)
    random_search(search, levels(3, 5, 7, 9), epochs=9)
    assert [trial.epochs for trial in search.trials] == [9, 9, len(values[:1]), 9]
    assert search.best.settings == {"level": 9}
    assert len(search.failures) == 1
    assert search.failures[0].startswith("Trial 2 with {'level': 7} failed in ")
    assert words in search.failures[0]


METHODS = (lambda search, settings: random_search(search, settings, 9), asha, successive_halving)


def diverging(settings):
    """Every third level falls apart, in the first epoch or later."""
    for epoch, value in enumerate(rising(settings)):
        yield float("nan") if settings["level"] % 3 == 0 and epoch >= settings["level"] % 4 else value


@pytest.mark.parametrize("method", METHODS)
def test_no_method_is_ended_by_trials_that_fall_apart(method):
    search = Search(diverging, budget=200)
    method(search, random_settings(LEVELS, seed=2))
    assert 200 - 9 < search.spent <= 200 or method is successive_halving
    assert search.failures
    assert {trial.settings["level"] % 3 == 0 for trial in search.trials if trial.epochs == 9} == {False}
    assert search.best.epochs == 9
    assert f"{len(search.failures)} failed" in curves_finding(search)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("cut", [0, 1, 4, 11, 40, 77])
def test_a_search_that_was_stopped_goes_on_to_the_same_end(method, cut):
    whole, search, epochs = Search(diverging, 120), Search(diverging, 120), itertools.count()

    def interrupted(settings):
        for value in diverging(settings):
            if next(epochs) == cut:
                raise KeyboardInterrupt
            yield value

    method(whole, random_settings(LEVELS, seed=5))
    search.objective = interrupted
    with pytest.raises(KeyboardInterrupt):
        method(search, random_settings(LEVELS, seed=5))
    search.objective = diverging
    search.budget += search.spent - sum(trial.epochs + trial.failed for trial in search.trials)  # what the cut has cost
    method(search, random_settings(LEVELS, seed=5))
    assert [trial.settings for trial in search.trials] == [trial.settings for trial in whole.trials]
    assert [trial.values for trial in search.trials] == [trial.values for trial in whole.trials]


@pytest.mark.parametrize("method", METHODS)
def test_a_broken_objective_ends_a_search_that_goes_on_when_it_is_mended(method):
    def broken(settings):
        yield 0.1
        raise MemoryError("too wide")

    search = Search(broken, budget=150)
    with pytest.raises(
        SearchError, match=r"10 trials in a row .* in epoch 2: MemoryError: too wide\. \d+ other"
    ) as told:
        method(search, random_settings(LEVELS, seed=1))
    assert "search.retry(objective)" in str(told.value)
    begun = [trial.settings for trial in search.trials]
    search.retry(rising)
    assert not search.failures
    method(search, random_settings(LEVELS, seed=1))
    assert [trial.settings for trial in search.trials[: len(begun)]] == begun
    wanted = list(itertools.islice(random_settings(LEVELS, seed=1), len(search.trials)))
    assert [trial.settings for trial in search.trials] == wanted
    assert all(trial.epochs for trial in search.trials)
    assert search.best.epochs == 9


def test_a_search_where_everything_failed_says_so():
    search = Search(lambda settings: [float("nan")], budget=5)
    random_search(search, levels(4), epochs=1)
    with pytest.raises(ValueError, match=r"All of the 1 trials so far have failed\. Trial 0 with .* NaN"):
        _ = search.best


def test_asha_ends_with_its_settings():
    search = Search(rising, budget=500)
    asha(search, levels(1, 3, 2, 5))
    assert len(search.trials) == 4


def test_random_settings_belong_to_the_space_and_to_the_seed():
    first, again, other = (list(itertools.islice(random_settings(SPACE, seed), 200)) for seed in (4, 4, 5))
    assert first == again != other
    for name, values in SPACE.items():
        assert {setting[name] for setting in first} == set(values)


@pytest.mark.parametrize("trials", [1, 2, 10, 60, 780, 5000])
def test_a_grid_is_full_even_and_no_larger_than_asked(trials):
    settings = grid_settings(SPACE, trials, seed=3)
    axes = {name: {setting[name] for setting in settings} for name in SPACE}
    assert len(settings) <= trials
    assert len({tuple(setting.values()) for setting in settings}) == len(settings)
    product = 1
    for name in SPACE:
        product *= len(axes[name])
    assert product == len(settings)
    if trials >= 780:
        assert len(settings) == 780
    assert grid_settings(SPACE, trials, seed=3) == settings


@pytest.mark.parametrize("trials", [1, 2, 10, 26, 780])
def test_even_settings_give_each_part_of_each_axis_its_share(trials):
    settings = even_settings(SPACE, trials, seed=3)
    assert len(settings) == trials
    for name, values in SPACE.items():
        counts = [sum(setting[name] == value for setting in settings) for value in values]
        assert max(counts) - min(counts) <= 1
    assert even_settings(SPACE, trials, seed=3) == settings
    assert trials < 780 or len({tuple(setting.values()) for setting in settings}) > 390  # combined at random
    if trials > 2:
        assert even_settings(SPACE, trials, seed=4) != settings


@pytest.mark.parametrize("settings", [grid_settings, even_settings])
def test_a_search_of_no_trials_is_refused(settings):
    for trials in (0, 2.5, True):
        with pytest.raises(ValueError, match=f"one trial or more, but trials is {trials}"):
            settings(SPACE, trials)


def test_successive_halving_keeps_the_best_third_at_each_rung():
    search = Search(rising, budget=21)
    successive_halving(search, levels(1, 9, 8, 2, 7, 3, 4, 5, 6, 10))
    assert [trial.epochs for trial in search.trials] == [1, 9, 3, 1, 3, 1, 1, 1, 1]
    assert search.spent == 21
    assert search.best.settings == {"level": 9}
    larger = Search(rising, budget=90)
    successive_halving(larger, random_settings(LEVELS, seed=0))
    assert 90 - 9 < larger.spent <= 90


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        (lambda _: 0.5, "returned 0.5, and it has to yield a value after each epoch"),
        (lambda _: None, "returned None, and it has to yield"),
        (lambda _: {"accuracy": 0.5}, "returned {'accuracy': 0.5}, and it has to yield"),
        (lambda _: "0.5", "returned '0.5', and it has to yield"),
        (lambda _: ["0.5"], "one number, and the objective yielded '0.5'"),
        (lambda _: [None], "one number, and the objective yielded None"),
        (lambda _: [(0.5, 0.1)], r"one number, and the objective yielded \(0.5, 0.1\)"),
        (lambda _: [torch.tensor([0.5, 0.1])], "one number, and the objective yielded tensor"),
        (lambda _: [np.array([0.5, 0.1])], "one number, and the objective yielded array"),
        (lambda _: [math.inf], "a value is infinite"),
    ],
)
def test_what_is_no_value_is_named_by_search_and_study_alike(objective, words):
    with pytest.raises(SearchError, match=words):
        random_search(Search(objective, 30), random_settings(SPACE, 0), 1)
    with pytest.raises(study.StudyError, match=words):
        study.run(study.open_study(None, SPACE), objective, 3, progress=False)


@pytest.mark.parametrize(
    "value", [1, True, np.float32(1), np.ones(1), torch.ones(1, 1), torch.ones((), requires_grad=True), Decimal(1)]
)
def test_numbers_of_any_kind_are_values(value):
    search = Search(lambda _: [value], 1)
    random_search(search, random_settings(SPACE, 0), 1)
    found = study.run(study.open_study(None, SPACE), lambda _: [value], 1, progress=False)
    assert type(search.best.values[0]) is type(found.best_value) is float
    assert search.best.values[0] == found.best_value == 1.0


def test_a_diverged_loss_is_a_bad_value_and_one_of_minus_infinity_none():
    diverged = study.run(study.open_study(None, SPACE, direction="minimize"), lambda _: [math.inf], 1, progress=False)
    assert diverged.best_value == math.inf
    with pytest.raises(study.StudyError, match="a value is infinite"):
        study.run(study.open_study(None, SPACE, direction="minimize"), lambda _: [-math.inf], 1, progress=False)


@pytest.mark.parametrize("rungs", [(), (0, 3), (9, 3, 1), (1, 1), (1.5, 3), "139"])
def test_rungs_that_do_not_ascend_are_refused(rungs):
    for method in (successive_halving, asha):
        with pytest.raises(ValueError, match="rungs ascend, such as 1, 3, 9; what was asked for is"):
            method(Search(rising, 60), levels(*range(9)), rungs)


@pytest.mark.parametrize("epochs", [0, -1, 2.5, None])
def test_a_search_without_an_epoch_is_refused_before_it_begins(epochs):
    search = Search(rising, 60)
    with pytest.raises(ValueError, match=f"epochs from 1 on.* asked for is {epochs}"):
        random_search(search, levels(1, 2), epochs)
    assert not search.trials


@pytest.mark.parametrize("budget", ["9", None, -1, math.nan, True])
def test_a_budget_is_a_number_of_epochs(budget):
    with pytest.raises(ValueError, match="A budget is a whole number of epochs"):
        Search(rising, budget)


def test_successive_halving_refuses_a_budget_that_ends_before_the_last_rung():
    with pytest.raises(ValueError, match="9 trials on the rungs 1, 3, 9 take 21 epochs; the budget has 20 left"):
        successive_halving(Search(rising, budget=20), levels(*range(9)))


def test_asha_promotes_as_soon_as_one_of_three_has_earned_it():
    search = Search(rising, budget=5)
    asha(search, levels(1, 3, 2, 5))
    assert [trial.epochs for trial in search.trials] == [1, 3, 1]
    search = Search(rising, budget=200)
    asha(search, random_settings(LEVELS, seed=0))
    assert search.spent > 200 - 9
    assert search.best.settings["level"] >= 90
    reached = [sum(trial.epochs >= rung for trial in search.trials) for rung in (1, 3, 9)]
    assert reached[0] > 2.5 * reached[1] > 6 * reached[2]


@pytest.mark.parametrize("count", range(1, 9))
def test_successive_halving_of_few_settings_has_one_reach_the_end(count):
    search = Search(rising, budget=1000)
    successive_halving(search, levels(*range(count)))
    assert max(trial.epochs for trial in search.trials) == 9
    assert search.best.settings == {"level": count - 1}


def test_a_seed_of_numpy_is_the_same_seed():
    three = np.int64(3)
    assert grid_settings(SPACE, 4, three) == grid_settings(SPACE, 4, 3)
    assert even_settings(SPACE, 4, three) == even_settings(SPACE, 4, 3)
    assert next(random_settings(SPACE, three)) == next(random_settings(SPACE, 3))
