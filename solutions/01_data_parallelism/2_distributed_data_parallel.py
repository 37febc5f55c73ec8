# %% [markdown]
# # The ring, and DistributedDataParallel by hand
#
# **{minutes} minutes** · one CPU is enough (two to five processes); with several GPUs, each process takes one · before this:
# [averaging](1_averaging.ipynb)
#
# In notebook 1 every training step ended with an average over all ranks. How do numbers get
# from each rank to all the others, what does that cost, and how does PyTorch hide the cost? At the end you have
# written the three ideas of **DistributedDataParallel** (분산 데이터 병렬, DDP) yourself, and you will understand PyTorch's own.
#
# **After this notebook you can**
#
# 1. follow a chunk round a ring, and say how many bytes each rank sends;
# 2. write an all-reduce from single messages;
# 3. build DDP from the same start, averaged gradients and buckets, and prove that it equals one process;
# 4. read in DDP's log how much communication is hidden, and accumulate without sending;
# 5. find, from the stacks of ranks that hang, the call that somebody missed.

# %% setup

# %%
from torchcourse.quiz import outcome, predict, recall

recall("01_data_parallelism")

# %%
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from torchcourse import environment, figures
from torchcourse.data import mnist
from torchcourse.lessons.data_parallelism import averaging, collectives, data_parallel
from torchcourse.lessons.data_parallelism import checks as check
from torchcourse.lessons.data_parallelism.collectives_picture import ring_picture
from torchcourse.lessons.data_parallelism.timeline_picture import bucket_picture
from torchcourse.models import mlp
from torchcourse.ranks import (
    RankError,
    RankTimeout,
    default_world_size,
    device,
    export_script,
    run_ranks,
)

Path("runs").mkdir(exist_ok=True)  # for the files that this notebook writes
print(environment.hardware())

# %% [markdown]
# ## 1 · All-reduce, the plain way
#
# In one line each: **broadcast** (브로드캐스트) copies one rank's tensor to all; **all-reduce** (올리듀스) gives every rank the
# sum over all ranks.
#
# The plain way to do it: every rank sends its tensor to rank 0, rank 0 adds them up and sends the sum back to each.
# The package has it as `naive_all_reduce`. It returns the bytes that *this* rank sent.


# %%
def tensors_sent(all_reduce):
    """How much this rank sent, as a multiple of the tensor."""
    tensor = torch.ones(120_000, device=device())
    # each all-reduce of the package returns the bytes it sent
    return all_reduce(tensor) / tensor.nbytes


for ranks in (2, 4, 6):
    print(
        f"{ranks} ranks send",
        run_ranks(tensors_sent, collectives.naive_all_reduce, world_size=ranks),
        "tensors",
    )

# %% [markdown]
# Rank 0 sends N−1 tensors, and has received N−1 before. With 100 ranks and 1 GB of gradients that is 99 GB each way
# through one wire, while the others wait.
#
# ## 2 · The ring
#
# A **ring all-reduce** (링 올리듀스) puts the ranks in a circle. Each talks to its two neighbors only: it sends to the right, and receives from the left.
# The tensor is cut into N **chunks** (조각), and all wires are busy all the time.

# %%
predict(
    "01-2.bytes",
    "In a ring of 8 ranks, how much does each rank send in total, for a tensor of S "
    "bytes?",
    [
        "S/8: its own chunk",
        "S: the tensor once",
        "between S and 2S",
        "7·S: the tensor to everyone else",
    ],
)

# %% [markdown]
# Walk through it with the slider *step* (Tab to it, then the arrow keys). A column is a rank, a row a chunk. A filled
# box says whose numbers are in that chunk so far.
#
# * **Reduce-scatter** (리듀스 스캐터), N−1 steps: what arrives is *added*. Follow one chunk: it picks up one more rank at
#   each stop. At the end each rank holds one finished sum. Which one?
# * **All-gather** (올개더), N−1 steps: finished sums go round once more. What arrives *replaces* what was there.

# %%
ring_picture()

# %% [markdown]
# A step of the ring needs one tool: send one tensor to the right *while* another arrives from the left. The prefix
# `i` in `isend` and `irecv` means "start, and do not wait". With plain `send`, every rank would wait there until its
# right neighbor receives, and nobody would.


# %%
def pass_right(outgoing, incoming):
    """Send `outgoing` to the right neighbor while `incoming` is
    filled by the left one.
    """
    rank, n = dist.get_rank(), dist.get_world_size()
    moves = [
        dist.P2POp(dist.isend, outgoing, (rank + 1) % n),
        dist.P2POp(dist.irecv, incoming, (rank - 1) % n),
    ]
    for work in dist.batch_isend_irecv(moves):
        work.wait()


# %%
def try_it():
    mine = torch.full((2,), float(dist.get_rank()), device=device())
    arrived = torch.empty_like(mine)
    pass_right(mine, arrived)
    return arrived.tolist()


run_ranks(try_it, world_size=3)

# %% [markdown]
# ### Exercise 1 · Ring all-reduce
#
# ●●● · 15 minutes · good for: it is one of the ways in which NCCL, the library behind GPUs, sums large tensors.
#
# The chunks are cut for you, as a tuple. They are views: what you write *into* a chunk, as `chunk += …` and
# `chunk.copy_(…)` do, is in the tensor. A new tensor in the place of a chunk is not. Numbers wrap round:
# `(rank - 1) % n` is the left neighbor of rank 0 too. If N does not divide the length, the chunks differ by one
# number; some may be empty.


