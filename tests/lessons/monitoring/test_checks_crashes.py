"""The checks of notebook 4 of lesson 04 accept right answers built in different ways and name wrong ones' symptoms."""

import math
from collections import Counter

import pytest
import torch

from torchcourse.lessons.monitoring import checks as check
from torchcourse.lessons.monitoring import seen_samples
from torchcourse.lessons.monitoring.crash_costs import daly_interval
from torchcourse.lessons.monitoring.seen_samples import deal_by_batches, deal_by_samples
from verdicts import accepted, refused, todo


@pytest.mark.parametrize("name", ["steps_between_saves", "audit", "deal"])
def test_a_stub_is_not_done(name):
    assert getattr(check, name)(todo).state == "not done"


# How often to save


def young(save, step, hours, machines):
    return max(1, round(math.sqrt(2 * save * 3600 * hours / machines) / step))


def rounded_up(save, step, hours, machines):
    return math.ceil((2 * save * hours / machines) ** 0.5 * 60 / step)


def as_a_tensor(save, step, hours, machines):
    seconds = torch.tensor(2 * save * 3600 * hours / machines).sqrt()
    return (seconds / step).floor().clamp(min=1)


def by_daly(save, step, hours, machines):
    return max(1, int(daly_interval(save, 3600 * hours / machines) // step))


def in_whole_seconds(save, step, hours, machines):
    return max(1, int(math.isqrt(int(2 * save * 3600 * hours / machines)) // step))


@pytest.mark.parametrize("learner", [young, rounded_up, as_a_tensor, by_daly, in_whole_seconds])
def test_the_interval_is_accepted(learner):
    accepted(check.steps_between_saves(learner))


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (lambda c, s, h, n: round(math.sqrt(2 * c * 3600 * h) / s), "machines_forgotten"),
        (lambda c, s, h, n: round(math.sqrt(2 * c * 3600 * h * n) / s), "machines_multiplied"),
        (lambda c, s, h, n: round(math.sqrt(2 * c * 3600 * h) / n / s), "machines_outside"),
        (lambda c, s, h, n: round(math.sqrt(2 * c * h / n) / s), "units"),
        (lambda c, s, h, n: round(math.sqrt(2 * c * 60 * h / n) / s), "units"),
        (lambda c, s, h, n: round(math.sqrt(c * 3600 * h / n) / s), "factor_two"),
        (lambda c, s, h, n: round(2 * c * 3600 * h / n / s), "root_forgotten"),
        (lambda c, s, h, n: round(math.sqrt(2 * c * 3600 * h / n)), "seconds"),
        (lambda c, s, h, n: round(math.sqrt(2 * c * 3600 * h / n) * s), "step_multiplied"),
        (lambda c, s, h, n: round(math.sqrt(2 * c / s * 3600 * h / n)), "save_in_steps"),
        (lambda c, s, h, n: math.sqrt(2 * c * 3600 * h / n) / s, "not_whole"),
        (lambda c, s, h, n: int(math.sqrt(2 * c * 3600 * h / n) / s), "save_each_step"),
        (lambda c, s, h, n: 100, "wrong_value"),
        (lambda c, s, h, n: round(2 * math.sqrt(c * 3600 * h / n) / s), "factor_two"),
        (lambda c, s, h, n: round(3600 * math.sqrt(2 * c * h / n) / s), "units"),
        (lambda c, s, h, n: max(100, round(math.sqrt(2 * c * 3600 * h / n) / s)), "save_each_step"),
        (lambda c, s, h, n: "100 steps", "wrong_type"),
        (lambda c, s, h, n: None, "wrong_type"),
        (lambda c, s, h, n: None + 1, "raised_TypeError"),
    ],
)
def test_a_wrong_interval_is_refused(learner, symptom):
    refused(check.steps_between_saves(learner), symptom)


def test_one_machine_is_not_called_several():
    wrong = check.steps_between_saves(lambda *job: young(*job) + 100 * (job[-1] == 1))
    assert "1 machine of" in wrong.message


# What is in the weights


def by_the_last_begin(rows, samples):
    """Go through the starts from the last to the first, with the earliest step that is still to be filled."""
    counts, limit = [0] * samples, math.inf
    for start in sorted({row[0] for row in rows}, reverse=True):
        mine = [row for row in rows if row[0] == start]
        for _, step, taken in mine:
            for sample in taken:
                counts[sample] += step < limit
        limit = min([limit, *(row[1] for row in mine)])
    return {n for n, count in enumerate(counts) if count > 1}, (n for n, count in enumerate(counts) if count == 0)


def by_undoing(rows, samples):
    """Play the run: when a start begins, what was done from its first step on is thrown away."""
    done: dict[int, list] = {}
    for start in sorted({row[0] for row in rows}):
        mine = [row for row in rows if row[0] == start]
        begin = min(row[1] for row in mine)
        done = {step: taken for step, taken in done.items() if step < begin}
        for _, step, taken in mine:
            done.setdefault(step, []).extend(taken)
    counts = torch.bincount(torch.tensor([n for taken in done.values() for n in taken]), minlength=samples)
    return (counts > 1).nonzero().flatten(), (counts == 0).nonzero().flatten()


def counted(rows, samples):
    counts = Counter(sample for _, _, taken in rows for sample in taken)
    return [n for n in counts if counts[n] > 1], [n for n in range(samples) if not counts[n]]


def last_start_of_a_step(rows, samples):
    last = {step: max(start for start, other, _ in rows if other == step) for _, step, _ in rows}
    return counted([row for row in rows if row[0] == last[row[1]]], samples)


def next_start_only(rows, samples):
    first = {start: min(step for other, step, _ in rows if other == start) for start, _, _ in rows}
    return counted([row for row in rows if row[1] < first.get(row[0] + 1, math.inf)], samples)


def last_start_only(rows, samples):
    return counted([row for row in rows if row[0] == max(rows)[0]], samples)


def overwritten(rows, samples):
    kept = {step: (start, step, taken) for start, step, taken in sorted(rows, key=lambda row: row[:2])}
    return counted(list(kept.values()), samples)


def first_step_counted(rows, samples):
    first = {start: min(step for other, step, _ in rows if other == start) for start, _, _ in rows}
    return counted([row for row in rows if all(row[1] <= first[n] for n in first if n > row[0])], samples)


def first_row_of_a_start(rows, samples):
    first: dict[int, int] = {}
    for start, step, _ in rows:
        first.setdefault(start, step)
    return counted([row for row in rows if all(row[1] < first[n] for n in first if n > row[0])], samples)


def taken_twice_only(rows, samples):
    firsts = {start: min(step for other, step, _ in rows if other == start) for start, _, _ in rows}
    counts = Counter()
    for start, step, taken in rows:
        if all(step < first for other, first in firsts.items() if other > start):
            counts.update(taken)
    return [n for n in counts if counts[n] == 2], [n for n in range(samples) if not counts[n]]


def once_for_a_step(rows, samples):
    firsts = {start: min(step for other, step, _ in rows if other == start) for start, _, _ in rows}
    kept = [row for row in rows if all(row[1] < firsts[start] for start in firsts if start > row[0])]
    steps = {(step, sample) for _, step, taken in kept for sample in taken}
    return counted([(0, step, [sample]) for step, sample in steps], samples)


def starts_without_a_gap(rows, samples):
    starts = range(max(start for start, _, _ in rows) + 1)
    firsts = [min(step for start, step, _ in rows if start == number) for number in starts]
    return counted([row for row in rows if all(row[1] < first for first in firsts[row[0] + 1 :])], samples)


def right(rows, samples):
    return seen_samples.audit(rows, samples)


@pytest.mark.parametrize("learner", [right, by_the_last_begin, by_undoing])
def test_an_audit_is_accepted(learner):
    accepted(check.audit(learner))


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (counted, "undone_counted"),
        (last_start_of_a_step, "last_start_of_a_step"),
        (next_start_only, "next_start_only"),
        (last_start_only, "last_start_only"),
        (overwritten, "one_rank_of_a_step"),
        (lambda rows, samples: right(rows, samples)[::-1], "swapped"),
        (lambda rows, samples: ([], right(rows, samples)[1]), "wrong_value"),
        (lambda rows, samples: (right(rows, samples)[0], []), "wrong_value"),
        (lambda rows, samples: tuple(map(len, right(rows, samples))), "wrong_type"),
        (lambda rows, samples: right(rows, samples)[0], "wrong_type"),
        (lambda rows, samples: (right(rows, samples)[0] * 2, right(rows, samples)[1]), "wrong_value"),
        (lambda rows, samples: right(rows, 8), "wrong_value"),
        (lambda rows, samples: (rows.sort(), right(rows, samples))[1], "inputs_changed"),
        (lambda rows, samples: (right(rows, samples), [taken.clear() for _, _, taken in rows])[0], "inputs_changed"),
        (lambda rows, samples: right([(*row[:2], list(set(row[2]))) for row in rows], samples), "once_per_step"),
        (once_for_a_step, "once_per_step"),
        (lambda rows, samples: (right(rows, samples)[0], counted(rows, samples)[1]), "undone_counted"),
        (starts_without_a_gap, "raised_ValueError"),
        (taken_twice_only, "wrong_value"),
        (first_step_counted, "first_step_counted"),
        (first_row_of_a_start, "first_step_counted"),
        (lambda rows, samples: right(rows, samples + 1), "wrong_value"),
        (lambda rows, samples: (right(rows, samples)[0], [n for n in right(rows, samples)[1] if n]), "wrong_value"),
        (lambda rows, samples: right(rows, 1000), "wrong_value"),
        (lambda rows, samples: None, "wrong_type"),
    ],
)
def test_a_wrong_audit_is_refused(learner, symptom):
    checked = check.audit(learner)
    assert (checked.state, checked.symptom, checked.score) == ("wrong", symptom, 0), checked.message


