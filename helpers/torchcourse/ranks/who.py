"""Which rank am I, of how many, on which device: the one answer, with that of a process without ranks built in.

Importing this starts no process. The functions that move a value between ranks return it unchanged where there are
no ranks, so that the same line serves one process and many.
"""

import os
from typing import Any

import torch
import torch.distributed as dist

from torchcourse.ranks.environ import under_torchrun


def rank() -> int:
    """Return this process's rank, 0 where there are no ranks."""
    return dist.get_rank() if initialized() else 0


def world_size() -> int:
    """Return the number of ranks, 1 where there are none."""
    return dist.get_world_size() if initialized() else 1


def rank_and_world_size() -> tuple[int, int]:
    """Return this rank and the number of ranks, for a function that needs other ranks.

    Raises:
        RuntimeError: outside a rank.
    """
    if not initialized():
        raise RuntimeError(
            "This function talks to other ranks, but there are none here. "
            "Put the call into a function and start that on several ranks: run_ranks(your_function)."
        )
    return dist.get_rank(), dist.get_world_size()


def device() -> torch.device:
    """The device to compute on: in a rank that rank's own; elsewhere the current GPU if there is one, else the CPU.

    Ranks compute on the CPU when there are fewer GPUs than ranks, because gloo cannot send GPU tensors to a rank.
    """
    if "LOCAL_RANK" in os.environ:
        return gpu_of_rank() or torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def gpu_of_rank() -> torch.device | None:
    """Return the GPU of this rank, or None where this machine has fewer GPUs than ranks."""
    # Counted first, as the driver does: to ask whether CUDA works opens it, and then no GPU can be hidden any more.
    if gpus_for(int(os.environ.get("LOCAL_WORLD_SIZE", "1"))) and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return None


def gpus_for(ranks: int) -> bool:
    """Whether each of so many ranks on this machine can have a GPU of its own."""
    return torch.cuda.device_count() >= max(1, ranks)


ON_CPU = {"CUDA_VISIBLE_DEVICES": ""}
"""The environment of a rank that computes on the CPU beside a GPU that it cannot have for itself.

Parts of PyTorch take the machine's accelerator unasked, such as `fully_shard`, and would send rank 1 to a second GPU
that is not there. What a rank does not see, they leave alone.
"""


def default_world_size() -> int:
    """As many ranks as GPUs when there are two or more, else two on the CPU. Under torchrun: as many as it started."""
    if under_torchrun():
        return int(os.environ["WORLD_SIZE"])
    gpus = torch.cuda.device_count()
    return gpus if gpus >= 2 else 2


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


def initialized() -> bool:
    """Whether this process belongs to a process group."""
    return dist.is_available() and dist.is_initialized()
