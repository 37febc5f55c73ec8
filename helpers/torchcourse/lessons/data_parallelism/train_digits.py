"""A data-parallel training to start with any number of ranks: from a notebook, as a script, or under torchrun.

From a cell; on one machine; on each of two machines, of which HOST is one:

    run_ranks(train_digits.train)
    torchrun --standalone --nproc-per-node 2 -m torchcourse.lessons.data_parallelism.train_digits
    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
        -m torchcourse.lessons.data_parallelism.train_digits

The function is the same each time. It computes in float64, so that any two ways can be compared to rounding.
"""

import os

import torch
import torch.distributed as dist

from torchcourse.data import mnist
from torchcourse.lessons.data_parallelism import averaging
from torchcourse.models import mlp
from torchcourse.ranks.run import run_ranks
from torchcourse.ranks.who import device


def train(steps: int = 30) -> torch.Tensor:
    """Train a small network over all ranks, 64 digits a step; return this rank's weights as one vector on the CPU."""
    torch.manual_seed(dist.get_rank())
    model = mlp(784, 32, 10).to(device(), torch.float64)
    averaging.copy_from_rank_0(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    images, labels = mnist()[:]
    for batch in torch.arange(64 * steps).remainder(len(labels)).split(64):
        mine = averaging.shard(batch)
        averaging.step(model, optimizer, images[mine].to(device(), torch.float64), labels[mine].to(device()))
    return torch.cat([parameter.detach().flatten().cpu() for parameter in model.parameters()])


if __name__ == "__main__":
    all_weights = run_ranks(train)
    if os.environ.get("RANK", "0") == "0":  # under torchrun every rank comes here
        alike = all(torch.equal(weights, all_weights[0]) for weights in all_weights)
        print(f"{len(all_weights)} ranks, equal weights: {alike}, length of the weights {all_weights[0].norm():.12f}")
