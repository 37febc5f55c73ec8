"""The bubble and the order of 1F1B are accepted in every form; each wrong one has its symptom."""

from fractions import Fraction

import pytest
import torch

from torchcourse.lessons.model_parallelism import pipeline
from torchcourse.lessons.model_parallelism.checks import schedules as check
from verdicts import accepted, refused, todo

# bubble


def only_multiples(p, m, v=1):
    if m % p:
        raise ValueError("the micro-batches go through in groups")
    return (p - 1) / (v * m + p - 1)


@pytest.mark.parametrize(
    "answer",
    [
        lambda p, m, v=1: (p - 1) / (v * m + p - 1),
        lambda p, m, v=1: 1 - m / (m + Fraction(p - 1, v)),
        lambda p, m, v=1: torch.tensor((p - 1) / (v * m + p - 1)),  # float32
        pipeline.bubble,
    ],
)
def test_bubble_accepts(answer):
    accepted(check.bubble(answer))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda p, m, v=1: (p - 1) / (v * m), "relative_to_work"),
        (lambda p, m, v=1: (p - 1) / (v * m + p), "one_too_many"),
        (lambda p, m, v=1: v * m / (v * m + p - 1), "utilization"),
        (lambda p, m, v=1: 100 * (p - 1) / (v * m + p - 1), "percent"),
        (lambda p, m, v=1: (p - 1) / (m + p - 1), "pieces"),
        (lambda p, m, v=1: (p - 1) / (m + p - 1) / v, "pieces"),
        (lambda p, m, v=1: p / (v * m + p), "one_too_many"),
        (lambda p, m, v=1: (v * p - 1) / (m + v * p - 1), "pieces"),
        (lambda p, m, v=1: (m - 1) / (v * p + m - 1), "exchanged"),
        (lambda p, m, v=1: (v * p - 1) / (v * m + v * p - 1), "pieces"),
        (lambda p, m, v=1: (p - 1) // (v * m + p - 1), "whole_numbers"),
        (lambda p, m, v=1: max(p - v, 0) / (m + max(p - v, 0)), "pieces"),
        (lambda p, m, v=1: v * (p - 1) / (m + v * (p - 1)), "pieces"),
        (lambda p, m, v=1: 2 * (p - 1) / (v * m + 2 * (p - 1)), "waiting_twice"),
        (lambda p, m, v: (p - 1) / (v * m + p - 1), "raised_TypeError"),
        (lambda p, m, v=1: 0.3, "wrong_value"),
        (lambda p, m, v=1: round((p - 1) / (v * m + p - 1), 2), "rounded"),
        (lambda p, m, v=1: None, "no_number"),
        # several pieces are still to come
        (lambda p, m, v=1: (p - 1) / m, "relative_to_work"),
        (lambda p, m, v=1: m / (m + p - 1), "utilization"),
        (lambda p, m, v=1: round((p - 1) / (v * m + p - 1), 4), "rounded"),
        (only_multiples, "raised_ValueError"),
    ],
)
def test_bubble_refuses(answer, symptom):
    checked = check.bubble(answer)
    refused(checked, symptom)
    assert symptom != "raised_TypeError" or "first line" in checked.message


def test_a_bubble_that_is_no_part_of_anything_is_told_so():
    assert "lies between 0 and 1" in check.bubble(lambda p, m, v=1: (p - 1) / v * m + p - 1).message


# one_f_one_b_order


def order(rank, ranks, micro_batches, warm_up=None):
    """1F1B with a different number of forward passes before the first pair."""
    first = min(ranks - 1 - rank if warm_up is None else warm_up(rank, ranks), micro_batches)
    done = [f"F{k}" for k in range(first)]
    for k in range(micro_batches):
        done += [f"F{first + k}"] if first + k < micro_batches else []
        done.append(f"B{k}")
    return done


def order_of_the_package(rank, ranks, micro_batches):
    return tuple(f"{a.kind}{a.micro_batch}" for a in pipeline.one_f_one_b(ranks, micro_batches).orders[rank])


def order_by_what_is_under_way(rank, ranks, micro_batches):
    done, forwards, backwards = [], 0, 0
    while backwards < micro_batches:
        if forwards < micro_batches and forwards - backwards < ranks - rank:
            done.append(f"F{forwards}")
            forwards += 1
        else:
            done.append(f"B{backwards}")
            backwards += 1
    return done


def gpipe(rank, ranks, micro_batches):
    return [f"{kind}{k}" for kind in "FB" for k in range(micro_batches)]


def without_min(rank, ranks, micro_batches):
    warm_up = ranks - 1 - rank
    done = [f"F{k}" for k in range(warm_up)]
    for k in range(micro_batches):
        done += [f"F{warm_up + k}"] if warm_up + k < micro_batches else []
        done.append(f"B{k}")
    return done


def last_backward_passes_turned_round(rank, ranks, micro_batches):
    rows = order(rank, ranks, micro_batches)
    rest = rows.index(f"F{micro_batches - 1}") + 2
    return rows[:rest] + rows[rest:][::-1]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda *given: order(*given, warm_up=lambda rank, ranks: 0), "too few forward passes"),
        (last_backward_passes_turned_round, "enough forward passes"),
    ],
)
def test_waiting_too_long_is_explained_by_what_is_late(answer, words):
    checked = check.one_f_one_b_order(answer)
    refused(checked, "waits_too_long")
    assert words in checked.message


@pytest.mark.parametrize("answer", [order, order_of_the_package, order_by_what_is_under_way])
def test_one_f_one_b_order_accepts(answer):
    accepted(check.one_f_one_b_order(answer))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (gpipe, "gpipe"),
        (lambda *given: order(*given, warm_up=lambda rank, ranks: 0), "waits_too_long"),
        (lambda *given: order(*given, warm_up=lambda rank, ranks: ranks - rank), "holds_too_many"),
        (lambda *given: order(*given, warm_up=lambda rank, ranks: ranks - 1), "holds_too_many"),
        (lambda *given: order(*given, warm_up=lambda rank, ranks: rank), "hang"),
        (without_min, "few_micro_batches"),
        (lambda *given: order(*given)[:-1], "missing"),
        (lambda *given: [*order(*given), "B0"], "twice"),
        (lambda *given: [*order(*given), f"F{given[2]}"], "unknown_entry"),
        (lambda *given: [f"{entry[0]}0{entry[1:]}" for entry in order(*given)], "unknown_entry"),
        (lambda *given: order(*given)[::-1], "backward_first"),
        (lambda *given: " ".join(order(*given)), "wrong_type"),
        (lambda *given: None, "wrong_type"),
        (
            lambda rank, ranks, m: (
                [f"F{k}" for k in range(m)] + [f"B{k}" for k in (range(m) if rank else range(m)[::-1])]
            ),
            "gpipe",
        ),
    ],
)
def test_one_f_one_b_order_refuses(answer, symptom):
    refused(check.one_f_one_b_order(answer), symptom)


# both


@pytest.mark.parametrize("exercise", [check.bubble, check.one_f_one_b_order])
def test_a_stub_is_not_done_yet(exercise):
    assert exercise(todo).state == "not done"
    assert exercise(...).state == "not done"
