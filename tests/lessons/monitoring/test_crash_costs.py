"""What crashes cost: the exact expectation against drawn crashes, and the intervals of Young and Daly against it."""

import numpy as np
import pytest

from torchcourse import figures
from torchcourse.error_bars import standard_error
from torchcourse.lessons.monitoring.crash_costs import daly_interval, expected_loss, simulated_loss
from torchcourse.lessons.monitoring.crash_costs_picture import costs_picture
from torchcourse.lessons.monitoring.save_interval import best_interval, lost_share


@pytest.mark.parametrize("job", [(800, 30, 10_800, 0), (2000, 600, 3600, 0), (900, 60, 3600, 300)])
def test_drawn_crashes_cost_what_is_expected(job):
    runs = np.array([simulated_loss(*job, saves=500, seed=seed) for seed in range(16)])
    assert abs(runs.mean() - expected_loss(*job)) < 4 * standard_error(runs)


def test_without_crashes_only_saving_costs():
    assert expected_loss(1000, 30, 1e12) == pytest.approx(0.03, rel=1e-6)
    assert simulated_loss(1000, 30, 1e12) == pytest.approx(0.03)


def test_for_short_saves_the_first_order_is_near():
    best = best_interval(30, 10_800)
    assert expected_loss(best, 30, 10_800) == pytest.approx(lost_share(best, 30, 10_800), rel=0.06)
    assert daly_interval(30, 10_800) == pytest.approx(best, rel=0.03)


def test_daly_is_at_the_lowest_point():
    for save, between in ((30, 10_800), (600, 3600), (1200, 3600)):
        daly = daly_interval(save, between)
        lowest = min(expected_loss(daly * factor, save, between) for factor in np.geomspace(0.5, 2, 101))
        assert expected_loss(daly, save, between) < 1.001 * lowest
        assert expected_loss(daly, save, between) <= expected_loss(best_interval(save, between), save, between)
    assert daly_interval(8000, 3600) == 3600


@pytest.mark.parametrize("numbers", [(0, 1, 1), (1, 1, 0)])
def test_what_makes_no_sense_is_refused(numbers):
    with pytest.raises(ValueError, match="above 0 seconds"):
        expected_loss(*numbers)


@pytest.mark.slow
def test_the_picture_says_what_is_lost(monkeypatch):
    shown = []
    monkeypatch.setattr(figures, "show", lambda figure, alt: shown.append(alt))
    costs_picture([(600, 3600)])
    assert "saved every 35 min (Young): 91.3% lost; every 28 min (Daly): 89.4%" in shown[0]
