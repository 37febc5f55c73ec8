"""Check of lesson 02 on the seeds of dropout: which masks must be alike on a mesh of ranks, and which must not."""

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import on_ranks
from torchcourse.lessons.data_parallelism.data_parallel import average_gradients
from torchcourse.lessons.model_parallelism.tensor_parallel import Dropouts, drift, split
from torchcourse.models import TransformerBlock
from torchcourse.ranks.who import ON_CPU

LONGEST = 1_000_000
"""The steps of a training run in which a seed must not come again."""
TIME_LIMIT = 30.0  # seconds for one call; healthy ranks need a fraction of one


@check
def dropout_seeds(learner: Callable) -> str:
    """Judge the seeds by what must be alike and what must not, then train with them on a mesh of two by two."""
    for ranks, tensor in ((4, 2), (8, 4), (2, 2), (3, 1), (16, 4), (1024, 8)):
        _judge_seeds(learner, ranks, tensor)
    runs = on_ranks(_train_with_dropout, learner, world_size=4, seconds=TIME_LIMIT, env=ON_CPU)
    for rank, (apart, seeds) in enumerate(runs):
        if seeds != _pair(learner(0, rank, 4, 2), f"dropout_seeds(0, {rank}, 4, 2)"):
            raise Wrong(
                "other_process",
                "In a different process the same four numbers give other seeds, and each rank is a process of its own. "
                "What goes into your seed? hash() of a text, for one, is different in each process.",
            )
        if apart > 1e-9:
            raise Wrong("drift", f"Trained with these seeds, the ranks drift apart: rank {rank} by {apart:.1e}.")
    return "On a 2×2 mesh nothing drifts apart, and no two masks are alike that should not be."


def _judge_seeds(learner: Callable, ranks: int, tensor: int) -> None:
    seeds = {}
    steps = 12 if ranks < 100 else 2
    for step in range(steps):
        for rank in range(ranks):
            call = f"dropout_seeds({step}, {rank}, {ranks}, {tensor})"
            seeds[step, rank] = pair = _pair(learner(step, rank, ranks, tensor), call)
            if pair != _pair(learner(step, rank, ranks, tensor), call):
                raise Wrong("not_repeatable", f"{call} gives other seeds each time. No other rank could agree on them.")
    on = f"{ranks} ranks in tensor groups of {tensor}: "
    for rank in range(ranks):
        neighbor = rank - rank % tensor
        if seeds[0, rank][1] != seeds[0, neighbor][1]:
            raise Wrong(
                "outer_by_rank",
                f"{on}the ranks {neighbor} and {rank} hold parts of the same layers, but their *outer* masks differ. "
                "The sum after the layer was the same on both; after this dropout it is not.",
            )
        if rank != neighbor and seeds[0, rank][0] == seeds[0, neighbor][0]:
            raise Wrong(
                "inner_alike",
                f"{on}the ranks {neighbor} and {rank} have the same *inner* mask. They hold different hidden units, "
                "which would always fall out in pairs.",
            )
        if rank == neighbor != 0 and seeds[0, rank][1] == seeds[0, 0][1]:
            raise Wrong(
                "data_alike",
                f"{on}the ranks 0 and {rank} have different samples, but the same outer mask (lesson 01).",
            )
    if len({seeds[step, 0] for step in range(steps)}) < steps:
        raise Wrong("every_step", f"{on}rank 0 gets the same seeds in several steps, so the same units fall out again.")
    _judge_uniqueness(seeds, on, tensor)
    for place in (0, 1):  # later, where one kind may reach the other
        if later := _meeting(seeds, place):
            seeds |= {
                (later, rank): _pair(
                    learner(later, rank, ranks, tensor), f"dropout_seeds({later}, {rank}, {ranks}, {tensor})"
                )
                for rank in range(ranks)
            }
    _judge_uniqueness(seeds, on, tensor)


def _meeting(seeds: dict[tuple[int, int], tuple[int, int]], place: int) -> int:
    """The step at which rank 0's seeds of this place, growing as at first, reach those of step 0 of the other; or 0."""
    growth, gap = seeds[1, 0][place] - seeds[0, 0][place], seeds[0, 0][1 - place] - seeds[0, 0][place]
    step = gap // growth if growth else 0
    return step if 0 < step < LONGEST else 0


def _judge_uniqueness(seeds: dict[tuple[int, int], tuple[int, int]], on: str, tensor: int) -> None:
    """Refuse one seed that is used for two masks, of other steps, ranks or places."""
    used: dict[int, tuple] = {}
    for (step, rank), pair in seeds.items():
        for place, seed in zip(("inner", "outer"), pair, strict=True):
            who = (step, place, rank if place == "inner" else rank - rank % tensor)
            before = used.setdefault(seed, who)
            if before != who:
                (step_0, place_0, rank_0), (step_1, place_1, rank_1) = before, who
                raise Wrong(
                    "repeats",
                    f"{on}the seed {seed} is used twice: for the {place_0} dropout of rank {rank_0} in step {step_0}, "
                    f"and for the {place_1} one of rank {rank_1} in step {step_1}. The same numbers come again.",
                )


def _pair(answer: Any, call: str) -> tuple[int, int]:
    seeds = [_whole_number(seed) for seed in answer] if isinstance(answer, tuple | list) else []
    if len(seeds) == 2 and any(seed is not None and not -(2**63) <= seed < 2**64 for seed in seeds):
        raise Wrong("too_large", f"{call} is {answer!r}. PyTorch takes seeds from -2**63 to 2**64 - 1.")
    if len(seeds) != 2 or None in seeds:
        raise Wrong(
            "wrong_type", f"{call} is {answer!r}. Two whole numbers were asked for: the inner and the outer seed."
        )
    inner, outer = seeds
    assert inner is not None
    assert outer is not None
    return inner, outer


def _whole_number(seed: Any) -> int | None:
    """A seed of Python, NumPy or PyTorch as an int; None if it is no whole number."""
    try:
        return None if isinstance(seed, bool) else operator.index(seed)
    except TypeError:
        return None


def _train_with_dropout(seeds: Callable) -> tuple[float, tuple[int, int]]:
    """Three steps on a mesh of two by two: how far what all ranks should hold alike is apart, and the first seeds."""
    rank, half = dist.get_rank(), dist.get_rank() // 2
    tensor_groups = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    data_groups = [dist.new_group([0, 2]), dist.new_group([1, 3])]
    torch.manual_seed(4)
    model = split(TransformerBlock(8, 2).double(), tensor_groups[half])
    dropouts = Dropouts(model, 0.3)
    x = torch.randn(2, 4, 3, 8, dtype=torch.float64)[half]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(3):
        dropouts.seed(*seeds(step, rank, 4, 2))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        average_gradients(model, data_groups[rank % 2])
        optimizer.step()
    return max(drift(model).values()), _pair(seeds(0, rank, 4, 2), f"dropout_seeds(0, {rank}, 4, 2)")
