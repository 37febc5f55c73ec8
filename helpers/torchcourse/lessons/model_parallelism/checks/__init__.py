"""The checks of lesson 02. Its notebooks take them from here, each under the name of its exercise.

halves         a model in two halves on two ranks: by hand, and the deadlock of the lab
schedules      the share of time that a pipeline's ranks wait, the order of 1F1B
layers         a linear layer split by columns and by rows
placement      the heads of a rank, the groups of a mesh
dropout_masks  the seeds of dropout: masks that must be alike, and masks that must not
formulas       bytes of a GPU, utilizations, seconds of a step
plans          a layout of one's own, the repair of sick plans
"""

from torchcourse.lessons.model_parallelism.checks.dropout_masks import dropout_seeds
from torchcourse.lessons.model_parallelism.checks.formulas import gpu_bytes, step_seconds, utilisations
from torchcourse.lessons.model_parallelism.checks.halves import repaired_step, split_step
from torchcourse.lessons.model_parallelism.checks.layers import column_linear, row_linear
from torchcourse.lessons.model_parallelism.checks.placement import head_outputs, mesh_groups
from torchcourse.lessons.model_parallelism.checks.plans import my_layout, repaired
from torchcourse.lessons.model_parallelism.checks.schedules import bubble, one_f_one_b_order

__all__ = [
    "bubble",
    "column_linear",
    "dropout_seeds",
    "gpu_bytes",
    "head_outputs",
    "mesh_groups",
    "my_layout",
    "one_f_one_b_order",
    "repaired",
    "repaired_step",
    "row_linear",
    "split_step",
    "step_seconds",
    "utilisations",
]
