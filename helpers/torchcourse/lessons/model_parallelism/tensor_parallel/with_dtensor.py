"""The same split by PyTorch's DTensor: `parallelize_module` with a plan that names a style for each layer.

A DTensor is a tensor that knows how it lies on a mesh of ranks: `Shard(0)` is cut along dimension 0, `Replicate()` is
whole on each rank, `Partial()` is still to be summed. `ColwiseParallel` and `RowwiseParallel` turn weights into
DTensors, and the collectives follow from the layouts.

Source: https://docs.pytorch.org/docs/stable/distributed.tensor.parallel.html
"""

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel, parallelize_module

from torchcourse.lessons.model_parallelism.tensor_parallel.operators import share
from torchcourse.lessons.model_parallelism.tensor_parallel.splitting import outputs_of_heads
from torchcourse.models import TransformerBlock

PLAN = {
    "qkv": ColwiseParallel(),
    "out": RowwiseParallel(),
    "dense.0": ColwiseParallel(),
    "dense.2": RowwiseParallel(),
}
"""The styles of a transformer block."""

SEQUENCE_PLAN = {
    "norm1": SequenceParallel(use_local_output=True),
    "qkv": ColwiseParallel(input_layouts=Shard(1)),
    "out": RowwiseParallel(output_layouts=Shard(1)),
    "norm2": SequenceParallel(use_local_output=True),
    "dense.0": ColwiseParallel(input_layouts=Shard(1)),
    "dense.2": RowwiseParallel(output_layouts=Shard(1)),
}
"""The same with sequence parallelism: between the matrix products each rank holds some of the tokens (dimension 1)."""


def split_block(block: TransformerBlock, mesh: DeviceMesh, *, sequence: bool = False) -> TransformerBlock:
    """Split a transformer block, in place, over a mesh of one dimension.

    A plan knows nothing of heads: it cuts the fused query-key-value layer into neighboring blocks. So its outputs are
    first brought into an order in which each block holds whole heads.

    Args:
        block: the same weights on each rank.
        mesh: the ranks that share it.
        sequence: take `SEQUENCE_PLAN`. Then input and output are this rank's tokens, [N, T/ranks, width].

    Raises:
        ValueError: if the ranks cannot share the heads equally.
    """
    mine, ranks = share(block.heads, mesh.get_group(), "heads"), mesh.size()
    order = torch.cat([outputs_of_heads(block.heads, block.qkv.in_features, rank, ranks) for rank in range(ranks)])
    with torch.no_grad():
        for parameter in (block.qkv.weight, block.qkv.bias):
            parameter.copy_(parameter[order.to(parameter.device)])
    block.heads = mine
    parallelize_module(block, mesh, SEQUENCE_PLAN if sequence else PLAN)
    return block
