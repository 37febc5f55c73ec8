"""Buckets filled and averaged in different ways are accepted; each wrong one has its symptom."""

import pytest
import torch
import torch.distributed as dist

from torchcourse.lessons.data_parallelism import data_parallel
from torchcourse.lessons.data_parallelism.checks import buckets as check
from verdicts import accepted, refused, todo

# fill_buckets


def fill(parameters, limit, size=lambda p: p.numel() * p.element_size()):
    buckets = []
    for parameter in reversed([p for p in parameters if p.requires_grad]):
        if not buckets or sum(map(size, buckets[-1])) + size(parameter) > limit:
            buckets.append([])
        buckets[-1].append(parameter)
    return buckets


def fill_with_a_running_total(parameters, limit):
    done, open_bucket, total = [], [], 0
    for parameter in list(parameters)[::-1]:
        if not parameter.requires_grad:
            continue
        if open_bucket and total + parameter.nbytes > limit:
            done.append(tuple(open_bucket))
            open_bucket, total = [], 0
        open_bucket.append(parameter)
        total += parameter.nbytes
    return [*done, tuple(open_bucket)]


def fill_as_the_package(parameters, limit):
    trained = [p for p in parameters if p.requires_grad]
    return [bucket.parameters for bucket in data_parallel.fill_buckets(trained, limit / 2**20)]


def fill_until_full(parameters, limit):
    buckets = [[]]
    for parameter in reversed([p for p in parameters if p.requires_grad]):
        buckets[-1].append(parameter)
        if sum(p.nbytes for p in buckets[-1]) >= limit:
            buckets.append([])
    return [bucket for bucket in buckets if bucket]


def filled_forward(parameters, limit):
    """Filled from the first parameter to the last, then turned round: the small bucket is the first, not the last."""
    buckets = []
    for parameter in (p for p in parameters if p.requires_grad):
        if not buckets or sum(p.nbytes for p in buckets[-1]) + parameter.nbytes > limit:
            buckets.append([])
        buckets[-1].append(parameter)
    return [bucket[::-1] for bucket in buckets[::-1]]


def last_bucket_forgotten(parameters, limit):
    done, open_bucket = [], []
    for parameter in reversed([p for p in parameters if p.requires_grad]):
        if open_bucket and sum(p.nbytes for p in open_bucket) + parameter.nbytes > limit:
            done.append(open_bucket)
            open_bucket = []
        open_bucket.append(parameter)
    return done


def large_left_out(parameters, limit):
    return fill([p for p in parameters if p.nbytes <= limit], limit)


def empty_before_large(parameters, limit):
    buckets, total = [[]], 0
    for parameter in reversed([p for p in parameters if p.requires_grad]):
        if total + parameter.nbytes > limit:
            buckets.append([])
            total = 0
        buckets[-1].append(parameter)
        total += parameter.nbytes
    return buckets


def total_never_reset(parameters, limit):
    buckets, total = [[]], 0
    for parameter in reversed([p for p in parameters if p.requires_grad]):
        total += parameter.nbytes
        if total > limit and buckets[-1]:
            buckets.append([])
        buckets[-1].append(parameter)
    return buckets


def emptied(parameters, limit):
    buckets = fill(parameters, limit)
    parameters.clear()
    return buckets


def reversed_in_place(parameters, limit):
    parameters.reverse()
    return fill(parameters[::-1], limit)


def one_of_each_shape(parameters, limit):
    return fill(list({p.shape: p for p in parameters}.values()), limit)


def test_more_than_a_bucket_that_is_lost_is_not_asked_for_the_last_one():
    assert "last bucket" in check.fill_buckets(last_bucket_forgotten).message
    checked = check.fill_buckets(one_of_each_shape)
    refused(checked, "lost")
    assert "last bucket" not in checked.message


