"""The checks of notebook 3 of lesson 01 accept right answers built in different ways and name wrong ones' symptoms."""

import math

import pytest
import torch
import torch.distributed as dist
from torch.utils.data import DistributedSampler

from torchcourse.lessons.data_parallelism import sampling
from torchcourse.lessons.data_parallelism.checks import scaling as check
from verdicts import accepted, refused, todo


@pytest.mark.parametrize("name", ["share_of_epoch", "train_on_all", "zero_bytes", "step_seconds"])
def test_a_stub_is_not_done_yet(name):
    assert getattr(check, name)(todo).state == "not done"


# share_of_epoch


def mixed(length, epoch):
    return torch.randperm(length, generator=torch.Generator().manual_seed(epoch)).tolist()


def dealt(order, rank, world_size):
    each = math.ceil(len(order) / world_size)
    return (order * world_size)[: each * world_size][rank::world_size]


def share(length, epoch, rank, world_size):
    return dealt(mixed(length, epoch), rank, world_size)


def share_card_by_card(length, epoch, rank, world_size):
    order, hand, card = mixed(length, epoch), [], 0
    while card < length or card % world_size:
        if card % world_size == rank:
            hand.append(order[card % length])
        card += 1
    return hand


def share_of_the_package(length, epoch, rank, world_size):
    sampler = sampling.DistributedSampler(range(length), world_size, rank)
    sampler.set_epoch(epoch)
    return torch.tensor(list(sampler))


@pytest.mark.parametrize("learner", [share, share_card_by_card, share_of_the_package])
def test_share_of_epoch_accepts(learner):
    accepted(check.share_of_epoch(learner))


def blocks(length, epoch, rank, world_size):
    order = mixed(length, epoch)
    each = math.ceil(length / world_size)
    return (order * world_size)[rank * each : (rank + 1) * each]


def front_padding_once(length, epoch, rank, world_size):
    order = mixed(length, epoch)
    order += order[: -length % world_size]
    return order[: len(order) // world_size * world_size][rank::world_size]


def from_the_end(length, epoch, rank, world_size):
    order = mixed(length, epoch)
    missing = -length % world_size
    return (order + order[len(order) - missing :])[rank::world_size]


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (blocks, "blocks"),
        (lambda n, epoch, rank, ranks: mixed(n, epoch)[rank::ranks], "uneven"),
        (lambda n, epoch, rank, ranks: mixed(n, epoch)[: n // ranks * ranks][rank::ranks], "dropped"),
        (lambda n, epoch, rank, ranks: dealt(mixed(n, 0), rank, ranks), "same_every_epoch"),
        (lambda n, epoch, rank, ranks: dealt(list(range(n)), rank, ranks), "not_mixed"),
        (lambda n, epoch, rank, ranks: dealt(mixed(n, epoch + rank), rank, ranks), "own_shuffle"),
        (lambda n, epoch, rank, ranks: dealt(mixed(n, 0 if epoch == 0 else epoch + 1), rank, ranks), "other_order"),
        (lambda n, epoch, rank, ranks: mixed(n, epoch), "too_many"),
        (front_padding_once, "tiny"),
        (from_the_end, "padding"),
        (lambda n, epoch, rank, ranks: None, "no_list"),
    ],
)
def test_share_of_epoch_refuses(learner, symptom):
    refused(check.share_of_epoch(learner), symptom)


# train_on_all


def one_step(model, optimizer, loss_of, batch):
    optimizer.zero_grad()
    loss_of(model(batch)).backward()
    optimizer.step()


def joined(ddp, optimizer, loss_of, batches):
    with ddp.join():
        for batch in batches:
            one_step(ddp, optimizer, loss_of, batch)
    return len(batches)


def zeros_by_hand(ddp, optimizer, loss_of, batches):
    most = torch.tensor(len(batches))
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    parameters = list(ddp.module.parameters())
    for step in range(most.item()):
        optimizer.zero_grad()
        if step < len(batches):
            loss_of(ddp.module(batches[step])).backward()
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()
        optimizer.step()
    return len(batches)


def mean_of_the_active(ddp, optimizer, loss_of, batches):
    with ddp.join(divide_by_initial_world_size=False):
        for batch in batches:
            one_step(ddp, optimizer, loss_of, batch)
    return len(batches)


@pytest.mark.parametrize("learner", [joined, zeros_by_hand, mean_of_the_active])
def test_train_on_all_accepts(learner):
    accepted(check.train_on_all(learner))


def ignores_it(ddp, optimizer, loss_of, batches):
    for batch in batches:
        one_step(ddp, optimizer, loss_of, batch)
    return len(batches)


def shortest(ddp, optimizer, loss_of, batches):
    least = torch.tensor(len(batches))
    dist.all_reduce(least, op=dist.ReduceOp.MIN)
    for batch in batches[: least.item()]:
        one_step(ddp, optimizer, loss_of, batch)
    return least.item()


def repeats(ddp, optimizer, loss_of, batches):
    most = torch.tensor(len(batches))
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    for step in range(most.item()):
        one_step(ddp, optimizer, loss_of, batches[step % len(batches)])
    return len(batches)


def alone_at_the_end(ddp, optimizer, loss_of, batches):
    least = torch.tensor(len(batches))
    dist.all_reduce(least, op=dist.ReduceOp.MIN)
    for step, batch in enumerate(batches):
        one_step(ddp if step < least.item() else ddp.module, optimizer, loss_of, batch)
    return len(batches)


def never_averages(ddp, optimizer, loss_of, batches):
    for batch in batches:
        one_step(ddp.module, optimizer, loss_of, batch)
    dist.broadcast(ddp.module.weight.data, 0)
    return len(batches)


def returns_all(ddp, optimizer, loss_of, batches):
    joined(ddp, optimizer, loss_of, batches)
    total = torch.tensor(len(batches))
    dist.all_reduce(total)
    return total.item()


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (ignores_it, "connection_closed"),
        (shortest, "left_out"),
        (repeats, "used_twice"),
        (alone_at_the_end, "apart"),
        (never_averages, "other_steps"),
        (returns_all, "count"),
    ],
)
def test_train_on_all_refuses(learner, symptom):
    refused(check.train_on_all(learner), symptom)


