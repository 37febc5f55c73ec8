"""Who am I among the ranks: joining the process group, the rank's device, and running in place under `torchrun`."""

import os
from collections.abc import Callable
from typing import Any

import cloudpickle
import torch
import torch.distributed as dist

from torchcourse.parallel import _pickling, _start


def join(store: dist.Store | None = None) -> None:
    """Initialise `torch.distributed` as the environment variables RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE say.

    If each rank on this machine has a GPU of its own, that becomes the current device, with NCCL for GPU tensors and
    gloo for the odd CPU tensor. Otherwise gloo, on CPU tensors, with one thread a rank.
    """
    who = {} if store is None else {"rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"])}
    gpu = _gpu_of_rank()
    if gpu is None:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", store=store, **who)
    else:
        torch.cuda.set_device(gpu)
        dist.init_process_group("cpu:gloo,cuda:nccl", store=store, device_id=gpu, **who)


def device() -> torch.device:
    """The device to compute on: in a rank that rank's own; elsewhere the current GPU if there is one, else the CPU.

    Ranks compute on the CPU when there are fewer GPUs than ranks, because gloo moves no GPU tensors between ranks.
    """
    if "LOCAL_RANK" in os.environ:
        return _gpu_of_rank() or torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def default_world_size() -> int:
    """As many ranks as GPUs when there are two or more, else two on the CPU. Under torchrun: as many as it started."""
    if _start.under_torchrun():
        return int(os.environ["WORLD_SIZE"])
    gpus = torch.cuda.device_count()
    return gpus if gpus >= 2 else 2


def run_in_place(fn: Callable[..., Any], args: tuple[Any, ...]) -> list[Any]:
    """Run `fn(*args)` in this process, which torchrun has started as a rank; return the results of all ranks.

    A process group that the script has made itself is used and kept; otherwise each call makes its own.
    """
    if dist.is_initialized():
        return _gather(fn(*args))
    global _store, _calls
    if _store is None:
        _store, *_ = next(dist.rendezvous("env://"))
    _calls += 1
    store = dist.PrefixStore(f"run_ranks/{_calls}", _store)
    dist.set_debug_level_from_env()
    join(store)
    results = _gather(fn(*args))
    # Leave together: a connection closed too early would look like a failure to a rank that still reads from it.
    store.set(f"done/{dist.get_rank()}", "")
    store.wait([f"done/{rank}" for rank in range(dist.get_world_size())])
    dist.destroy_process_group()
    return results


_store: dist.Store | None = None  # torchrun's meeting point, opened once
_calls = 0  # calls so far, the same on every rank: each gets its own keys in the store


def _gather(result: Any) -> list[Any]:
    pickles: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(pickles, _pickling.dumps_result(result))
    return [cloudpickle.loads(data) for data in pickles]


def _gpu_of_rank() -> torch.device | None:
    if torch.cuda.is_available() and torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", "1")):
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return None
