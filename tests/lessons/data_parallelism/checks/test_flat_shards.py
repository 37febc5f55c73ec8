"""A rank's shard, and its mean gradient: right however it is made, and each wrong one has its symptom."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from torchcourse.lessons.data_parallelism import flat_shards
from torchcourse.lessons.data_parallelism.checks import flat_shards as check
from verdicts import accepted, refused, todo


def flat_of(tensors):
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def cut(flat, rank, ranks):
    return F.pad(flat, (0, -len(flat) % ranks)).chunk(ranks)[rank].clone()


def filled_room(tensors, rank, ranks):
    flat = flat_of(tensors)
    each = (len(flat) + ranks - 1) // ranks
    room = torch.zeros(each, dtype=flat.dtype)
    own = flat[rank * each : (rank + 1) * each]
    room[: len(own)] = own
    return room


def as_a_table(tensors, rank, ranks):
    flat = flat_of(tensors)
    while len(flat) % ranks:
        flat = torch.cat([flat, torch.zeros(1, dtype=flat.dtype)])
    return flat.view(ranks, -1)[rank].clone()


def number_by_number(tensors, rank, ranks):
    numbers = [number for tensor in tensors for number in tensor.flatten().tolist()]
    numbers += [0.0] * (-len(numbers) % ranks)
    each = len(numbers) // ranks
    return torch.tensor(numbers[rank * each : (rank + 1) * each], dtype=tensors[0].dtype)


def by_index(tensors, rank, ranks):
    padded = flat_shards.flatten(tensors, ranks)
    each = len(padded) // ranks
    return padded.index_select(0, torch.arange(rank * each, (rank + 1) * each))


@pytest.mark.parametrize("answer", [flat_shards.own_shard, filled_room, as_a_table, number_by_number, by_index])
def test_own_shard_accepts(answer):
    accepted(check.own_shard(answer))


def changes_the_parameters(tensors, rank, ranks):
    own = cut(flat_of(tensors), rank, ranks)
    for tensor in tensors:
        tensor.zero_()
    return own


def filled_up_with_ones(tensors, rank, ranks):
    flat = flat_of(tensors)
    return F.pad(flat, (0, -len(flat) % ranks), value=1.0).chunk(ranks)[rank].clone()


def always_adds(tensors, rank, ranks):
    flat = flat_of(tensors)
    return F.pad(flat, (0, ranks - len(flat) % ranks)).chunk(ranks)[rank].clone()


def rounded_down(tensors, rank, ranks):
    flat = flat_of(tensors)
    each = len(flat) // ranks
    return flat[rank * each : (rank + 1) * each].clone()


def zeros_in_front(tensors, rank, ranks):
    flat = flat_of(tensors)
    return F.pad(flat, (-len(flat) % ranks, 0)).chunk(ranks)[rank].clone()


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda t, r, n: flat_of(t).tensor_split(n)[r].clone(), "not_equal"),
        (rounded_down, "numbers_lost"),
        (lambda t, r, n: torch.cat([cut(one.reshape(-1), r, n) for one in t]), "cut_each"),
        (lambda t, r, n: F.pad(flat_of(t), (0, -len(flat_of(t)) % n)).chunk(n)[r], "keeps_the_whole"),
        (always_adds, "too_many_zeros"),
        (filled_up_with_ones, "not_zeros"),
        (zeros_in_front, "zeros_first"),
        (lambda t, r, n: flat_shards.flatten(t, n)[r::n].clone(), "dealt"),
        (lambda t, r, n: cut(flat_of(t), (r + 1) % n, n), "order"),
        (lambda t, r, n: cut(flat_of(t), n - 1 - r, n), "order"),
        (lambda t, r, n: cut(flat_of(t[::-1]), r, n), "wrong_value"),
        (lambda t, r, n: cut(flat_of(t[:1]), r, n), "numbers_lost"),
        (lambda t, r, n: cut(flat_of([one.t() if one.dim() == 2 else one for one in t]), r, n), "wrong_value"),
        (lambda t, r, n: flat_of(t), "whole"),
        (lambda t, r, n: flat_shards.flatten(t, n).clone(), "whole"),
        (lambda t, r, n: flat_shards.flatten(t, n).view(n, -1)[r : r + 1].clone(), "shape"),
        (lambda t, r, n: flat_shards.flatten(t, n).chunk(n), "wrong_type"),
        (lambda t, r, n: cut(flat_of(t).float(), r, n), "dtype"),
        (lambda t, r, n: cut(torch.cat([flat_of(t), torch.zeros(-flat_of(t).numel() % n)]), r, n), "dtype"),
        (changes_the_parameters, "inputs_changed"),
        (lambda t, r, n: None, "nothing_returned"),
        (lambda t, r, n: cut(flat_of(t), r, n) * 2, "wrong_value"),
        (lambda t, r, n: flat_of(t).view(n, -1)[r].clone(), "raised_RuntimeError"),
    ],
)
def test_own_shard_refuses(answer, symptom):
    refused_or_raised(check.own_shard(answer), symptom)


def refused_or_raised(checked, symptom):
    if symptom.startswith("raised_"):
        assert (checked.state, checked.symptom) == ("wrong", symptom), checked.message
    else:
        refused(checked, symptom)


def who():
    return dist.get_rank(), dist.get_world_size()


def parts_of(gradients):
    return list(flat_shards.flatten(gradients, dist.get_world_size()).chunk(dist.get_world_size()))


def one_reduce_for_each_rank(gradients):
    rank, n = who()
    parts = parts_of(gradients)
    for owner, part in enumerate(parts):
        dist.reduce(part, owner)
    return parts[rank].clone() / n


def divided_before(gradients):
    parts = [part / dist.get_world_size() for part in parts_of(gradients)]
    own = torch.empty_like(parts[0])
    dist.reduce_scatter(own, parts)
    return own


def each_to_its_owner(gradients):
    parts = parts_of(gradients)
    arrived = [torch.empty_like(parts[0]) for _ in parts]
    dist.all_to_all(arrived, parts)
    return torch.stack(arrived).mean(dim=0)


def whole_reduced_to_each(gradients):
    rank, n = who()
    for owner in range(n):
        flat = flat_shards.flatten(gradients, n)
        dist.reduce(flat, owner)
        if owner == rank:
            own = flat.chunk(n)[rank] / n
    return own


def reduced_and_scattered(gradients):
    rank, n = who()
    flat = flat_shards.flatten(gradients, n)
    dist.reduce(flat, 0)
    own = torch.empty_like(flat.chunk(n)[0])
    dist.scatter(own, list(flat.chunk(n)) if rank == 0 else None, src=0)
    return own / n


def average_of_the_library(gradients):
    parts = parts_of(gradients)
    own = torch.empty_like(parts[0])
    dist.reduce_scatter(own, parts, op=dist.ReduceOp.AVG)
    return own


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    [flat_shards.mean_shard, one_reduce_for_each_rank, divided_before, each_to_its_owner, average_of_the_library],
)
def test_mean_shard_accepts(answer):
    accepted(check.mean_shard(answer))


def scattered(gradients, shift=0, power=1, op=dist.ReduceOp.SUM):
    n, parts = dist.get_world_size(), parts_of(gradients)
    own = torch.empty_like(parts[0])
    dist.reduce_scatter(own, parts[shift:] + parts[:shift], op=op)
    return own / n**power


def all_reduced(gradients):
    rank, n = who()
    flat = flat_shards.flatten(gradients, n)
    dist.all_reduce(flat)
    return flat.chunk(n)[rank] / n


def all_gathered(gradients):
    rank, n = who()
    flat = flat_shards.flatten(gradients, n)
    every = [torch.empty_like(flat) for _ in range(n)]
    dist.all_gather(every, flat)
    return torch.stack(every).mean(dim=0).chunk(n)[rank]


def whole_mean(gradients):
    flat = flat_shards.flatten(gradients, dist.get_world_size())
    dist.all_reduce(flat)
    return flat / dist.get_world_size()


def of_rank_0(gradients):
    flat = flat_shards.flatten(gradients, dist.get_world_size())
    dist.all_reduce(flat)
    return parts_of([flat])[0] / dist.get_world_size()


def only_rank_0_calls(gradients):
    if dist.get_rank() == 0:
        dist.all_reduce(torch.zeros(1))
    return parts_of(gradients)[dist.get_rank()]


def from_rank_0(gradients):
    parts = parts_of(gradients)
    own = torch.empty_like(parts[0])
    dist.scatter(own, parts if dist.get_rank() == 0 else None, src=0)
    return own


def nothing_filled_in(gradients):
    dist.reduce_scatter(torch.empty_like(parts_of(gradients)[0]), parts_of(gradients))


def mean_of_a_shard(gradients):
    own = flat_shards.mean_shard(gradients)
    return torch.full_like(own, float(own.mean()))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda g: scattered(g, power=0), "sum_not_mean"),
        (lambda g: scattered(g, power=2), "divided_twice"),
        (lambda g: scattered(g, shift=1), "other_rank"),
        (lambda g: scattered(g, power=0, op=dist.ReduceOp.MAX), "wrong_value"),
        (lambda g: scattered(g, op=dist.ReduceOp.MAX), "wrong_value"),
        (lambda g: parts_of(g)[dist.get_rank()].clone(), "own_only"),
        (lambda g: parts_of(g)[dist.get_rank()] / dist.get_world_size(), "own_only"),
        (all_reduced, "too_many_bytes"),
        (all_gathered, "too_many_bytes"),
        (lambda g: scattered([gradient.div_(dist.get_world_size()) for gradient in g], power=0), "inputs_changed"),
        (whole_reduced_to_each, "too_many_bytes"),
        (reduced_and_scattered, "too_many_bytes"),
        (lambda g: scattered([gradient.float() for gradient in g]), "dtype"),
        (lambda g: scattered([gradient.double() for gradient in g]), "dtype"),
        (lambda g: scattered(g).double(), "dtype"),
        (whole_mean, "whole_gradient"),
        (of_rank_0, "other_rank"),
        (mean_of_a_shard, "wrong_value"),
        (nothing_filled_in, "nothing_returned"),
        (only_rank_0_calls, "left_alone"),
        (lambda g: parts_of(g), "wrong_type"),
        (lambda g: scattered(g)[None], "shape"),
        (lambda g: scattered(g) + 1, "wrong_value"),
        (lambda g: scattered(g) * dist.get_world_size() / 2, "two_ranks_only"),
        (from_rank_0, "of_rank_0"),
        (lambda g: from_rank_0(g) / dist.get_world_size(), "of_rank_0"),
        (lambda g: scattered(g) / (1 + 2 * dist.get_rank()), "wrong_value"),
        (lambda g: g[0].reduce_scatter(), "raised_AttributeError"),
    ],
)
def test_mean_shard_refuses(answer, symptom):
    refused_or_raised(check.mean_shard(answer), symptom)


def test_the_wrong_shard_is_shown_with_its_rank():
    message = check.mean_shard(lambda g: scattered(g) / (1 + 2 * dist.get_rank())).message
    assert "rank 1 should get" in message
    message = check.own_shard(lambda t, r, n: cut(flat_of(t), r, n) * (1 + r)).message
    assert "rank 1 should keep" in message


@pytest.mark.parametrize("checked", [check.own_shard, check.mean_shard])
def test_a_stub_is_not_done_yet(checked):
    assert checked(todo).state == "not done"