# zero_bytes


def bytes_a_rank(parameters, world_size, stage, each=(2, 2, 12), shared_from=(3, 2, 1)):
    sizes = zip(each, shared_from, strict=True)
    return tuple(size * parameters / (world_size if stage >= first else 1) for size, first in sizes)


def bytes_with_ifs(parameters, world_size, stage):
    weights, gradients, optimizer = 2 * parameters, 2 * parameters, 12 * parameters
    if stage > 0:
        optimizer /= world_size
    if stage > 1:
        gradients /= world_size
    if stage > 2:
        weights /= world_size
    return [weights, gradients, optimizer]


@pytest.mark.parametrize("learner", [bytes_a_rank, bytes_with_ifs])
def test_zero_bytes_accepts(learner):
    accepted(check.zero_bytes(learner))


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (lambda p, n, stage: bytes_a_rank(p, n, stage, each=(4, 4, 8)), "bytes_a_parameter"),
        (lambda p, n, stage: bytes_a_rank(p, n, stage, each=(2, 2, 8)), "bytes_a_parameter"),
        (lambda p, n, stage: bytes_a_rank(p, n, stage, shared_from=(1, 2, 3)), "shared_too_early"),
        (lambda p, n, stage: bytes_a_rank(p, n, stage, shared_from=(4, 3, 2)), "not_shared"),
        (lambda p, n, stage: bytes_a_rank(p, n**2, stage), "wrong_share"),
        (lambda p, n, stage: sum(bytes_a_rank(p, n, stage)), "shape"),
    ],
)
def test_zero_bytes_refuses(learner, symptom):
    refused(check.zero_bytes(learner), symptom)


# step_seconds


def seconds(compute, size, n, alpha, beta):
    return compute / n + 2 * (n - 1) * alpha + 2 * (n - 1) / n * size * beta


def seconds_by_halves(compute, size, n, alpha, beta):
    chunk = size / n
    reduce_scatter = sum(alpha + chunk * beta for _ in range(n - 1))
    return torch.tensor(compute / n + 2 * reduce_scatter, dtype=torch.float64)


@pytest.mark.parametrize("learner", [seconds, seconds_by_halves])
def test_step_seconds_accepts(learner):
    accepted(check.step_seconds(learner))


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (lambda c, s, n, a, b: seconds(c, s, n, a, b) - c / n + c, "compute_not_shared"),
        (lambda c, s, n, a, b: c / n + 2 * (n - 1) * a + 2 * s * b, "whole_tensor"),
        (lambda c, s, n, a, b: c / n + 2 * (n - 1) * a + (n - 1) * s * b, "plain_way"),
        (lambda c, s, n, a, b: c / n + a + 2 * (n - 1) / n * s * b, "messages"),
        (lambda c, s, n, a, b: max(c / n, 2 * (n - 1) * a + 2 * (n - 1) / n * s * b), "overlapped"),
        (lambda c, s, n, a, b: seconds(c, s, n, a, b) if n > 1 else c + 0.1, "one_rank_talks"),
        (lambda c, s, n, a, b: 2 * seconds(c, s, n, a, b), "wrong_value"),
        (lambda c, s, n, a, b: None, "no_number"),
    ],
)
def test_step_seconds_refuses(learner, symptom):
    refused(check.step_seconds(learner), symptom)


def test_torchs_own_sampler_is_the_oracle():
    sampler = DistributedSampler(range(10), 4, 1, shuffle=True)
    sampler.set_epoch(2)
    assert share(10, 2, 1, 4) == list(sampler)
