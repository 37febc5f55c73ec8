"""Checks of lesson 01 on flat shards: the shard that a rank keeps, and the mean gradient that it gets."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import AnyOf, copies, on_ranks, refuse_known, result_of, same, tensor_of
from torchcourse.lessons.data_parallelism import flat_shards
from torchcourse.lessons.data_parallelism.checks.reference import NOTHING_CAME, TWO_RANKS_ONLY
from torchcourse.lessons.data_parallelism.messages import listed_messages
from torchcourse.ranks.who import device

Tensors = list[torch.Tensor]

_UNITS = (([(2, 2), (4,), (2,)], 3), ([(3, 3), (1,)], 4), ([(2, 3), (2,)], 2), ([(2, 2)], 1), ([(3,)], 5))
"""Shapes of the tensors of a unit, and ranks: lengths that N divides and others, also fewer numbers than ranks."""


@check
def own_shard(learner: Callable[[Tensors, int, int], Any]) -> str:
    """Compare the shards of all ranks with the flat tensor, cut, for five units."""
    for shapes, world_size in _UNITS:
        # the last unit has a type that zeros made without a type would widen
        tensors = _numbered(shapes, torch.bfloat16 if world_size == _UNITS[-1][1] else torch.float64)
        where = f"Shapes {', '.join(map(str, shapes))} on {world_size} rank{'s' if world_size > 1 else ''}: "
        found = []
        for rank in range(world_size):
            what = "the list that it was given, or the parameters in it"
            found.append(result_of(learner, tensors, rank, world_size, what=what))
        _judge_shards(found, tensors, world_size, where)
    return "Equal shards that put the unit together again, with zeros at the end only: checked for five units."


def _numbered(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> Tensors:
    """Tensors of this type that hold 1, 2, 3 … The first of two dimensions lies transposed in memory."""
    lengths = [torch.Size(shape).numel() for shape in shapes]
    pieces = torch.arange(1.0, sum(lengths) + 1).to(dtype).split(lengths)
    tensors = [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]
    return [tensor.t().contiguous().t() if tensor.dim() == 2 else tensor for tensor in tensors]


def must_be_flat(shard: Any, asked: str) -> None:
    """Raise `Wrong` for what is not one tensor of one dimension; `asked` goes before the shape that was returned."""
    if shard is None:
        raise Wrong("nothing_returned", "Your function returns nothing. Return the shard of this rank.")
    if not isinstance(shard, torch.Tensor):
        raise Wrong("wrong_type", f"Return one tensor. You return a value of type {type(shard).__name__}.")
    if shard.dim() != 1:
        raise Wrong("shape", f"{asked} the shape {list(shard.shape)}.")


def _judge_shards(found: list[Any], tensors: Tensors, world_size: int, where: str) -> None:
    right = [flat_shards.own_shard(tensors, rank, world_size) for rank in range(world_size)]
    flat, each = torch.cat([tensor.reshape(-1) for tensor in tensors]), len(right[0])
    for shard in found:
        must_be_flat(shard, f"{where}return a flat tensor [{each}]. You return")
    if not same(found, right):
        _refuse_shards(found, tensors, flat, world_size, where)
    for shard in found:
        if shard.dtype != flat.dtype:
            raise Wrong("dtype", f"The parameters are {flat.dtype}, and your shard is {shard.dtype}. Keep their type.")
    if any(shard.untyped_storage().nbytes() > each * flat.element_size() for shard in found):
        raise Wrong(
            "keeps_the_whole",
            f"{where}the numbers are right, but your shard is a view: it keeps the whole flat tensor in memory, and "
            "nothing is saved. What makes a tensor of its own out of a view?",
        )


def _refuse_shards(found: Tensors, tensors: Tensors, flat: torch.Tensor, world_size: int, where: str) -> None:
    padded = flat_shards.flatten(tensors, world_size)
    zeros = len(padded) - len(flat)
    right = list(padded.chunk(world_size))
    lengths = [len(shard) for shard in found]
    known = {
        "cut_each": (
            [torch.cat([flat_shards.own_shard([t], rank, world_size) for t in tensors]) for rank in range(world_size)],
            "you cut each tensor by itself. A unit is one flat tensor: put all of them end to end, then cut once.",
        ),
        "zeros_first": (
            list(torch.cat([padded[len(flat) :], flat]).chunk(world_size)),
            "the zeros stand in front. They belong at the end.",
        ),
        "dealt": (
            [padded[rank::world_size].clone() for rank in range(world_size)],
            "you deal the numbers out like cards. A shard is a block of neighbors: it travels as one piece of memory.",
        ),
        "order": (
            AnyOf((right[1:] + right[:1], right[::-1])),
            "the blocks are right, and they are not those of their ranks. Which block is rank 0's?",
        ),
        "whole": (
            AnyOf(([flat] * world_size, [padded] * world_size)),
            "each rank keeps all numbers. A rank keeps one of N blocks.",
        ),
        "too_many_zeros": (
            list(torch.cat([flat, flat.new_zeros(world_size - zeros)]).chunk(world_size)),
            f"you add {world_size - zeros} zeros to {len(flat)} numbers. How many does it need when N divides the "
            "length already?",
        ),
    }
    refuse_known(found, known, where=where)
    if sum(lengths) < len(flat):
        raise Wrong(
            "numbers_lost",
            f"{where}your shards hold {sum(lengths)} numbers together, and the unit has {len(flat)}: some are lost. "
            "Are all tensors of the unit in them, and is the length of a shard rounded up?",
        )
    if len(set(lengths)) > 1:
        raise Wrong(
            "not_equal",
            f"{where}your shards have the lengths {lengths}. An all-gather wants equal ones: add zeros at the end "
            "of the flat tensor until N divides its length.",
        )
    if lengths[0] == len(right[0]) and same(torch.cat(found)[: len(flat)], flat):
        raise Wrong("not_zeros", f"{where}what you add at the end is not zero, and would count in a norm. Add zeros.")
    rank = next(rank for rank, shard in enumerate(found) if not same(shard, right[rank]))
    raise Wrong(
        "wrong_value", f"{where}rank {rank} should keep {right[rank].tolist()}; yours keeps {found[rank].tolist()}."
    )


@check
def mean_shard(learner: Callable[[Tensors], Any]) -> str:
    """Compare with the mean of all ranks' gradients, cut, on 2 and 3 ranks; count what each rank sends."""
    for world_size in (2, 3):
        by_rank = on_ranks(_reduce, learner, [shapes for shapes, _ in _UNITS[:3]], world_size=world_size)
        for runs in zip(*by_rank, strict=True):
            _judge_means(runs)
    return "Each rank gets its shard of the mean, on 2 and 3 ranks, and sends no more than one reduce-scatter does."


