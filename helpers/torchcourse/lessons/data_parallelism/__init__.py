"""Lesson 01, data parallelism (데이터 병렬화): averaging, collectives, DDP by hand, sharding, and what they cost.

averaging       a training step with nothing hidden
train_digits    a training run for any number of ranks, also under torchrun
data_parallel   gradients averaged, one by one and in buckets during the backward pass
collectives     all-reduce and its parts, made of single messages
sampling        which rank sees which sample
sharding        ZeRO's stages 1 and 2
sharded_layers  ZeRO's stage 3, and FSDP2
flat_shards     FSDP: units with one flat shard per rank, gathered, freed and reduced
messages        every collective that a rank calls
prefetch        when FSDP's units compute and travel, modeled
parts           parts of tensors, one per rank
replicas        `DataParallel`, the legacy way, by hand
timeline        both ways as time lines, from a cost model
gpu_comparison  both ways measured on this machine's GPUs
trace           a profiler's trace, read
memory          the bytes of the states on each rank
cost            α–β, Amdahl, scaling: formulas beside measurements
checks          of the exercises

Pictures: `X_picture` beside the `X` that it draws.
"""

LESSON = 1
