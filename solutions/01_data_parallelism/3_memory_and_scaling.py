# %% [markdown]
# # Samples, memory and scaling
#
# **{minutes} minutes** · one CPU is enough (two to four processes); with several GPUs, each process takes one · before this:
# [averaging](1_averaging.ipynb), [the ring and DDP](2_distributed_data_parallel.ipynb)
#
# The first two notebooks made N ranks equal one process. This one asks what it is worth. Who gets which samples, what must each rank
# hold in memory, and how much faster does it get? At the end the study log's last sentence on this topic is settled: DataParallel or
# DistributedDataParallel.
#
# **After this notebook you can**
#
# 1. deal samples out over ranks and epochs, and choose a learning rate for the larger batch;
# 2. train on ranks with different amounts of data, without a hang and without losing a sample;
# 3. tell DataParallel and DDP apart by processes, messages and memory;
# 4. compute what a rank must hold, with and without sharding;
# 5. predict from two measured constants how training time changes with the number of ranks.

# %% setup

# %%
from torchcourse.quiz import outcome, predict, recall

recall("01_data_parallelism")

# %%
import os
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DistributedSampler

from torchcourse import environment, figures
from torchcourse.data import make_loader, mnist
from torchcourse.lessons.data_parallelism import checks as check
from torchcourse.lessons.data_parallelism import (
    cost,
    data_parallel,
    memory,
    replicas,
    sampling,
    sharding,
)
from torchcourse.lessons.data_parallelism.cost_picture import (
    draw_alpha_beta,
    draw_scaling,
)
from torchcourse.lessons.data_parallelism.memory_picture import (
    draw_measured_memory,
    zero_picture,
)
from torchcourse.lessons.data_parallelism.timeline_picture import dataparallel_picture
from torchcourse.models import mlp, small_cnn
from torchcourse.ranks import RankError, default_world_size, device, run_ranks
from torchcourse.training import Trainer

print(environment.hardware())

# %% [markdown]
# ## 1 · Who gets which sample?
#
# In notebook 1 a script trained both ranks on the same data. PyTorch's cure is a **sampler** (샘플러), `DistributedSampler`: all ranks mix the samples
# alike, and deal them out like cards.

# %%
for rank in range(4):
    sampler = DistributedSampler(range(10), num_replicas=4, rank=rank)
    print(f"rank {rank}: epoch 0 {list(sampler)}", end="   ")
    sampler.set_epoch(1)
    print(f"epoch 1 {list(sampler)}")

# %% [markdown]
# Two things to see. Ten samples on four ranks are three for each: two come twice. And `set_epoch` changes the order. That call is
# yours to make, before each epoch.

# %%
predict(
    "01-3.set_epoch",
    "A training loop forgets set_epoch. What happens?",
    [
        "the ranks see the same samples as each other",
        "every epoch has the same order; nothing else changes",
        "an error in the second epoch",
    ],
)

# %%
sampler = DistributedSampler(range(10), num_replicas=4, rank=0)
orders = [list(sampler) for _ in range(3)]
print(orders)
outcome(
    "01-3.set_epoch",
    f"Three epochs of rank 0 without set_epoch: {orders[0]}, and twice more the "
    f"same. No error and no warning.",
    right="every epoch has the same order; nothing else changes",
)

# %% [markdown]
# ### Exercise 1 · Deal an epoch
#
# ●●○ · 8 minutes · good for: you will meet this sampler in all distributed training, and its padding in every strange count.
#
# Write what `DistributedSampler` does, index for index. The order of an epoch is `torch.randperm` with a generator that is seeded with
# the number of the epoch. All ranks get equally many samples; if N does not divide the length, the deal goes on with
# samples from the front of the order. (With 3 samples and 8 ranks it goes round more than once.)