# %% exercise: ring_all_reduce
def ring_all_reduce(tensor: torch.Tensor) -> None:
    """Replace a flat tensor of any length by its sum over all ranks, in place, by
    means of pass_right() only.
    """
    rank, n = dist.get_rank(), dist.get_world_size()
    chunks = tensor.tensor_split(n)
    ### BEGIN SOLUTION
    for step in range(n - 1):  # reduce-scatter: add what arrives
        target = chunks[(rank - 2 - step) % n]
        arrived = torch.empty_like(target)
        pass_right(chunks[(rank - 1 - step) % n], arrived)
        target += arrived
    for step in range(n - 1):  # all-gather: keep what arrives
        pass_right(chunks[(rank - step) % n], chunks[(rank - 1 - step) % n])
    ### END SOLUTION


# %% check: ring_all_reduce
checked = check.ring_all_reduce(ring_all_reduce, points=4)


### BEGIN HIDDEN TESTS
def _ring_of_ones(length):
    tensor = torch.arange(length, dtype=torch.float64, device=device()) * (
        dist.get_rank() + 1
    )
    ring_all_reduce(tensor)
    return tensor.cpu()


for _ranks, _length in ((5, 7), (2, 3), (3, 2)):
    _expected = torch.arange(_length, dtype=torch.float64) * (
        _ranks * (_ranks + 1) // 2
    )
    assert all(
        torch.equal(one, _expected)
        for one in run_ranks(_ring_of_ones, _length, world_size=_ranks)
    )
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – where do I start?</summary>
#
# With the slider at 3 ranks, and paper. Write down for rank 0, step by step, the number of the chunk that leaves and
# of the chunk that arrives. Then the same for rank 1: each number is one more. So the number is
# `(rank + something) % n`, and the something goes down by one each step.
# </details>
#
# <details><summary>Help – my second half adds up too much</summary>
#
# After reduce-scatter there are finished chunks and half-finished ones. A finished chunk must replace a half-finished
# one. You can let it arrive right in its place: `incoming` may be a chunk.
# </details>
#
# <details><summary>Help – the time is up and all ranks were still waiting</summary>
#
# Every rank must call `pass_right` equally often. Is a call inside an `if`? And a chunk that is sent while it is
# being received into waits for itself: the two arguments must be different chunks.
# </details>
#
# <details><summary>Help – "a message was longer than what the receiver had made ready"</summary>
#
# What your left neighbor sends in this step must be the chunk that you expect. Make the place for it with
# `torch.empty_like` of *that* chunk.
# </details>


# %%
def both_ways():
    return tensors_sent(collectives.naive_all_reduce), tensors_sent(
        collectives.ring_all_reduce
    )


worlds = (2, 3, 4, 6, 8)
naive, ring = zip(
    *(map(max, zip(*run_ranks(both_ways, world_size=n), strict=True)) for n in worlds),
    strict=True,
)

# %%
figure, axes = figures.new(height=3.0)
axes.plot(worlds, naive, "s-", label="plain way, rank 0")
axes.plot(worlds, ring, "o", markersize=9, label="ring, every rank")
axes.plot(
    worlds, [2 * (n - 1) / n for n in worlds], "k--", linewidth=1, label="2(N−1)/N"
)
axes.set(xlabel="ranks N", ylabel="sent, as a multiple of the tensor", ylim=(0, 8))
axes.set_title(f"In the ring a rank sends at most {max(ring):.2f} times the tensor")
axes.legend(frameon=False)
figures.show(
    figure,
    f"Sent by the busiest rank, for {worlds} ranks. Plain way: {naive}. Ring: "
    f"{[round(x, 2) for x in ring]}.",
)

# %%
outcome(
    "01-2.bytes",
    f"Measured with 8 ranks: {ring[-1]:.2f} tensors in the ring, {naive[-1]:.0f} "
    f"from rank 0 in the plain way.",
    right="between S and 2S",
)

# %% [markdown]
# **Why 2(N−1)/N.** There are 2(N−1) steps, and in each a rank sends one chunk of S/N bytes. For 2 ranks that is
# S, and it comes close to 2S as N grows. Where only the ranks add, it cannot be done with less: Patarasuk and Yuan proved
# it in 2009 (further reading). A switch that adds by itself (NVLink SHARP, which NCCL can use) saves about half of it.
#
# What grows with N is the number of steps, 2(N−1). For small tensors the waiting counts, and libraries switch to trees.

# %% [markdown]
# ## 3 · DDP by hand
#
# A training step needs three parts round the ordinary loop:
#
# | part | its job |
# |---|---|
# | same start | all ranks begin with the weights of rank 0 |
# | average after `backward()` | all ranks take the same step |
# | buckets | few large messages, sent early |
#
# A fair test needs an awkward model. This one uses one weight twice (**tied**, 공유 가중치), and has a layer that no loss
# uses yet, so that its parameters get no gradient at all.


