"""Tensor parallelism (텐서 병렬화): each layer is split over ranks, which exchange activations inside each layer."""

from torchcourse.parallel.tensor_parallel.dropout import Dropouts
from torchcourse.parallel.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from torchcourse.parallel.tensor_parallel.operators import cut, enter, join, leave
from torchcourse.parallel.tensor_parallel.split import drift, outputs_of_heads, split, whole
from torchcourse.parallel.tensor_parallel.traffic import Collective, Traffic

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