# %% exercise: share_of_epoch
def share_of_epoch(length: int, epoch: int, rank: int, world_size: int) -> list[int]:
    """Return the numbers of this rank's samples in this epoch, as torch's
    DistributedSampler deals them.
    """
    order = torch.randperm(
        length, generator=torch.Generator().manual_seed(epoch)
    ).tolist()
    ### BEGIN SOLUTION
    each = -(-length // world_size)
    return (order * world_size)[: each * world_size][rank::world_size]
    ### END SOLUTION


# %% check: share_of_epoch
checked = check.share_of_epoch(share_of_epoch, points=2)
### BEGIN HIDDEN TESTS
from torchcourse.checks.values import judged

for _length, _epoch, _ranks in ((23, 4, 5), (8, 7, 8), (2, 0, 7)):
    for _rank in range(_ranks):
        _sampler = DistributedSampler(range(_length), _ranks, _rank)
        _sampler.set_epoch(_epoch)
        assert [int(i) for i in share_of_epoch(_length, _epoch, _rank, _ranks)] == list(
            _sampler
        )


@judged(share_of_epoch)
def _in_drawn_epochs(share_of_epoch, draw):
    from torch.utils.data import DistributedSampler

    length, epoch, ranks = draw.randint(5, 60), draw.randint(0, 90), draw.randint(2, 6)
    for rank in range(ranks):
        sampler = DistributedSampler(range(length), ranks, rank)
        sampler.set_epoch(epoch)
        assert [
            int(index) for index in share_of_epoch(length, epoch, rank, ranks)
        ] == list(sampler)


### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "you cut the order into blocks"</summary>
#
# A slice has three numbers: `order[start::step]`. Which step takes every N-th card?
# </details>
#
# <details><summary>Help – I get "one lap is not enough"</summary>
#
# With 3 samples and 8 ranks, 5 cards are missing, and the order has only 3. A list times a number is the list again and again.
# </details>
#
# The package's own, `sampling.DistributedSampler`, is this function as a class: put it beside PyTorch's.

# %%
ours = list(sampling.DistributedSampler(range(10), num_replicas=4, rank=1))
theirs = list(DistributedSampler(range(10), num_replicas=4, rank=1))
print(ours, theirs)
assert ours == theirs

# %% [markdown]
# **In an evaluation** a sample that counts twice makes the score wrong. There every rank takes `range(rank, length, world_size)`:
# no padding, and no gradients that the ranks would have to wait for. `make_loader(…, shuffle=False)` of the package does that.

# %% [markdown]
# ## 2 · A larger batch needs a different learning rate
#
# Eight ranks with 64 samples each take the step of *one* process with 512 samples: that is notebook 1. So an epoch on 8 ranks has an
# eighth of the steps. One process is enough to see what follows.

# %%
predict(
    "01-3.batch",
    "Batch 512 instead of 64, same learning rate, same number of epochs. The test "
    "accuracy will be…",
    [
        "the same: the same samples were seen",
        "lower: an eighth of the steps",
        "higher: the gradients are less noisy",
    ],
)

# %%
train_set, test_set = mnist("train"), mnist("test")


def accuracy(batch, rate, seed):
    torch.manual_seed(seed)
    model = mlp(784, 64, 10)
    trainer = Trainer(
        model,
        torch.optim.SGD(model.parameters(), lr=rate),
        F.cross_entropy,
        progress=False,
    )
    trainer.fit(make_loader(train_set, batch, seed=seed), epochs=4)
    return trainer.evaluate(make_loader(test_set, 500, shuffle=False))["accuracy"]


# %%
settings = {
    "64, rate 0.01\n(1 rank)": (64, 0.01),
    "512, rate 0.01\n(8 ranks)": (512, 0.01),
    "512, rate 0.08\n(8 ranks, scaled)": (512, 0.08),
}
scores = {
    name: [accuracy(*values, seed) for seed in range(3)]
    for name, values in settings.items()
}
means = [sum(values) / 3 for values in scores.values()]

# %%
figure, axis = figures.new(height=3.0)
axis.bar(list(scores), means, width=0.5)
for column, values in enumerate(scores.values()):
    axis.plot([column] * 3, values, "ko", markersize=4)
axis.set(
    ylabel="test accuracy",
    ylim=(0, 1),
    xlabel="batch and learning rate (dots: 3 seeds)",
)
axis.set_title(
    f"8 times the batch: {means[1]:.0%} at the old rate, {means[2]:.0%} at 8 times "
    f"the rate"
)
figures.show(figure, f"Mean test accuracies: {[round(mean, 3) for mean in means]}.")

# %%
outcome(
    "01-3.batch",
    f"{means[1]:.1%} instead of {means[0]:.1%}, the mean of three seeds.",
    right="lower: an eighth of the steps"
    if means[1] < means[0] - 0.005
    else "the same: the same samples were seen",
)

# %% [markdown]
# This is the **linear scaling rule** (선형 스케일링 규칙, Goyal et al. 2017): **N times the batch, N times the learning rate** (학습률). A **warm-up** (워밍업) goes from the small
# rate to the large one in the first steps. It is a rule of thumb for SGD, and it has an end. Change 0.01 and 0.08 to 0.1 and 0.8
# in the cell above, and the scaled run breaks down. Lesson 03 measures where it ends.
#
# ### One writer
#
# All ranks hold the same weights, so one of them saves. The rest of this loop is in the `Trainer`: the ranks meet before and after,
# so that nobody reads half a file.


# %%
def train_and_save(folder):
    model = small_cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Trainer(
        model, optimizer, F.cross_entropy, checkpoint_dir=folder, progress=False
    )
    trainer.fit(make_loader(train_set, 500), epochs=1, overwrite=True)
    return os.getpid(), trainer.history["loss"][-1]


print(run_ranks(train_and_save, "saved_by_one_rank", world_size=2))
print(sorted(path.name for path in Path("saved_by_one_rank").iterdir()))

# %% [markdown]
# Two processes, one set of files, and the same loss on both: the `Trainer` reduces what it reports over all ranks.
#
# The weights are not all that a model holds. A **buffer** (버퍼) is a tensor that is no parameter, such as BatchNorm's running mean. DDP
# averages no buffers: before each training forward pass it copies rank 0's to all. Here the running mean of rank 1 is off by 100:


# %%
def running_mean():
    """BatchNorm's running mean on this rank, before and after a step under DDP."""
    norm = nn.BatchNorm1d(1).to(device())
    ddp = DistributedDataParallel(norm)
    norm.running_mean += 100 * dist.get_rank()
    before = norm.running_mean.item()
    ddp(torch.full((4, 1), float(dist.get_rank()), device=device())).sum().backward()
    return before, round(norm.running_mean.item(), 1)


print("before and after a step:", run_ranks(running_mean, world_size=2))

# %% [markdown]
# Rank 1 begins with rank 0's mean, and then adds what it sees itself. A checkpoint of rank 0 holds the statistics of rank 0's samples only.

# %% [markdown]
# ## 3 · Break-it lab: one rank has more batches
#
# A sampler makes equal shares. But data may lie on the ranks as it is: each machine has its own files. Here rank 0 has 3 batches and
# rank 1 has 2. (The run that fails is on the CPU, where it fails in the same way on every machine.)


# %%
def one_step(model, optimizer, loss_of, batch):
    optimizer.zero_grad()
    loss_of(model(batch)).backward()
    optimizer.step()


def naive_training(model, optimizer, loss_of, batches):
    for batch in batches:
        one_step(model, optimizer, loss_of, batch)
    return len(batches)


def start(training, counts):
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Linear(4, 1).to(device()))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    batches = [
        torch.randn(8, 4).to(device()) for _ in range(counts[int(os.environ["RANK"])])
    ]
    return training(model, optimizer, lambda output: output.square().mean(), batches)


