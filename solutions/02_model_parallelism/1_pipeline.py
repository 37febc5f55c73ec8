# %% [markdown]
# # Pipelines: one model over several devices
#
# **{minutes} minutes** · one CPU is enough (two to four processes) · before this: [lesson 01](../01_data_parallelism/1_averaging.ipynb),
# up to the word *rank*
#
# In lesson 01 every device held the whole model. What if the model does not fit into one? FSDP stores
# only a share on each device, but every device still computes whole layers, and keeps their activations. The other way is to
# cut the *model*, so that each device holds some of its layers: **model parallelism** (모델 병렬화). The study log calls it hard, and adds that a
# *pipeline* makes it pay. You will cut a model with your own hands, see why that alone buys no time at all, and then
# build what does: **pipeline parallelism** (파이프라인 병렬화).
#
# **After this notebook you can**
#
# 1. split a model over two ranks by hand, with send and receive in forward and backward;
# 2. compute the bubble of a schedule, and say what shrinks it;
# 3. write the order of GPipe and 1F1B for each rank, and say what memory each keeps;
# 4. find a deadlock of sends and receives from the stack of each rank.

# %% setup

# %%
from torchcourse.quiz import outcome, predict, recall

recall("02_model_parallelism")

# %%
import torch
import torch.distributed as dist
import torch.distributed.pipelining as pp
import torch.nn.functional as F

from torchcourse import environment, figures
from torchcourse.data import digits
from torchcourse.lessons.model_parallelism import checks as check
from torchcourse.lessons.model_parallelism import pipeline
from torchcourse.lessons.model_parallelism.pipeline.schedules_picture import (
    draw_both,
    schedule_picture,
)
from torchcourse.models import row_transformer
from torchcourse.ranks import (
    RankTimeout,
    device,
    export_script,
    run_ranks,
)

# these networks are so small that threads would only wait for one another
torch.set_num_threads(1)
print(environment.hardware())

# %% [markdown]
# ## 1 · A model in two halves
#
# The model of this lesson is a small transformer. It reads a digit of 8 × 8 pixels row by row: an embedding, then
# equal **blocks**, then a head. Only one property matters here: the tensor that travels between two
# blocks always has the same shape.

# %%
images, labels = digits()[:48]
images = images.double()  # 64 bits, so that rounding cannot hide a mistake


def whole_model(blocks=4):
    """The same weights on each call and on each rank."""
    torch.manual_seed(0)
    return row_transformer(blocks).double()


first, second = pipeline.cut(whole_model(), 2)
for name, half in (("first", first), ("second", second)):
    count = sum(parameter.numel() for parameter in half.parameters())
    print(
        f"{name} half: {', '.join(type(layer).__name__ for layer in half)}: "
        f"{count:,} parameters"
    )
print("between them travels a tensor of shape", list(first(images).shape))

# %%
predict(
    "02-1.travels",
    "Rank 0 holds the first half, rank 1 the second. What has to travel between them "
    "in one training step?",
    [
        "the activations, from rank 0 to rank 1; each rank then has what it needs",
        "the activations one way, and their gradient the other way",
        "the weights of the halves, so that each rank can compute the whole model",
        "the gradients of all weights, as in data parallelism",
    ],
)

# %% [markdown]
# Play it in one process first. A message carries numbers and no graph. So what arrives is a fresh tensor, as
# `detach()` gives:

# %%
border = first(images)  # on rank 0
arrived = border.detach().requires_grad_()  # what rank 1 would receive
F.cross_entropy(second(arrived), labels).backward()
print(
    "second half has gradients:", all(p.grad is not None for p in second.parameters())
)
print("first half has gradients: ", all(p.grad is not None for p in first.parameters()))
print("arrived.grad has the shape", list(arrived.grad.shape))

# %% [markdown]
# `backward()` stops at the border: rank 1 does not know where its input came from. But it did compute `arrived.grad`:
# by how much the loss changes with each number that arrived. That is all that the first half needs to go on with the
# chain rule, by `border.backward(gradient)`:

# %%
border.backward(arrived.grad)


def gradient_of(module):
    return torch.cat([parameter.grad.flatten() for parameter in module.parameters()])


model = whole_model()
F.cross_entropy(model(images), labels).backward()
right = gradient_of(model)
ours = torch.cat([gradient_of(first), gradient_of(second)])
print(f"largest difference to the whole model: {(ours - right).abs().max():.0e}")
assert torch.allclose(ours, right, rtol=1e-12, atol=1e-14)

# %%
outcome(
    "02-1.travels",
    f"Two tensors of shape {list(border.shape)}: the activations forward, and their "
    f"gradient back. No weight travels.",
    right="the activations one way, and their gradient the other way",
)

