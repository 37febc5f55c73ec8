"""Which samples are in the weights? The evidence of a run that was stopped and started again, and how to read it.

Each rank notes for each step which samples it took. After a crash the run starts from the last checkpoint, so what came
after that checkpoint is no longer in the weights. `audit` counts what is.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F

from torchcourse.data import mnist
from torchcourse.models import mlp
from torchcourse.ranks.run import run_ranks
from torchcourse.training import checkpoint

SAMPLES, PER_RANK, BATCH = 1280, 16, 64
"""Samples in the epoch; per rank and step of the colleague; over all ranks and per step of ours."""

Row = tuple[int, int, Sequence[int]]
"""The number of the start, from 0; the number of the step, from 1; the samples that one rank took."""

Deal = Callable[[Sequence[int], int, int, int], Sequence[int]]
"""deal(order, position, rank, ranks): the samples that this rank takes next; empty at the end of the epoch."""


@dataclass(frozen=True)
class Part:
    """What one start of the ranks did: the rows of all ranks, and the loss of each step."""

    rows: list[Row]
    losses: list[float]


def audit(rows: Sequence[Row], samples: int) -> tuple[list[int], list[int]]:
    """Return which of the samples 0 … samples − 1 are in the weights more than once, and which are not, both sorted.

    Args:
        rows: of all starts and ranks, in any order. A start goes on after the last checkpoint, so of an earlier start
            only the steps before the first step of each later start count.
        samples: how many there are in the epoch.
    """
    first: dict[int, int] = {}
    for start, step, _ in rows:
        first[start] = min(step, first.get(start, step))
    counts: Counter[int] = Counter()
    for start, step, taken in rows:
        if all(step < begin for later, begin in first.items() if later > start):
            counts.update(int(sample) for sample in taken)
    return sorted(n for n in counts if counts[n] > 1), [n for n in range(samples) if not counts[n]]


def deal_by_batches(order: Sequence[int], position: int, rank: int, ranks: int) -> Sequence[int]:
    """Deal as the colleague does: `position` counts the batches of this rank, of 16 samples each."""
    mine = order[rank::ranks]
    return mine[position * PER_RANK : (position + 1) * PER_RANK]


def deal_by_samples(order: Sequence[int], position: int, rank: int, ranks: int) -> Sequence[int]:
    """Deal for any number of ranks: `position` counts the samples of all ranks, and a step takes the next 64."""
    return order[position : position + BATCH][rank::ranks]


def epoch(
    folder: str, deal: Deal, ranks: Sequence[int], stop_after: Sequence[int], counts_samples: bool = False
) -> list[Part]:
    """Train one epoch in several starts, each on its own number of ranks, and return what each start did.

    Args:
        folder: an empty one, for the checkpoint; it is saved after every fourth step.
        deal: which samples each rank takes.
        ranks: for each start the number of ranks.
        stop_after: for each start but the last, after how many of its steps all ranks are gone.
        counts_samples: whether the position in the checkpoint counts samples of all ranks; if not, batches of a rank.
    """
    parts = []
    for number, (world_size, steps) in enumerate(zip(ranks, [*stop_after, None], strict=True)):
        results = run_ranks(_train, folder, deal, steps, counts_samples, world_size=world_size)
        rows = [(number, step, taken) for taken_by_rank, _ in results for step, taken in taken_by_rank]
        parts.append(Part(rows, results[0][1]))
    return parts


def _train(folder: str, deal: Deal, steps: int | None, counts_samples: bool) -> tuple[list, list[float]]:
    rank, ranks, path = dist.get_rank(), dist.get_world_size(), Path(folder) / "last.pt"
    torch.manual_seed(0)
    model = mlp(784, 32, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    images, labels = mnist()[:SAMPLES]
    order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(0)).tolist()
    step = position = 0
    if path.exists():
        state = checkpoint.load(path)
        model.load_state_dict(state["model"])
        step, position = state["step"], state["position"]
    taken: list[tuple[int, list[int]]] = []
    losses: list[float] = []
    while steps is None or len(taken) < steps:
        mine = list(deal(order, position, rank, ranks))
        count = torch.tensor(len(mine))
        dist.all_reduce(count)
        if not count:
            break
        loss = F.cross_entropy(model(images[mine]), labels[mine], reduction="sum") / count
        optimizer.zero_grad()
        loss.backward()
        for parameter in model.parameters():
            dist.all_reduce(parameter.grad)
        optimizer.step()
        dist.all_reduce(loss := loss.detach())
        step, position = step + 1, position + (int(count) if counts_samples else 1)
        taken.append((step, mine))
        losses.append(loss.item())
        if step % 4 == 0 and rank == 0:
            checkpoint.save({"model": model.state_dict(), "step": step, "position": position}, path)
    return taken, losses
