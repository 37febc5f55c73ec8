"""Clipping over shards: right however the squares come together, and each wrong norm has its symptom."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from torchcourse.lessons.data_parallelism import sharding
from torchcourse.lessons.data_parallelism.checks import shard_norm as check
from verdicts import accepted, refused, todo


def used(shards):
    return [shard.grad for shard in shards if shard.grad is not None]


def own_square(shards):
    return sum((gradient.square().sum() for gradient in used(shards)), torch.zeros((), dtype=torch.float64))


def over_ranks(number, op=dist.ReduceOp.SUM):
    number = number.clone()
    dist.all_reduce(number, op=op)
    return number


def scale(shards, norm, max_norm):
    for gradient in used(shards):
        gradient.mul_(min(1.0, max_norm / float(norm)))


def by(norm_of, returned=None):
    """An answer that clips by `norm_of(shards)`, and returns that norm unless told otherwise."""

    def answer(shards, max_norm):
        norm = norm_of(shards)
        right = over_ranks(own_square(shards)).sqrt()
        scale(shards, norm, max_norm)
        return returned(shards, right, max_norm) if returned else norm

    return answer


def whole(shards):
    return over_ranks(own_square(shards)).sqrt()


def gathered_objects(shards, max_norm):
    squares = [None] * dist.get_world_size()
    dist.all_gather_object(squares, float(own_square(shards)))
    norm = sum(squares) ** 0.5
    scale(shards, norm, max_norm)
    return norm


def gathered_norms(shards, max_norm):
    own = torch.nn.utils.get_total_norm(used(shards))
    norms = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(norms, own)
    norm = torch.stack(norms).norm()
    if norm > max_norm:
        for shard in shards:
            if shard.grad is not None:
                shard.grad *= max_norm / norm
    return norm


def one_message_per_shard(shards, max_norm):
    norm = torch.stack([over_ranks(gradient.square().sum()) for gradient in used(shards)]).sum().sqrt()
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for shard in shards:
        if shard.grad is not None:
            shard.grad = shard.grad * factor
    return norm.item()


def torch_scales(shards, max_norm):
    norm = whole(shards)
    torch.nn.utils.clip_grads_with_norm_(shards, max_norm, norm)
    return norm


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    [by(whole), sharding.clip_grad_norm_, gathered_objects, gathered_norms, one_message_per_shard, torch_scales],
)
def test_clip_shards_accepts(answer):
    accepted(check.clip_shards(answer))


def always(shards, max_norm):
    norm = whole(shards)
    for gradient in used(shards):
        gradient.mul_(max_norm / norm)
    return norm


def each_shard(shards, max_norm):
    norm = whole(shards)
    for gradient in used(shards):
        gradient.mul_(min(1.0, max_norm / float(gradient.norm())))
    return norm


def each_unit(shards, max_norm):
    norm = whole(shards)
    for gradient in used(shards):
        gradient.mul_(min(1.0, max_norm / float(over_ranks(gradient.square().sum()).sqrt())))
    return norm


def clamped(shards, max_norm):
    nn.utils.clip_grad_value_([shard for shard in shards if shard.grad is not None], max_norm)
    return whole(shards)


def only_the_norm(shards, max_norm):
    return whole(shards)


def lost_products(shards, max_norm):
    norm = whole(shards)
    for gradient in used(shards):
        gradient = gradient * (max_norm / norm)
    return norm


def upside_down(shards, max_norm):
    norm = whole(shards)
    for gradient in used(shards):
        gradient.mul_(max(1.0, float(norm / max_norm)))
    return norm


def to_length_one(shards, max_norm):
    norm = whole(shards)
    for gradient in used(shards):
        gradient.div_(norm)
    return norm


def norms_of_shards(shards):
    return over_ranks(torch.stack([gradient.norm() for gradient in used(shards)]).sum())


def largest_of_a_shard(shards):
    return over_ranks(torch.stack([gradient.norm() for gradient in used(shards)]).max(), dist.ReduceOp.MAX)


def square_compared(shards, max_norm):
    square = over_ranks(own_square(shards))
    if square > max_norm:
        for gradient in used(shards):
            gradient.mul_(max_norm / square.sqrt())
    return square.sqrt()


def limit_squared(shards, max_norm):
    norm = whole(shards)
    if norm > max_norm**2:
        scale(shards, norm, max_norm)
    return norm


def no_shard_left_out(shards, max_norm):
    norm = over_ranks(sum(shard.grad.square().sum() for shard in shards)).sqrt()
    scale(shards, norm, max_norm)
    return norm


def only_long_ranks_speak(shards, max_norm):
    own = own_square(shards)
    if own.sqrt() > max_norm:
        dist.all_reduce(own)
    scale(shards, own.sqrt(), max_norm)
    return own.sqrt()


def of_rank_0(shards):
    own = own_square(shards).sqrt()
    dist.broadcast(own, src=0)
    return own


def clipped_twice(shards, max_norm):
    nn.utils.clip_grad_norm_(shards, max_norm)
    return by(whole)(shards, max_norm)


def zeros_for_none(shards, max_norm):
    for shard in shards:
        shard.grad = torch.zeros_like(shard) if shard.grad is None else shard.grad
    return by(whole)(shards, max_norm)


def gradients_dropped(shards, max_norm):
    nn.ParameterList(shards).zero_grad()
    return torch.ones(())


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (nn.utils.clip_grad_norm_, "own_norm"),
        (by(lambda shards: own_square(shards).sqrt()), "own_norm"),
        (by(lambda shards: over_ranks(own_square(shards).sqrt())), "wrong_factor"),
        (by(lambda shards: over_ranks(own_square(shards).sqrt()) / dist.get_world_size()), "wrong_factor"),
        (by(lambda shards: over_ranks(own_square(shards).sqrt(), dist.ReduceOp.MAX)), "wrong_factor"),
        (by(of_rank_0), "wrong_factor"),
        (by(lambda shards: over_ranks(own_square(shards))), "no_root"),
        (by(lambda shards: (over_ranks(own_square(shards)) / dist.get_world_size()).sqrt()), "wrong_factor"),
        (each_shard, "each_by_itself"),
        (each_unit, "each_by_itself"),
        (clamped, "values_clamped"),
        (always, "always_scaled"),
        (only_the_norm, "nothing_changed"),
        (lost_products, "nothing_changed"),
        (upside_down, "wrong_factor"),
        (to_length_one, "wrong_factor"),
        (by(norms_of_shards), "wrong_factor"),
        (by(largest_of_a_shard), "wrong_factor"),
        (square_compared, "always_scaled"),
        (lambda shards, max_norm: by(whole)(shards, 1.5), "one_max_norm_only"),
        (limit_squared, "one_max_norm_only"),
        (no_shard_left_out, "no_gradient"),
        (zeros_for_none, "unused_filled"),
        (only_long_ranks_speak, "left_alone"),
        (clipped_twice, "wrong_value"),
        (gradients_dropped, "wrong_value"),
        (by(lambda shards: torch.tensor(torch.inf)), "wrong_value"),  # gradients of zeros
        (by(whole, lambda shards, norm, limit: own_square(shards).sqrt()), "wrong_norm"),
        (by(whole, lambda shards, norm, limit: max(norm, torch.tensor(limit))), "wrong_norm"),
        (by(whole, lambda shards, norm, limit: norm**2), "wrong_norm"),
        (by(whole, lambda shards, norm, limit: min(norm, torch.tensor(limit))), "wrong_norm"),
        (by(whole, lambda shards, norm, limit: limit / norm), "wrong_norm"),
        (by(whole, lambda shards, norm, limit: None), "nothing_returned"),
        (by(whole, lambda shards, norm, limit: used(shards)), "no_number"),
    ],
)
def test_clip_shards_refuses(answer, symptom):
    refused(check.clip_shards(answer), symptom)


def test_only_a_factor_above_1_is_said_to_be_upside_down():
    assert "upside down" in check.clip_shards(upside_down).message
    assert "upside down" not in check.clip_shards(to_length_one).message


def test_a_stub_is_not_done_yet():
    assert check.clip_shards(todo).state == "not done"