# %%
class Digits(nn.Module):
    """Pixels → 32 numbers → pixels by the same weight backwards; a classifier; a
    layer for later. Returns the loss.
    """

    def __init__(self):
        super().__init__()
        self.encode = nn.Linear(784, 32)
        self.classify = nn.Linear(32, 10)
        self.later = nn.Linear(32, 2)

    def forward(self, images, labels):
        pixels = images.flatten(1)
        code = torch.tanh(self.encode(pixels))
        again = code @ self.encode.weight  # the tied weight
        return F.cross_entropy(self.classify(code), labels) + F.mse_loss(again, pixels)


# %%
images, labels = mnist()[:640]
images = images.double()  # 64 bits, so that rounding cannot hide a mistake


def part_of(step):
    """This rank's shard of batch 0 to 9, 64 digits each;
    then from the beginning again.
    """
    rows = slice(64 * (step % 10), 64 * (step % 10) + 64)
    return [averaging.shard(tensor[rows]).to(device()) for tensor in (images, labels)]


# %%
def train(prepare, steps=12):
    """Train on this rank's shards; return all weights after each step,
    one row per step.
    """
    torch.manual_seed(dist.get_rank())  # every rank is born with weights of its own
    model, after_backward = prepare(Digits().double().to(device()))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    history = []
    for step in range(steps):
        optimizer.zero_grad()
        model(*part_of(step)).backward()
        after_backward()
        optimizer.step()
        history.append(
            torch.cat([p.detach().flatten() for p in model.parameters()]).cpu()
        )
    return torch.stack(history)


# %% [markdown]
# `prepare` gets the model as it was born and returns the model to train, and what to do after each `backward()`. One
# process is the reference. Beside it train two ranks with both parts, and without the average. (Different starts
# stay different: notebook 1 measured it.)


# %%
def alone(model):
    return model, lambda: None


def both_parts(model):
    averaging.copy_from_rank_0(model)
    return model, partial(data_parallel.average_gradients, model)


def no_average(model):
    averaging.copy_from_rank_0(model)
    return alone(model)


# %%
def off(histories):
    """For each step, how far the worst rank is from one process; 1 would be as far
    as the weights are long.
    """
    distances = [
        (one - reference).norm(dim=1) / reference.norm(dim=1) for one in histories
    ]
    return torch.stack(distances).amax(dim=0).tolist()


reference = run_ranks(train, alone, world_size=1)[0]
curves = {
    way.__name__: off(run_ranks(train, way, world_size=2))
    for way in (both_parts, no_average)
}

# %%
figure, axes = figures.new(height=3.0)
for (name, curve), style in zip(curves.items(), ("o-", "^-"), strict=True):
    axes.semilogy(range(1, 13), curve, style, label=name.replace("_", " "))
axes.set(
    xlabel="step",
    ylabel="distance from one process",
    title=f"Both parts: at most {max(curves['both_parts']):.0e} from one process",
)
axes.legend(frameon=False, loc="center right")
figures.show(
    figure,
    "; ".join(
        f"{name}: {curve[0]:.0e} to {curve[-1]:.0e}" for name, curve in curves.items()
    ),
)

# %% [markdown]
# * **No average**: the ranks start alike, and differ from the first step on.
# * **Both**: one process, to rounding, with a tied weight (autograd adds up both uses *before* anyone averages) and
#   with parameters that have no gradient.

# %% [markdown]
# ## 4 · Why buckets
#
# `average_gradients` sends one message for each parameter tensor. A ResNet-50 has 161.

# %%
predict(
    "01-2.messages",
    "The same 1 MB, cut into 256 messages and added up one after the other. How much "
    "longer does that take than one?",
    [
        "about as long: the bytes are the same",
        "a few times as long",
        "more than ten times as long",
    ],
)


# %%
def seconds_by_messages():
    """The time to all-reduce 1 MB in 1, 4, … 256 messages; the best of five."""
    row, seconds = torch.ones(2**18, device=device()), {}
    for messages in (1, 4, 16, 64, 256):
        for _ in range(5):
            dist.barrier()
            start = time.perf_counter()
            for part in row.chunk(messages):
                dist.all_reduce(part)
            row[0].item()  # waits for a GPU
            seconds[messages] = min(
                seconds.get(messages, 99), time.perf_counter() - start
            )
    return seconds


# %%
seconds = run_ranks(seconds_by_messages, world_size=2)[0]
slower = seconds[256] / seconds[1]
each = (seconds[256] - seconds[1]) / 255

# %%
figure, axes = figures.new(height=2.6)
axes.loglog(list(seconds), [1000 * s for s in seconds.values()], "o-")
axes.set(
    xlabel="messages",
    ylabel="milliseconds for 1 MB",
    title=f"256 messages take {slower:.0f} times as long as one",
)
axes.set_xticks(list(seconds), list(seconds))
figures.show(
    figure, ", ".join(f"{n} messages {1000 * s:.1f} ms" for n, s in seconds.items())
)

# %%
outcome(
    "01-2.messages",
    f"{slower:.0f} times as long here: each message costs about {1e6 * each:.0f} µs, "
    f"however little is in it.",
    right="more than ten times as long"
    if slower > 10
    else "a few times as long"
    if slower > 1.5
    else "about as long: the bytes are the same",
)

