# %% [markdown]
# # Averaging: what is averaged, and when it is right
#
# **{minutes} minutes** · one CPU is enough (two processes); with several GPUs, each process takes one · before this: lesson 00
#
# The study log behind this course says: *split the data, give each GPU a part, then average the results*. That sentence
# is the idea of **data parallelism** (데이터 병렬화). One word in it is wrong, and the rest is right under four
# conditions. You will find the word, break each condition once, and leave with a training step that gives the
# same weights on 1, 2 or 8 devices.
#
# **After this notebook you can**
#
# 1. start a function on several ranks, and say what a rank has to itself;
# 2. show that the mean of the parts' gradients is the gradient of the whole batch;
# 3. write a training step for N ranks that ends with exactly the weights of one process;
# 4. name the conditions under which the plain mean is right, and repair it for parts of different sizes;
# 5. prove from a run's own records whether its ranks train on different data.

# %% setup

# %%
from torchcourse.quiz import outcome, predict, recall

recall("01_data_parallelism")

# %%
import inspect
import os
from functools import partial
from itertools import islice

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from torchcourse import environment, figures
from torchcourse.data import mnist
from torchcourse.lessons.data_parallelism import (
    averaging,
    averaging_picture,
    data_parallel,
    train_digits,
)
from torchcourse.lessons.data_parallelism import checks as check
from torchcourse.ranks import default_world_size, device, run_ranks

print(environment.hardware())

# %% [markdown]
# ## 1 · One function, several ranks
#
# A **rank** (랭크) is one of N processes (프로세스) that run the same function at the same time. N is the **world size**
# (월드 크기). Each rank knows its own number, from 0 to N−1. That number is the only thing that tells the ranks apart, so it
# decides which part of the data is theirs.
#
# `run_ranks` starts the ranks from a cell and returns what each of them returned, in rank order.


# %%
def who_am_i():
    part = averaging.shard(torch.arange(8))
    rank, world_size = dist.get_rank(), dist.get_world_size()
    print(
        f"process {os.getpid()}, rank {rank} of {world_size}, on {device()}: "
        f"{part.tolist()}"
    )
    return part.sum().item()


run_ranks(who_am_i)

# %% [markdown]
# The same code ran in two processes, with two process ids. Each took its own part, called a **shard** (샤드), and
# returned its own sum.
#
# Now let each rank append its number to a list of the notebook.

# %%
seen = []


def remember():
    seen.append(dist.get_rank())
    return seen


predict(
    "01-1.memory",
    "After `run_ranks(remember)`: what is in `seen`, here in the notebook?",
    ["both numbers: [0, 1]", "the number of the rank that came last", "nothing"],
)

# %%
print("returned by the ranks:", run_ranks(remember), "   in the notebook:", seen)
outcome(
    "01-1.memory",
    f"In the notebook the list is {seen}: each rank filled a copy of its own.",
    right="nothing",
)

# %% [markdown]
# The ranks share no memory. They get copies of what your function uses, and only what it *returns* comes back.

# %% [markdown]
# ## 2 · The gradient of a whole batch
#
# Two ranks share out a batch of 64 digits: 32 each. Every rank has a copy of the *whole* model, and computes the
# gradient (기울기) of the mean loss (손실) over *its* 32 digits. Now take the mean of the two gradients.

# %%
predict(
    "01-1.mean",
    "How far is that mean from the gradient of all 64 digits, computed in one go?",
    [
        "it is equal, except for rounding",
        "a few percent: the two halves show different digits",
        "it is half as long: each rank saw half the digits",
    ],
)

# %% [markdown]
# Look first, without any ranks: one process can play both. You need real digits, a small network, its
# gradient as one long vector, and a measure of distance.

# %%
images, labels = mnist()[:640]
images = images.double()  # 64 bits, so that rounding cannot hide a mistake


def plain_cnn(seed=0):
    """A small network in which every digit goes its own way:
    no BatchNorm, no dropout.
    """
    torch.manual_seed(seed)
    layers = [
        nn.Conv2d(1, 8, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 5, stride=2),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 10)).double()


# %%
def gradient(model, x, y, reduction="mean"):
    """The gradient of the loss of one batch, all parameters in one vector."""
    model.zero_grad()
    F.cross_entropy(model(x), y, reduction=reduction).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def distance(vector, right):
    """0: equal. 1: as far apart as `right` is long."""
    return ((vector - right).norm() / right.norm()).item()


# %%
for dtype in (torch.float32, torch.float64):
    model, x, y = plain_cnn().to(dtype), images[:64].to(dtype), labels[:64]
    whole = gradient(model, x, y)
    first, second = gradient(model, x[:32], y[:32]), gradient(model, x[32:], y[32:])
    off = distance((first + second) / 2, whole)
    halves = distance(first, second)
    print(
        f"{dtype}:  half to half {halves:.2f},  mean of the halves to the whole "
        f"batch {off:.0e}"
    )

# %%
outcome(
    "01-1.mean",
    f"The mean is {off:.0e} away: rounding. Yet the two halves are {halves:.0%} apart.",
    right="it is equal, except for rounding",
)