# %%
ON_CPU = {"CUDA_VISIBLE_DEVICES": ""}
try:
    run_ranks(start, naive_training, [3, 2], world_size=2, timeout=10, env=ON_CPU)
except RankError as error:
    print(f"rank {error.rank} failed with {error.kind}: {error.message}"[:300])

# %% [markdown]
# Rank 0 names the error, but rank 0 did nothing wrong. It came to its third all-reduce, and rank 1 had left. Had rank 1
# stayed to do something else, both would hang: the message of a fault in distributed training often comes from the *victim*.
#
# ### Exercise 2 · Repair it
#
# ●●○ · 8 minutes · good for: data that does not come in equal parts.
#
# Every rank uses each of its batches once. In a step, the gradients of those ranks that still have a batch are added. The sum is divided
# by the number of *all* ranks or of *those* ranks: both are accepted. All ranks end with the same weights. PyTorch has a context for this,
# `ddp.join()`: inside it, a rank that has run out answers the others' all-reduces with zeros. You may also write it by hand.


# %% exercise: train_on_all
def train_on_all(
    ddp: DistributedDataParallel,
    optimizer: torch.optim.Optimizer,
    loss_of,
    batches: list,
) -> int:
    """Train on all batches of this rank, which may be fewer than another rank's.

    Return how many these were.
    """
    ### BEGIN SOLUTION
    with ddp.join():
        for batch in batches:
            one_step(ddp, optimizer, loss_of, batch)
    return len(batches)
    ### END SOLUTION