# %% [markdown]
# ### Exercise 1 · The step on two ranks
#
# ●●○ · 12 minutes · good for: everything else in this lesson is this, more often and in a better order.
#
# Now with messages. `dist.send(tensor, to)` and `dist.recv(tensor, from)` are **point-to-point messages** (점대점 통신): one
# rank sends, one receives. `recv` writes into a tensor that you have made ready; here `torch.empty_like(between)` has
# the right shape, in both directions.


# %% exercise: split_step
def split_step(stage, images, labels, between):
    """One forward and backward pass of a model in two halves; each rank calls this with
    its own half, `stage`.

    Afterwards the parameters of both halves have their gradients. Rank 0 uses `images`
    and returns None. Rank 1 uses `labels` and returns the mean cross-entropy. `between`
    has the shape and type of what travels.
    """
    ### BEGIN SOLUTION
    if dist.get_rank() == 0:
        border = stage(images)
        dist.send(border.detach(), 1)
        gradient = torch.empty_like(between)
        dist.recv(gradient, 1)
        border.backward(gradient)
        return None
    arrived = torch.empty_like(between)
    dist.recv(arrived, 0)
    arrived.requires_grad_()
    loss = F.cross_entropy(stage(arrived), labels)
    loss.backward()
    dist.send(arrived.grad, 0)
    return loss.detach()
    ### END SOLUTION


# %% check: split_step
checked = check.split_step(split_step, points=3)


### BEGIN HIDDEN TESTS
def _halves_of_a_chain(scale):
    torch.manual_seed(5)
    _chain = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 5)
    ).double()
    _x, _y = scale * torch.randn(7, 3, dtype=torch.float64), torch.arange(7) % 5
    _loss = F.cross_entropy(_chain(_x), _y)
    _right = torch.autograd.grad(_loss, list(_chain.parameters()))
    _mine, _theirs = ((_chain[:2], _right[:2]), (_chain[2:], _right[2:]))[
        dist.get_rank()
    ]
    _answer = split_step(_mine, _x, _y, torch.empty(7, 4, dtype=torch.float64))
    _off = max(
        (p.grad - g).abs().max().item()
        for p, g in zip(_mine.parameters(), _theirs, strict=True)
    )
    return _off, None if _answer is None else abs(float(_answer) - _loss.item())


for _scale in (1.0, 3.0):
    (_off_0, _none), (_off_1, _off_loss) = run_ranks(
        _halves_of_a_chain, _scale, world_size=2, timeout=30
    )
    assert max(_off_0, _off_1, _off_loss) < 1e-12
    assert _none is None
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – where do I start?</summary>
#
# With an `if dist.get_rank() == 0:`. Write down the five lines of rank 0 in order: compute, send, wait for something,
# go on with it, return. Then rank 1's, beside them: each `send` on one side needs a `recv` on the other.
# </details>
#
# <details><summary>Help – "met None where a tensor should be", or arrived.grad is None</summary>
#
# Autograd keeps gradients only of tensors that ask for one. A tensor that was filled by `recv` does not:
# `requires_grad_()` after the message, before the forward pass.
# </details>
#
# <details><summary>Help – "calls backward() on a whole tensor"</summary>
#
# Rank 0's output is no loss. It needs to be told how the loss depends on it: that is what comes back from rank 1.
# </details>

# %% [markdown]
# ## 2 · What the cut buys, and what it does not
#
# Each rank now holds half of the weights, half of their gradients, half of the optimizer's state. So a model of twice
# the size fits. And the time?
#
# The layers of one rank are a **stage** (스테이지). To see a *schedule* and nothing else, let the stages only sleep: 40 ms for a forward pass, 80 ms for a backward
# pass. (Ranks that compute may have to share cores, and you would measure that.) The messages are
# real.

# %%
predict(
    "02-1.busy",
    "Four ranks, each with a quarter of the model. What share of the time does a "
    "rank work?",
    ["nearly all of it: four work together", "about a half", "a quarter"],
)

# %%
naive = pipeline.gpipe(ranks=4, micro_batches=1)
seconds = pipeline.Costs(forward=0.04, backward=0.08)
ideal, measured = pipeline.simulate(naive, seconds), pipeline.measure(naive, seconds)
busy = 1 - measured.bubble
figures.show(
    draw_both(ideal, measured),
    f"One batch passes four ranks forward and back; only one works at a time. "
    f"Measured: each works {busy:.0%} of the time.",
)

# %%
outcome(
    "02-1.busy",
    f"{busy:.0%}: rank 1 waits for rank 0, rank 2 for rank 1 …, and all the way "
    f"back. At any time one rank works.",
    right="a quarter",
)

# %% [markdown]
# (The yellow steps show what each rank holds for its backward pass. More on that below.)
#
# Four devices, and not a second saved: the cut alone is about *memory*. The log has the way out: *GPU 끼리 pipeline 구조*, a
# pipeline between the GPUs. Cut the batch too, into **micro-batches** (마이크로배치). While rank 1 works on the first,
# rank 0 already works on the second, as on an assembly line.
#
# The gradient stays what it was: the mean over equal parts is the mean of the whole (lesson 01). Here with 4
# micro-batches, in one process:

