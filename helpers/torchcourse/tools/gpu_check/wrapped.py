"""One model, wrapped for ranks in PyTorch's two ways: DDP, which copies it, and FSDP2, which shares it out."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from torchcourse.ranks.who import device

WAYS = ("DDP", "FSDP2")


def wrap(model: Any, way: str, dtype: torch.dtype | None = None) -> nn.Module:
    """Return the model wrapped for the ranks of this process group, on this rank's device.

    Args:
        model: an `nn.Sequential` on the rank's device. FSDP2 takes each of its layers as a unit, and changes it.
        way: "DDP" or "FSDP2".
        dtype: for FSDP2, in which to gather and compute; None: as the parameters are. (DDP computes in a dtype by
            `torch.autocast` around the forward pass.)

    Source: https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
    """
    place = device()
    if way == "DDP":
        return DistributedDataParallel(model, device_ids=[place.index] if place.type == "cuda" else None)
    # The mesh is named, since the default is the machine's accelerator also where the ranks compute on the CPU.
    mesh = init_device_mesh(place.type, (dist.get_world_size(),))
    policy = MixedPrecisionPolicy(param_dtype=dtype) if dtype is not None else MixedPrecisionPolicy()
    layers: Iterable[nn.Module] = model
    for layer in layers:
        if any(True for _ in layer.parameters()):
            fully_shard(layer, mesh=mesh, mp_policy=policy)
    return fully_shard(model, mesh=mesh, mp_policy=policy)