# %% check: train_on_all
checked = check.train_on_all(train_on_all, points=2)
### BEGIN HIDDEN TESTS
assert run_ranks(start, train_on_all, [1, 4, 2], world_size=3, timeout=30) == [1, 4, 2]
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "ends with “connection closed”"</summary>
#
# Is the *whole* loop inside the context? A rank that leaves it early answers nobody.
# </details>
#
# <details><summary>Help – I get "used 1 of them"</summary>
#
# Stopping at the shortest rank is a repair that loses data without a word. Sometimes that is wanted; here it is not.
# </details>
#
# By default `join` divides by *all* ranks, also by those that have run out: the last steps are shorter, and in batches of one size every
# sample keeps its weight. With `divide_by_initial_world_size=False` it divides by those that are left: the last samples weigh more.
# Where the batches differ in size, notebook 1's exercise 3 helps.

# %% [markdown]
# ## 4 · DataParallel, the old way
#
# `nn.DataParallel` is older than DDP and shorter to write: one line, no ranks. It keeps **one process**. In each step it copies the model to every
# GPU: a **replica** (복제본), thrown away after the step. GPU 0 cuts the batch, collects all outputs, and sums the replicas' gradients.
#
# Without a GPU it does nothing at all, and does not say so.

# %% [markdown]
# The package has it by hand, in 20 lines (`replicas.py`). Ours also works without GPUs: `["cpu", "cpu"]` counts as two devices. Are the gradients of the
# replicas averaged or added up? Give a batch of 6 to one model, and to two replicas of it:

# %%
torch.manual_seed(0)
single, pair = nn.Linear(3, 1), nn.Linear(3, 1)
pair.load_state_dict(single.state_dict())
x, y = torch.randn(6, 3), torch.randn(6, 1)
F.mse_loss(single(x), y).backward()
F.mse_loss(replicas.DataParallel(pair, ["cpu", "cpu"])(x), y).backward()
print("one model:    ", single.weight.grad.tolist())
print("two replicas: ", pair.weight.grad.tolist())
assert torch.allclose(single.weight.grad, pair.weight.grad)

# %% [markdown]
# Equal, and nothing divides by the number of replicas: their gradients are **added up**. The outputs come together on the first device, and there *one* loss takes the mean over
# all 6. Each replica's gradient is its share of that one mean.

# %%
predict(
    "01-3.dp",
    "4 GPUs train a ResNet-50. Where is the time of DataParallel lost, compared with "
    "DDP?",
    [
        "computing: the replicas compute more",
        "copying: the model goes out and the gradients come back in every step, and "
        "nothing overlaps",
        "there is no difference",
    ],
)

# %% [markdown]
# The picture is a **model**, computed from the sizes and speeds that the sliders set (`timeline.py` has the arithmetic). Try 2 GPUs, then 8, and an
# output for every pixel: what happens to the memory of GPU 0? The study log calls this *GPU 사용 불균형*, uneven use.

# %%
dataparallel_picture()

# %%
from torchcourse.lessons.data_parallelism.timeline import (
    Workload,
    dataparallel_timeline,
    ddp_timeline,
)

old, new = dataparallel_timeline(Workload()), ddp_timeline(Workload())
outcome(
    "01-3.dp",
    f"Modeled for 4 GPUs: {old.step_ms:.0f} ms per step against {new.step_ms:.0f} "
    f"ms. Both compute the same; GPU 1 computes "
    f"for {old.busy(1):.0%} of DataParallel's step and for {new.busy(1):.0%} of DDP's.",
    right="copying: the model goes out and the gradients come back in every step, and "
    "nothing overlaps",
)

# %% [markdown]
# With two GPUs or more, the next cell measures both ways. Without, it says so.

# %%
from torchcourse.lessons.data_parallelism.gpu_comparison import measure

if torch.cuda.device_count() >= 2:
    for line in measure(
        partial(mlp, 784, 4096, 4096, 10), *(tensor[:2048] for tensor in mnist()[:])
    ):
        print(line)