# %% [markdown]
# So send everything in one message? Then nothing can leave before the *last* gradient is there. But the first gradients
# are there early. A **hook** (훅) is a function of yours that
# PyTorch calls at a certain moment. This one is called when a parameter's gradient is complete:

# %%
model = Digits().double()
for name, parameter in model.named_parameters():
    parameter.register_post_accumulate_grad_hook(
        lambda _, name=name: print(name, end="   ")
    )
model(images[:64], labels[:64]).backward()

# %% [markdown]
# From the last layer to the first. (`later` is missing: it has no gradient.) So gradients are collected in
# **buckets** (버킷) from the last parameter to the first. A full bucket travels while `backward()` computes the
# next one: this is **overlap** (겹치기).
#
# How large should a bucket be? The picture is a *model* of one step on one of several GPUs; the arithmetic is in
# `timeline.py`. The lower curve has the step for all sizes. Predict before you move:
#
# * The largest bucket holds the whole model. What waits for what?
# * The smallest buckets leave at once. Why does the step grow again?
# * Which sizes are about equally good, and is PyTorch's default of 25 MB one of them? With more devices? With a slow
#   network?

# %%
bucket_picture()

# %% [markdown]
# Too small: each message pays its fixed cost. Too large: nothing overlaps. PyTorch's default is 25 MB, with a first
# bucket of 1 MB so that sending starts soon.
#
# ### Exercise 2 · Fill the buckets
#
# ●●○ · 6 minutes · good for: all ranks must agree on who travels with whom, or they would add apples to pears.
#
# A parameter is **frozen** (동결) when its `requires_grad` is False: `parameter.requires_grad_(False)` sets it. Autograd
# then computes no gradient for this parameter, and its `.grad` stays `None`.


# %% exercise: fill_buckets
def fill_buckets(
    parameters: list[nn.Parameter], limit: int
) -> list[list[nn.Parameter]]:
    """Return buckets of parameters, from the last parameter to the first.

    Frozen parameters, whose `requires_grad` is False, are left out: no gradient is
    there yet to look at. A bucket holds at most `limit` bytes (`parameter.nbytes`
    counts them), but a parameter larger than that has a bucket to itself. A new bucket
    is begun only when the next parameter does not fit into the one before.
    """
    ### BEGIN SOLUTION
    buckets = []
    for parameter in reversed(parameters):
        if not parameter.requires_grad:
            continue
        if not buckets or sum(p.nbytes for p in buckets[-1]) + parameter.nbytes > limit:
            buckets.append([])
        buckets[-1].append(parameter)
    return buckets
    ### END SOLUTION


# %% check: fill_buckets
checked = check.fill_buckets(fill_buckets, points=2)
### BEGIN HIDDEN TESTS
_sizes = [6, 30, 1, 1, 8, 2]
_list = [nn.Parameter(torch.zeros(size)) for size in _sizes]
assert [[p.numel() for p in bucket] for bucket in fill_buckets(_list, 40)] == [
    [2, 8],
    [1, 1],
    [30],
    [6],
]
assert [[p.numel() for p in bucket] for bucket in fill_buckets(_list, 10**6)] == [
    _sizes[::-1]
]
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – the check says that a parameter is in no bucket</summary>
#
# Do you add the open bucket to the list at the very end too? And what does your code do with a parameter that fits
# into no bucket?
# </details>
#
# <details><summary>Help – one of my buckets is empty</summary>
#
# A first parameter larger than the limit does not fit into the empty bucket either. Begin a new one only if the old
# one holds something.
# </details>
#
# ### Exercise 3 · Average a bucket
#
# ●●○ · 8 minutes · good for: the inner loop of DDP, with its two traps.
#
# The gradients of a bucket are joined to one row, the row is averaged in *one* all-reduce, and every gradient gets
# its piece back. The check trains three steps on 2 and on 3 ranks and compares each step with one process. Its model
# has a tied weight, and a layer that only rank 0 uses: there the others' `.grad` is None.


# %% exercise: average_bucket
def average_bucket(bucket: list[nn.Parameter]) -> None:
    """Replace the gradients of these parameters by their means over all ranks, with one
    all-reduce.

    A gradient that is None on a rank counts as zeros there. Afterwards every rank has
    the mean.
    """
    ### BEGIN SOLUTION
    for parameter in bucket:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    row = torch.cat([parameter.grad.flatten() for parameter in bucket])
    dist.all_reduce(row)
    row /= dist.get_world_size()
    pieces = row.split([parameter.numel() for parameter in bucket])
    for parameter, piece in zip(bucket, pieces, strict=True):
        parameter.grad.copy_(piece.view_as(parameter))
    ### END SOLUTION


# %% check: average_bucket
checked = check.average_bucket(average_bucket, points=3)


### BEGIN HIDDEN TESTS
def _bucket_on_each_rank():
    first, second = (
        nn.Parameter(torch.zeros(shape, device=device())) for shape in ((2, 3), (4,))
    )
    first.grad = torch.full_like(first, 3.0 * dist.get_rank())
    if dist.get_rank() == 1:
        second.grad = torch.arange(4.0, device=device())
    average_bucket([second, first])
    return first.grad.cpu(), second.grad.cpu()