def _judge_means(runs: Sequence[tuple[Tensors, Any, tuple[str, float], bool]]) -> None:
    """Raise what is wrong with one unit; `runs` is what `_reduce` gives for it on each rank."""
    world_size = len(runs)
    own, found, sent, changed = [list(part) for part in zip(*runs, strict=True)]
    flats = torch.stack([flat_shards.flatten(gradients, world_size) for gradients in own])  # [ranks, numbers]
    total, where = flats.sum(dim=0), f"On {world_size} ranks, with {sum(t.numel() for t in own[0])} numbers: "
    right = list((total / world_size).chunk(world_size))
    for shard in found:
        if shard is None:
            raise Wrong("nothing_returned", "Your function returns nothing. Return this rank's shard of the mean.")
        if isinstance(shard, torch.Tensor) and shard.shape == total.shape:
            raise Wrong(
                "whole_gradient",
                f"{where}you return all {len(total)} numbers. A rank needs the gradient of its own shard only.",
            )
        tensor_of(shard, [len(right[0])], f"{where}return this rank's shard, a flat tensor [{len(right[0])}].")
    if not same(found, right):
        _refuse_means(found, flats, where)
    if wider := next((shard.dtype for shard in found if shard.dtype != flats.dtype), None):
        raise Wrong("dtype", f"The gradients are {flats.dtype}, and your shard is {wider}. Keep their type.")
    if any(changed):
        raise Wrong(
            "inputs_changed",
            f"{where}the values are right, but your function changed the gradients that it was given. Divide what it "
            "returns, or a copy.",
        )
    most = (world_size - 1) / world_size * len(total) * total.element_size()
    for kind, size in sent:
        if size > most * 1.01:
            raise Wrong(
                "too_many_bytes",
                f"{where}the values are right, but a rank sends up to {size:g} bytes ({kind}), and a reduce-scatter "
                f"sends {most:g}. Which collective leaves each rank its own part of a sum, and nothing else?",
            )


