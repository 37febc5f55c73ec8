"""Checks of lesson 01, notebook 3: samples of an epoch, uneven inputs, memory and time. Each names the symptom.

In the notebook's order: `share_of_epoch`, `train_on_all`, `zero_bytes`, `step_seconds`.
"""

import math
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DistributedSampler

from torchcourse.checks import Wrong, check
from torchcourse.lessons.data_parallelism.cost import ring_seconds
from torchcourse.lessons.data_parallelism.memory import zero_memory
from torchcourse.ranks.run import RankError, RankTimeout, run_ranks
from torchcourse.ranks.who import device

TIME_LIMIT = 15.0  # seconds for one call; healthy ranks need a fraction of one


@check
def share_of_epoch(learner: Callable[[int, int, int, int], list[int]]) -> str:
    """Compare index for index with `torch.utils.data.DistributedSampler`."""
    for length, epoch, world_size in ((12, 0, 3), (12, 3, 3), (10, 1, 4), (101, 2, 2), (3, 1, 8)):
        right = [_torchs_share(length, epoch, rank, world_size) for rank in range(world_size)]
        given = [_as_list(learner(length, epoch, rank, world_size)) for rank in range(world_size)]
        if given != right:
            _judge_shares(given, right, length, epoch, world_size)
    return "Index for index PyTorch's DistributedSampler: on 2, 3, 4 and 8 ranks, with padding, in several epochs."


@check
def train_on_all(learner: Callable[..., int]) -> str:
    """Run ranks with 3, 1 and 2 batches and look at who used what, and where the weights ended."""
    for counts in ([2, 2], [3, 1], [1, 3, 2]):
        runs = _train(learner, counts)
        asked = [used for _, used, _ in runs]
        expected = [list(range(10 * rank, 10 * rank + count)) for rank, count in enumerate(counts)]
        for rank, (returned, used, _) in enumerate(runs):
            if len(used) < counts[rank]:
                raise Wrong(
                    "left_out",
                    f"Rank {rank} has {counts[rank]} batches and used {len(used)} of them. No error, and part of the "
                    "data is never seen. Can the others take part in its steps without data of their own?",
                )
            if used != expected[rank]:
                raise Wrong(
                    "used_twice",
                    f"Rank {rank} should use each of its {counts[rank]} batches once, in order; it made {len(used)} "
                    "training passes. A repeated batch counts twice as much as the others.",
                )
            if returned != counts[rank]:
                raise Wrong("count", f"Rank {rank} trained on {counts[rank]} batches, but returned {returned!r}.")
        weights = [weight for _, _, weight in runs]
        if max(abs(weight - weights[0]) for weight in weights) > 1e-9:
            raise Wrong(
                "apart",
                f"All batches were used, but the ranks end with different weights ({min(weights):.4f} to "
                f"{max(weights):.4f}): after some rank had run out, the others went on alone.",
            )
        if not any(abs(weights[0] - right) < 1e-9 for right in _joined(asked)):
            raise Wrong(
                "other_steps",
                "The ranks agree, but their weights are not those of averaged steps. In each step the gradients of all "
                "ranks that still have a batch are averaged. Is there a step without an average, or one too many?",
            )
    return "Every batch of every rank was used once, and all ranks end with the same weights: 2 and 3 ranks, uneven."


@check
def zero_bytes(learner: Callable[[float, int, int], Any]) -> str:
    """Compare with the formula of the ZeRO paper for every stage."""
    for parameters, world_size in ((7.5e9, 64), (1e9, 8), (1e6, 1)):
        for stage in (0, 1, 2, 3):
            given = learner(parameters, world_size, stage)
            if not isinstance(given, tuple | list) or len(given) != 3:
                raise Wrong("shape", f"Return three numbers: parameters, gradients, optimizer. You returned {given!r}.")
            right = zero_memory(parameters, world_size, stage)
            expected = (right.parameters, right.gradients, right.optimizer)
            if not all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(given, expected, strict=True)):
                _judge_zero(learner, [float(value) for value in given], expected, parameters, world_size, stage)
    return "The bytes of the ZeRO paper, for DDP and stages 1, 2 and 3: checked for three models."