@pytest.mark.parametrize("answer", [fill, fill_with_a_running_total, fill_as_the_package])
def test_fill_buckets_accepts(answer):
    accepted(check.fill_buckets(answer))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda parameters, limit: fill(parameters[::-1], limit), "forward_order"),
        (lambda parameters, limit: [bucket[::-1] for bucket in fill(parameters, limit)], "order"),
        (lambda parameters, limit: fill(parameters, limit, size=torch.numel), "numbers_not_bytes"),
        (lambda parameters, limit: fill(parameters, limit, size=lambda p: 4 * p.numel()), "four_bytes"),
        (fill_until_full, "too_full"),
        (lambda parameters, limit: [[p for p in reversed(parameters) if p.requires_grad]], "too_full"),
        (lambda parameters, limit: [[p] for p in parameters if p.grad is not None], "no_parameter"),
        (emptied, "inputs_changed"),
        (lambda parameters, limit: frozen_when_dealt(parameters, limit), "inputs_changed"),
        (reversed_in_place, "inputs_changed"),
        (last_bucket_forgotten, "lost"),
        (large_left_out, "lost"),
        (empty_before_large, "empty"),
        (total_never_reset, "closed_early"),
        (filled_forward, "closed_early"),
        (lambda parameters, limit: fill(parameters, 0), "closed_early"),
        (lambda parameters, limit: [b + b[-1:] for b in fill(parameters, limit)], "twice"),
        (lambda parameters, limit: [[p] for p in reversed(parameters)], "frozen"),
        (lambda parameters, limit: fill_with_frozen(parameters, limit), "frozen"),
        (lambda parameters, limit: [[p.data for p in bucket] for bucket in fill(parameters, limit)], "wrong_type"),
        (lambda parameters, limit: None, "wrong_type"),
        (lambda parameters, limit: fill(parameters, limit)[0], "wrong_type"),
    ],
)
def test_fill_buckets_refuses(answer, symptom):
    refused(check.fill_buckets(answer), symptom)


@pytest.mark.parametrize(
    ("answer", "words"),
    [(last_bucket_forgotten, "when the loop is over"), (large_left_out, "larger than the limit")],
)
def test_fill_buckets_asks_of_a_lost_parameter_what_fits_it(answer, words):
    assert words in check.fill_buckets(answer).message


def fill_with_frozen(parameters, limit):
    buckets = fill([p.requires_grad_() for p in parameters], limit)
    for parameter in parameters:
        parameter.requires_grad_(parameter.numel() not in (7, 9))
    return buckets


# average_bucket


def row_of(bucket):
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in bucket])


def put_back(bucket, row, shape=True):
    for parameter, part in zip(bucket, row.split([p.numel() for p in bucket]), strict=True):
        parameter.grad = part.view_as(parameter).clone() if shape else part


def averaged(bucket, divide=lambda n: n):
    row = row_of(bucket)
    dist.all_reduce(row)
    put_back(bucket, row / divide(dist.get_world_size()))


def averaged_by_avg(bucket):
    row = row_of(bucket)
    dist.all_reduce(row, op=dist.ReduceOp.AVG)
    start = 0
    for parameter in bucket:
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        parameter.grad.copy_(row[start : start + parameter.numel()].reshape(parameter.shape))
        start += parameter.numel()


def averaged_by_the_package(bucket):
    whole = data_parallel.Bucket(bucket)
    whole.launch()
    whole.finish()


def one_by_one(bucket):
    for parameter in bucket:
        averaged([parameter])


def added_to_its_own(bucket):
    own = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in bucket]
    averaged(bucket)
    for parameter, gradient in zip(bucket, own, strict=True):
        parameter.grad = parameter.grad + gradient


def frozen_when_dealt(parameters, limit):
    return [[parameter.requires_grad_(False) for parameter in bucket] for bucket in fill(parameters, limit)]


def not_put_back(bucket):
    row = row_of(bucket) / dist.get_world_size()
    dist.all_reduce(row)


def no_message(bucket):
    put_back(bucket, row_of(bucket) / dist.get_world_size())


def put_back_where_there_was_one(bucket):
    row = row_of(bucket)
    dist.all_reduce(row)
    row /= dist.get_world_size()
    for parameter, part in zip(bucket, row.split([p.numel() for p in bucket]), strict=True):
        if parameter.grad is not None:
            parameter.grad.copy_(part.view_as(parameter))


def none_left_out(bucket):
    averaged([parameter for parameter in bucket if parameter.grad is not None])


def none_met(bucket):
    row = torch.cat([parameter.grad.flatten() for parameter in bucket])
    dist.all_reduce(row)


