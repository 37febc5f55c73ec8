"""Tensor parallelism (텐서 병렬화): each layer is split over ranks, which exchange activations inside each layer."""

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