for _first, _second in run_ranks(_bucket_on_each_rank, world_size=3):
    assert torch.allclose(_first, torch.full((2, 3), 3.0))
    assert torch.allclose(_second, torch.arange(4.0) / 3)
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – each rank still has its own gradients</summary>
#
# `torch.cat` makes a copy. After the all-reduce the mean is in the row, not yet in the gradients. `row.split(sizes)`
# cuts it into pieces; `piece.view_as(parameter)` gives a piece its shape back.
# </details>
#
# <details><summary>Help – a process dies: "longer than what the receiver had made ready"</summary>
#
# You leave out parameters without a gradient. Then the rows of the ranks have different lengths. Every rank must send
# the same row.
# </details>
#
# The package's `Bucket` does one thing more: it sends along one number for each parameter, 1 for "I have a gradient".
# So a gradient that is None on *all* ranks stays None, and an optimizer with weight decay leaves that parameter
# alone, as in one process.

# %% [markdown]
# ### All parts together
#
# `data_parallel.DistributedDataParallel` joins what you have built: broadcast, buckets, and the hook that starts a
# bucket's all-reduce as soon as its last gradient is there. It is worth reading: about 75 lines of code. Here it runs beside
# one process (each bucket at most 16 KiB):


# %%
def by_hand(model):
    return data_parallel.DistributedDataParallel(model, bucket_mb=1 / 64), lambda: None


ours = run_ranks(train, by_hand, world_size=2)
print(
    f"by hand, largest distance from one process in {len(reference)} steps: "
    f"{max(off(ours)):.0e}"
)
assert max(off(ours)) < 1e-10

# %% [markdown]
# ## 5 · PyTorch's own
#
# The same loop, with `torch.nn.parallel.DistributedDataParallel` instead of ours:


# %%
def torchs(model, **options):
    return DistributedDataParallel(model, **options), lambda: None


try:
    run_ranks(train, torchs, world_size=2, env={"TORCH_DISTRIBUTED_DEBUG": "INFO"})
except RankError as error:
    for line in error.message.splitlines():
        print(line.strip())

# %% [markdown]
# DDP waits until every bucket is full. The layer `later` never gets a gradient, so its bucket never fills, and the second step finds the first one
# unfinished. In the first step no rank got an average of that bucket: each went on with its own gradients, in silence. With `TORCH_DISTRIBUTED_DEBUG=INFO` the message also names the parameters.
#
# There are three remedies, the best first. Remove or freeze what is not used. If different steps use different parts, pass
# `find_unused_parameters=True`: DDP then walks through the graph after each forward pass. If the same parameters are
# unused in every step, pass `static_graph=True`.

# %%
theirs = run_ranks(train, partial(torchs, find_unused_parameters=True), world_size=2)
between = max(
    ((a - b).norm(dim=1) / a.norm(dim=1)).max().item()
    for a, b in zip(ours, theirs, strict=True)
)
print(
    f"PyTorch's, largest distance from one process: {max(off(theirs)):.0e},  from "
    f"ours: {between:.0e}"
)
assert max(off(theirs)) < 1e-10

# %% [markdown]
# ### What its own log says
#
# DDP keeps a record of its buckets and times. (The name begins with an underscore: it may change in a later version.)
# A larger network shows more:


# %%
def ddp_and_step(bucket_mb):
    """A network of 1.6 MB under DDP, and a function that trains it for one step."""
    torch.manual_seed(0)
    ddp = DistributedDataParallel(
        mlp(784, 256, 256, 256, 256, 10).to(device()), bucket_cap_mb=bucket_mb
    )
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    x, y = (part[:1024].to(device()) for part in mnist()[:])

    def step():
        optimizer.zero_grad()
        F.cross_entropy(ddp(x), y).backward()
        optimizer.step()

    return ddp, step


# %%
def read_log(bucket_mb, steps=12):
    ddp, step = ddp_and_step(bucket_mb)
    for _ in range(steps):
        step()
    return ddp._get_ddp_logging_data()


for bucket_mb in (25, 0.3):
    log = run_ranks(read_log, bucket_mb, world_size=2)[0]
    print(f"bucket_cap_mb={bucket_mb}")
    print(
        "  bytes of the buckets, first step:",
        log["bucket_sizes"],
        "  later:",
        log["rebuilt_bucket_sizes"],
    )
    print("  parameters of each bucket:", log["rebuilt_per_bucket_param_indices"])
    names = {
        "compute": "backward_compute_time",
        "send": "backward_comm_time",
        "both at once": "backward_compute_comm_overlap_time",
    }
    print(
        "  backward, milliseconds:",
        {name: round(log[f"avg_{key}"] / 1e6, 1) for name, key in names.items()},
    )

# %% [markdown]
# Find in it:
#
# * The order of the parameters: last to first.
# * In the first step one bucket holds everything. After it, DDP *rebuilds* its buckets, in the order in which the
#   gradients really came.
# * A bucket may be larger than `bucket_cap_mb`: PyTorch closes it once it has *reached* that size.
# * *Both at once* beside *send*: one bucket overlaps less, since it is sent at the end.
#
# The log gives averages. Lesson 09 shows a single step, rank beside rank.

