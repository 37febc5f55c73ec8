"""The checks of lesson 05. Notebooks 1 and 2 take them from here, each under the name of its exercise.

memory       bytes by formula, an evaluation, batch size
activations  accumulation, checkpoints
not_finite   the layer that made a NaN, and a distance whose gradient stays finite
silent_bugs  what must change in a step, what must not depend on what, how a loss begins
hangs        which ranks stand elsewhere, and a decision that all take together
clinic       the repairs of notebooks 3 and 4
"""

from torchcourse.lessons.troubleshooting.checks.activations import accumulate, checkpointed, residual_blocks
from torchcourse.lessons.troubleshooting.checks.hangs import any_rank_bad, odd_ones_out
from torchcourse.lessons.troubleshooting.checks.memory import evaluate, find_batch_size, mlp_bytes
from torchcourse.lessons.troubleshooting.checks.not_finite import first_bad_layer, safe_distance
from torchcourse.lessons.troubleshooting.checks.silent_bugs import bad_start, mixes_samples, unchanged

__all__ = [
    "accumulate",
    "any_rank_bad",
    "bad_start",
    "checkpointed",
    "evaluate",
    "find_batch_size",
    "first_bad_layer",
    "mixes_samples",
    "mlp_bytes",
    "odd_ones_out",
    "residual_blocks",
    "safe_distance",
    "unchanged",
]