else:
    print(
        "Fewer than two GPUs here: the picture above is modeled, and nothing was "
        "measured."
    )

# %% [markdown]
# ## 5 · Memory: what every rank keeps, and how to share it
#
# With DDP every rank holds *all* parameters, gradients and optimizer numbers. N copies are N−1 too many. **ZeRO** shares these
# **states** (상태) out, so that each rank keeps 1/N: **sharding** (샤딩). In **mixed precision** (혼합 정밀도), which computes in 16 bits:
#
# | | shared out | on each of N ranks, mixed precision with Adam |
# |---|---|---|
# | DDP | nothing | 2 + 2 + 12 bytes per parameter |
# | stage 1 | optimizer numbers | 2 + 2 + 12/N |
# | stage 2 | + gradients | 2 + 2/N + 12/N |
# | stage 3, FSDP | + parameters | (2 + 2 + 12)/N |
#
# Weights and gradients have 16 bits here, as in DeepSpeed and Megatron. The 12 bytes: a copy of the weight in float32, and Adam's two
# moments, 4 bytes each. PyTorch's `autocast` keeps weights and gradients in float32: 4 + 4 + 8 is 16 too, but stage 1 leaves 8 + 8/N.

# %%
predict(
    "01-3.zero",
    "A model of 7.5 billion parameters on 64 GPUs of 80 GB. Which is the first that "
    "fits?",
    ["DDP", "stage 1", "stage 2", "stage 3, FSDP"],
)

# %%
zero_picture()

# %%
sizes = [memory.zero_memory(7.5e9, 64, stage).total / 1e9 for stage in range(4)]
names = ["DDP", "stage 1", "stage 2", "stage 3, FSDP"]
outcome(
    "01-3.zero",
    "GB per rank: "
    + ", ".join(f"{name} {size:.1f}" for name, size in zip(names, sizes, strict=True)),
    right=next(name for name, size in zip(names, sizes, strict=True) if size <= 80),
)

# %% [markdown]
# These are the numbers of figure 1 in the ZeRO paper (120, 31.4, 16.6 and 1.9 GB). They count states only: activations come on top, and are shared by no stage.
#
# ### Exercise 3 · Bytes of a rank
#
# ●○○ · 5 minutes · good for: knowing before you rent a machine whether a model fits.


# %% exercise: zero_bytes
def zero_bytes(
    parameters: float, world_size: int, stage: int
) -> tuple[float, float, float]:
    """Return the bytes of parameters, gradients and optimizer numbers on each rank, in
    mixed precision with Adam.

    `stage` is 0 (DDP), 1, 2 or 3.
    """
    ### BEGIN SOLUTION
    share = [1 if stage < first else world_size for first in (3, 2, 1)]
    return (
        2 * parameters / share[0],
        2 * parameters / share[1],
        12 * parameters / share[2],
    )
    ### END SOLUTION


# %% check: zero_bytes
checked = check.zero_bytes(zero_bytes, points=2)
### BEGIN HIDDEN TESTS
assert [
    round(float(sum(zero_bytes(7.5e9, 64, stage))) / 1e9, 1) for stage in range(4)
] == [120.0, 31.4, 16.6, 1.9]
for _part, _bytes in zip(zero_bytes(1e8, 10, 2), (2e8, 2e7, 1.2e8), strict=True):
    assert abs(_part / _bytes - 1) < 1e-6
### END HIDDEN TESTS
checked

# %% [markdown]
# ### Measured
#
# Formulas forget things. The package has all three stages by hand: 1 and 2 in `sharding.py`, 3 in `sharded_layers.py`. Here each trains a small network
# in float32 with Adam (4 + 4 + 8 bytes per parameter) on two ranks, and then counts the tensors that the rank really holds.


