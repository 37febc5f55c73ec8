"""Young's formula: the interval at which saving and repeated work together cost least."""

import pytest

from torchcourse.lessons.monitoring.save_interval import best_interval, lost_share
from torchcourse.lessons.monitoring.save_interval_picture import draw_interval


def test_the_best_interval_loses_least():
    best = best_interval(30, 3 * 3600)
    assert best == pytest.approx((2 * 30 * 3 * 3600) ** 0.5)
    least = lost_share(best, 30, 3 * 3600)
    assert least == pytest.approx((2 * 30 / (3 * 3600)) ** 0.5)
    assert all(lost_share(best * factor, 30, 3 * 3600) > least for factor in (0.5, 0.9, 1.1, 2))


@pytest.mark.parametrize("numbers", [(0, 1, 1), (1, 1, 0)])
def test_what_makes_no_sense_is_refused(numbers):
    with pytest.raises(ValueError, match="above 0 seconds"):
        lost_share(*numbers)


def test_the_picture_states_what_its_numbers_give():
    title = draw_interval(30, 3.0, 60).axes[0].get_title()
    assert title == "Saving every 60 min loses 17.5% of the time; every 13 min it would be 7.5%"