# %% [markdown]
# ## 6 · Accumulate without sending
#
# A batch that does not fit into memory can be computed in k **micro-batches** (마이크로배치), whose gradients add up in
# `.grad`: gradient **accumulation** (기울기 누적). DDP would average after each of the k backward passes. Only the last
# average is needed: `.grad` holds the sum of all by then. `ddp.no_sync()` is a context in which DDP sends nothing:
#
# ```python
# with ddp.no_sync():
#     loss_fn(ddp(images), labels).backward()      # own gradients pile up, nothing leaves this rank
# loss_fn(ddp(images), labels).backward()          # averages everything that has piled up
# ```
#
# ### Exercise 4 · One step from k micro-batches
#
# ●●○ · 8 minutes · good for: large batches on small GPUs, with a k-th of the messages.


# %% exercise: accumulate
def accumulate(
    ddp: nn.Module, optimizer: torch.optim.Optimizer, micro_batches: list[tuple]
) -> None:
    """Take one optimizer step on all micro-batches of this rank (pairs of images and
    labels, equally many in each).

    The loss is the mean cross-entropy over all samples. Gradients are averaged over the
    ranks once, and only one micro-batch at a time is held in memory.
    """
    optimizer.zero_grad()
    ### BEGIN SOLUTION
    *first, last = micro_batches
    with ddp.no_sync():
        for images, labels in first:
            loss = F.cross_entropy(ddp(images), labels) / len(micro_batches)
            loss.backward()
    loss = F.cross_entropy(ddp(last[0]), last[1]) / len(micro_batches)
    loss.backward()
    ### END SOLUTION
    optimizer.step()


# %% check: accumulate
checked = check.accumulate(accumulate, points=3)


### BEGIN HIDDEN TESTS
def _one_step(count):
    torch.manual_seed(1)
    plain = nn.Linear(3, 2).double().to(device())
    start = plain.weight.detach().clone()
    x = torch.randn(2, 12, 3, dtype=torch.float64).to(device())
    y = torch.randint(2, (2, 12)).to(device())
    right = (
        start
        - torch.autograd.grad(
            F.cross_entropy(plain(x.flatten(0, 1)), y.flatten()), plain.weight
        )[0]
    )
    ddp, rank = DistributedDataParallel(plain), dist.get_rank()
    optimizer = torch.optim.SGD(ddp.parameters(), lr=1.0)
    accumulate(
        ddp,
        optimizer,
        list(zip(x[rank].chunk(count), y[rank].chunk(count), strict=True)),
    )
    return (plain.weight - right).abs().max().item()


assert all(
    value < 1e-9
    for count in (1, 2, 6)
    for value in run_ranks(_one_step, count, world_size=2)
)
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – my step is k times too long</summary>
#
# The k gradients are added, and each is that of a mean over one micro-batch. What must each loss be divided by, so
# that the sum is the mean over all samples?
# </details>
#
# <details><summary>Help – I use no_sync(), and DDP still sends each time</summary>
#
# DDP decides in the *forward* pass whether the coming backward pass will send. `ddp(images)` belongs inside too.
# </details>
#
# <details><summary>Help – what is <code>*first, last = micro_batches</code>?</summary>
#
# It unpacks a list: `last` is the last element, `first` a list of all before it, which may be empty. You may as well
# use `enumerate` and compare the index.
# </details>

# %% [markdown]
# ## 7 · Break-it lab: a hang (멈춤), ranks that wait for ever
#
# (Both labs run on the CPU, where they fail in the same way on every machine.)
#
# A colleague wants to see the mean loss over all ranks in every second step. Only rank 0 keeps the log, so only rank
# 0 asks for the mean. That sounds reasonable.


# %%
def hanging(model, batches):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    log = []
    for step, (images, labels) in enumerate(batches):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        data_parallel.average_gradients(model)
        optimizer.step()
        if step % 2 == 1 and dist.get_rank() == 0:
            total = loss.detach().clone()
            dist.reduce(total, dst=0)  # the sum over the ranks, for rank 0
            log.append(total.item() / dist.get_world_size())
    return log


# %%
predict(
    "01-2.hang",
    "What will happen on two ranks?",
    [
        "it works: dist.reduce is for rank 0",
        "rank 1 fails with an error",
        "both ranks wait: rank 0 in the reduce of step 1, rank 1 in step 2",
        "rank 0 waits, rank 1 finishes all steps",
    ],
)


# %%
ON_CPU = {"CUDA_VISIBLE_DEVICES": ""}


def start(training):
    torch.manual_seed(0)
    return training(
        mlp(784, 32, 10).double().to(device()), [part_of(step) for step in range(4)]
    )


try:
    run_ranks(start, hanging, world_size=2, timeout=4, env=ON_CPU)
except RankTimeout as error:
    print(error)

# %% [markdown]
# Real training runs stop like this too. With NCCL a watchdog ends the run, by default
# after 10 minutes; until then there is no error. A time limit and **the stack of each rank** (스택) are the evidence: here from
# `run_ranks`, elsewhere from `py-spy dump --pid PID` or PyTorch's Flight Recorder. Ask three questions:
#
# 1. At which line is rank 0, and which ranks can reach that line?
# 2. At which line is rank 1, and in which step must it be?
# 3. Which call did one of them make that the other never will?

