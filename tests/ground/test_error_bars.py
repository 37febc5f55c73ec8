"""Pairs, standard errors, and intervals that cover what they should."""

import numpy as np
import pytest

from torchcourse.error_bars import paired, standard_error, t95


def test_pairs_forget_what_both_share():
    luck = np.array([0.1, 0.5, 0.9, 0.3])
    difference = paired(luck + 0.02, luck)
    assert difference.mean == pytest.approx(0.02)
    assert difference.error == pytest.approx(0)
    noisy = paired([0.5, 0.7], [0.4, 0.4])
    assert (noisy.mean, noisy.error) == (pytest.approx(0.2), pytest.approx(0.1))
    assert str(noisy) == "+0.200 ± 0.100"
    for ones, others in (([1], [1]), ([1, 2], [1]), ([[1, 2]], [[1, 2]])):
        with pytest.raises(ValueError, match="two lists"):
            paired(ones, others)


def test_an_interval_of_95_per_cent_covers_the_truth_that_often():
    generator = np.random.default_rng(0)
    for count in (3, 8, 40):
        found = [paired(generator.normal(2, 1, count), np.zeros(count)) for _ in range(2000)]
        assert 0.93 < np.mean([gap.low < 2 < gap.high for gap in found]) < 0.97
    with pytest.raises(ValueError, match="one pair has no error bar"):
        paired(np.array([1.0]), np.array([0.5]))
    assert (
        paired(np.array([1.0, 1.0]), np.array([2.0, 2.0])).in_points().startswith("−1.00 points, 95 % interval −1.00")
    )


@pytest.mark.parametrize(("freedom", "table"), [(2, 4.303), (4, 2.776), (9, 2.262), (39, 2.023), (10**6, 1.960)])
def test_the_factor_is_students(freedom, table):
    assert t95(freedom) == pytest.approx(table, rel=0.04 if freedom < 4 else 0.005)
    with pytest.raises(ValueError, match="one degree of freedom or more"):
        t95(0)


def test_a_standard_error_of_each_row():
    rows = np.array([[1.0, 3.0], [2.0, 2.0]])
    assert standard_error(rows).tolist() == pytest.approx([1, 0])
