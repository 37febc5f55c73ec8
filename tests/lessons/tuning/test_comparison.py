"""Methods at equal budgets: ASHA is ahead where it should be, more seeds find more, errors are words."""

import numpy as np
import pytest

from torchcourse.error_bars import paired
from torchcourse.lessons.tuning import (
    comparison_picture,
    random_or_grid,
    random_or_grid_picture,
    replay,
    search_picture,
)
from torchcourse.lessons.tuning.comparison import METHODS, clear_share, compare
from torchcourse.lessons.tuning.search import Search, SearchError

BUDGETS = (90, 540)


@pytest.fixture(scope="module")
def scores():
    return compare(METHODS, BUDGETS, range(40))


@pytest.mark.slow
def test_asha_beats_random_search_at_the_small_budget_and_is_level_at_the_large(scores):
    small, large = (paired(scores["ASHA"][row], scores["random"][row]) for row in range(2))
    assert small.low > 0
    assert small.clear
    assert large.within(0.5)


@pytest.mark.slow
def test_the_grid_leads_only_where_there_are_too_few_trials_to_spread_them_by_luck():
    names, budgets = ("grid", "random", "evenly drawn"), (27, 270)
    many = compare({name: METHODS[name] for name in names}, budgets, range(400))

    def gain(one, other, budget):
        row = budgets.index(budget)
        return paired(many[one][row], many[other][row])

    assert gain("random", "grid", 27).high < -2
    assert gain("random", "grid", 270).low > 0.1
    assert gain("evenly drawn", "random", 27).low > 2
    assert gain("evenly drawn", "grid", 270).clear_among(24)


def test_every_method_spends_its_budget_and_no_more():
    for name, method in METHODS.items():
        for budget in (27, 90, 135):
            search = Search(replay.replayed, budget)
            method(search, 0)
            assert budget // 2 < search.spent <= budget, (name, budget)


@pytest.mark.slow
def test_a_comparison_is_repeatable_and_keeps_the_seeds_in_order(scores):
    again = compare({"random": METHODS["random"]}, BUDGETS[:1], [7, 3])
    assert again["random"][0].tolist() == scores["random"][0, [7, 3]].tolist()


def test_a_method_is_judged_by_its_chosen_trial_as_far_as_it_was_trained():
    flat = compare({"random": METHODS["random"]}, (9,), range(3), score=lambda trial: trial.epochs / 9)
    assert flat["random"].tolist() == [[100, 100, 100]]


def test_an_objective_that_gives_nan_is_named():
    with pytest.raises(SearchError, match=r"10 trials in a row .* in epoch 1: ValueError: a value is NaN"):
        compare({"ASHA": METHODS["ASHA"]}, (90,), range(3), objective=lambda settings: [float("nan")])


def test_more_seeds_find_a_difference_more_often_and_no_difference_rarely():
    generator = np.random.default_rng(1)
    same, better = generator.normal(0, 1, 4000), generator.normal(1, 1, 4000)
    shares = [clear_share(better, same, seeds) for seeds in (2, 5, 17, 40)]
    assert shares == sorted(shares)
    assert shares[2] == pytest.approx(0.8, abs=0.07)  # the textbook's 17 a side for one standard deviation
    assert clear_share(same, same, 10) == pytest.approx(0.05, abs=0.04)
    with pytest.raises(ValueError, match="two seeds or more, but seeds is 1"):
        clear_share(same, better, 1)


def test_on_the_planted_space_random_search_is_ahead_of_the_grid():
    for side in (3, 4, 6):
        grid, drawn = random_or_grid.best_values(side)
        assert drawn.mean() > grid.mean() + 0.05
    assert len({tuple(point) for point in random_or_grid.grid_points(5)}) == 25
    assert len(set(random_or_grid.grid_points(5)[:, 0])) == 5
    assert random_or_grid.value(np.array([[0.3, 0.9]]), 0.3) == pytest.approx([1])


def test_pictures_say_what_they_show(scores):
    assert comparison_picture.methods_finding(scores, BUDGETS, 90).startswith("90 epochs: ASHA − random +")
    assert comparison_picture.methods_finding(scores, BUDGETS, 540).endswith("(not clear)")
    figure = comparison_picture.draw_methods(scores, BUDGETS, 90)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(METHODS)
    search = Search(replay.replayed, 90)
    METHODS["ASHA"](search, 0)
    assert len(search_picture.draw_curves(search).axes[0].lines) == len(search.trials) + 3
    side = np.arange(20) % 5
    finding = comparison_picture.clear_share_finding({"far": (side, side + 9.0), "none": (side, side)}, (3, 5))
    assert finding == "Seeds for 80%: far: 3; none: over 5"
    assert comparison_picture.draw_clear_share({"far": (side, side + 9.0)}, (3, 5)).axes[0].get_title()
    assert "16 trials: 4 places or 16" in random_or_grid_picture.draw(4).get_suptitle()


@pytest.mark.parametrize("side", [[0.5, float("nan")], [], [[0.5, 0.6]], [0.5, float("inf")]])
def test_what_is_no_list_of_runs_has_no_power(side):
    for pair in ((side, [0.1, 0.2]), ([0.1, 0.2], side)):
        with pytest.raises(ValueError, match="A side is a list of finite numbers"):
            clear_share(*pair, seeds=5)
    with pytest.raises(ValueError, match=r"seeds is 2\.5"):
        clear_share([0.1, 0.2], [0.1, 0.2], seeds=2.5)
