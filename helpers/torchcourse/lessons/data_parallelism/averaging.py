"""A data-parallel training step as lesson 01 builds it, with nothing hidden: same start, own part, averaged gradients.

    copy_from_rank_0(model)                                        # all ranks start from the same weights
    for images, labels in batches:                                 # whole batches, the same on all ranks
        step(model, optimizer, shard(images), shard(labels))       # own gradients, averaged, one step

After each step all ranks hold the weights that one process would have after the whole batch. Every function needs the
process group that `run_ranks` or `torchrun` sets up; outside a rank it raises a RuntimeError that says so.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from torchcourse.lessons.data_parallelism.data_parallel import average_gradients, copy_from_rank_0, global_mean_loss
from torchcourse.ranks.who import rank_and_world_size

__all__ = ["average_weights", "copy_from_rank_0", "shard", "step"]


def shard(batch: torch.Tensor) -> torch.Tensor:
    """Return this rank's part (샤드) of `batch`, cut along the first dimension. Parts differ by at most one sample."""
    rank, world_size = rank_and_world_size()
    return batch.tensor_split(world_size)[rank]


def step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Train one step: each rank computes its own samples, and all ranks take the step of all samples together.

    Args:
        images, labels: this rank's own samples, [n, …] and [n]; n may differ from rank to rank.

    Returns:
        The mean cross-entropy of this rank's samples, a scalar.
    """
    losses = F.cross_entropy(model(images), labels, reduction="none")
    optimizer.zero_grad()
    global_mean_loss(losses).backward()
    average_gradients(model)
    optimizer.step()
    return losses.detach().mean()


def average_weights(model: nn.Module) -> None:
    """Replace each parameter by its mean over the ranks: what data parallelism does *not* do, to compare with.

    After each SGD step it gives the same weights as averaged gradients; with other optimizers it does not.
    """
    _, world_size = rank_and_world_size()
    for parameter in model.parameters():
        dist.all_reduce(parameter.data)
        parameter.data /= world_size