# %%
def three_steps(way):
    """Train three steps; return the weights of all ranks put together, and the bytes
    of this rank's states.
    """
    torch.manual_seed(0)
    model, adam = mlp(784, 256, 128, 10).to(device()), torch.optim.Adam
    if way in ("stage 1", "stage 2"):
        optimizer = sharding.ShardedOptimizer(model, adam, stage=int(way[-1]), lr=1e-3)
    else:
        wrap = {
            "DDP": DistributedDataParallel,
            "stage 3": sharding.shard_parameters,
            "FSDP2": sharding.shard_with_fsdp2,
        }
        model = wrap[way](model)
        optimizer = adam(model.parameters(), lr=1e-3)
    for images, labels in make_loader(
        torch.utils.data.Subset(train_set, range(192)), 64
    ):
        optimizer.zero_grad()
        F.cross_entropy(model(images.to(device())), labels.to(device())).backward()
        optimizer.step()
    weights = [tensor.cpu() for tensor in sharding.full_parameters(model).values()]
    return weights, memory.measure_memory(model, optimizer)


# %%
ways = {"DDP": 0, "stage 1": 1, "stage 2": 2, "stage 3": 3, "FSDP2": 3}
results = {way: run_ranks(three_steps, way, world_size=2)[0] for way in ways}
count = sum(parameter.numel() for parameter in mlp(784, 256, 128, 10).parameters())
measured = {way: states for way, (_, states) in results.items()}
formula = {
    way: memory.zero_memory(count, 2, stage, "float32, Adam")
    for way, stage in ways.items()
}
text = {way: f"{states.total / 1e3:.0f} kB" for way, states in measured.items()}
figures.show(
    draw_measured_memory(measured, formula), f"States of a rank, measured: {text}."
)

# %%
for way, (weights, _) in results.items():
    off = data_parallel.largest_difference(weights, results["DDP"][0])
    print(f"{way:8} differs from DDP by {off:.0e} after three steps of Adam")
    assert off < 1e-3

# %% [markdown]
# Same weights, less memory. FSDP2 is PyTorch's own stage 3 (`fully_shard`). The price is messages. Stages 1 and 2 send as
# much as DDP. Stage 3 sends half as much again, because the backward pass must gather the parameters once more.
#
# One thing needs care: a norm of all gradients, as gradient clipping takes it, is spread over the ranks. [Notebook 4](4_fsdp_by_hand.ipynb) breaks and repairs it.

# %% [markdown]
# ## 6 · Scaling: how much faster?
#
# A step on N ranks costs a share of the computing, and the all-reduce. For the all-reduce two constants of your network are enough
# (the **α–β model**): α seconds for each message, however small, and β seconds for each byte. A ring has 2(N−1) steps, so
#
# $$t_\text{all-reduce} = 2(N-1)\,\alpha + \tfrac{2(N-1)}{N}\,S\,\beta$$
#
# for S bytes of gradients. Measure both constants, now, on your machine. In this section all ranks compute on the same kind of device: a GPU each if there are
# four, else the CPU. (On a machine with one GPU, one rank would take it and two would not: their times would compare a GPU with a CPU.)

# %%
ALIKE = cost.alike(4)
processors = environment.usable_cores() if ALIKE else torch.cuda.device_count()
place = "the CPU" if ALIKE else "a GPU each"
print(f"ranks of this section compute on {place}; processors for them: {processors}")
network = run_ranks(cost.measure_alpha_beta, world_size=2, env=ALIKE)[0]
figures.show(
    draw_alpha_beta(network),
    f"All-reduce of 2 ranks: alpha {network.alpha * 1e6:.0f} microseconds per "
    f"message, {network.bandwidth / 1e9:.2f} GB per second.",
)

# %% [markdown]
# Left, where the curve is flat, you pay for the message; right, where it climbs, for the bytes. A bucket should lie where
# the curve begins to climb.
#
# ### Exercise 4 · Predict a step
#
# ●●○ · 6 minutes · good for: deciding before you pay whether 8 GPUs are worth it.
#
# Nothing overlaps here: a step is this rank's share of the computing, then one ring all-reduce.


# %% exercise: step_seconds
def step_seconds(
    compute: float, gradient_bytes: float, world_size: int, alpha: float, beta: float
) -> float:
    """Return the seconds of a step on `world_size` ranks; `compute` is the seconds
    of the whole batch on one rank.
    """
    ### BEGIN SOLUTION
    steps = 2 * (world_size - 1)
    return compute / world_size + steps * (alpha + gradient_bytes / world_size * beta)
    ### END SOLUTION