@check
def step_seconds(learner: Callable[..., float]) -> str:
    """Compare with compute / N plus the ring's time, for one rank and for many."""
    for compute, size, world_size, alpha, beta in _STEPS:
        given = learner(compute, size, world_size, alpha, beta)
        if isinstance(given, torch.Tensor):
            given = given.item()
        if not isinstance(given, int | float):
            raise Wrong("no_number", f"Return one number, the seconds of a step. You returned {given!r}.")
        if not math.isclose(given, compute / world_size + ring_seconds(size, world_size, alpha, beta), rel_tol=1e-6):
            _judge_step(given, compute, size, world_size, alpha, beta)
    return f"Checked on {len(_STEPS)} combinations of model, network and number of ranks, one rank alone among them."


# Samples of an epoch


def _torchs_share(length: int, epoch: int, rank: int, world_size: int) -> list[int]:
    sampler = DistributedSampler(range(length), world_size, rank, shuffle=True, seed=0)
    sampler.set_epoch(epoch)
    return list(sampler)


def _as_list(share: Any) -> list[int]:
    if isinstance(share, torch.Tensor):
        return share.tolist()
    try:
        return [int(index) for index in share]
    except TypeError:
        raise Wrong("no_list", f"Return a list of sample numbers. You returned {share!r}.") from None


def _judge_shares(given: list[list[int]], right: list[list[int]], length: int, epoch: int, world_size: int) -> None:
    where = f"{length} samples, {world_size} ranks, epoch {epoch}"
    sizes = [len(share) for share in given]
    each = len(right[0])
    if len(set(sizes)) > 1:
        raise Wrong(
            "uneven",
            f"{where}: the ranks get {sizes} samples. Equally many is a must: the rank that is done first would leave "
            "the others waiting in their all-reduce.",
        )
    if sizes[0] < each and length < world_size:
        raise Wrong(
            "tiny", f"{where}: each rank gets {sizes[0]} samples, and it should be {each}. Here one lap is not enough."
        )
    if sizes[0] < each:
        raise Wrong("dropped", f"{where}: each rank gets {sizes[0]} samples, not {each}, so some are never used.")
    if sizes[0] > each:
        raise Wrong("too_many", f"{where}: each rank gets {sizes[0]} samples; {each} are enough to use each one.")
    if sorted(chain(*given)) == sorted(chain(*right)):
        order = torch.randperm(length, generator=torch.Generator().manual_seed(epoch)).tolist()
        if epoch and given == [_torchs_share(length, 0, rank, world_size) for rank in range(world_size)]:
            raise Wrong("same_every_epoch", f"{where}: the order is that of epoch 0. What does your order depend on?")
        if sorted(given[0]) == sorted(order[:each]) and world_size > 1:
            raise Wrong(
                "blocks",
                f"{where}: you cut the order into blocks. PyTorch deals it like cards: the first to rank 0, the second "
                "to rank 1, and so on.",
            )
        if given[0] == list(range(length))[::world_size][:each]:
            raise Wrong("not_mixed", f"{where}: the samples come in their own order. Where is the shuffle?")
        raise Wrong("other_order", f"{where}: the right samples, in another order than PyTorch's.")
    counted = [sum(share.count(index) for share in given) for index in range(length)]
    if min(counted) == 0 and max(counted) > 1 and length % world_size == 0:
        raise Wrong(
            "own_shuffle",
            f"{where}: some samples go to two ranks, some to none. Do all ranks mix in the same way before they deal?",
        )
    raise Wrong(
        "padding",
        f"{where}: the numbers of samples are right, but not which ones come twice. PyTorch fills up with the samples "
        "from the front of the mixed order.",
    )


# Uneven inputs


