"""The checks of lesson 01. Its notebooks take them from here, each under the name of its exercise.

gradients        the mean of all ranks' gradients, also for parts of unequal size
together         a whole training run that ends where one process ends
dealing          the samples of an epoch, dealt by any fair rule and by PyTorch's
ring             an all-reduce made of single messages
buckets          which gradients travel together, and their average
accumulation     micro-batches under DDP
rank_0_log       the hang of the lab: a collective that only rank 0 calls
uneven_inputs    ranks with unequal numbers of batches
memory_and_time  the bytes under ZeRO, the seconds of a step
flat_shards      the shard of a unit that a rank keeps, and the mean gradient for it
shard_norm       clipping by the norm over all ranks' shards
resharding       shards saved on some ranks, loaded on others

`reference` and `traffic` are what several of them compare with and count.
"""

from torchcourse.lessons.data_parallelism.checks.accumulation import accumulate
from torchcourse.lessons.data_parallelism.checks.buckets import average_bucket, fill_buckets
from torchcourse.lessons.data_parallelism.checks.dealing import samples_of_rank, share_of_epoch
from torchcourse.lessons.data_parallelism.checks.flat_shards import mean_shard, own_shard
from torchcourse.lessons.data_parallelism.checks.gradients import average_gradients, average_uneven
from torchcourse.lessons.data_parallelism.checks.memory_and_time import step_seconds, zero_bytes
from torchcourse.lessons.data_parallelism.checks.rank_0_log import train_and_log
from torchcourse.lessons.data_parallelism.checks.resharding import reshard
from torchcourse.lessons.data_parallelism.checks.ring import ring_all_reduce
from torchcourse.lessons.data_parallelism.checks.shard_norm import clip_shards
from torchcourse.lessons.data_parallelism.checks.together import train_together
from torchcourse.lessons.data_parallelism.checks.uneven_inputs import train_on_all

__all__ = [
    "accumulate",
    "average_bucket",
    "average_gradients",
    "average_uneven",
    "clip_shards",
    "fill_buckets",
    "mean_shard",
    "own_shard",
    "reshard",
    "ring_all_reduce",
    "samples_of_rank",
    "share_of_epoch",
    "step_seconds",
    "train_and_log",
    "train_on_all",
    "train_together",
    "zero_bytes",
]