# %% [markdown]
# The halves pull in quite different directions. Their mean is the gradient of the whole batch all the same.
#
# **Why.** Let $\ell_i$ be the loss of sample $i$, for $n$ samples on $N$ ranks:
#
# $$\nabla L \;=\; \frac{1}{n}\sum_{i=1}^{n} \nabla \ell_i \;=\; \frac{1}{N}\sum_{r=1}^{N}
# \underbrace{\Bigl(\frac{N}{n}\sum_{i\,\in\,\text{part } r} \nabla \ell_i\Bigr)}_{\text{gradient of rank } r}$$
#
# Nothing happened here but putting brackets into a sum. It therefore holds for any model and any data, as long as
#
# 1. all ranks have **the same weights**,
# 2. the loss is a **mean** over samples,
# 3. the parts are **equally large**,
# 4. the loss of a sample depends on **this sample alone**, not on its neighbors in the batch.
#
# Sections 5 and 6 break each of the four.

# %% [markdown]
# ### See it move
#
# The next cell computes a gradient for every single digit, one row of a table for each. Every gradient in the picture is
# then a mean or a sum of rows.
#
# Try this, and say before you move a slider (Tab and arrow keys work too) what the orange bar will do:
#
# * Sort the samples by digit. Rank 0 now sees small digits only. Is the plain mean still right?
# * Give rank 0 more than half of the samples. Then find the setting for 3 ranks at which the mean is right.
# * Switch to the sum loss. Does it matter now how many samples rank 0 has?


# %%
samples, model = 48, plain_cnn()
table = torch.stack([gradient(model, images[[i]], labels[[i]]) for i in range(samples)])
print(f"a gradient of {table.shape[1]:,} numbers for each of {table.shape[0]} digits")


# %%
def share_out(ranks, samples_on_rank_0, loss, order):
    """The sizes of the parts, the gradient of each rank,
    and the gradient of the whole batch.
    """
    rows = table[labels[:samples].argsort()] if order == "sorted by digit" else table
    others = torch.arange(samples - samples_on_rank_0).tensor_split(ranks - 1)
    sizes = [samples_on_rank_0, *(len(part) for part in others)]
    reduce = torch.mean if loss == "mean" else torch.sum
    return (
        sizes,
        torch.stack([reduce(part, dim=0) for part in rows.split(sizes)]),
        reduce(rows, dim=0),
    )


# %%
figures.explorer(
    lambda **values: averaging_picture.draw(*share_out(**values)),
    alt=lambda **values: averaging_picture.describe(*share_out(**values)),
    ranks=(2, 8, 2),
    samples_on_rank_0=(1, 40, 24),
    loss=["mean", "sum"],
    order=["as they come", "sorted by digit"],
)

# %% [markdown]
# ## 3 · Ranks that talk: all-reduce
#
# So far one process played all ranks. Real ranks must exchange their gradients. The tool is a **collective** (집합 통신):
# a function that *all* ranks call at the same point. **All-reduce** (올리듀스), `dist.all_reduce(tensor)`, adds
# up the tensors of all ranks and writes the sum **into** each rank's tensor.


# %%
def add_up():
    tensor = torch.tensor([1.0, 10.0], device=device()) * (dist.get_rank() + 1)
    before = tensor.tolist()
    dist.all_reduce(tensor)
    return f"{before} became {tensor.tolist()}"


run_ranks(add_up, world_size=3)

# %% [markdown]
# Two things to notice: the result is a **sum**, and it is written **in place** (제자리), on every rank.
#
# ### Exercise 1 · Average the gradients
#
# ●○○ · 5 minutes · good for: this is the heart of all data-parallel training, also of PyTorch's own.
#
# The function runs on every rank, after `backward()`. After it, each `parameter.grad` holds the mean over all ranks.


# %% exercise: average_gradients
def average_gradients(model: nn.Module) -> None:
    """Replace each gradient by its mean over all ranks, for any number of ranks.

    Parameters without a gradient (`.grad is None`, because they are frozen) are left
    alone.
    """
    ### BEGIN SOLUTION
    for parameter in model.parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()
    ### END SOLUTION


# %% check: average_gradients
checked = check.average_gradients(average_gradients, points=2)
### BEGIN HIDDEN TESTS
_means = {2: 3.0, 4: 9.0}


def _mean_of_ranks():
    layer = nn.Linear(3, 2).to(device())
    layer.bias.requires_grad_(False)
    layer.weight.grad = torch.full_like(layer.weight, 6.0 * dist.get_rank())
    average_gradients(layer)
    return layer.weight.grad[0, 0].item(), layer.bias.grad


for _ranks, _mean in _means.items():
    assert run_ranks(_mean_of_ranks, world_size=_ranks) == [(_mean, None)] * _ranks
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – the check says that rank 1 still has its own gradients</summary>
#
# Your result is right but lands in a new tensor. `g = p.grad / 2` makes a new tensor, `p.grad /= 2` changes the one that the
# optimizer reads. `dist.all_reduce` returns nothing; it changes its argument.
# </details>
#
# <details><summary>Help – I get <code>TypeError: unsupported operand type(s) for /=: 'NoneType' and 'int'</code></summary>
#
# You met a parameter without a gradient. Ask for `p.grad is not None` first. All ranks skip the same parameters, so nobody
# waits for a call that never comes.
# </details>
#
# <details><summary>Help – the ranks wait for one another until the time is up</summary>
#
# A collective ends when *all* ranks have called it. Is yours inside `if dist.get_rank() == 0:`?
# </details>