# %%
model.zero_grad()
for x, y in zip(images.chunk(4), labels.chunk(4), strict=True):
    (F.cross_entropy(model(x), y) / 4).backward()
print(
    f"largest difference to the whole batch: "
    f"{(gradient_of(model) - right).abs().max():.0e}"
)

# %% [markdown]
# ## 3 · The bubble
#
# A **schedule** (스케줄) says in which order each rank does its forward and backward passes. The simplest is **GPipe**:
# all forward passes, then all backward passes. As code it is two lines; a schedule is nothing but lists:


# %%
def gpipe_order(rank, ranks, micro_batches):
    """Each rank the same: F0 F1 … B0 B1 …"""
    return [f"F{k}" for k in range(micro_batches)] + [
        f"B{k}" for k in range(micro_batches)
    ]


for rank in range(3):
    print(f"rank {rank}:", *gpipe_order(rank, 3, 4))

# %% [markdown]
# When each pass *runs* follows from the lists: a rank takes the next entry as soon as it is free and the input has
# arrived. The picture computes that. A number is a micro-batch, the yellow area is what a rank holds. The white is
# time in which a rank waits: the **bubble** (버블).
#
# Before you move anything, guess; then look:
#
# * More micro-batches: does the white get smaller, or does only the rest get longer? What happens to the yellow?
# * More ranks, with as many micro-batches as before?
# * A slower backward pass: does the *share* of the white change?
# * Then choose the schedule 1F1B. What changed, the white or the yellow? (The other two come in section 5.)

# %%
schedule_picture()

# %% [markdown]
# Why it has this size. Call the ranks p and the micro-batches m. Look at rank 0 in GPipe: it has work for m forward
# and m backward passes. Between them it waits until the last micro-batch has been through all p−1 other ranks, forward
# and back. So of m + (p−1) parts of time, p−1 are lost:
#
# $$\text{bubble} = \frac{p-1}{m+p-1}$$
#
# The time of a pass cancels out. The simulation computes with fractions, so it can be compared exactly:

# %%
for p, m in ((2, 2), (4, 4), (4, 8), (4, 32), (8, 32)):
    line = pipeline.simulate(pipeline.gpipe(p, m))
    print(
        f"p = {p}, m = {m:2}: simulated {line.bubble!s:>5}, formula "
        f"{pipeline.bubble(p, m)!s:>5} = {float(line.bubble):.1%}"
    )
    assert line.bubble == pipeline.bubble(p, m)

# %% [markdown]
# And on a clock, four sleeping ranks with real messages:

# %%
counts = (1, 2, 4, 8, 16)
short = pipeline.Costs(forward=0.02, backward=0.04)
waits = [pipeline.measure(pipeline.gpipe(4, m), short).bubble for m in counts]

# %%
figure, axes = figures.new(height=2.8)
axes.plot(counts, [100 * w for w in waits], "o", label="measured")
axes.plot(
    counts,
    [100 * float(pipeline.bubble(4, m)) for m in counts],
    "k--",
    linewidth=1,
    label="(p−1)/(m+p−1)",
)
axes.set(xlabel="micro-batches", ylabel="ranks wait (% of the time)", ylim=(0, 80))
axes.set_title(
    f"Four ranks wait {waits[0]:.0%} of the time with 1 micro-batch, {waits[-1]:.0%} "
    f"with 16"
)
axes.legend(frameon=False)
figures.show(
    figure,
    ", ".join(
        f"{m} micro-batches: {w:.0%}" for m, w in zip(counts, waits, strict=True)
    ),
)

# %% [markdown]
# ### Exercise 2 · The bubble
#
# ●○○ · 5 minutes · good for: judging a layout before you rent the GPUs.
#
# One more idea is in it. Let each rank hold v small pieces of the model instead of one large one. With p = 2 and
# v = 2, rank 0 holds the pieces 0 and 2, and rank 1 the pieces 1 and 3. (This is **interleaving**, 인터리빙; section 5 draws
# it.) Each piece takes only 1/v of the time. So filling and draining the pipeline takes 1/v of the time too, while
# the work of each rank stays the same. The micro-batches go through in groups of p, so with v > 1 their number must be
# a multiple of p.


# %% exercise: bubble
def bubble(ranks: int, micro_batches: int, pieces: int = 1) -> float:
    """The part of all time, from 0 to 1, that a rank waits; `pieces` is how many
    pieces of the model a rank holds.
    """
    ### BEGIN SOLUTION
    return (ranks - 1) / (pieces * micro_batches + ranks - 1)
    ### END SOLUTION


# %% check: bubble
checked = check.bubble(bubble, points=2)
### BEGIN HIDDEN TESTS
for _p, _m, _v in ((3, 5, 1), (6, 18, 3), (1, 4, 1), (10, 10, 2), (2, 1, 1)):
    assert abs(bubble(_p, _m, _v) - (_p - 1) / (_v * _m + _p - 1)) < 1e-6
