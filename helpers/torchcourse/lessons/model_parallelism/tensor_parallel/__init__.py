"""Tensor parallelism (텐서 병렬화): each layer is split over ranks, which exchange activations inside each layer.

operators     what is exchanged, as functions that autograd can go back through
layers        linear layers split by columns and by rows
splitting     a whole model split, and put together again
vocabulary    the loss over a cut vocabulary
dropout       which masks are alike on the ranks
with_dtensor  the same split by PyTorch's DTensor
traffic       the collectives that a piece of code calls, and their bytes
cost          what a block sends, by formula
"""

from torchcourse.lessons.model_parallelism.tensor_parallel.dropout import Dropouts
from torchcourse.lessons.model_parallelism.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from torchcourse.lessons.model_parallelism.tensor_parallel.operators import cut, enter, join, leave
from torchcourse.lessons.model_parallelism.tensor_parallel.splitting import drift, outputs_of_heads, split, whole
from torchcourse.lessons.model_parallelism.tensor_parallel.traffic import Collective, Traffic

__all__ = [
    "Collective",
    "ColumnParallelLinear",
    "Dropouts",
    "RowParallelLinear",
    "Traffic",
    "cut",
    "drift",
    "enter",
    "join",
    "leave",
    "outputs_of_heads",
    "split",
    "whole",
]
