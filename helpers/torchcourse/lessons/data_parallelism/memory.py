"""How much memory the states of training take on a rank, whole (DDP) or shared out (ZeRO stages 1 to 3).

The states (상태) are what training keeps from step to step: parameters, gradients, and the optimizer's numbers.
`zero_memory` is the formula; `measure_memory` counts the tensors that a rank really holds.

Activations, buffers and what exists only for a moment (a bucket, a layer gathered for its turn) come on top of it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class States:
    """Bytes of the training states on one rank, by part."""

    parameters: float
    gradients: float
    optimizer: float

    @property
    def total(self) -> float:
        return self.parameters + self.gradients + self.optimizer


RECIPES = {
    "mixed precision, Adam": States(2, 2, 12),
    "mixed precision, Adam, float32 gradients": States(2, 4, 12),
    "mixed precision, Adam, gradients in 16 and 32 bit": States(2, 6, 12),
    "float32, Adam": States(4, 4, 8),
    "float32, SGD with momentum": States(4, 4, 4),
    "float32, SGD": States(4, 4, 0),
}
"""Bytes per parameter. In mixed precision (혼합 정밀도) the optimizer keeps a float32 copy of the weights besides.
DeepSpeed's optimizer for bf16 adds the 16-bit gradients to float32 ones, and keeps both:
https://github.com/microsoft/DeepSpeed/blob/v0.6.7/deepspeed/runtime/bf16_optimizer.py
"""


def zero_memory(parameters: float, world_size: int, stage: int, recipe: str = "mixed precision, Adam") -> States:
    """Return the bytes of the states on each of N ranks.

    Stage 0 is DDP: every rank holds everything. Stage 1 shares out the optimizer's numbers, stage 2 the gradients too,
    stage 3 the parameters too (as FSDP does): what is shared out takes 1/N.

    Args:
        parameters: how many the model has.
        world_size: the number of ranks N.
        stage: 0 to 3.
        recipe: a key of `RECIPES`.

    Raises:
        ValueError: for a stage, a recipe or a number of ranks that does not exist.

    Source: Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", SC20, section 5
    and figure 1, https://arxiv.org/abs/1910.02054
    """
    if stage not in (0, 1, 2, 3):
        raise ValueError(f"ZeRO has the stages 1, 2 and 3 (and 0 for none of them), but not {stage}.")
    if recipe not in RECIPES:
        raise ValueError(f"There is no recipe {recipe!r}. Choose one of: {', '.join(RECIPES)}.")
    if world_size < 1:
        raise ValueError(f"The states need at least 1 rank to live on, but world_size is {world_size}.")
    each = RECIPES[recipe]
    return States(
        parameters=each.parameters * parameters / (world_size if stage >= 3 else 1),
        gradients=each.gradients * parameters / (world_size if stage >= 2 else 1),
        optimizer=each.optimizer * parameters / (world_size if stage >= 1 else 1),
    )


def measure_memory(model: nn.Module, optimizer: torch.optim.Optimizer) -> States:
    """Return the bytes of the states that this rank holds now. Call it between `step()` and `zero_grad()`.

    It counts whole storages, each once: a small view keeps all of the tensor alive that it was cut from. The scalar
    step counters of the optimizer are left out. Works for the shards of this course, for FSDP2's, and for plain models.
    """
    # With sharded states the optimizer may hold parameters of its own, which are views of the model's or parts of them.
    in_optimizer = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    parameters = {id(parameter): parameter for parameter in (*model.parameters(), *in_optimizer)}.values()
    gradients = [parameter.grad for parameter in in_optimizer if parameter.grad is not None]
    numbers = [
        value
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor) and value.dim() > 0
    ]
    return States(_held_bytes(parameters), _held_bytes(gradients), _held_bytes(numbers))


def _held_bytes(tensors: Iterable[torch.Tensor]) -> int:
    storages = {}
    for tensor in tensors:
        local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        storage = local.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())