assert abs(bubble(5, 4) - 0.5) < 1e-6
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – with one piece it is right, with more it is not</summary>
#
# Take a pass through one small piece as the unit of time. How many units of work does a rank have now? And how many
# units does it wait?
# </details>
#
# <details><summary>Help – my number is above 1, or "the waiting divided by the work"</summary>
#
# (p−1)/m is the waiting divided by the *work*. Papers use it too: read which of the two is meant. Here it is asked for
# as a part of *all* time, work and waiting.
# </details>
#
# What shrinks the bubble, then? More micro-batches; fewer ranks; more pieces per rank. Each has its price. Smaller
# micro-batches use a GPU less well; fewer ranks hold less; and more pieces send more messages:

# %%
for v in (1, 2, 4):
    schedule = pipeline.interleaved(4, 8, stages_per_rank=v)
    line = pipeline.simulate(schedule)
    messages = 2 * (schedule.stages - 1) * schedule.micro_batches
    print(
        f"{v} piece(s) per rank: the ranks wait {float(line.bubble):.0%} of the "
        f"time, {messages} messages per step"
    )

# %% [markdown]
# ## 4 · The same time, less memory
#
# A forward pass leaves behind what its backward pass will need: the **activations** (활성값). In GPipe all m micro-batches
# are under way when the first backward pass begins. **1F1B** (one forward, one backward) has the same bubble and starts
# each backward pass as early as it can.

# %%
predict(
    "02-1.memory",
    "Four ranks, eight micro-batches. For how many micro-batches does each rank hold "
    "activations at its worst moment, "
    "in 1F1B?",
    [
        "8 on each rank, as in GPipe",
        "4, 3, 2, 1",
        "4 on each rank",
        "1 on each rank: one forward, one backward",
    ],
)


# %%
def peak_bytes(schedule):
    """One real step of this schedule; the most bytes that autograd held on this rank
    for backward passes.
    """
    parts = pipeline.cut(whole_model(blocks=4), schedule.stages)
    mine = [parts[stage].to(device()) for stage in schedule.stages_of(dist.get_rank())]
    between = torch.empty(
        len(images) // schedule.micro_batches,
        8,
        32,
        dtype=torch.float64,
        device=device(),
    )
    runner = pipeline.Pipeline(schedule, mine, F.cross_entropy, between)
    runner.step(images.to(device()), labels.to(device()), record=True)
    return runner.record.peak_bytes


held = {
    s.name: run_ranks(peak_bytes, s, world_size=4)
    for s in (pipeline.gpipe(4, 8), pipeline.one_f_one_b(4, 8))
}

# %%
figure, axes = figures.new(height=2.6)
for offset, (name, sizes) in zip((-0.2, 0.2), held.items(), strict=True):
    axes.bar(
        [rank + offset for rank in range(4)],
        [size / 1e6 for size in sizes],
        0.38,
        label=name,
    )
axes.set(xlabel="rank", ylabel="activations held (MB)")
axes.set_xticks(range(4))
saved = [old / new for old, new in zip(*held.values(), strict=True)]
axes.set_title(
    f"GPipe holds {saved[0]:.1f}, {saved[1]:.1f}, {saved[2]:.1f}, {saved[3]:.1f} "
    f"times what 1F1B holds"
)
axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
figures.show(
    figure,
    "; ".join(
        f"{name}: {[round(size / 1e6, 2) for size in sizes]} MB"
        for name, sizes in held.items()
    ),
)

# %%
peaks = [pipeline.simulate(pipeline.one_f_one_b(4, 8)).peak(rank) for rank in range(4)]
outcome(
    "02-1.memory",
    f"Simulated: {', '.join(map(str, peaks))}. Measured in bytes of the transformer, "
    f"GPipe's eight are "
    f"{saved[0]:.1f} times as much on rank 0 and {saved[3]:.1f} times on rank 3.",
    right="4, 3, 2, 1",
)

# %% [markdown]
# In 1F1B the peak depends on the ranks, and no longer on the number of micro-batches. So you can take many, for a small
# bubble, without paying in memory.
#
# ### Exercise 3 · Write 1F1B
#
# ●●○ · 10 minutes · good for: reading any pipeline library; their schedules are such lists.
#
# Go back to the picture with 1F1B, 4 ranks and 8 micro-batches, and read each row from left to right. Each rank begins
# with some forward passes (its **warm-up**, 워밍업), then alternates one forward and one backward, and ends with the
# backward passes that are left. How does the warm-up depend on the rank? What if there are fewer micro-batches than
# ranks?