# %% check: step_seconds
checked = check.step_seconds(step_seconds, points=2)
### BEGIN HIDDEN TESTS
assert abs(step_seconds(1.0, 0.0, 4, 0.0, 1.0) - 0.25) < 1e-6
assert abs(step_seconds(0.0, 8.0, 2, 1.0, 0.5) - 6.0) < 1e-6
assert abs(step_seconds(0.3, 1e9, 1, 1.0, 1.0) - 0.3) < 1e-6
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "one rank alone has nobody to send to"</summary>
#
# Put N = 1 into the formula above. What is left of each part?
# </details>
#
# <details><summary>Help – I get "How large is what travels in one step of a ring?"</summary>
#
# Notebook 2, section 2: the ring cuts the tensor into N chunks, and each rank sends one chunk in each of its 2(N−1) steps.
# </details>
#
# ### Live
#
# The same batch on 1, 2 and 4 ranks (**strong scaling**, 강한 확장), measured now. On the CPU each rank of this course computes with one thread, so
# one rank uses one core:

# %%
print(
    f"threads: {torch.get_num_threads()} in this notebook, "
    f"{run_ranks(torch.get_num_threads, world_size=2, env=ALIKE)} in two ranks"
)

# %%
predict(
    "01-3.scaling",
    f"All ranks compute on {place}; this machine has {processors} "
    f"{'cores' if ALIKE else 'GPUs'}. How many times as fast as 1 are 4 ranks?",
    ["3 times or more", "between 1.2 and 3 times", "less than 1.2 times"],
)

# %%
torch.manual_seed(0)
images, labels = (tensor[:512] for tensor in mnist()[:])
scaling = cost.measure_scaling(
    small_cnn, images, labels, world_sizes=(1, 2, 4), steps=5
)
gradient_bytes = 4 * sum(parameter.numel() for parameter in small_cnn().parameters())
predicted = [
    cost.predict_step(scaling[0], point.world_size, network, gradient_bytes, processors)
    for point in scaling
]
speed_ups = [scaling[0].step_seconds / point.step_seconds for point in scaling]
text = ", ".join(
    f"{point.world_size} ranks {speed:.2f} times"
    for point, speed in zip(scaling, speed_ups, strict=True)
)
figures.show(
    draw_scaling(scaling, predicted), f"Measured speed-up over one rank: {text}."
)

# %%
outcome(
    "01-3.scaling",
    f"4 ranks are {speed_ups[-1]:.2f} times as fast as 1, here and now.",
    right="3 times or more"
    if speed_ups[-1] >= 3
    else "between 1.2 and 3 times"
    if speed_ups[-1] >= 1.2
    else "less than 1.2 times",
)

# %% [markdown]
# Read the picture with three questions:
#
# * **More ranks than processors?** Then the work cannot be shared out further. The α–β prediction knows how many cores or GPUs there are.
# * **Amdahl's law** (암달의 법칙): if a part *s* of the work does not get faster, N ranks are at most 1/*s* times as fast. The curve takes *s* from the
#   first measurement.
# * **Noise?** Run the cell again. On a busy machine the points move; a difference smaller than that movement says nothing.
#
# Most large runs do not keep the batch: they give each new rank a batch of its own. That is **weak scaling** (약한 확장). The step should then take as long
# as on one rank, and the **efficiency** (효율) is the step of one rank over that of N:

# %%
weak = cost.measure_scaling(
    small_cnn, images, labels, world_sizes=(1, 2, 4), steps=5, samples_per_rank=128
)
for point in weak:
    print(
        f"{point.world_size} rank(s), batch {point.batch}: "
        f"{1e3 * point.step_seconds:.0f} ms per step, efficiency "
        f"{weak[0].step_seconds / point.step_seconds:.0%}"
    )

# %% [markdown]
# Ranks that share a core must fall behind; on GPUs only the all-reduce grows, and by the formula above it hardly does. So weak scaling looks good for long. But
# the batch grows with the ranks: whether 8 times the batch trains as well is the question of section 2.

# %% [markdown]
# ## 7 · Scale up
#
# The same function on one process, on two ranks and on what this machine has, with equal results. The `Trainer` and `make_loader` know how
# many ranks there are; `train_digits_with_trainer` does not.


# %%
def train_digits_with_trainer():
    torch.manual_seed(0)
    model = mlp(784, 32, 10).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = torch.utils.data.TensorDataset(
        train_set.tensors[0].double(), train_set.tensors[1]
    )
    history = Trainer(model, optimizer, F.cross_entropy, progress=False).fit(
        make_loader(data, 240), epochs=1
    )
    return history["loss"][-1]


