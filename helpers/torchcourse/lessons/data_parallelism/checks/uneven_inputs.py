"""Check of lesson 01 on ranks that have unequal numbers of batches: none is left out, and nobody waits for ever."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import on_ranks, same
from torchcourse.ranks.who import device

TIME_LIMIT = 15.0  # seconds for one call; healthy ranks need a fraction of one

_RATE = 1e-3


@check
def train_on_all(learner: Callable[..., int]) -> str:
    """Run ranks with 3, 1 and 2 batches and look at who used what, and where the weights ended."""
    for counts in ([2, 2], [3, 1], [1, 3, 2]):
        what = f"With {counts} batches on {len(counts)} ranks the run"
        runs = on_ranks(
            _train,
            learner,
            counts,
            world_size=len(counts),
            seconds=TIME_LIMIT,
            hang=f"{what} hangs: a rank waits for an average that the others never join.",
            left_alone=f"{what} ends with “connection closed”: the rank with fewer batches left while another still "
            "needed it for an average.",
        )
        for rank, (run, count) in enumerate(zip(runs, counts, strict=True)):
            _refuse_batches(run, rank, count)
        _refuse_weights(runs)
    return "Every batch of every rank was used once, and all ranks end with the same weights: 2 and 3 ranks, uneven."


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


@dataclass
class Trained:
    """One rank's training: what the learner's function returned, the numbers of the batches used, the weight."""

    returned: Any
    used: list[int]
    weight: float


def _numbers_of(rank: int, count: int) -> list[int]:
    """The numbers of a rank's batches; a batch is filled with its number."""
    return list(range(10 * rank, 10 * rank + count))


def _train(learner: Callable, counts: list[int]) -> Trained:
    model = _Recorder().to(device())
    ddp = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=_RATE)
    rank = dist.get_rank()
    batches = [
        torch.full((2,), float(number), dtype=torch.float64, device=device())
        for number in _numbers_of(rank, counts[rank])
    ]
    returned = learner(ddp, optimizer, lambda output: output.pow(2).mean(), batches)
    return Trained(returned, model.used, model.weight.item())


def _refuse_batches(run: Trained, rank: int, count: int) -> None:
    if len(run.used) < count:
        raise Wrong(
            "left_out",
            f"Rank {rank} has {count} batches and used {len(run.used)} of them. No error, and part of the data is "
            "never seen. Can the others take part in its steps without data of their own?",
        )
    if run.used != _numbers_of(rank, count):
        raise Wrong(
            "used_twice",
            f"Rank {rank} should use each of its {count} batches once, in order; it made {len(run.used)} "
            "training passes. A repeated batch counts twice as much as the others.",
        )
    if run.returned != count:
        raise Wrong("count", f"Rank {rank} trained on {count} batches, but returned {run.returned!r}.")


def _refuse_weights(runs: list[Trained]) -> None:
    weights = [run.weight for run in runs]
    if not same(weights, weights[:1] * len(runs)):
        raise Wrong(
            "ranks_disagree",
            f"All batches were used, but the ranks end with different weights ({min(weights):.4f} to "
            f"{max(weights):.4f}): after some rank had run out, the others went on alone.",
        )
    if not any(same(weights[0], right) for right in _joined([run.used for run in runs])):
        raise Wrong(
            "wrong_value",
            "The ranks agree, but their weights are not those of averaged steps. In each step the gradients of all "
            "ranks that still have a batch are averaged. Is there a step without an average, or one too many?",
        )


def _joined(used: list[list[int]]) -> list[float]:
    """The right final weight: a step divides by all ranks, or by those that still have a batch."""
    results = []
    for by_all in (True, False):
        weight = 1.0
        for step in range(max(len(numbers) for numbers in used)):
            active = [numbers[step] for numbers in used if step < len(numbers)]
            gradients = [2 * weight * number**2 for number in active]
            weight -= _RATE * sum(gradients) / (len(used) if by_all else len(active))
        results.append(weight)
    return results