# %%
outcome(
    "01-2.hang",
    "Rank 0 is in dist.reduce, waiting for rank 1's loss. Rank 1 never calls reduce: "
    "it is one step ahead, in the "
    "all-reduce of the gradients, waiting for rank 0's. Each call is fine by itself; "
    "together they never match.",
    right="both ranks wait: rank 0 in the reduce of step 1, rank 1 in step 2",
)

# %% [markdown]
# ### Exercise 5 · Repair it
#
# ●●○ · 5 minutes · good for: saving, evaluating and logging "on rank 0 only", which all invite this hang.
#
# The log must keep its meaning: the mean loss over *all* ranks.


# %% exercise: train_and_log
def train_and_log(model: nn.Module, batches: list[tuple]) -> list[float]:
    """Train on this rank's batches; on rank 0 return the mean loss over all ranks of
    every second step.

    These are the second, the fourth and so on, as above.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    log = []
    for step, (images, labels) in enumerate(batches):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        data_parallel.average_gradients(model)
        optimizer.step()
        ### BEGIN SOLUTION
        if step % 2 == 1:
            total = loss.detach().clone()
            dist.reduce(total, dst=0)  # all ranks call it
            if dist.get_rank() == 0:  # one rank uses the result
                log.append(total.item() / dist.get_world_size())
        ### END SOLUTION
    return log


# %% check: train_and_log
checked = check.train_and_log(train_and_log, points=2)


### BEGIN HIDDEN TESTS
def _log_of(training):
    torch.manual_seed(3)
    model = nn.Linear(4, 2).double().to(device())
    generator = torch.Generator().manual_seed(dist.get_rank())
    x = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64).to(device())
    log = training(
        model, [(rows, torch.zeros(5, dtype=torch.long, device=device())) for rows in x]
    )
    torch.manual_seed(3)
    fresh = nn.Linear(4, 2).double().to(device())
    training(fresh, [(x[0], torch.zeros(5, dtype=torch.long, device=device()))])
    own = F.cross_entropy(
        fresh(x[1]), torch.zeros(5, dtype=torch.long, device=device())
    )
    dist.all_reduce(own.detach_())
    if dist.get_rank() == 0:
        return [float(value) for value in log], own.item() / dist.get_world_size()


_log, _right = run_ranks(_log_of, train_and_log, world_size=2, timeout=30)[0]
assert len(_log) == 1
assert abs(_log[0] - _right) < 1e-9
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – nothing hangs, but the check says that rank 0 logs its own loss</summary>
#
# You removed the collective. The collective was right. Too few ranks called it.
# </details>
#
# **The rule:** a collective of all ranks is never inside an `if` that asks for the rank. All ranks of its group call; one uses
# the result.
#
# ### And a fault that says nothing at all
#
# Rank 1 runs an older version of the code, which stores a weight the other way round: 3 rows of 2 instead of 2 rows
# of 3. Both ranks hold the same gradient, so the sum should simply be twice that: [[2, 4, 6], [8, 10, 12]].


# %%
def mismatched():
    gradient = torch.tensor([[1.0, 2, 3], [4, 5, 6]], device=device())
    if dist.get_rank() == 1:
        gradient = gradient.T.contiguous()
    dist.all_reduce(gradient)
    return gradient.tolist()


for rank, result in enumerate(run_ranks(mismatched, world_size=2, env=ON_CPU)):
    print(f"rank {rank}: {result}")

# %% [markdown]
# No error, and wrong numbers: the elements were added in the order in which they lie in memory. With
# `TORCH_DISTRIBUTED_DEBUG=DETAIL` the ranks compare what they are about to do before each collective:

# %%
try:
    run_ranks(
        mismatched, world_size=2, env=ON_CPU | {"TORCH_DISTRIBUTED_DEBUG": "DETAIL"}
    )
except RankError as error:
    print(f"rank {error.rank}, {error.kind}:", *error.message.split(", but "), sep="\n")

# %% [markdown]
# Both shapes are named (`TensorShape`), and so is the call (`SequenceNumber`). This costs an extra exchange for each
# collective: use it for the first minute of a new training run. With *different* numbers of elements gloo stops
# without the variable too.

# %% [markdown]
# ## 8 · Scale up
#
# One function, any number of ranks: on one process, on two, on three, and on all GPUs if there are several.

# %%
wrap = partial(torchs, find_unused_parameters=True)
for ranks in sorted({1, 2, 3, default_world_size()}):
    distance = max(off(run_ranks(train, wrap, world_size=ranks)))
    print(
        f"{ranks} rank(s): at most {distance:.0e} from one process, over "
        f"{len(reference)} steps"
    )
    if 64 % ranks == 0:
        assert distance < 1e-10

# %% [markdown]
# Three ranks are visibly off, and you know why from notebook 1: 64 digits cut into 22, 21 and 21 are unequal parts,
# and DDP takes the plain mean. In practice the sampler makes all parts equally large (notebook 3).

# %% [markdown]
# ### Out of the notebook
#
# On several machines a training run is started by `torchrun`, from a file. `export_script` writes that file: the
# function, and what it uses from other cells. So put into one function all that it needs, data included. First try
# it here:


# %%
def train_ddp(steps):
    """The training of this notebook with PyTorch's DDP.

    Returns the length of the weights, to compare runs.
    """
    torch.manual_seed(dist.get_rank())
    ddp = DistributedDataParallel(
        Digits().double().to(device()), find_unused_parameters=True
    )
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    images, labels = (part[: 64 * steps].to(device()) for part in mnist()[:])
    for batch in torch.arange(64 * steps).split(64):
        mine = averaging.shard(batch)
        optimizer.zero_grad()
        ddp(images[mine].double(), labels[mine]).backward()
        optimizer.step()
    return round(
        torch.cat([p.detach().flatten() for p in ddp.parameters()]).norm().item(), 9
    )


here = run_ranks(train_ddp, 10, world_size=2)
print(here)

# %%
script = export_script(train_ddp, "runs/train_ddp.py", 10, overwrite=True)

# %% [markdown]
# Open the file: it is short. Here it runs in two processes that have nothing to do with this notebook.
# `python -m torch.distributed.run` is what `torchrun` stands for.

# %%
torchrun = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node=2",
    script,
]
run = subprocess.run(torchrun, capture_output=True, text=True)
print(run.stdout or run.stderr)
assert f"rank 0 returned {here[0]}" in run.stdout

# %% [markdown]
# The same weights, to the last digit shown. For several machines two things are added: how many there are
# (`--nnodes`), and where they meet, under which name (`--rdzv-endpoint`, `--rdzv-id`). `docs/REAL_MACHINES.md` in the course's
# folder has this line for Slurm, too.

# %% [markdown]
# ## 9 · What the log said
#
# | The log | The evidence here | Corrected |
# |---|---|---|
# | DistributedDataParallel: 각 **CPU**마다 process 생성: makes a process for each *CPU* | The cell below: as many processes as you ask for, on however many cores. DDP started none of them; it wraps a model inside a process that is already running. | **One process per rank, and usually one rank per GPU.** Starting them is the launcher's work: `run_ranks`, `torchrun`. |
# | DataParallel vs DistributedDataParallel: "… 후 평균", then *average* | Section 3: same start and averaged gradients give one process's weights, in every step. | DDP averages **gradients**. It never averages weights: they stay equal because they *start* equal. |

# %%
for ranks in (1, 3, 5):
    processes = run_ranks(os.getpid, world_size=ranks)
    print(
        f"{ranks} rank(s): {len(set(processes))} process(es), on a machine with "
        f"{os.cpu_count()} CPU cores"
    )

# %% [markdown]
# ## Take away
#
# * A ring all-reduce is reduce-scatter + all-gather. Each rank sends 2(N−1)/N of the tensor: less than twice, for any
#   N.
# * DDP = same start + averaged gradients + buckets. Step by step it is one process on the whole batch.
# * A message has a fixed cost, so small ones are joined; gradients come last layer first, so a full bucket leaves
#   while `backward()` still runs.
# * "Expected to have finished reduction": a parameter got no gradient, and its bucket never filled.
# * k micro-batches: k−1 times `no_sync()` round forward *and* backward, each loss divided by k.
# * A collective that only some ranks call hangs all of them: their stacks are in different calls.
#
# **Next notebook:** [samples, memory and scaling](3_memory_and_scaling.ipynb).
# **Questions on this lesson:** [quiz](quiz.ipynb).
#
# ### Glossary
#
# | English | 한국어 | here |
# |---|---|---|
# | DistributedDataParallel (DDP) | 분산 데이터 병렬 | PyTorch's wrapper for data parallelism |
# | ring all-reduce | 링 올리듀스 | all-reduce in which each rank talks to its neighbors only |
# | reduce-scatter | 리듀스 스캐터 | each rank ends with the sum of one chunk |
# | all-gather | 올개더 | each rank ends with all chunks |
# | chunk | 조각 | 1/N of the tensor |
# | bucket | 버킷 | gradients that travel in one message |
# | overlap | 겹치기 | sending while computing |
# | tied weight | 공유 가중치 | one parameter used in two places |
# | micro-batch | 마이크로배치 | a part of the batch that is computed at once |
# | gradient accumulation | 기울기 누적 | adding up micro-batches' gradients before a step |
# | hang, deadlock | 멈춤, 교착 상태 | ranks that wait for each other for ever |
# | stack | 스택 | the calls a process is in, innermost last |
#
# ### Further reading
#
# * Patarasuk and Yuan 2009, [Bandwidth optimal all-reduce algorithms for clusters of
#   workstations](https://doi.org/10.1016/j.jpdc.2008.09.002): the ring, and the proof that it sends as little as can
#   be.
# * Li et al. 2020, [PyTorch Distributed: Experiences on Accelerating Data Parallel
#   Training](https://arxiv.org/abs/2006.15704): buckets, overlap, `no_sync` and their measurements; section 3 reads
#   like this notebook.
# * PyTorch, [DDP notes](https://docs.pytorch.org/docs/stable/notes/ddp.html) (the internal design) and [the
#   class](https://docs.pytorch.org/docs/stable/generated/torch.nn.parallel.DistributedDataParallel.html).
# * PyTorch, [Debugging torch.distributed
#   applications](https://docs.pytorch.org/docs/stable/distributed.html#debugging-torch-distributed-applications):
#   `TORCH_DISTRIBUTED_DEBUG`, and what to do about a hang on GPUs.
# * PyTorch, [torchrun](https://docs.pytorch.org/docs/stable/elastic/run.html).