# %% exercise: one_f_one_b_order
def one_f_one_b_order(rank: int, ranks: int, micro_batches: int) -> list[str]:
    """The order of 1F1B for one rank, as entries like "F0" and "B0":
    pass and micro-batch.
    """
    ### BEGIN SOLUTION
    warm_up = min(ranks - 1 - rank, micro_batches)
    order = [f"F{k}" for k in range(warm_up)]
    for k in range(micro_batches):
        if warm_up + k < micro_batches:
            order.append(f"F{warm_up + k}")
        order.append(f"B{k}")
    return order
    ### END SOLUTION


# %% check: one_f_one_b_order
checked = check.one_f_one_b_order(one_f_one_b_order, points=3)
### BEGIN HIDDEN TESTS
assert list(one_f_one_b_order(0, 3, 5)) == [
    "F0",
    "F1",
    "F2",
    "B0",
    "F3",
    "B1",
    "F4",
    "B2",
    "B3",
    "B4",
]
assert list(one_f_one_b_order(2, 3, 3)) == ["F0", "B0", "F1", "B1", "F2", "B2"]
assert list(one_f_one_b_order(0, 6, 2)) == ["F0", "F1", "B0", "B1"]
assert list(one_f_one_b_order(0, 1, 2)) == ["F0", "B0", "F1", "B1"]
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – how many forward passes first?</summary>
#
# The last rank can go backward right after its first forward pass: it needs no warm-up. Each rank before it has to
# bridge one forward pass more, until its first gradient comes back.
# </details>
#
# <details><summary>Help – the check says that the orders block each other</summary>
#
# Its sentence names two entries. Find them in the two lists. Does a rank wait for a gradient whose forward pass the
# next rank has not been sent yet?
# </details>

# %% [markdown]
# ## 5 · Interleaved, and zero-bubble
#
# Two schedules go further. Look at each in the picture of section 3 too, with 4 ranks and 8 micro-batches.
#
# **Interleaved 1F1B** (Narayanan et al. 2021): v pieces per rank, as in exercise 2. Rank 0 gets its second turn long
# before the first micro-batch is through.
#
# **Zero-bubble** (Qi et al. 2023): a backward pass has two halves. The gradient of the *input* is what the rank before
# waits for. No rank waits for the gradient of the *weights*, until the optimizer's step. So the second half can be put
# off, and fill the gaps. This is their schedule ZB-H1, which keeps to the memory of rank 0 in 1F1B.

# %%
predict(
    "02-1.zero",
    "Four ranks, eight micro-batches, a backward pass twice as long as a forward "
    "pass. 1F1B waits 27% of the time. "
    "And ZB-H1?",
    [
        "0%: it is called zero-bubble",
        "about 11%",
        "about 20%",
        "27% too, but with less memory",
    ],
)

# %%
results = {}
for name, make in pipeline.SCHEDULES.items():
    schedule = make(4, 8)
    results[name] = (
        pipeline.simulate(schedule, seconds),
        pipeline.measure(schedule, seconds),
    )
    simulated, clock = results[name]
    memory = max(float(simulated.peak(rank)) for rank in range(4))
    print(
        f"{name:20} waits {simulated.bubble:6.1%} by the rules, {clock.bubble:6.1%} "
        f"measured; holds up to {memory:g}"
    )

# %%
for name in ("interleaved 1F1B", "zero-bubble (ZB-H1)"):
    simulated, clock = results[name]
    figures.show(
        draw_both(simulated, clock),
        f"{name} on 4 ranks with 8 micro-batches, simulated above measured: waits "
        f"{simulated.bubble:.1%} and "
        f"{clock.bubble:.1%} of the time.",
    )

# %%
ideal_zero = results["zero-bubble (ZB-H1)"][0].bubble
outcome(
    "02-1.zero",
    f"{ideal_zero:.0%}. What is left is the start: the last rank cannot begin before "
    f"the first micro-batch has come "
    "through the three others, 3 forward passes. After that it never waits.",
    right="about 11%",
)

# %% [markdown]
# So ZB-H1 is not zero: with one piece per rank, and a step that begins and ends together, it cannot be less. The paper
# goes to zero by letting the next step begin before all ranks have finished this one, and pays with more memory.
#
# The order of the four in bubble and in memory is not the same. That is why there are four: **choose by what you are
# short of**.

# %% [markdown]
# ## 6 · Break-it lab: two ranks that both listen
#
# (This lab runs on the CPU, where it fails in the same way on every machine.)
#
# A colleague makes rank 1 faster: it fetches the *next* micro-batch before it computes the current one, so that the
# message is hidden behind the computing. A good idea. Rank 0 is the plain loop.


# %%
def receive(between, source):
    """Wait for a tensor like `between`."""
    tensor = torch.empty_like(between)
    dist.recv(tensor, source)
    return tensor


def second_rank(stage, targets, between):
    """Rank 1: always one micro-batch ahead in fetching.

    Returns the mean loss over all micro-batches.
    """
    losses = []
    following = receive(between, 0)
    for k, target in enumerate(targets):
        arrived = following.requires_grad_()
        if k + 1 < len(targets):
            following = receive(between, 0)
        losses.append(F.cross_entropy(stage(arrived), target) / len(targets))
        losses[-1].backward()
        dist.send(arrived.grad, 0)
    return sum(losses).detach()


