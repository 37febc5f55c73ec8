"""This machine as a cluster of the planner: its speeds measured, and a small step to judge a plan by.

speeds = run_ranks(measure_speeds, world_size=2)
cluster = as_cluster(speeds, ranks=2)            # plan(SMALL, cluster, layout)
run_ranks(train_small, world_size=2)             # (seconds of a step, losses) of each rank
"""

import time
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from torchcourse.lessons.data_parallelism import cost
from torchcourse.lessons.model_parallelism.planner.clusters import GPU, Cluster, Efficiency
from torchcourse.lessons.model_parallelism.planner.models import Model
from torchcourse.models import TransformerBlock
from torchcourse.ranks.who import device

Speeds = tuple[float, float, cost.AlphaBeta]
"""FLOP/s of a matrix product in float32, bytes/s of memory, and the constants of an all-reduce."""

SMALL = Model("small GPT", 4, 256, 4, vocabulary=1024, sequence=128, dropout=False, tied=False)

ARRIVED = Efficiency(matmul=1.0, traffic=2.0, link=1.0, network=1.0, between_traffic=2.0)
"""Measured speeds have arrived already: shares of 1. Each activation is counted as written once and read once."""


def measure_speeds() -> Speeds:
    """Measure the three speeds of this rank; call it on two ranks or more."""
    size = 4096 if device().type == "cuda" else 512
    square, block = torch.randn(size, size, device=device()), torch.randn(1 << 24, device=device())
    flops = 2 * size**3 / _shortest(lambda: square @ square, 7)
    return flops, 2 * block.nbytes / _shortest(block.clone, 7), cost.measure_alpha_beta()


def as_cluster(speeds: Sequence[Speeds], ranks: int) -> Cluster:
    """Return a cluster of so many ranks, each as fast as the slowest that was measured."""
    flops = min(flops for flops, _, _ in speeds)
    memory_bandwidth = min(bandwidth for _, bandwidth, _ in speeds)
    network = speeds[0][2]
    rank = GPU("rank of this machine", flops, flops, memory=4 * 2**30, memory_bandwidth=memory_bandwidth)
    return Cluster(rank, ranks, ranks, link=network.bandwidth, link_latency=network.alpha, efficiency=ARRIVED)


def train_small(batch: int = 8, steps: int = 5) -> tuple[float, list[float]]:
    """Train `SMALL` on one batch, shared by all ranks; return the seconds of the shortest step, and this rank's losses
    in order."""
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(
        nn.Embedding(SMALL.vocabulary, SMALL.width),
        *(TransformerBlock(SMALL.width, SMALL.heads) for _ in range(SMALL.layers)),
        nn.Linear(SMALL.width, SMALL.vocabulary, bias=False),
    ).to(device())
    model = DistributedDataParallel(model) if dist.get_world_size() > 1 else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tokens = torch.randint(SMALL.vocabulary, (batch, SMALL.sequence + 1), generator=torch.Generator().manual_seed(1))
    mine = tokens.chunk(dist.get_world_size())[dist.get_rank()].to(device())
    losses: list[torch.Tensor] = []

    def step() -> None:
        optimizer.zero_grad()
        losses.append(F.cross_entropy(model(mine[:, :-1]).flatten(0, 1), mine[:, 1:].flatten()))
        losses[-1].backward()
        optimizer.step()

    return _shortest(step, steps), [loss.item() for loss in losses]


def _shortest(call: Callable[[], object], repeats: int) -> float:
    """The shortest of several calls, in seconds; all ranks start together."""
    seconds = []
    for _ in range(repeats):
        dist.barrier()
        start = time.perf_counter()
        call()
        if device().type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
