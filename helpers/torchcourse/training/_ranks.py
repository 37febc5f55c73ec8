"""What the training code asks of `torch.distributed`, with the answer for one process built in."""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def rank() -> int:
    return dist.get_rank() if _initialised() else 0


def world_size() -> int:
    return dist.get_world_size() if _initialised() else 1


def device() -> torch.device:
    """The device to train on: in a rank that rank's own, elsewhere the GPU if there is one, else the CPU."""
    if _initialised():
        # Not at the top: importing it outside a rank starts the server of ranks, which one process has no use for.
        from torchcourse import parallel

        return parallel.device()
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def wrap(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the model as training calls it: on several ranks, one that averages gradients over them."""
    if world_size() == 1 or hasattr(model, "no_sync"):
        return model
    return DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside the wrappers of torch.compile and of data parallelism."""
    if hasattr(model, "_orig_mod"):
        return unwrap(model._orig_mod)
    if hasattr(model, "no_sync") or isinstance(model, nn.DataParallel):
        return unwrap(model.module)
    return model


def sum_over_ranks(numbers: list[list[float]], device: torch.device) -> list[list[float]]:
    """Add up a table of numbers over all ranks; every rank gets the sums."""
    if world_size() == 1:
        return numbers
    tensor = torch.tensor(numbers, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return tensor.tolist()


def gather(value: Any) -> list[Any]:
    """Return every rank's value, in rank order, on every rank."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def from_rank_0(value: Any) -> Any:
    """Return rank 0's value on every rank."""
    values = [value]
    if world_size() > 1:
        dist.broadcast_object_list(values, src=0)
    return values[0]


def barrier() -> None:
    """Wait until all ranks are here."""
    if world_size() > 1:
        dist.barrier()


def broadcast_buffers(model: nn.Module) -> None:
    """Give every rank rank 0's buffers, such as BatchNorm's running mean."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def _initialised() -> bool:
    return dist.is_available() and dist.is_initialized()
