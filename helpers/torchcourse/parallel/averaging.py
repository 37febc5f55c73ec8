"""Data parallelism (데이터 병렬화) in its plainest form, as lesson 01 builds it by hand.

Every rank holds the whole model, works on its own part of each batch, and averages the gradients before each step:

    copy_from_rank_0(model)                            # all ranks start from the same weights
    for images, labels in batches:
        step(model, optimizer, images, labels)         # own part, own gradients, averaged, one step

These functions speak to the process group that `run_ranks` or `torchrun` sets up. Without one they are a single
process: the whole batch is its part, and there is nobody to average with.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn


def copy_from_rank_0(model: nn.Module) -> None:
    """Overwrite all parameters and buffers of `model` on every rank by those of rank 0."""
    if _world_size() > 1:
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, src=0)


def shard(batch: torch.Tensor) -> torch.Tensor:
    """Return this rank's part (샤드) of `batch`, cut along the first dimension. Parts differ by at most one sample."""
    return batch.tensor_split(_world_size())[dist.get_rank() if _world_size() > 1 else 0]


def average_gradients(model: nn.Module, samples: int | None = None) -> None:
    """Replace each gradient by its mean over all ranks, in place; parameters without a gradient are left alone.

    Args:
        model: the same on all ranks, after `backward()`.
        samples: how many samples this rank's mean loss was taken over. With it, each rank counts by its samples, which
            is right for parts of any size; without it, all ranks count the same.

    Source: Goyal et al., "Accurate, Large Minibatch SGD", 2017, section 3, https://arxiv.org/abs/1706.02677 (the loss
    of a worker is to be normalised by the size of the whole batch).
    """
    if _world_size() == 1:
        return
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    weight = 1 / _world_size()
    if samples is not None and gradients:
        total = torch.tensor(float(samples), dtype=torch.float64, device=gradients[0].device)
        dist.all_reduce(total)
        weight = samples / total.item()
    for gradient in gradients:
        gradient.mul_(weight)
        dist.all_reduce(gradient)


def step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: torch.Tensor,
    labels: torch.Tensor,
    loss_fn: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = F.cross_entropy,
) -> torch.Tensor:
    """Take one training step on a batch that all ranks share out among themselves.

    Args:
        images, labels: the whole batch, the same on all ranks, with at least one sample for each rank.
        loss_fn: a loss that is a mean over samples.

    Returns:
        This rank's loss, a scalar, over its own part.
    """
    part = shard(images)
    loss = loss_fn(model(part), shard(labels))
    optimizer.zero_grad()
    loss.backward()
    average_gradients(model, samples=len(part))
    optimizer.step()
    return loss.detach()


def _world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1
