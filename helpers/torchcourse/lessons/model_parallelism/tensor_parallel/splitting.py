"""Split a whole model over the ranks of a group, and put it together again.

    model = split(row_transformer(), group)     # on each rank, from the same weights
    loss = F.cross_entropy(model(x), y)         # the same x on each rank of the group: the same loss on each
    loss.backward()                             # each rank has the gradients of its parts
    weights = whole(model)                      # all weights under the whole model's names, on each rank

In each transformer block, attention and the MLP begin with a layer split by columns and end with one split by
rows. What lies between needs nothing from other ranks: heads do not know each other, and GELU works on single numbers.
So a block sends two all-reduces forward and two backward, whatever the number of ranks.
"""

from collections.abc import Iterator
from typing import Literal

import torch
import torch.distributed as dist
from torch import nn

from torchcourse.lessons.model_parallelism.tensor_parallel.layers import (
    ColumnParallelLinear,
    RowParallelLinear,
    SplitLinear,
)
from torchcourse.lessons.model_parallelism.tensor_parallel.operators import Group, share
from torchcourse.models import TransformerBlock
from torchcourse.ranks.who import rank_and_world_size


def split(model: nn.Module, group: Group = None) -> nn.Module:
    """Replace, in place, the linear layers of all transformer blocks by this rank's parts; return the model.

    Norms, embedding and output layer stay whole on each rank. The names of the parameters stay.

    Args:
        model: the same weights on each rank.
        group: the ranks that share the model.

    Raises:
        RuntimeError: outside a rank.
        ValueError: if the ranks cannot share the heads equally, or the model has no transformer block.
    """
    rank_and_world_size()
    blocks = [module for module in model.modules() if isinstance(module, TransformerBlock)]
    if not blocks:
        raise ValueError(
            f"split() found no TransformerBlock in this {type(model).__name__}, so there is nothing to split."
        )
    for block in blocks:
        mine = share(block.heads, group, "heads")
        rows = outputs_of_heads(block.heads, block.qkv.in_features, dist.get_rank(group), dist.get_world_size(group))
        block.heads = mine
        block.add_module("qkv", ColumnParallelLinear(block.qkv, group, rows))
        block.add_module("out", RowParallelLinear(block.out, group))
        first, activation, second = block.dense
        assert isinstance(first, nn.Linear)
        assert isinstance(second, nn.Linear)
        block.dense = nn.Sequential(ColumnParallelLinear(first, group), activation, RowParallelLinear(second, group))
    return model


def outputs_of_heads(heads: int, width: int, rank: int, ranks: int) -> torch.Tensor:
    """Return which outputs of a fused query-key-value layer belong to a rank's heads, shape [3 · width / ranks].

    The 3 · width outputs stand in the order (q, k, v) × head × number in the head. So a rank's outputs are three
    blocks, one in each third, and not one block: that would be queries for the first rank and values for the last.
    """
    order = torch.arange(3 * width).view(3, heads, width // heads)
    return order.chunk(ranks, dim=1)[rank].flatten()


def whole(model: nn.Module, of: Literal["values", "gradients"] = "values") -> dict[str, torch.Tensor]:
    """Return the whole model's parameters, or their gradients, by name. All ranks call it together.

    What each rank holds whole is taken from this rank. `load_state_dict` of a whole model takes the values, if the
    model has no buffers.

    Raises:
        ValueError: if a gradient is asked for that is not there.
    """
    found = {}
    for name, module, parameter in _parameters(model):
        tensor = parameter.detach() if of == "values" else parameter.grad
        if tensor is None:
            raise ValueError(f"{name} has no gradient. Call backward() first.")
        found[name] = (
            module.whole(name.rpartition(".")[2], tensor) if isinstance(module, SplitLinear) else tensor.clone()
        )
    return found


def drift(model: nn.Module, group: Group = None) -> dict[str, float]:
    """Return, for each parameter that each rank holds whole, how far the ranks are apart (largest absolute difference).

    All zeros, or close to it, in a healthy run. All ranks of the group call it together.
    """
    apart = {}
    for name, module, parameter in _parameters(model):
        if not (isinstance(module, SplitLinear) and name.rpartition(".")[2] in module.held):
            low, high = parameter.detach().clone(), parameter.detach().clone()
            dist.all_reduce(low, dist.ReduceOp.MIN, group=group)
            dist.all_reduce(high, dist.ReduceOp.MAX, group=group)
            apart[name] = (high - low).max().item()
    return apart


def _parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Parameter]]:
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            yield name, module, parameter