class _Recorder(nn.Module):
    """One weight, and a list of the batches that it was trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.used: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            self.used.append(int(x[0].item()))
        return self.weight * x


def _train_rank(learner: Callable, counts: list[int]) -> tuple[int, list[int], float]:
    rank = dist.get_rank()
    model = _Recorder().to(device())
    ddp = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=1e-3)
    numbers = range(10 * rank, 10 * rank + counts[rank])
    batches = [torch.full((2,), float(number), dtype=torch.float64, device=device()) for number in numbers]
    returned = learner(ddp, optimizer, lambda output: output.pow(2).mean(), batches)
    return returned, model.used, model.weight.item()


def _train(learner: Callable, counts: list[int]) -> list[tuple[int, list[int], float]]:
    what = f"With {counts} batches on {len(counts)} ranks"
    try:
        return run_ranks(_train_rank, learner, counts, world_size=len(counts), timeout=TIME_LIMIT)
    except RankTimeout:
        raise Wrong("hangs", f"{what} the run hangs: a rank waits for an average that the others never join.") from None
    except RankError as error:
        if error.kind == "NotImplementedError":
            raise
        if error.left_alone:
            raise Wrong(
                "connection_closed",
                f"{what} the run ends with “connection closed”: the rank with fewer batches left while another still "
                "needed it for an average.",
            ) from None
        raise


def _joined(used: list[list[int]]) -> list[float]:
    """The right final weight: a step divides by all ranks, or by those that still have a batch."""
    results = []
    for by_all in (True, False):
        weight = 1.0
        for step in range(max(len(numbers) for numbers in used)):
            active = [numbers[step] for numbers in used if step < len(numbers)]
            gradients = [2 * weight * number**2 for number in active]
            weight -= 1e-3 * sum(gradients) / (len(used) if by_all else len(active))
        results.append(weight)
    return results


# Memory


def _judge_zero(
    learner: Callable, given: list[float], right: tuple, parameters: float, world_size: int, stage: int
) -> None:
    where = f"{parameters:g} parameters on {world_size} ranks, stage {stage}"
    plain = [float(value) for value in learner(parameters, 1, 0)]
    each = [value / parameters for value in plain]
    if [round(value) for value in each] != [2, 2, 12]:
        raise Wrong(
            "bytes_a_parameter",
            f"Without sharding you count {each[0]:g} + {each[1]:g} + {each[2]:g} bytes a parameter. In mixed precision "
            "with Adam it is 2 (weights), 2 (gradients) and 12: which three float32 numbers make up the 12?",
        )
    names = ("parameters", "gradients", "optimizer numbers")
    whole, shared = plain, [value / world_size for value in plain]
    for index in range(3):
        if math.isclose(given[index], right[index], rel_tol=1e-6):
            continue
        if math.isclose(given[index], shared[index], rel_tol=1e-6):
            raise Wrong("shared_too_early", f"{where}: your {names[index]} are shared out, but not yet at this stage.")
        if math.isclose(given[index], whole[index], rel_tol=1e-6):
            raise Wrong("not_shared", f"{where}: each rank still holds all {names[index]}; this stage shares them out.")
        raise Wrong(
            "wrong_share",
            f"{where}: your {names[index]} are {given[index] / right[index]:.3g} times what they should be. Each rank "
            "keeps one of N equal parts.",
        )


# Time

_STEPS = [
    # compute (s), gradients (bytes), ranks, α (s), β (s a byte)
    (0.4, 1e8, 4, 1e-5, 1e-9),
    (0.4, 1e8, 1, 1e-5, 1e-9),
    (0.4, 0.0, 8, 1e-3, 1e-9),
    (0.0, 1e8, 8, 0.0, 1e-9),
    (1.5, 4e6, 64, 5e-6, 1e-10),
]


def _judge_step(given: float, compute: float, size: float, world_size: int, alpha: float, beta: float) -> None:
    where = f"compute {compute} s, {size:g} bytes, {world_size} ranks, α {alpha:g} s, β {beta:g} s a byte"

    def like(value: float) -> bool:
        return math.isclose(given, value, rel_tol=1e-6)

    share = compute / world_size
    messages, traffic = 2 * (world_size - 1) * alpha, 2 * (world_size - 1) / world_size * size * beta
    if like(compute + messages + traffic):
        raise Wrong(
            "compute_not_shared",
            f"{where}: your ranks each compute the whole batch. How much of it does one rank have?",
        )
    if world_size == 1:
        raise Wrong(
            "one_rank_talks", f"{where}: one rank alone has nobody to send to, but you count {given - compute:g} s."
        )
    if like(share + messages + size * beta) or like(share + messages + 2 * size * beta):
        raise Wrong(
            "whole_tensor",
            f"{where}: your all-reduce sends the tensor once or twice as a whole. How much does a rank really send?",
        )
    if like(share + messages + (world_size - 1) * size * beta):
        raise Wrong("plain_way", f"{where}: that is the plain way, where one rank sends N−1 tensors. This is a ring.")
    if any(like(share + count * alpha + traffic) for count in (0, 1, 2, world_size - 1, world_size)):
        raise Wrong(
            "messages",
            f"{where}: the bytes are right, the messages are not. How many steps has a ring, in both of its halves?",
        )
    if like(max(share, messages + traffic)):
        raise Wrong("overlapped", f"{where}: you let all communication hide behind computing. Here nothing overlaps.")
    raise Wrong(
        "wrong_value",
        f"{where}: you return {given:g} s. Work it out by hand for β = 0 (messages only), then for α = 0 (bytes only).",
    )
