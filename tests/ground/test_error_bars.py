"""Pairs, standard errors, and intervals that cover what they should."""

import numpy as np
import pytest

from torchcourse.error_bars import Difference, interval_of_share, paired, standard_error, t95, t_reach


def test_pairs_forget_what_both_share():
    luck = np.array([0.1, 0.5, 0.9, 0.3])
    difference = paired(luck + 0.02, luck)
    assert difference.mean == pytest.approx(0.02)
    assert difference.error == pytest.approx(0)
    noisy = paired([0.5, 0.7], [0.4, 0.4])
    assert (noisy.mean, noisy.error) == (pytest.approx(0.2), pytest.approx(0.1))
    assert str(noisy) == "+0.200 ± 0.100 (2 pairs)"
    for ones, others in (([1], [1]), ([1, 2], [1]), ([[1, 2]], [[1, 2]])):
        with pytest.raises(ValueError, match="two lists"):
            paired(ones, others)


def test_a_rounding_error_is_no_difference():
    same = paired([0.3] * 3, [0.1 + 0.2] * 3)
    assert same.mean != 0
    assert not same.clear
    assert paired([97.0] * 3, [96.0] * 3).clear
    ones = np.full(3, 0.3, dtype=np.float32)
    assert not paired(ones, np.nextafter(ones, np.float32(1))).clear
    assert paired(ones, ones + np.float32(1e-5)).clear


def test_an_interval_of_95_per_cent_covers_the_truth_that_often():
    generator = np.random.default_rng(0)
    for count in (3, 8, 40):
        found = [paired(generator.normal(2, 1, count), np.zeros(count)) for _ in range(2000)]
        assert 0.93 < np.mean([gap.low < 2 < gap.high for gap in found]) < 0.97
    with pytest.raises(ValueError, match="one pair has no error bar"):
        paired(np.array([1.0]), np.array([0.5]))
    assert paired(np.array([1.0, 1.0]), np.array([2.0, 2.0])).in_points().startswith("−1.00 points, 95% interval −1.00")


@pytest.mark.parametrize(
    ("freedom", "confidence", "table"),
    [
        (1, 0.95, 12.706),
        (2, 0.95, 4.303),
        (3, 0.95, 3.182),
        (4, 0.95, 2.776),
        (9, 0.95, 2.262),
        (39, 0.95, 2.023),
        (10**6, 0.95, 1.960),
        (9, 0.99, 3.250),
        (1, 0.99, 63.657),
        (30, 0.999, 3.646),
    ],
)
def test_the_factor_is_students(freedom, confidence, table):
    assert t_reach(freedom, confidence) == pytest.approx(table, abs=6e-4)
    assert t95(freedom) == t_reach(freedom, 0.95)


@pytest.mark.parametrize(("freedom", "confidence", "words"), [(0, 0.95, "one degree"), (3, 1.0, "between 0 and 1")])
def test_no_factor_without_a_degree_of_freedom(freedom, confidence, words):
    with pytest.raises(ValueError, match=words):
        t_reach(freedom, confidence)


def test_what_is_clear_alone_need_not_be_clear_among_many():
    borderline = Difference(mean=0.00653, error=0.0029, pairs=10)  # more than two errors, and less than t(9)
    assert not borderline.clear
    generator = np.random.default_rng(1)
    nothing = [paired(generator.normal(size=8), generator.normal(size=8)) for _ in range(2000)]
    assert 0.04 < np.mean([gap.clear for gap in nothing]) < 0.06
    families = np.reshape([gap.clear_among(20) for gap in nothing], (100, 20))
    assert families.any(axis=1).mean() < 0.1
    assert np.reshape([gap.clear for gap in nothing], (100, 20)).any(axis=1).mean() > 0.5
    assert Difference(0.03, 0.01, 40).clear
    assert not Difference(0.03, 0.01, 40).clear_among(21)
    with pytest.raises(ValueError, match="one comparison or more, but comparisons is 0"):
        borderline.clear_among(0)


@pytest.mark.parametrize(
    ("difference", "verdict"),
    [
        (Difference(0.000, 0.001, 40), "level"),
        (Difference(0.004, 0.001, 40), "level"),  # clear, and too small to matter
        (Difference(0.000, 0.020, 4), "open"),  # not clear, which is no evidence that nothing is there
        (Difference(0.008, 0.002, 40), "clearly above"),
        (Difference(-0.050, 0.010, 10), "clearly below"),
        (Difference(-0.050, 0.030, 10), "open"),
    ],
)
def test_level_needs_evidence_too(difference, verdict):
    assert difference.verdict(margin=0.01) == verdict
    assert difference.within(0.01) == (verdict == "level")
    assert difference.at_most_below(0.01) == (difference.low > -0.01)
    with pytest.raises(ValueError, match="above zero"):
        difference.within(0)


def test_fewer_seeds_never_make_two_methods_level():
    generator = np.random.default_rng(2)
    gaps = generator.normal(0, 0.03, 400)
    levels = [paired(gaps[:n], np.zeros(n)).within(0.01) for n in (3, 5, 10, 400)]
    assert levels == [False, False, False, True]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_failed_run_is_no_number_to_compare(bad):
    with pytest.raises(ValueError, match="NaN or infinite: a mean would hide"):
        paired([0.5, bad, 0.7], [0.1, 0.2, 0.3])


def test_a_standard_error_of_each_row():
    rows = np.array([[1.0, 3.0], [2.0, 2.0]])
    assert standard_error(rows).tolist() == pytest.approx([1, 0])
    with pytest.raises(ValueError, match="two or more"):
        standard_error([1.0])


def test_the_interval_of_a_share():
    assert interval_of_share(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert interval_of_share(0, 5)[0] == 0
    for right, count in ((0, 0), (5, 3), (-1, 3)):
        with pytest.raises(ValueError, match="A share is so many of one or more"):
            interval_of_share(right, count)
    assert interval_of_share(5, 5)[1] == 1
