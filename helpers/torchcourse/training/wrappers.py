"""A model as training calls it, wrapped to average gradients over the ranks, and the model inside the wrappers."""

from typing import cast

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from torchcourse.ranks import who


def wrap(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the model as training calls it: on several ranks, one that averages gradients over them.

    Raises:
        ValueError: if each rank has a part of the parameters.
    """
    if who.world_size() == 1 or hasattr(model, "no_sync"):
        return model
    if shared := [name for name, parameter in model.named_parameters() if hasattr(parameter, "device_mesh")]:
        raise ValueError(
            f"Each rank has a part of {shared[0]} (fully_shard, or tensor parallelism), and the Trainer averages and "
            "saves whole parameters. Train such a model in a loop of your own, with torch.distributed.checkpoint."
        )
    return DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside the wrappers of torch.compile and of data parallelism."""
    if isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
        return unwrap(inner)
    if hasattr(model, "no_sync") or isinstance(model, nn.DataParallel):
        return unwrap(cast(nn.Module, model.module))
    return model


def broadcast_buffers(model: nn.Module) -> None:
    """Give every rank rank 0's buffers, such as BatchNorm's running mean."""
    if who.world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)