# Dealing


def in_blocks(order, done, rank, ranks):
    now = order[done : done + 64]
    return now[len(now) * rank // ranks : len(now) * (rank + 1) // ranks]


def in_a_loop(order, done, rank, ranks):
    return [order[place] for place in range(done, min(done + 64, len(order))) if (place - done) % ranks == rank]


def as_tensor(order, done, rank, ranks):
    return torch.tensor(order)[done : done + 64].tensor_split(ranks)[rank]


@pytest.mark.parametrize("learner", [deal_by_samples, in_blocks, in_a_loop, as_tensor])
def test_dealing_is_accepted(learner):
    accepted(check.deal(learner))


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (deal_by_batches, "ends_early"),
        (lambda order, done, rank, ranks: order[rank::ranks][done : done + 64 // ranks], "ends_early"),
        (lambda order, done, rank, ranks: order[done * 64 : done * 64 + 64][rank::ranks], "ends_early"),
        (lambda order, done, rank, ranks: order[done : done + 64], "overlap"),
        (lambda order, done, rank, ranks: order[done:][rank::ranks][:16], "left_out"),
        (lambda order, done, rank, ranks: order[rank::ranks][done // ranks : done // ranks + 64 // ranks], "left_out"),
        (lambda order, done, rank, ranks: order[done:][rank::ranks][: -(-64 // ranks)], "batch_grows"),
        (lambda order, done, rank, ranks: order[done + rank * 64 : done + rank * 64 + 64], "batch_grows"),
        (lambda order, done, rank, ranks: order[done + rank * 16 : done + rank * 16 + 16], "uneven"),
        (lambda order, done, rank, ranks: order[done : done + 64] if rank == 0 else [], "uneven"),
        (lambda order, done, rank, ranks: (order + order)[done : done + 64][rank::ranks], "batch_grows"),
        (lambda order, done, rank, ranks: list(range(done, done + 64))[rank::ranks], "places_not_samples"),
        (lambda order, done, rank, ranks: order[done + 1 : done + 65][rank::ranks], "wrong_place"),
        (
            lambda order, done, rank, ranks: order[done : done + 64][rank::ranks] * (done + 64 < 1280),
            "ends_early",
        ),
        (lambda order, done, rank, ranks: [order.pop()], "inputs_changed"),
        (lambda order, done, rank, ranks: None, "wrong_type"),
        (lambda order, done, rank, ranks: (order[done : done + 64] or order[-64:])[rank::ranks], "past_the_end"),
    ],
)
def test_wrong_dealing_is_refused(learner, symptom):
    refused(check.deal(learner), symptom)
