"""A checkpoint in shares: saved on some ranks, resumed on others; and what a step waits for while it is saved.

Source: PyTorch, distributed checkpoint, https://docs.pytorch.org/docs/stable/distributed.checkpoint.html
"""

from concurrent.futures import Future
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.fsdp import fully_shard

from torchcourse.models import mlp
from torchcourse.ranks.who import device

Weights = dict[str, torch.Tensor]


def sharded(seed: int, width: int = 32) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return a small network that is sharded over the ranks (FSDP2), and its optimizer."""
    torch.manual_seed(seed)
    model = mlp(784, width, 10).to(device())
    fully_shard(model)
    return model, torch.optim.AdamW(model.parameters(), lr=0.01)


def take_steps(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> Weights:
    """Train on drawn numbers, the same on every rank, and return the whole weights on the CPU."""
    generator = torch.Generator().manual_seed(7)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(16, 1, 28, 28, generator=generator).to(device())).square().mean().backward()
        optimizer.step()
    whole = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return {name: tensor for name, tensor in whole.items() if isinstance(tensor, torch.Tensor)}


def save_in_shares(folder: str) -> tuple[Weights, Weights]:
    """Train, save each rank's share, and train on. Returns rank 0's whole weights at the save and two steps later."""
    model, optimizer = sharded(seed=0)
    saved = take_steps(model, optimizer, 3)
    saved = {name: tensor.clone() for name, tensor in saved.items()}
    weights, moments = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": moments}, checkpoint_id=folder)
    return saved, take_steps(model, optimizer, 2)


def resume_from_shares(folder: str) -> tuple[Weights, Weights]:
    """Build the model with different weights, load what this number of ranks needs of each share, and train on."""
    model, optimizer = sharded(seed=1)
    weights, moments = get_state_dict(model, optimizer)
    state: dict[str, Any] = {"model": weights, "optimizer": moments}
    dcp.load(state, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    loaded = take_steps(model, optimizer, 0)
    loaded = {name: tensor.clone() for name, tensor in loaded.items()}
    return loaded, take_steps(model, optimizer, 2)


def largest_difference(ones: Weights, others: Weights) -> float:
    """Return the largest absolute difference of two sets of weights with the same names."""
    return max(float((ones[name] - others[name]).abs().max()) for name in ones)


def waits(folder: str, width: int = 4000, repeats: int = 3) -> dict[str, list[float]]:
    """Save the same weights in the two ways, in turn. Returns the seconds of each save.

    Returns:
        `sync`: `dcp.save`, for all of which a step waits. `async`: `dcp.async_save`, until it returns: a copy is made.
        `written`: the same save, until its file is on the disk.
    """
    model, _ = sharded(seed=0, width=width)
    weights = {"model": get_model_state_dict(model)}
    seconds: dict[str, list[float]] = {"sync": [], "async": [], "written": []}
    for number in range(repeats):
        dist.barrier()
        start = perf_counter()
        dcp.save(weights, checkpoint_id=f"{folder}/sync_{number}")
        seconds["sync"].append(perf_counter() - start)
        dist.barrier()
        start = perf_counter()
        written = dcp.async_save(weights, checkpoint_id=f"{folder}/async_{number}")
        seconds["async"].append(perf_counter() - start)
        assert isinstance(written, Future)  # as long as the type of the copy's process is not asked for
        written.result()
        seconds["written"].append(perf_counter() - start)
    return seconds
