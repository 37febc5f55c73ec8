"""Joining the process group as a rank, and running in place under `torchrun`."""

import os
from collections.abc import Callable
from typing import Any

import cloudpickle
import torch
import torch.distributed as dist

from torchcourse.ranks import pickling, who


def join(store: dist.Store | None = None) -> None:
    """Initialize `torch.distributed` as the environment variables RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE say.

    All ranks come back together. One that failed at once would otherwise take its connections away from those that
    still join, and they would report that instead.

    If each rank on this machine has a GPU of its own, that becomes the current device, with NCCL for GPU tensors and
    gloo for the odd CPU tensor. Otherwise gloo, on CPU tensors, with one thread per rank, and no GPU in
    sight.

    Args:
        store: where the ranks meet; None for the address in MASTER_ADDR and MASTER_PORT.
    """
    if store is None:
        store, *_ = next(dist.rendezvous("env://"))
    place: dict[str, Any] = {
        "store": store,
        "rank": int(os.environ["RANK"]),
        "world_size": int(os.environ["WORLD_SIZE"]),
    }
    gpu = who.gpu_of_rank()
    if gpu is None:
        os.environ.update(who.ON_CPU)
        torch.set_num_threads(1)
        dist.init_process_group("gloo", **place)
    else:
        torch.cuda.set_device(gpu)
        dist.init_process_group("cpu:gloo,cuda:nccl", device_id=gpu, **place)
    _together("joined", store)


def run_in_place(fn: Callable[..., Any], args: tuple[Any, ...]) -> list[Any]:
    """Run `fn(*args)` in this process, which torchrun has started as a rank; return the results of all ranks.

    A process group that the script has made itself is used and kept; otherwise each call makes its own.
    """
    if who.initialized():
        return _gather(fn(*args))
    global _store, _calls
    if _store is None:
        _store, *_ = next(dist.rendezvous("env://"))
    _calls += 1
    store = dist.PrefixStore(f"run_ranks/{_calls}", _store)
    dist.set_debug_level_from_env()
    join(store)
    results = _gather(fn(*args))
    _together("done", store)  # a connection closed too early would look like a failure to a rank that still reads
    dist.destroy_process_group()
    return results


def _together(event: str, store: dist.Store) -> None:
    """Wait until every rank has come here."""
    store.set(f"{event}/{who.rank()}", "")
    store.wait([f"{event}/{rank}" for rank in range(who.world_size())])


_store: dist.Store | None = None  # torchrun's meeting point, opened once
_calls = 0  # calls so far, the same on every rank: each gets its own keys in the store


def _gather(result: Any) -> list[Any]:
    return [cloudpickle.loads(data) for data in who.gather(pickling.dumps_result(result))]