def in_16_bits(bucket):
    row = row_of(bucket).half().double()
    dist.all_reduce(row)
    put_back(bucket, row / dist.get_world_size())


def cut_in_another_order(bucket):
    row = row_of(bucket)
    dist.all_reduce(row)
    put_back(bucket[::-1], row / dist.get_world_size())


def weights_averaged(bucket):
    averaged(bucket)
    for parameter in bucket:
        parameter.data.mul_(0.99)


def averages_into_the_weights(bucket):
    row = row_of(bucket)
    dist.all_reduce(row)
    for parameter, part in zip(bucket, row.split([p.numel() for p in bucket]), strict=True):
        parameter.data.copy_(part.view_as(parameter))


def skipped_with_a_none(bucket):
    if all(parameter.grad is not None for parameter in bucket):
        averaged(bucket)


def reduced_to_rank_0(bucket):
    row = row_of(bucket)
    dist.reduce(row, dst=0)
    put_back(bucket, row / dist.get_world_size())


def result_expected_back(bucket):
    put_back(bucket, dist.all_reduce(row_of(bucket)))


def ones_for_none(bucket):
    for parameter in bucket:
        parameter.grad = torch.ones_like(parameter) if parameter.grad is None else parameter.grad
    averaged(bucket)


def row_of_float32(bucket):
    row = row_of(bucket).float()
    dist.all_reduce(row)
    put_back(bucket, (row / dist.get_world_size()).double())


def rank_0_alone(bucket):
    if dist.get_rank() == 0:
        averaged(bucket)


def rows_gathered(bucket):
    row = row_of(bucket)
    rows = [torch.empty_like(row) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, row)
    put_back(bucket, torch.stack(rows).mean(dim=0))


def nothing_for_none(bucket):
    """What stands where there is no gradient is no number."""
    for parameter in bucket:
        parameter.grad = torch.full_like(parameter, torch.nan) if parameter.grad is None else parameter.grad
    averaged(bucket)


def test_weights_that_are_no_numbers_are_not_said_to_be_changed():
    refused(check.average_bucket(nothing_for_none), "missing_gradient")


@pytest.mark.slow
@pytest.mark.parametrize("answer", [averaged, averaged_by_avg, averaged_by_the_package])
def test_average_bucket_accepts(answer):
    accepted(check.average_bucket(answer))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (one_by_one, "many_messages"),
        (not_put_back, "nothing_changed"),
        (no_message, "only_divided"),
        (lambda bucket: averaged(bucket, lambda n: 1), "sum_not_mean"),
        (lambda bucket: averaged(bucket, lambda n: n * n), "divided_twice"),
        (lambda bucket: averaged(bucket, lambda n: 2), "two_ranks_only"),
        (added_to_its_own, "added_to_own"),
        (put_back_where_there_was_one, "missing_gradient"),
        (none_left_out, "sizes_differ"),
        (none_met, "no_gradient"),
        (cut_in_another_order, "wrong_value"),
        (in_16_bits, "wrong_value"),  # what no rank uses is 0 as it should be: nothing is right for that
        (weights_averaged, "weights_changed"),
        (rank_0_alone, "hang"),
        (lambda bucket: averaged(bucket, lambda n: len(bucket)), "wrong_factor"),
        (averages_into_the_weights, "weights_changed"),
        (skipped_with_a_none, "missing_gradient"),
        (reduced_to_rank_0, "one_rank_only"),
        (result_expected_back, "nothing_returned"),
        (ones_for_none, "missing_gradient"),
        (row_of_float32, "dtype"),
        (rows_gathered, "gathered"),
        (lambda bucket: put_back(bucket, torch.zeros_like(row_of(bucket))), "wrong_factor"),
    ],
)
def test_average_bucket_refuses(answer, symptom):
    refused(check.average_bucket(answer), symptom)


# both


@pytest.mark.parametrize("exercise", [check.fill_buckets, check.average_bucket])
def test_a_stub_is_not_done_yet(exercise):
    assert exercise(todo).state == "not done"


def test_the_exercises_count_for_lesson_01():
    assert check.fill_buckets(fill).exercise == "lesson01.fill_buckets"