losses = {
    n: run_ranks(train_digits_with_trainer, world_size=n)
    for n in sorted({1, 2, default_world_size()})
}
for n, values in losses.items():
    print(f"{n} rank(s): loss of the epoch {values[0]:.12f}")
    assert all(abs(value - losses[1][0]) < 1e-9 for value in values)

# %% [markdown]
# To run such a function without a notebook, put it into a module and write a script for `torchrun` from it:

# %%
from torchcourse.lessons.data_parallelism import train_digits
from torchcourse.ranks.export import export_script

export_script(train_digits.train, "train_on_many.py")

# %% [markdown]
# ## 8 · What the log said
#
# | The log | The evidence | Corrected |
# |---|---|---|
# | 단순 데이터 분배 후 평균 (GPU 사용 불균형): DataParallel distributes simply and averages, with uneven GPU use | Section 4: one process; outputs are gathered on the first device, and the replicas' gradients are **summed** there. GPU 0 holds and does more. | Uneven use: right. *Averages*: not quite. The loss of the whole batch is computed on GPU 0, so the replicas' gradients only need adding up. |
# | 각 CPU마다 process 생성: DistributedDataParallel makes a process for each *CPU* | Notebooks 1 to 3: `run_ranks` started 2, 3, 4 or 8 ranks on the same CPU. | **One process per rank, usually one per GPU.** The number is your choice; gradients are **averaged** over the ranks. |

# %% [markdown]
# ## Take away
#
# * A sampler deals alike-mixed samples; `set_epoch` mixes again; padding repeats a few. For evaluation deal without padding.
# * N ranks make N times the batch. Scale the learning rate, warm up, and measure.
# * Uneven batches: `ddp.join()`. A "connection closed" comes from the victim.
# * DataParallel: one process, a new replica each step, GPU 0 as a funnel. DDP: a process per rank; gradients travel, and rank 0's buffers (BatchNorm's running statistics). Use DDP.
# * States: 16 bytes per parameter in mixed precision with Adam. ZeRO shares out optimizer, gradients, parameters; FSDP is all three.
# * Two constants, α and β, say how long an all-reduce takes; Amdahl says where it ends.
#
# **Next notebook:** [FSDP by hand](4_fsdp_by_hand.ipynb). **Questions on this lesson:** [quiz](quiz.ipynb).
#
# ### Glossary
#
# | English | 한국어 | here |
# |---|---|---|
# | sampler | 샘플러 | decides which samples come, and in which order |
# | learning rate | 학습률 | length of a step |
# | warm-up | 워밍업 | growing learning rate in the first steps |
# | replica | 복제본 | a copy of the model on another device |
# | states | 상태 | parameters, gradients and optimizer numbers |
# | sharding | 샤딩 | each rank keeps 1/N |
# | mixed precision | 혼합 정밀도 | computing in 16 bits, keeping float32 weights |
# | buffer | 버퍼 | a tensor of a model that is no parameter |
# | strong scaling | 강한 확장 | same batch on more ranks |
# | weak scaling | 약한 확장 | same batch per rank on more ranks |
# | Amdahl's law | 암달의 법칙 | the part that does not get faster sets the limit |
#
# ### Further reading
#
# * Goyal et al. 2017, [Accurate, Large Minibatch SGD](https://arxiv.org/abs/1706.02677): the linear scaling rule and the warm-up.
# * Rajbhandari et al. 2020, [ZeRO](https://arxiv.org/abs/1910.02054): the stages, figure 1, and the messages they cost (section 7).
# * PyTorch, [fully_shard](https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html) and
#   [DataParallel](https://docs.pytorch.org/docs/stable/generated/torch.nn.DataParallel.html), whose page recommends DDP.
# * PyTorch, [Join](https://docs.pytorch.org/docs/stable/distributed.algorithms.join.html): uneven inputs.
# * Thakur, Rabenseifner and Gropp 2005, [Optimization of Collective Communication Operations in MPICH](https://doi.org/10.1177/1094342005051521): α and β.
# * Amdahl 1967, [Validity of the single processor approach](https://doi.org/10.1145/1465482.1465560): three pages.