# %%
def colleagues_step(stage, inputs, targets, between):
    """One step of a model in two halves;
    `inputs` and `targets` are lists of micro-batches.
    """
    if dist.get_rank() == 1:
        return second_rank(stage, targets, between)
    for x in inputs:
        border = stage(x)
        dist.send(border.detach(), 1)
        border.backward(receive(between, 1))
    return None


def start(step, count):
    """Run a step on this rank's half, with `count` micro-batches."""
    half = pipeline.cut(whole_model(), 2)[dist.get_rank()]
    between = torch.empty(len(images) // count, 8, 32, dtype=torch.float64)
    loss = step(half, images.chunk(count), labels.chunk(count), between)
    return loss, gradient_of(half)


# %%
predict(
    "02-1.deadlock",
    "It works with one micro-batch. With four?",
    [
        "it works: each send has its receive",
        "both ranks wait in recv: rank 0 for a gradient, rank 1 for an activation",
        "both ranks wait in send: each for the other to receive",
        "rank 1 fails: its second fetch finds no message",
    ],
)

# %%
ON_CPU = {"CUDA_VISIBLE_DEVICES": ""}
print(
    "1 micro-batch: loss",
    run_ranks(start, colleagues_step, 1, world_size=2, env=ON_CPU)[1][0].item(),
)
try:
    run_ranks(start, colleagues_step, 4, world_size=2, timeout=4, env=ON_CPU)
except RankTimeout as error:
    print(error)

# %% [markdown]
# No error came from PyTorch: the time limit ended it. A **deadlock** (교착 상태) is a ring of waiting. Read the **stack**
# (스택) of each rank from the bottom, and ask:
#
# 1. In which call does each rank wait, and in which line of *your* code was that call?
# 2. What would rank 0's wait need? What must rank 1 do first, to send it?
# 3. And rank 1's wait? What must rank 0 do first?

# %%
outcome(
    "02-1.deadlock",
    "Rank 0 waits for the gradient of micro-batch 0 before it sends micro-batch 1; "
    "rank 1 waits for micro-batch 1 "
    "before it computes micro-batch 0. Both are in recv, and nobody is left to send.",
    right="both ranks wait in recv: rank 0 for a gradient, rank 1 for an activation",
)

# %% [markdown]
# The same can be seen before anything runs. Written as orders, the simulation refuses them, and names the ring. (1F1 is stage 1, forward pass, micro-batch 1.)

# %%
A = pipeline.Action
orders = (
    (A("F", 0, 0), A("B", 0, 0), A("F", 0, 1), A("B", 0, 1)),
    (A("F", 1, 0), A("F", 1, 1), A("B", 1, 0), A("B", 1, 1)),
)
try:
    pipeline.simulate(
        pipeline.Schedule(
            "the colleague's", micro_batches=2, stages_per_rank=1, orders=orders
        )
    )
except pipeline.Deadlock as error:
    print(error)

# %% [markdown]
# ### Exercise 4 · Repair rank 0
#
# ●●○ · 8 minutes · good for: finding a ring of waits in a pipeline written by hand.
#
# Rank 1 stays as it is: fetching early is worth having. Write the loop of rank 0 that goes with it. Which of the
# schedules of this lesson does it become?


# %% exercise: repaired_step
def repaired_step(stage, inputs, targets, between):
    """One step of a model in two halves; `inputs` and `targets` are lists of
    micro-batches, one or more.

    Afterwards both halves have the gradients of the mean loss. Rank 0 returns None,
    rank 1 the loss.
    """
    if dist.get_rank() == 1:
        return second_rank(stage, targets, between)
    ### BEGIN SOLUTION
    under_way = []
    for k, x in enumerate(inputs):
        under_way.append(stage(x))
        dist.send(under_way[k].detach(), 1)
        if k > 0:
            under_way[k - 1].backward(receive(between, 1))
    under_way[-1].backward(receive(between, 1))
    ### END SOLUTION
    return None


# %% check: repaired_step
checked = check.repaired_step(repaired_step, points=3)
### BEGIN HIDDEN TESTS
for _count in (1, 3, 8):
    (_none, _grad_0), (_loss, _grad_1) = run_ranks(
        start, repaired_step, _count, world_size=2, timeout=30, env=ON_CPU
    )
    assert torch.allclose(torch.cat([_grad_0, _grad_1]), right, rtol=1e-9, atol=1e-12)
    assert (
        abs(float(_loss) - F.cross_entropy(whole_model()(images), labels).item()) < 1e-9
    )
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – it still hangs with three micro-batches</summary>
#
# Draw two columns, one per rank, and write the sends and receives of each in order. Rank 1's column is given: receive 0,
# receive 1, send back 0, receive 2, send back 1 … Each line needs its partner in rank 0's column, in this order.
# </details>
#
# <details><summary>Help – "rank 1 waited for a rank that had already finished"</summary>
#
# Count the gradients that come back: as many as there were micro-batches. How many does your loop take? Look at the
# last.
# </details>
#
# **The rule:** before you write a `recv`, ask what the other rank must have received to be able to send it. A schedule
# answers that for all ranks at once; so write the schedule first, and let one runner execute it.

# %% [markdown]
# ## 7 · Scale up
#
# `pipeline.Pipeline` is that runner: it works through its rank's order, sends without waiting (`isend`), and receives
# when an action needs it. Here it trains on one, two and four ranks, with SGD. The losses must be those of one
# process.


# %%
def train(make, micro_batches, steps=6):
    """Train with the schedule `make(ranks, micro_batches)`; the losses on the last
    rank, None on the others.
    """
    schedule = make(dist.get_world_size(), micro_batches)
    parts = pipeline.cut(whole_model(blocks=8), schedule.stages)
    mine = torch.nn.ModuleList(
        parts[s].to(device()) for s in schedule.stages_of(dist.get_rank())
    )
    between = torch.empty(
        len(images) // micro_batches, 8, 32, dtype=torch.float64, device=device()
    )
    runner = pipeline.Pipeline(schedule, mine, F.cross_entropy, between)
    optimizer = torch.optim.SGD(mine.parameters(), lr=0.3)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        losses.append(runner.step(images.to(device()), labels.to(device())))
        optimizer.step()
    return losses[0] if losses[0] is None else torch.stack(losses).cpu()


# %%
model = whole_model(blocks=8)
optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
alone = []
for _ in range(6):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    alone.append(loss.item())
print("one process, no pipeline:", [round(value, 4) for value in alone])

# %%
for name, make in pipeline.SCHEDULES.items():
    for ranks in (1, 2, 4):
        losses = run_ranks(train, make, 4, world_size=ranks)[-1]
        off = (losses - torch.tensor(alone, dtype=torch.float64)).abs().max().item()
        print(f"{name:20} {ranks} rank(s): largest difference over 6 steps {off:.0e}")
        assert off < 1e-9

# %% [markdown]
# ### PyTorch's own
#
# `torch.distributed.pipelining` has GPipe, 1F1B and interleaved 1F1B too, and other zero-bubble schedules. You give it your rank's stage; it finds the shapes, sends and
# receives:


# %%
def with_torch(schedule_class, micro_batches):
    """One step of PyTorch's pipeline; the gradients of this rank's stage."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    part = pipeline.cut(whole_model(), ranks)[rank].to(device())
    stage = pp.PipelineStage(part, rank, ranks, device())
    runner = schedule_class(stage, micro_batches, loss_fn=F.cross_entropy)
    runner.step(
        *([images.to(device())] if rank == 0 else []),
        target=labels.to(device()) if rank == ranks - 1 else None,
    )
    return gradient_of(part).cpu()


for schedule_class in (pp.ScheduleGPipe, pp.Schedule1F1B):
    for ranks in (2, 4):
        theirs = torch.cat(run_ranks(with_torch, schedule_class, 4, world_size=ranks))
        off = (theirs - right).abs().max().item()
        print(
            f"{schedule_class.__name__}, {ranks} ranks: largest difference to the "
            f"unsplit model {off:.0e}"
        )
        assert off < 1e-12

# %% [markdown]
# ### Out of the notebook
#
# On several GPUs or machines it is the same function, started by `torchrun`. All that it needs goes into it:


# %%
def train_pipeline(micro_batches=4, steps=6):
    """1F1B over all ranks that there are."""
    torch.manual_seed(0)
    images, labels = (part[:48].to(device()) for part in digits()[:])
    schedule = pipeline.one_f_one_b(dist.get_world_size(), micro_batches)
    stage = pipeline.cut(row_transformer(blocks=8), schedule.stages)[
        dist.get_rank()
    ].to(device())
    between = torch.empty(48 // micro_batches, 8, 32, device=device())
    runner = pipeline.Pipeline(schedule, [stage], F.cross_entropy, between)
    optimizer = torch.optim.SGD(stage.parameters(), lr=0.3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = runner.step(images, labels)
        optimizer.step()
    return loss


print("last loss:", run_ranks(train_pipeline, world_size=4)[-1].item())
export_script(train_pipeline, "train_pipeline.py", overwrite=True)

# %% [markdown]
# ```
# torchrun --standalone --nproc-per-node=4 train_pipeline.py                       # one machine, four ranks
# torchrun --nnodes=2 --nproc-per-node=4 --rdzv-backend=c10d \
#          --rdzv-endpoint=FIRST_MACHINE:29500 train_pipeline.py                   # two machines, on each of them
# ```
#
# Between two stages, one tensor per micro-batch goes forward and one gradient comes back. That grows with the tokens of a
# batch; what data parallelism sends grows with the weights. The messages go to one neighbor only, and can travel while other
# micro-batches are computed. So pipelines are what large training runs stretch *between* machines. Other cuts go through the middle of each layer. In 2012, **AlexNet** put
# half of the kernels of each layer on each of two GPUs. The 3 GB of one were too few (Krizhevsky et al., section
# 3.2). Today that cut is called **tensor parallelism** (텐서 병렬화).

# %%
weights = sum(parameter.numel() for parameter in whole_model(blocks=8).parameters())
message = len(images) // 4 * 8 * 32
print(
    f"a border of the pipeline: {2 * 4 * message:,} numbers per step, forward and "
    f"back, with 4 micro-batches"
)
print(
    f"a rank of 4 in a data-parallel ring sends {2 * 3 * weights // 4:,} numbers per "
    f"step"
)

# %% [markdown]
# ## 8 · What the log said
#
# | The log | The evidence here | Corrected |
# |---|---|---|
# | 모델/데이터 나누기 (2가지): split the model or the data, two ways | Section 1: activations and their gradient travel, no weight. In lesson 01 the gradients of all weights did. | Two ways, and they send different things. They combine: each stage may have data-parallel copies. |
# | 모델 병렬화는 고난이도!: model parallelism is hard | Sections 1 and 6: who sends what, in which order; a wrong order raises no error, it hangs. | Hard where it is written by hand. With the order as data it can be simulated before it runs. |
# | GPU 끼리 pipeline 구조 만들어서 병렬화 성능 향상: a pipeline between the GPUs makes it faster | Sections 2 and 3, and the cell below. | The cut alone saves memory and no time. **Micro-batches** in a pipeline save time, up to the bubble. |

# %%
for m, wait in zip(counts, waits, strict=True):
    print(
        f"{m:2} micro-batches on 4 ranks: each rank works {1 - wait:.0%} of the "
        f"time: {4 * (1 - wait):.1f} ranks' worth"
    )

# %% [markdown]
# ## Take away
#
# * Cut a model, and two things travel at each border: activations forward, their gradient back.
# * The cut alone leaves all ranks but one idle. Micro-batches make a pipeline of it.
# * Bubble = (p−1)/(m+p−1), or (p−1)/(v·m+p−1) with v pieces per rank. More micro-batches shrink it, more ranks swell it.
# * GPipe holds all m micro-batches. 1F1B takes the same time and holds p−r on rank r.
# * Interleaving pays with messages and memory; zero-bubble splits the backward pass and fills gaps with weight
#   gradients.
# * Both in `recv`: ask what each waits for, and what the other must do first.
#
# ### Glossary
#
# | English | 한국어 | here |
# |---|---|---|
# | model parallelism | 모델 병렬화 | each device holds a part of the model |
# | pipeline parallelism | 파이프라인 병렬화 | the parts are groups of layers, and micro-batches flow through |
# | stage | 스테이지 | a group of layers that lives on one rank |
# | point-to-point message | 점대점 통신 | one rank sends, one receives |
# | micro-batch | 마이크로배치 | a part of the batch that goes through at once |
# | schedule | 스케줄 | the order of passes on each rank |
# | bubble | 버블 | time in which ranks wait |
# | activations | 활성값 | what a forward pass leaves for the backward pass |
# | warm-up | 워밍업 | the forward passes before a rank's first backward pass |
# | interleaving | 인터리빙 | several small pieces of the model per rank |
# | deadlock | 교착 상태 | a ring of ranks that wait for each other |
# | stack | 스택 | the calls a process is in, innermost last |
#
# ### Further reading
#
# * Huang et al. 2019, [GPipe](https://arxiv.org/abs/1811.06965): micro-batches and the bubble.
# * Narayanan et al. 2020, [Memory-Efficient Pipeline-Parallel DNN Training](https://arxiv.org/abs/2006.09503): 1F1B with a
#   flush; and 2021, [Efficient Large-Scale Language Model Training on GPU Clusters](https://arxiv.org/abs/2104.04473):
#   interleaving, and how the kinds of parallelism combine.
# * Qi et al. 2023, [Zero Bubble Pipeline Parallelism](https://arxiv.org/abs/2401.10241): the split backward pass.
# * PyTorch, [torch.distributed.pipelining](https://docs.pytorch.org/docs/stable/distributed.pipelining.html).
# * Krizhevsky et al. 2012, [ImageNet Classification with Deep Convolutional Neural
#   Networks](https://proceedings.neurips.cc/paper/2012/hash/c399862d3b9d6b76c8436e924a68c45b-Abstract.html): AlexNet, over
#   two GPUs.
#
# **Next notebook:** [tensor parallelism](2_tensor_parallel.ipynb), a cut through every layer. **Questions on this lesson:**
# [quiz](quiz.ipynb).
