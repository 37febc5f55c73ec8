"""Schedules: complete and executable orders, the very ones of the papers, and clear refusals."""

from collections import Counter

import pytest

from torchcourse.lessons.model_parallelism.pipeline import (
    SCHEDULES,
    gpipe,
    interleaved,
    layers_of,
    one_f_one_b,
    zero_bubble,
)


def short(order):
    return " ".join(f"{action.kind}{action.micro_batch}" for action in order)


def test_gpipe_does_all_forwards_first():
    assert [short(order) for order in gpipe(2, 3).orders] == ["F0 F1 F2 B0 B1 B2"] * 2


def test_1f1b_warms_up_by_one_forward_less_on_each_rank():
    assert [short(order) for order in one_f_one_b(3, 4).orders] == [
        "F0 F1 F2 B0 F3 B1 B2 B3",
        "F0 F1 B0 F2 B1 F3 B2 B3",
        "F0 B0 F1 B1 F2 B2 F3 B3",
    ]


def test_1f1b_with_fewer_micro_batches_than_ranks_is_gpipe_on_the_first_rank():
    assert short(one_f_one_b(4, 2).orders[0]) == "F0 F1 B0 B1"


def test_interleaved_is_the_order_of_the_megatron_paper():
    """Rank 0 of figure 4 in Narayanan et al. 2021: 4 ranks, 2 stages a rank, 8 micro-batches."""
    order = interleaved(4, 8).orders[0]
    assert " ".join(map(str, order[:13])) == "0F0 0F1 0F2 0F3 4F0 4F1 4F2 4F3 0F4 0F5 0F6 4B0 0F7"


def test_zero_bubble_is_figure_2_of_its_paper():
    """Ranks 0 and 3 of ZB-H1 in Qi et al. 2023: 4 ranks, 8 micro-batches."""
    orders = zero_bubble(4, 8).orders
    assert short(orders[0]) == "F0 F1 F2 F3 I0 W0 F4 I1 W1 F5 I2 W2 F6 I3 W3 F7 I4 W4 I5 W5 I6 W6 I7 W7"
    assert short(orders[3]) == "F0 I0 F1 I1 F2 I2 F3 I3 W0 F4 I4 W1 F5 I5 W2 F6 I6 W3 F7 I7 W4 W5 W6 W7"


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("ranks", "micro_batches"), [(1, 1), (2, 4), (3, 9), (4, 4)])
def test_every_rank_does_each_of_its_passes_once(name, ranks, micro_batches):
    schedule = SCHEDULES[name](ranks, micro_batches)
    kinds = "FIW" if name.startswith("zero") else "FB"
    for rank, order in enumerate(schedule.orders):
        expected = {
            (kind, stage, number)
            for kind in kinds
            for stage in schedule.stages_of(rank)
            for number in range(micro_batches)
        }
        assert Counter((a.kind, a.stage, a.micro_batch) for a in order) == Counter(expected)


@pytest.mark.parametrize("name", SCHEDULES)
def test_two_ranks_agree_on_the_order_of_their_messages(name):
    """NCCL matches messages by their order, not by tags: sender and receiver must pass them in the same order."""
    schedule = SCHEDULES[name](4, 8)
    for stage in range(schedule.stages - 1):
        for kinds in ("F", "BI"):
            here, there = (
                [a.micro_batch for a in schedule.orders[schedule.rank_of(s)] if a.stage == s and a.kind in kinds]
                for s in (stage, stage + 1)
            )
            assert here == there


@pytest.mark.parametrize("generator", SCHEDULES.values())
def test_no_ranks_are_refused(generator):
    with pytest.raises(
        ValueError, match=r"^A pipeline needs at least 1 rank and 1 micro-batch, but has 0 and 4 of them"
    ):
        generator(0, 4)


def test_interleaving_refuses_a_group_that_is_not_full():
    with pytest.raises(ValueError, match=r"6 micro-batches leave a group unfilled. Take a multiple of 4.$"):
        interleaved(4, 6)
    with pytest.raises(ValueError, match="at least 1 stage"):
        interleaved(2, 4, 0)


def test_layers_are_shared_out_in_order():
    assert layers_of(6, 3) == [range(2), range(2, 4), range(4, 6)]
    with pytest.raises(
        ValueError, match=r"^6 layers cannot be shared equally by 4 stages.* a number of stages that divides 6"
    ):
        layers_of(6, 4)
    with pytest.raises(ValueError, match="divides 6"):
        layers_of(6, 0)