# %% [markdown]
# From here on the notebook uses the package's own `data_parallel.average_gradients`, so that later cells work even while
# yours does not.

# %% [markdown]
# ## 4 · Average what?
#
# The log says "the average of the *results*". What could that mean? For one step, a rank produces outputs, a loss,
# a gradient, and new weights. Averaging the outputs fails at once:

# %%
parts = labels[:64].chunk(2)
print("first digits of rank 0:", parts[0][:8].tolist())
print("first digits of rank 1:", parts[1][:8].tolist())

# %% [markdown]
# The mean of the output for a 5 and the output for a 3 is the output for neither: there is no label to compare it
# with. Four candidates remain to be averaged over the ranks, for two optimizers (옵티마이저):
#
# 1. the losses;
# 2. the weights, once at the end;
# 3. the weights, after each step;
# 4. the gradients, before each step.
#
# Each will train two ranks for 10 steps. Beside them one process trains on the whole batches.

# %%
predict(
    "01-1.what",
    "Which of 1 to 4 end with the weights of the one process, with SGD and with Adam "
    "alike?",
    ["all four", "2, 3 and 4", "3 and 4", "only 4"],
)


# %%
def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def batch(number):
    """Batch 0 to 9 of 64 digits, on this rank's device;
    then from the beginning again.
    """
    rows = slice(64 * (number % 10), 64 * (number % 10) + 64)
    return images[rows].to(device()), labels[rows].to(device())


def part_of(number):
    """This rank's part of a batch."""
    return [averaging.shard(tensor) for tensor in batch(number)]


def train_alone(model, optimizer, x, y):
    gradient(model, x, y)
    optimizer.step()


# %%
def distance_after_10_steps(candidate, make_optimizer):
    """Train on all ranks, and beside it alone; return how far apart the two walks
    through weight space end.
    """
    together, alone = plain_cnn().to(device()), plain_cnn().to(device())
    ours, reference = (
        make_optimizer(together.parameters()),
        make_optimizer(alone.parameters()),
    )
    start = weights(alone)
    for step in range(10):
        train_alone(alone, reference, *batch(step))
        # the mean of the losses would only be a number to print
        gradient(together, *part_of(step))
        if candidate == "4 gradients, each step":
            data_parallel.average_gradients(together)
        ours.step()
        if candidate == "3 weights, each step" or (
            candidate == "2 weights, at the end" and step == 9
        ):
            averaging.average_weights(together)
    return distance(weights(together) - start, weights(alone) - start)


# %%
CANDIDATES = [
    "1 losses",
    "2 weights, at the end",
    "3 weights, each step",
    "4 gradients, each step",
]
OPTIMIZERS = {
    "SGD": partial(torch.optim.SGD, lr=0.1),
    "Adam": partial(torch.optim.Adam, lr=1e-3),
}


def all_candidates():
    return {
        name: [distance_after_10_steps(candidate, make) for candidate in CANDIDATES]
        for name, make in OPTIMIZERS.items()
    }


distances = run_ranks(all_candidates, world_size=2)[0]
for row, candidate in enumerate(CANDIDATES):
    print(
        f"{candidate:24}",
        *(f"  {name} {values[row]:.0e}" for name, values in distances.items()),
    )

# %%
figure, axes = figures.new(height=2.8)
for (name, values), shape, size in zip(distances.items(), "os", (11, 6), strict=True):
    axes.plot(values, CANDIDATES, shape, markersize=size, label=name)
axes.set(xscale="log", xlim=(1e-17, 10), ylim=(-0.5, 3.5))
axes.set_xlabel("distance from one process (1 = as long as its whole way)")
averaged_weights, averaged_gradients = distances["Adam"][2:]
axes.set_title(
    f"Adam: weights averaged at each step {averaged_weights:.0%} off, gradients "
    f"{averaged_gradients:.0e}"
)
axes.grid(axis="x", alpha=0.3)
axes.legend(loc="lower left")
values = "; ".join(f"{name}: {values}" for name, values in distances.items())
figures.show(figure, f"Distances of the four candidates on a log axis. {values}")

# %%
outcome(
    "01-1.what",
    f"Gradients: {distances['SGD'][3]:.0e} with SGD, {averaged_gradients:.0e} with "
    f"Adam. "
    f"Weights after each step: {distances['SGD'][2]:.0e} with SGD, but "
    f"{averaged_weights:.0%} with Adam.",
    right="only 4",
)

# %% [markdown]
# From the top of the picture down:
#
# * **4, gradients**: right to rounding, with any optimizer. The optimizer cannot know that there were ranks.
# * **3, weights after each step**: right with SGD, because an SGD step is proportional to the gradient. Adam's step is
#   not, so the mean of two Adam steps is not the Adam step of the mean.
# * **2, weights once at the end**: from the second step on, the ranks compute gradients at different places. (As a
#   method of its own, with its own analysis, this is *local SGD*: see further reading.)
# * **1, losses**: the mean is a fine number to log. It moves no weight: each rank goes its own way.
#
# So the wrong word in the log is *results*. What is averaged is **gradients**.

# %% [markdown]
# ## 5 · The same start: broadcast
#
# Condition 1 says: the same weights on all ranks. The step keeps equal weights equal, because every rank subtracts the same
# averaged gradient. But who makes them equal at the start? A layer draws its first weights at random, and two
# processes draw different numbers unless someone seeds them alike. Here each rank sets a seed of its own.