def _refuse_means(found: Tensors, flats: torch.Tensor, where: str) -> None:
    n, total = len(flats), flats.sum(dim=0)
    mean, parts = list((total / n).chunk(n)), [flat.chunk(n) for flat in flats]
    own = [part[rank] for rank, part in enumerate(parts)]
    known = {
        "sum_not_mean": (list(total.chunk(n)), f"your shards are {n} times too large: they are sums."),
        "divided_twice": (
            list((total / n**2).chunk(n)),
            f"your shards are {n} times too small: you divide twice, by too large a number, or what you add up is a "
            "mean already.",
        ),
        "own_only": (
            AnyOf((own, [part / n for part in own])),
            f"each rank has its own gradients, whole or divided: {NOTHING_CAME}",
        ),
        "of_rank_0": (
            AnyOf((list(parts[0]), [part / n for part in parts[0]])),
            "each rank has its part of rank 0's gradients. Those of the others count too.",
        ),
        "other_rank": (
            AnyOf((mean[1:] + mean[:1], [mean[0]] * n)),
            "the shards are those of other ranks. Each rank needs its own.",
        ),
    }
    refuse_known(found, known, where=where)
    if same(found, mean, 1e-5):
        raise Wrong(
            "dtype",
            f"{where}the gradients are {flats.dtype}, and your numbers are right to {found[0].dtype} only, or less. "
            "Compute in their own type.",
        )
    if n > 2:
        raise Wrong("two_ranks_only", TWO_RANKS_ONLY)
    rank = next(rank for rank, shard in enumerate(found) if not same(shard, mean[rank]))
    raise Wrong(
        "wrong_value",
        f"{where}rank {rank} should get {[round(number, 3) for number in mean[rank].tolist()]}; yours has "
        f"{[round(number, 3) for number in found[rank].tolist()]}.",
    )


def _reduce(
    learner: Callable, units: Sequence[Sequence[tuple[int, ...]]]
) -> list[tuple[Tensors, Any, tuple[str, float], bool]]:
    """Return for each unit this rank's gradients, what the function gives, and which collectives sent how much.

    The last entry: whether the function changed the gradients.
    """
    generator = torch.Generator().manual_seed(dist.get_rank())
    share, results = 1 - 1 / dist.get_world_size(), []
    for shapes in units:
        gradients = [torch.randn(shape, generator=generator, dtype=torch.float64).to(device()) for shape in shapes]
        if shapes == units[-1]:  # in a type that double() would widen, in which means of sixes are exact
            gradients = [(60 * gradient).round().float() * 6 for gradient in gradients]
        before = copies(gradients)
        with listed_messages() as messages:
            found = learner(gradients)
        found = found.detach().cpu() if isinstance(found, torch.Tensor) else found
        changed = not same(copies(gradients), before)
        sending = [message for message in messages if message.kind != "receive"]
        sent = sum(message.size * share * (2 if message.kind == "all-reduce" else 1) for message in sending)
        results.append((before, found, (", ".join(sorted({message.kind for message in sending})), sent), changed))
    return results
