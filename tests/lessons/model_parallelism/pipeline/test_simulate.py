"""Simulated pipelines: the bubble is the formula, exactly; memory is what the papers say; deadlocks are told."""

import itertools
from dataclasses import replace
from fractions import Fraction

import pytest

from torchcourse.lessons.model_parallelism.pipeline import (
    Action,
    Costs,
    Deadlock,
    bubble,
    gpipe,
    interleaved,
    one_f_one_b,
    simulate,
    zero_bubble,
)

RATIOS = (1, Fraction(3, 2), 2, Fraction(7, 3), 4)
SIZES = [(ranks, micro_batches) for ranks in range(1, 7) for micro_batches in (1, 2, 3, 4, 6, 8, 12, 24)]


@pytest.mark.parametrize("backward", RATIOS)
def test_the_bubble_of_gpipe_and_1f1b_is_the_formula_whatever_a_backward_pass_takes(backward):
    for ranks, micro_batches in SIZES:
        for generator in (gpipe, one_f_one_b):
            line = simulate(generator(ranks, micro_batches), Costs(backward=backward))
            assert line.bubble == bubble(ranks, micro_batches) == Fraction(ranks - 1, micro_batches + ranks - 1)


@pytest.mark.parametrize("stages_per_rank", [1, 2, 3])
def test_the_bubble_of_interleaving_is_the_formula(stages_per_rank):
    for ranks, micro_batches in SIZES:
        if micro_batches % ranks == 0:
            line = simulate(interleaved(ranks, micro_batches, stages_per_rank))
            assert line.bubble == bubble(ranks, micro_batches, stages_per_rank)


@pytest.mark.parametrize("backward", RATIOS)
def test_the_bubble_of_zero_bubble_is_the_formula(backward):
    for ranks, micro_batches in SIZES:
        if micro_batches >= ranks:
            line = simulate(zero_bubble(ranks, micro_batches), Costs(backward=backward))
            assert line.bubble == bubble(ranks, micro_batches, backward=backward, split=True)
    with pytest.raises(ValueError, match="as many micro-batches as ranks, 4, but has 3"):
        bubble(4, 3, split=True)


def test_zero_bubble_ends_as_early_as_any_schedule_with_one_stage_a_rank_can():
    """The last rank cannot begin before p−1 forward passes, and then has all its work before it."""
    assert simulate(zero_bubble(4, 8)).length == 3 + 8 * 3


def test_memory():
    ranks, micro_batches = 4, 8
    peaks = {
        generator: [simulate(generator(ranks, micro_batches)).peak(rank) for rank in range(ranks)]
        for generator in (gpipe, one_f_one_b, interleaved, zero_bubble)
    }
    assert peaks[gpipe] == [8, 8, 8, 8]
    assert peaks[one_f_one_b] == [4, 3, 2, 1]
    assert peaks[zero_bubble] == [4, 4, 4, 4]
    assert peaks[interleaved] == [Fraction(11, 2), Fraction(9, 2), Fraction(7, 2), Fraction(5, 2)]


def test_memory_is_all_given_back():
    for generator in (gpipe, one_f_one_b, interleaved, zero_bubble):
        line = simulate(generator(3, 6))
        assert [line.held(rank)[-1][1] for rank in range(3)] == [0, 0, 0]


def test_a_message_delays_whoever_waits_for_it():
    line = simulate(gpipe(2, 1), Costs(message=Fraction(1, 4)))
    assert [(span.rank, str(span.action), span.start) for span in line.spans] == [
        (0, "0F0", 0),
        (1, "1F0", 1.25),
        (1, "1B0", 2.25),
        (0, "0B0", 4.5),
    ]


def test_a_rank_does_one_thing_at_a_time():
    for generator in (gpipe, one_f_one_b, interleaved, zero_bubble):
        for rank in range(4):
            spans = [span for span in simulate(generator(4, 8)).spans if span.rank == rank]
            assert all(before.end <= after.start for before, after in itertools.pairwise(spans))


def test_orders_that_block_each_other_are_named():
    good = one_f_one_b(2, 2)
    first, second = good.orders
    late = (Action("F", 0, 0), Action("B", 0, 0), Action("F", 0, 1), Action("B", 0, 1))
    early = (Action("F", 1, 0), Action("F", 1, 1), Action("B", 1, 0), Action("B", 1, 1))
    assert simulate(replace(good, orders=(late, second))).length > simulate(good).length
    with pytest.raises(Deadlock, match=r"rank 0 cannot do 0B0, for 1B0 of rank 1 is missing; rank 1 .* 0F1 of rank 0"):
        simulate(replace(good, orders=(late, early)))
    with pytest.raises(Deadlock, match="rank 1 cannot do 1B0, for 1F0 of rank 1 is missing"):
        simulate(replace(good, orders=(first, second[1:])))