# %%
predict(
    "01-1.start",
    "Two ranks start from different random weights and average their gradients at "
    "each of 40 steps. "
    "What becomes of the gap between their weights?",
    [
        "it closes: averaging pulls the ranks together",
        "it stays what it was",
        "it grows: small differences add up",
    ],
)


# %%
def train_from_own_seed(copy_first, steps=40):
    """Return for each step: the gap to rank 0's weights,
    the way from the start, the loss.
    """
    model = plain_cnn(seed=dist.get_rank()).to(device())
    if copy_first:
        averaging.copy_from_rank_0(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    start, gaps, way, losses = weights(model), [], [], []
    for step in range(steps):
        losses.append(averaging.step(model, optimizer, *part_of(step)).item())
        of_rank_0 = weights(model)
        dist.broadcast(of_rank_0, src=0)
        gaps.append((weights(model) - of_rank_0).norm().item())
        way.append((weights(model) - start).norm().item())
    return gaps, way, losses


# %%
copied, _, _ = run_ranks(train_from_own_seed, True, world_size=2)[1]
gaps, way, losses = run_ranks(train_from_own_seed, False, world_size=2)[1]
print(f"own seeds: the loss of rank 1 falls from {losses[0]:.2f} to {losses[-1]:.2f}")

# %%
figure, axes = figures.new(height=2.6)
names = ["gap, own seeds", "way gone by rank 1, own seeds", "gap, rank 0 copied first"]
for values, label in zip((gaps, way, copied), names, strict=True):
    axes.plot(values)
    axes.text(30, values[30] + 0.15, label, ha="right")
axes.set(xlabel="step", ylabel="length in weight space", ylim=(-0.3, 1.2 * gaps[0]))
axes.set_title(f"The ranks move by {way[-1]:.1f}, and the gap stays {gaps[-1]:.2f}")
figures.show(
    figure,
    f"Over 40 steps the gap is flat: at {gaps[0]:.2f} from own seeds, at 0 after "
    f"copying rank 0.",
)

# %%
outcome(
    "01-1.start",
    f"The gap is {gaps[0]:.6f} after the first step and {gaps[-1]:.6f} after the last.",
    right="it stays what it was",
)

# %% [markdown]
# Both ranks subtract *the same* vector at each step, so their difference cannot change. It cannot close either: these
# ranks will never hold one model. And nothing looks wrong from outside, because the loss falls on both. They just average
# gradients taken at two different places, and a checkpoint of rank 0 is not the model that rank 1 has.
#
# The remedy is one collective before the first step: `dist.broadcast(tensor, src=0)`, **broadcast** (브로드캐스트), copies
# rank 0's tensor into that of every rank. For a model with BatchNorm the running statistics belong to the copy too;
# `model.state_dict()` holds both.
#
# ### Exercise 2 · Train together
#
# ●●○ · 12 minutes · good for: a whole data-parallel training run, which you can test against one process.
#
# The function runs on every rank. The ranks get models with *different* weights, and the *same* whole batches. Use
# `data_parallel.average_gradients`, or your own.


# %% exercise: train_together
def train_together(
    model: nn.Module, batches: list[tuple[torch.Tensor, torch.Tensor]], lr: float
) -> None:
    """Train `model` with SGD so that all ranks end with the weights of one process on
    the whole batches.

    That process starts from rank 0's weights. Each rank computes its own part of each
    batch only. The number of samples in a batch can be divided by the number of ranks.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    ### BEGIN SOLUTION
    for tensor in model.state_dict().values():
        dist.broadcast(tensor, src=0)
    ### END SOLUTION
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for x, y in batches:
        ### BEGIN SOLUTION
        loss = F.cross_entropy(
            model(x.chunk(world_size)[rank]), y.chunk(world_size)[rank]
        )
        optimizer.zero_grad()
        loss.backward()
        data_parallel.average_gradients(model)
        ### END SOLUTION
        optimizer.step()


# %% check: train_together
checked = check.train_together(train_together, points=4)
### BEGIN HIDDEN TESTS
_labels = [[0, 1, 1, 0, 1, 1, 0, 1], [1, 0, 0, 0, 1, 0, 1, 1]]


def _weights_after_two_batches():
    torch.manual_seed(dist.get_rank())
    model = nn.Linear(2, 2).double().to(device())
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(2, 8, 2, generator=generator, dtype=torch.float64).to(device())
    y = torch.tensor(_labels).to(device())
    train_together(model, list(zip(x, y, strict=True)), lr=0.3)
    return model.weight.detach().cpu()


_alone = run_ranks(_weights_after_two_batches, world_size=1)[0]
for _weight in run_ranks(_weights_after_two_batches, world_size=4):
    assert torch.allclose(_weight, _alone, rtol=1e-9)
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – the ranks hold different weights before the first batch</summary>
#
# Copy *every* tensor, and do it before the loop. `dist.broadcast` writes into its argument: give it the model's own
# tensors, not copies of them.
# </details>
#
# <details><summary>Help – the first step is right, the later ones are not</summary>
#
# `backward()` *adds* to `p.grad`. Here what it adds to is the averaged gradient of the step before.
# </details>
#
# <details><summary>Help – I get <code>ValueError: Expected input batch_size (6) to match target batch_size (12)</code></summary>
#
# You cut the images but not the labels. Cut both at the same place.
# </details>

# %% [markdown]
# ### Step by step beside one process
#
# Equal in the end could be luck. So compare after *every* step, in 32 and in 64 bits: if the difference were anything
# but rounding, 64 bits would not make it a billion times smaller.


# %%
def follow(dtype, steps=30):
    """Train over the ranks, and beside it alone; return the distance of the weights
    after each step.
    """
    together, alone = (
        plain_cnn(seed).to(device(), dtype) for seed in (dist.get_rank(), 0)
    )
    averaging.copy_from_rank_0(together)
    ours, reference = (
        torch.optim.SGD(model.parameters(), lr=0.1) for model in (together, alone)
    )
    distances = []
    for step in range(steps):
        (x, y), (part_x, part_y) = batch(step), part_of(step)
        averaging.step(together, ours, part_x.to(dtype), part_y)
        train_alone(alone, reference, x.to(dtype), y)
        distances.append(distance(weights(together), weights(alone)))
    return distances


# %%
in_32, in_64 = (
    run_ranks(follow, dtype, world_size=2)[0]
    for dtype in (torch.float32, torch.float64)
)
assert max(in_64) < 1e-12

# %%
figure, axes = figures.new(height=2.8)
axes.plot(in_32, label="32 bits")
axes.plot(in_64, label="64 bits")
axes.set(yscale="log", ylim=(1e-17, 1), xlabel="step", ylabel="distance of the weights")
axes.set_title(
    f"Two ranks stay within {max(in_32):.0e} (32 bits) and {max(in_64):.0e} (64 "
    f"bits) of one process"
)
axes.legend()
figures.show(
    figure,
    f"Distance over 30 steps: up to {max(in_32):.0e} in 32 bits, up to "
    f"{max(in_64):.0e} in 64 bits.",
)

# %% [markdown]
# ## 6 · When the plain mean is wrong
#
# You have broken condition 1. Now the other three. An everyday case of condition 3: the last batch of an epoch is short,
# and rank 0 gets 48 digits while rank 1 gets 16.

# %%
predict(
    "01-1.uneven",
    "Each rank takes the mean loss over its part. Is the plain mean of the two "
    "gradients right?",
    [
        "yes: a mean of means is the mean",
        "no: each of the 16 digits counts as much as three of the 48",
        "no: the result is 3 times too small",
    ],
)


# %%
def plain_mean(reduction="mean", sizes=None, with_batch_norm=False):
    """Distance and length of the ranks' plain mean,
    measured by the gradient of the whole batch.
    """
    model = plain_cnn()
    if with_batch_norm:
        model.insert(1, nn.BatchNorm2d(8).double())
    model, (x, y) = model.to(device()), batch(0)
    right = gradient(model, x, y, reduction)
    sizes = sizes or [64 // dist.get_world_size()] * dist.get_world_size()
    part_x, part_y = x.split(sizes)[dist.get_rank()], y.split(sizes)[dist.get_rank()]
    mean = gradient(model, part_x, part_y, reduction)
    dist.all_reduce(mean)
    mean /= dist.get_world_size()
    return distance(mean, right), (mean.norm() / right.norm()).item()


# %%
cases = {
    "all conditions hold": {},
    "2: sum loss": {"reduction": "sum"},
    "3: unequal parts": {2: {"sizes": [48, 16]}, 4: {"sizes": [40, 8, 8, 8]}},
    "4: BatchNorm": {"with_batch_norm": True},
}
print(
    f"{'condition broken':22}{'2 ranks: distance, length':>30}"
    f"{'4 ranks: distance, length':>30}"
)
for name, changes in cases.items():
    found = [
        run_ranks(partial(plain_mean, **changes.get(n, changes)), world_size=n)[0]
        for n in (2, 4)
    ]
    print(f"{name:22}", *(f"{off:22.2g}, {length:5.2f}" for off, length in found))
    if name.startswith("3"):
        uneven = found[0][0]

# %%
outcome(
    "01-1.uneven",
    f"The plain mean is {uneven:.0%} off.",
    right="no: each of the 16 digits counts as much as three of the 48",
)

# %% [markdown]
# One line at a time:
#
# * **Sum loss.** The ranks' sums must be *added*, and the mean divides by N. With 2 ranks the step is half as long, with 4
#   a quarter. SGD shows it as slow learning. [Adam](https://arxiv.org/abs/1412.6980), whose steps do not depend on the
#   scale of the gradient, hides it. PyTorch's
#   [DistributedDataParallel](https://docs.pytorch.org/docs/stable/generated/torch.nn.parallel.DistributedDataParallel.html)
#   divides by N too, and its page warns of just this.
# * **Unequal parts.** The gradient has about the right length and the wrong direction: the few count too much. The same
#   happens without anyone cutting a batch badly when a mean runs over *tokens* and padding differs from rank to rank.
#   For gradient accumulation (notebook 2), its twin, this fault sat in a widely used library until 2024 (further reading).
# * **BatchNorm** (배치 정규화). It normalizes each sample by the mean and the spread of its neighbors. 32 neighbors are
#   not 64, so the parts compute a different function. No weight repairs that. On GPUs
#   [SyncBatchNorm](https://docs.pytorch.org/docs/stable/generated/torch.nn.SyncBatchNorm.html) shares the statistics; Goyal
#   et al. (further reading) keep those of each part, and keep the part the same size when they add GPUs.
#
# **And dropout** (드롭아웃)? Its masks are random, so no run equals another sample by sample, and that is fine. But equal seeds on all
# ranks, good for equal weights, draw equal masks too:


# %%
def dropout_mask(seed_per_rank):
    torch.manual_seed(7 + dist.get_rank() if seed_per_rank else 7)
    return "".join("x" if kept else "." for kept in F.dropout(torch.ones(40), p=0.5))


for seed_per_rank in (False, True):
    first, second = run_ranks(dropout_mask, seed_per_rank, world_size=2)
    same = sum(a == b for a, b in zip(first, second, strict=True))
    print(
        "A seed for each rank" if seed_per_rank else "The same seed",
        f": {same} of 40 places alike",
    )
    print(f"{first}\n{second}")

# %% [markdown]
# So: copy the weights from rank 0, then give every rank a seed of its own for whatever is drawn afterwards.
#
# ### Exercise 3 · Parts of different sizes
#
# ●●○ · 8 minutes · good for: short last batches, variable-length text, ranks of different speed.
#
# The function runs on every rank, after `backward()` on the mean loss over that rank's `samples` samples.
# A rank knows its own number only. After it, each gradient is the gradient of the mean over *all* samples.


# %% exercise: average_uneven
def average_uneven(model: nn.Module, samples: int) -> None:
    """Replace each gradient by its mean over all samples on all ranks; this rank has
    `samples` of them.

    Parameters without a gradient are left alone, as in exercise 1.
    """
    ### BEGIN SOLUTION
    total = torch.tensor(samples, device=device())
    dist.all_reduce(total)
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad *= samples / total
            dist.all_reduce(parameter.grad)
    ### END SOLUTION


# %% check: average_uneven
checked = check.average_uneven(average_uneven, points=3)
### BEGIN HIDDEN TESTS
_means = {(6, 2): 12.5, (1, 2, 6, 1): 27.0}


def _mean_of_samples(sizes):
    layer = nn.Linear(2, 1).to(device())
    layer.weight.requires_grad_(False)
    layer.bias.grad = torch.full_like(layer.bias, 10.0 * (dist.get_rank() + 1))
    average_uneven(layer, sizes[dist.get_rank()])
    return layer.bias.grad.item(), layer.weight.grad


for _sizes, _mean in _means.items():
    for _value, _frozen in run_ranks(_mean_of_samples, _sizes, world_size=len(_sizes)):
        assert abs(_value - _mean) < 1e-4
        assert _frozen is None
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – the result is still the plain mean</summary>
#
# What share of all samples does this rank have? With 3 and 1 samples the shares are 3/4 and 1/4. They add up to 1, so
# there is nothing left to divide by.
# </details>
#
# <details><summary>Help – the ranks hold different gradients afterwards</summary>
#
# Weigh *before* you add: after `all_reduce` the contributions of the ranks can no longer be told apart.
# </details>
#
# <details><summary>Help – I get <code>TypeError: … Expected parameter `tensor` of type torch.Tensor but got &lt;class 'int'&gt;</code></summary>
#
# Collectives send tensors. Put the number into one: `torch.tensor(samples, device=device())`.
# </details>

# %% [markdown]
# ## 7 · Break-it lab: a healthy run that wastes half the machine
#
# A colleague trains on two ranks. Here is the script. Run it; then look at the evidence like a doctor who was
# told that the patient feels fine. (This lab runs on the CPU, where equal means equal to the last bit on every machine.)


# %%
def colleague(steps=60, sampler=None):
    """Train on real digits; log the losses, the numbers of the samples used,
    and the test accuracy.
    """
    # one seed on all ranks: all start from the same weights
    model = plain_cnn(seed=0).float().to(device())
    # image, label, number of the sample
    digits = TensorDataset(*mnist()[:], torch.arange(4000))
    sampler = sampler and sampler(digits)
    loader = DataLoader(digits, batch_size=32, shuffle=sampler is None, sampler=sampler)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    test_x, test_y = (part.to(device()) for part in mnist("test")[:500])
    log = {"losses": [], "samples": [], "accuracy": []}
    for x, y, numbers in islice(loader, steps):
        loss = averaging.step(model, optimizer, x.to(device()), y.to(device()))
        log["losses"].append(loss.item())
        log["samples"] += numbers.tolist()
        log["accuracy"].append(
            (model(test_x).argmax(dim=1) == test_y).float().mean().item()
        )
    return log | {"weights": weights(model).cpu()}


# %%
ON_CPU = {"CUDA_VISIBLE_DEVICES": ""}
run = run_ranks(colleague, world_size=2, env=ON_CPU)
print(
    "loss of rank 0, every 10 steps:",
    *(f"{loss:.2f}" for loss in run[0]["losses"][::10]),
)
print(f"test accuracy at the end: {run[0]['accuracy'][-1]:.1%}")
print(
    "the ranks hold equal weights:", torch.equal(run[0]["weights"], run[1]["weights"])
)

# %%
predict(
    "01-1.lab",
    "The loss falls, the accuracy rises, the ranks agree to the last bit. Is all well?",
    [
        "yes: equal weights prove that the ranks work together",
        "yes: the accuracy is what one expects",
        "that cannot be told from these three facts",
    ],
)

# %% [markdown]
# **Evidence 1.** Different digits give different losses. Compare the ranks' losses.
#
# **Evidence 2.** Which samples did each rank use? In one epoch no sample should come twice.
#
# **Evidence 3.** The same script on *one* rank has batches of 32, on two ranks of 2 × 32. Compare the curves.

# %%
for rank, log in enumerate(run):
    losses = " ".join(f"{loss:.6f}" for loss in log["losses"][:4])
    print(f"rank {rank}: losses {losses} …   samples {log['samples'][:6]} …")
used = run[0]["samples"] + run[1]["samples"]
print(f"{len(used)} samples computed, {len(set(used))} of them different")

alone = run_ranks(colleague, world_size=1, env=ON_CPU)[0]
apart = max(abs(a - b) for a, b in zip(alone["losses"], run[0]["losses"], strict=True))
print(f"largest difference between the losses of one rank and of two: {apart}")

# %%
outcome(
    "01-1.lab",
    f"All is not well: of {len(used):,} samples computed only {len(set(used)):,} are "
    f"different.",
    right="that cannot be told from these three facts",
)

# %% [markdown]
# Both ranks computed exactly what one rank computes: twice the work, no gain. The average of two equal gradients is that
# gradient.
#
# Where is the fault? `plain_cnn(seed=0)` seeds PyTorch's global random generator alike on all ranks, and then
# `shuffle=True` draws the order of the samples from that generator. As with dropout, equal seeds gave equal random numbers.
#
# With a seed of its own each rank would mix in its own way. Then the lists *look* different, yet they overlap: some
# samples come twice in an epoch and others never.
#
# ### Exercise 4 · Repair it: who gets which sample?
#
# ●●○ · 8 minutes · good for: this is what a distributed sampler does; faults here are silent.
#
# `torch.Generator().manual_seed(3)` makes a random generator of your own. `torch.randperm(10, generator=generator)` draws
# an order of ten numbers from it, and leaves the global generator alone.


# %% exercise: samples_of_rank
def samples_of_rank(total: int, epoch: int, rank: int, world_size: int) -> list[int]:
    """Return the numbers (0 to total − 1) of this rank's samples in this epoch, in
    mixed order.

    In one epoch no sample is used twice, all ranks get equally many, and fewer than
    `world_size` samples are left out. In every epoch all samples are mixed again,
    before they are dealt out. The global random generators of the ranks are in
    different states: do not rely on them, and do not seed them.
    """
    ### BEGIN SOLUTION
    generator = torch.Generator().manual_seed(epoch)
    order = torch.randperm(total, generator=generator).tolist()
    each = total // world_size
    return order[rank * each : (rank + 1) * each]
    ### END SOLUTION


# %% check: samples_of_rank
checked = check.samples_of_rank(samples_of_rank, points=2)
### BEGIN HIDDEN TESTS
for _total, _ranks in ((31, 3), (64, 4)):
    _parts = [
        [int(i) for i in samples_of_rank(_total, 5, rank, _ranks)]
        for rank in range(_ranks)
    ]
    assert [len(part) for part in _parts] == [_total // _ranks] * _ranks
    assert len(set().union(*_parts)) == _total // _ranks * _ranks
    assert _parts != [
        [int(i) for i in samples_of_rank(_total, 6, rank, _ranks)]
        for rank in range(_ranks)
    ]
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – the ranks get different lists, but share samples</summary>
#
# Every rank must mix in *the same* way and then take a different piece. A generator of your own with a seed that all
# ranks know does it: `torch.Generator().manual_seed(…)`.
# </details>
#
# <details><summary>Help – epoch 1 brings the same order as epoch 0</summary>
#
# The seed may depend on everything that all ranks know: not on the rank, but on …?
# </details>

# %% [markdown]
# The repaired run, here with PyTorch's own `DistributedSampler` (the third notebook opens it up). Once your function passes,
# put it in: `sampler=lambda digits: samples_of_rank(len(digits), 0, dist.get_rank(), dist.get_world_size())`.

# %%
repaired = run_ranks(
    partial(colleague, sampler=DistributedSampler), world_size=2, env=ON_CPU
)
used = [logs[0]["samples"] + logs[1]["samples"] for logs in (run, repaired)]

# %%
figure, axes = figures.new(height=3.0, ncols=2, width_ratios=[3, 2])
left, right = axes
left.plot(run[0]["accuracy"], linewidth=5, alpha=0.4, label="2 ranks, script")
left.plot(alone["accuracy"], "k--", linewidth=1, label="1 rank, script")
left.plot(repaired[0]["accuracy"], label="2 ranks, repaired")
left.set(
    xlabel="step",
    ylabel="test accuracy",
    title=f"The script's 2 ranks and 1 rank differ by {apart:g}",
)
left.legend(loc="lower right", fontsize=8)
different = [len(set(numbers)) for numbers in used]
right.bar_label(right.bar(["script", "repaired"], different, width=0.5), fmt="{:,.0f}")
right.set(
    ylabel="different samples",
    title=f"of {len(used[0]):,} computed",
    ylim=(0, 1.15 * len(used[0])),
)
figures.show(
    figure,
    f"Left: test accuracy; the script's two curves coincide. Right: different "
    f"samples, {different}.",
)

# %% [markdown]
# The accuracies end close together: on an easy task you cannot see from the curve that half
# of the data is missing. That is why you look at sample numbers, not at curves.
# A cheap guard for real training runs: at the first step gather a fingerprint of each rank's batch, say `x.sum().item()` by
# `dist.all_gather_object`, and stop if two are equal. It finds equal batches only. Lists that overlap, as with a seed of its
# own on each rank, pass it: to find those, gather the sample numbers of an epoch.

# %% [markdown]
# ## 8 · Scale up
#
# A training run on several machines starts from a file, not from a cell. This one is in the package. Nothing in it knows
# how many ranks there are, or whether they have GPUs:

# %%
print(inspect.getsource(train_digits.train))

# %%
results = {
    n: run_ranks(train_digits.train, world_size=n)
    for n in sorted({1, 2, 3, default_world_size()})
}
for n, on_ranks in results.items():
    off = max(distance(one, results[1][0]) for one in on_ranks)
    assert off < 1e-10
    print(
        f"{n} rank(s): every rank within {off:.0e} of one process, the weights "
        f"{on_ranks[0].norm():.12f} long"
    )

# %% [markdown]
# Three ranks cut 64 digits into 22, 21 and 21; `averaging.step` weighs them as you did in exercise 3.
#
# `torchrun` starts the same file in a terminal, outside of any notebook. On one machine with two processes (with GPUs: as many
# as there are):
#
# ```
# torchrun --standalone --nproc-per-node 2 -m torchcourse.lessons.data_parallelism.train_digits
# ```
#
# On two machines with eight GPUs each: the same line on both of them, where `HOST` is the name of the first one.
#
# ```
# torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 -m torchcourse.lessons.data_parallelism.train_digits
# ```
#
# Each prints the length of the weights: compare it with the lines above.

# %% [markdown]
# ## 9 · What the log said
#
# | The log (filed under *Model Parallel*) | The evidence here | Corrected |
# |---|---|---|
# | 데이터를 나눠 GPU할당 후 **결과**의 평균을 취하는 방법: split the data, give it to GPUs, average the *results* | Section 4: of four candidates only the gradients, averaged before each step, give one process's weights with SGD and Adam. Averaged outputs have no label. | Split the data, and average the **gradients**. |
# | … as a kind of *model parallelism* (모델 병렬화) | Every rank built the whole `plain_cnn`; only the batch was cut. | This is **data parallelism**. In model parallelism (lesson 02) the *model* is cut. |
# | minibatch 와 비슷한데 한번에 여러 GPU에서 수행: like a mini-batch, done on several GPUs at once | Sections 2 and 5: equal to one larger mini-batch, to rounding, at every step. Section 6: not with a sum loss, unequal parts or BatchNorm. | It **is** one larger mini-batch, under four conditions. |
#
# What it says of DataParallel and DistributedDataParallel comes in the third notebook.

# %% [markdown]
# ## Take away
#
# * A rank is a process with the whole model and a part of the data.
# * Before the first step: broadcast rank 0's weights. At each step: own part → own gradient → all-reduce, divide by N → step.
# * The mean of the gradients is the gradient of the whole batch under four conditions: equal weights, a mean loss, equal parts,
#   and samples that do not depend on each other.
# * Unequal parts: weigh each rank by its samples. Sum loss: add, do not divide.
# * Equal weights, a falling loss and a good accuracy do not prove that ranks see different data. Sample numbers do.
#
# **Next notebook:** [the ring, and DDP by hand](2_distributed_data_parallel.ipynb).
# **Questions on this lesson:** [quiz](quiz.ipynb).
#
# ### Glossary
#
# | English | 한국어 | here |
# |---|---|---|
# | data parallelism | 데이터 병렬화 | whole model on each rank, data cut up |
# | model parallelism | 모델 병렬화 | the model cut up |
# | rank | 랭크 | one of N processes, and its number |
# | world size | 월드 크기 | N |
# | shard | 샤드 | the part of the data that one rank has |
# | gradient | 기울기 | derivative of the loss for each weight |
# | collective | 집합 통신 | a function that all ranks call together |
# | all-reduce | 올리듀스 | sum over ranks, result on all of them |
# | broadcast | 브로드캐스트 | copy from one rank to all |
# | in place | 제자리 | writing into the tensor that is given |
# | batch normalization | 배치 정규화 | normalizing each sample by the statistics of its batch |
# | dropout | 드롭아웃 | setting random activations to zero while training |
#
# ### Further reading
#
# * [torch.distributed](https://docs.pytorch.org/docs/stable/distributed.html): all collectives and backends.
# * Li et al. 2020, [PyTorch Distributed](https://arxiv.org/abs/2006.15704): why gradients and not parameters are averaged (section 2.2).
# * Goyal et al. 2017, [Accurate, Large Minibatch SGD](https://arxiv.org/abs/1706.02677): the loss normalization of exercise 3, and BatchNorm a part
#   at a time, at 256 GPUs.
# * Stich 2019, [Local SGD](https://arxiv.org/abs/1805.09767): averaging weights now and then, analyzed.
# * Hugging Face 2024, [Fixing gradient accumulation](https://huggingface.co/blog/gradient_accumulation): a mean of unequal means, found late.
