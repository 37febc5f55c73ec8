# %% [markdown]
# # FSDP by hand
#
# **{minutes} minutes** · one CPU is enough (two to four processes); with several GPUs, each process takes one · before this:
# [averaging](1_averaging.ipynb), [the ring and DDP](2_distributed_data_parallel.ipynb), [memory and scaling](3_memory_and_scaling.ipynb)
#
# Notebook 3 had a line for **FSDP** (fully sharded data parallel, 완전 샤딩 데이터 병렬) in a table: parameters, gradients and optimizer numbers,
# all shared out. Here you build it. At the end your
# model trains like PyTorch's `fully_shard` and like one process, weight for weight, and you know what each rank holds at each moment.
#
# **After this notebook you can**
#
# 1. lay a unit of a model out as flat shards, and put it together again;
# 2. say which messages a step of FSDP sends, and what a rank holds in between;
# 3. find the silent fault of clipping each rank by its own norm, and repair it;
# 4. say which numbers of a mixed-precision run have 16 bits, and which have 32;
# 5. load shards that two ranks saved on one rank, or on four.

# %% setup

# %%
from torchcourse.quiz import outcome, predict, recall

recall("01_data_parallelism")

# %%
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from torchcourse import environment, figures
from torchcourse.data import mnist
from torchcourse.lessons.data_parallelism import checks as check
from torchcourse.lessons.data_parallelism import flat_shards, sharding
from torchcourse.lessons.data_parallelism.data_parallel import largest_difference
from torchcourse.lessons.data_parallelism.flat_shards import FlatShards
from torchcourse.lessons.data_parallelism.flat_shards_picture import draw_held
from torchcourse.lessons.data_parallelism.memory import measure_memory
from torchcourse.lessons.data_parallelism.messages import listed_messages
from torchcourse.lessons.data_parallelism.prefetch import modeled_step
from torchcourse.lessons.data_parallelism.prefetch_picture import prefetching_picture
from torchcourse.ranks import device, run_ranks

print(environment.hardware())

# %% [markdown]
# ## 1 · One unit, one flat shard
#
# FSDP cuts a model into **units** (유닛): here, each child of the model. In a large language model a unit is one block. Our model
# has six. Each has a weight and a bias, so two tensors. Sent one by one, small tensors waste messages: notebook 3's α. So FSDP lays the tensors of
# a unit end to end in one **flat** tensor, and cuts that into N equal **shards** (샤드), one per rank.


# %%
def make_model(dtype=torch.float64):
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(196, 196), nn.ReLU()) for _ in range(5)]
    model = nn.Sequential(*blocks, nn.Linear(196, 10))
    return model.to(device(), dtype)


for name, unit in make_model().named_children():
    shapes = [list(parameter.shape) for parameter in unit.parameters()]
    print(
        f"unit {name}: {shapes}, "
        f"{sum(parameter.numel() for parameter in unit.parameters())} numbers"
    )

# %%
predict(
    "01-4.padding",
    "The last unit has 1970 numbers. How many does each of 4 ranks keep?",
    ["492 or 493", "493 on each rank", "492 on three ranks, 494 on the last"],
)

# %%
last = list(make_model()[-1].parameters())
shards = [flat_shards.own_shard(last, rank, 4) for rank in range(4)]
print("lengths:", [len(shard) for shard in shards])
print("the end of rank 3's:", [round(number, 3) for number in shards[3][-4:].tolist()])
outcome(
    "01-4.padding",
    f"{[len(shard) for shard in shards]}: two zeros fill up the last shard.",
    right="493 on each rank",
)

# %% [markdown]
# An all-gather puts equal pieces side by side, so shards are equal. The zeros at the end are called **padding** (패딩). They are trained too: their gradient
# is zero, and they stay zero.
#
# ### Exercise 1 · The shard of a rank
#
# ●○○ · 5 minutes · good for: this is the memory that FSDP saves, and a view would save nothing.
#
# Lay the tensors end to end, in their order, each row by row. Add zeros until N divides the length. Return block number `rank`, as a tensor of its own: the flat
# tensor must be free to go.


# %% exercise: own_shard
def own_shard(tensors: list[torch.Tensor], rank: int, world_size: int) -> torch.Tensor:
    """Return this rank's shard of the tensors: one flat tensor, with zeros at the
    end where needed.
    """
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    ### BEGIN SOLUTION
    padded = F.pad(flat, (0, -len(flat) % world_size))
    return padded.chunk(world_size)[rank].clone()
    ### END SOLUTION


# %% check: own_shard
checked = check.own_shard(own_shard, points=2)
### BEGIN HIDDEN TESTS
for _shapes, _ranks in (
    ([(4, 2), (2,)], 3),
    ([(5,), (1,)], 4),
    ([(8,)], 4),
    ([(2,)], 5),
):
    _tensors = [torch.randn(shape) for shape in _shapes]
    _found = [own_shard(_tensors, rank, _ranks) for rank in range(_ranks)]
    _flat = torch.cat([tensor.reshape(-1) for tensor in _tensors])
    assert {len(shard) for shard in _found} == {-(-len(_flat) // _ranks)}
    assert torch.equal(torch.cat(_found)[: len(_flat)], _flat)
    assert not torch.cat(_found)[len(_flat) :].any()
    assert all(shard.untyped_storage().nbytes() == 4 * len(shard) for shard in _found)
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "your shard is a view"</summary>
#
# A slice has no memory of its own: it points into the flat tensor, which then stays. `tensor.clone()` makes a copy.
# </details>
#
# <details><summary>Help – I get "How many does it need when N divides the length already?"</summary>
#
# `-7 % 4` is 1 in Python, and `-8 % 4` is 0.
# </details>

# %% [markdown]
# ## 2 · Gather, compute, free
#
# A rank cannot compute with a quarter of a layer. Before a unit computes, an **all-gather** brings its shards together. Then the flat tensor is cut into views with the shapes of
# weight and bias. After it has computed, the memory is given back: the unit is **resharded** (재샤딩). One layer on two ranks, by hand:


# %%
def one_layer():
    layer = make_model()[0][0]
    tensors = [parameter.detach() for parameter in layer.parameters()]
    whole = F.linear(torch.ones_like(tensors[0][:1]), *tensors)
    shard = flat_shards.own_shard(tensors, dist.get_rank(), 2)
    full = torch.empty(2 * len(shard), dtype=shard.dtype, device=shard.device)
    dist.all_gather(list(full.chunk(2)), shard)
    weight, bias = flat_shards.unflatten(full, [tensor.shape for tensor in tensors])
    again = F.linear(torch.ones_like(weight[:1]), weight, bias)
    before = full.untyped_storage().nbytes()
    # the memory is gone; the views are still there, of nothing
    full.untyped_storage().resize_(0)
    return (
        torch.equal(whole, again),
        shard.untyped_storage().nbytes(),
        before,
        full.untyped_storage().nbytes(),
    )


same, shard_bytes, full_bytes, after = run_ranks(one_layer, world_size=2)[0]
print(
    f"same output: {same}; shard {shard_bytes} bytes; gathered {full_bytes} bytes; "
    f"after the layer {after} bytes"
)

# %% [markdown]
# The backward pass needs the weights a second time: the gradient of a layer's input is computed from them. Autograd has kept the views, but their
# memory is gone. So FSDP gathers the unit again, into the same place.

# %%
predict(
    "01-4.messages",
    "A step of our model with six units: how many messages does FSDP send, "
    "all-gathers and reduce-scatters together?",
    [
        "6: one per unit",
        "12: two per unit",
        "18: three per unit",
        "36: three per tensor",
    ],
)

# %% [markdown]
# `FlatShards` in `flat_shards.py` does this for a whole model, in about 120 lines of code. Hooks do the work: before and after a unit's forward pass, before its backward
# pass, and when its gradients are complete. `listed_messages` sees every collective, also those inside PyTorch's own `fully_shard`.


# %%
def wrapped(way, model, **options):
    """Return the parameters that this rank trains, a function that returns all
    weights, and our FlatShards.
    """
    if way == "by hand":
        sharded = FlatShards(model, **options)
        return sharded.shards, lambda: list(sharded.full_parameters().values()), sharded
    if way == "fully_shard":
        # fully_shard(child) for each child, then fully_shard(model)
        sharding.shard_with_fsdp2(model)
    return (
        list(model.parameters()),
        lambda: [w.cpu() for w in sharding.full_parameters(model).values()],
        None,
    )


images, labels = mnist()[:192]
images = F.avg_pool2d(images, 2).flatten(1).double()  # 14 × 14 pixels


def batches(batch=48):
    """Give this rank's share of each batch."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    for x, y in zip(images.split(batch), labels.split(batch), strict=True):
        yield x.chunk(ranks)[rank].to(device()), y.chunk(ranks)[rank].to(device())


# %%
def messages_of_a_step(way, **options):
    model = make_model()
    wrapped(way, model, **options)
    x, y = next(batches())
    with listed_messages() as messages:
        F.cross_entropy(model(x), y).backward()
    return messages


sent = {
    way: run_ranks(messages_of_a_step, way, world_size=2)[0]
    for way in ("by hand", "fully_shard")
}
for way, messages in sent.items():
    kinds = {
        kind: [m.size for m in messages if m.kind == kind]
        for kind in ("all-gather", "reduce-scatter")
    }
    text = ", ".join(
        f"{len(sizes)} {kind}s of {sum(sizes)} bytes in all"
        for kind, sizes in kinds.items()
    )
    print(f"{way:11}: {text}")
assert len(sent["by hand"]) == len(sent["fully_shard"]) == 18

# %%
outcome(
    "01-4.messages",
    f"{len(sent['by hand'])} messages by hand, {len(sent['fully_shard'])} in "
    f"fully_shard.",
    right="18: three per unit",
)

# %% [markdown]
# Gather for the forward pass, gather for the backward pass, reduce-scatter: each sends (N−1)/N of the model per rank. That is three times (N−1)/N, and DDP's all-reduce is two times. So FSDP sends **half as
# much again**, as notebook 3 said.
#
# ## 3 · Reduce-scatter: each rank gets the mean of its own shard
#
# After its backward pass a unit has whole gradients on every rank, each from its own samples. The optimizer of rank r needs the mean, but of shard r only. A **reduce-scatter** adds up
# the flat gradients of all ranks and leaves rank r the part r of the sum. It is the first half of notebook 2's ring.
#
# ### Exercise 2 · The mean gradient of a shard
#
# ●●○ · 8 minutes · good for: the line of FSDP in which averaging happens.
#
# `parts` are the N blocks of this rank's flat gradient, zeros added. Return this rank's block of the *mean*, a flat tensor. Use a
# collective that leaves each rank its own part: `dist.reduce_scatter(output, list_of_parts)` does. An all-reduce would be right and send twice as much: the check counts.


# %% exercise: mean_shard
def mean_shard(gradients: list[torch.Tensor]) -> torch.Tensor:
    """Return this rank's shard of the mean of all ranks' gradients.
    All ranks call it.
    """
    world_size = dist.get_world_size()
    parts = flat_shards.flatten(gradients, world_size).chunk(world_size)
    ### BEGIN SOLUTION
    own = torch.empty_like(parts[0])
    dist.reduce_scatter(own, list(parts))
    return own / world_size
    ### END SOLUTION


# %% check: mean_shard
checked = check.mean_shard(mean_shard, points=2)


### BEGIN HIDDEN TESTS
def _hidden_mean():
    rank = dist.get_rank()
    return mean_shard(
        [
            torch.full((2, 3), 1.0 + rank, device=device()),
            torch.arange(3.0, device=device()) * rank,
        ]
    ).cpu()


_found = torch.cat(run_ranks(_hidden_mean, world_size=4, timeout=30))
assert torch.allclose(_found, torch.tensor([2.5] * 6 + [0.0, 1.5, 3.0] + [0.0] * 3))
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "2 times too large: they are sums"</summary>
#
# Gradients of N ranks were added up. Divide by N, once.
# </details>
#
# <details><summary>Help – I get "the values are right, but a rank sends …"</summary>
#
# An all-reduce brings the whole sum to every rank, and you throw most of it away. Reduce-scatter stops half-way.
# </details>

# %% [markdown]
# ## 4 · Equal, step by step, and in bytes
#
# One process, our FSDP and PyTorch's, with Adam, from the same start. After each of four steps all weights are put together and compared.


# %%
def train(way, **options):
    model = make_model()
    parameters, weights, _ = wrapped(way, model, **options)
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    course = []
    for x, y in batches():
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        course.append([weight.cpu().clone() for weight in weights()])
    holder = nn.ParameterList(parameters) if way == "by hand" else model
    return course, measure_memory(holder, optimizer).total


# %%
one, one_bytes = run_ranks(train, "one process", world_size=1)[0]
for ranks in (2, 4):
    for way in ("by hand", "fully_shard"):
        course, size = run_ranks(train, way, world_size=ranks)[0]
        off = [
            largest_difference(ours, reference)
            for ours, reference in zip(course, one, strict=True)
        ]
        print(
            f"{way:11} on {ranks} ranks: off by "
            f"{', '.join(f'{x:.0e}' for x in off)}; {size / one_bytes:.4f} of the "
            f"bytes"
        )
        assert max(off) < 1e-6

# %% [markdown]
# Equal up to rounding, and 1/N of the bytes: each rank holds its shards, their gradients and their Adam numbers. Where the fraction is a little above 1/N, that is padding. FSDP2
# cuts each parameter by its rows, and pads it where N does not divide them. For the message it puts the pieces end to end.
#
# These are the bytes *between* steps. In a step, gathered units come on top. Does a unit have to go after its forward pass?

# %%
predict(
    "01-4.reshard",
    "With reshard_after_forward=False a unit stays whole from its forward to its "
    "backward pass. What follows?",
    [
        "fewer messages, more memory",
        "fewer messages, same memory",
        "same messages, more memory",
    ],
)


# %%
def events_of_a_step(**options):
    model = make_model()
    *_, sharded = wrapped("by hand", model, **options)
    x, y = next(batches())
    with listed_messages() as messages:
        F.cross_entropy(model(x), y).backward()
    return sharded.events, len(messages)


# %%
settings = {
    "reshard": {},
    "reshard, prefetch 1": {"prefetch": 1},
    "no reshard": {"reshard_after_forward": False},
}
results = {
    name: run_ranks(partial(events_of_a_step, **options), world_size=4)[0]
    for name, options in settings.items()
}
events = {name: run[0] for name, run in results.items()}
whole = sum(parameter.numel() * 8 for parameter in make_model().parameters())
figures.show(
    draw_held(events, whole),
    "Parameters on a rank over a step, measured, for three settings of FSDP and for "
    "DDP.",
)

# %%
most = {name: max(event.held for event in run) / whole for name, run in events.items()}
count = {name: run[1] for name, run in results.items()}
outcome(
    "01-4.reshard",
    f"Messages: {count['no reshard']} instead of {count['reshard']}. Most parameters "
    f"held: {most['no reshard']:.0%} of the model instead of {most['reshard']:.0%}.",
    right="fewer messages, more memory",
)

# %% [markdown]
# The peak is the shards plus the units that are gathered at the time. **So units should be of equal size, and small beside the model**, but not tiny: each costs three messages. A model that is one single unit
# is gathered all at once, and FSDP saves only between steps. The gradients of one unit are whole for a moment too; the picture leaves them out.

# %% [markdown]
# ## 5 · Prefetch: gather the next unit while this one computes
#
# The order of events on a rank tells who waits. Without **prefetch** (미리 가져오기) a unit's gather starts when the unit before has finished:

# %%
for name in ("reshard", "reshard, prefetch 1"):
    start = [
        f"{event.action} {event.unit}"
        for event in events[name][:11]
        if event.action != "freed"
    ]
    print(f"{name:20}", " → ".join(start))
for way, messages in sent.items():
    print(
        f"{way:20} backward begins:",
        " → ".join(message.kind for message in messages[6:9]),
    )

# %%
predict(
    "01-4.prefetch",
    "A unit computes for 4 ms forward, 8 ms backward, and is gathered in 3 ms. What "
    "does prefetch 3 bring over prefetch 1?",
    [
        "a shorter step, same memory",
        "same step, more memory",
        "a shorter step, more memory",
    ],
)

# %% [markdown]
# The picture is a model (`prefetch.py` has the arithmetic): equal units, one network. The numbers are units. Try a slow network, then a fast one.

# %%
prefetching_picture()

# %%
one_ahead, three_ahead = (modeled_step(6, 4, 3, ahead) for ahead in (1, 3))
outcome(
    "01-4.prefetch",
    f"Modeled: {one_ahead.milliseconds:.0f} and {three_ahead.milliseconds:.0f} ms "
    f"per step; at most {one_ahead.most_gathered} and {three_ahead.most_gathered} "
    f"units gathered.",
    right="same step, more memory",
)

# %% [markdown]
# One unit ahead hides a gather that is shorter than the computing. If a gather takes *longer*, the network is the limit: more prefetch cannot help. A larger batch per rank
# can, because it makes the computing longer. `fully_shard` prefetches one unit in the backward pass by default, as the order of its messages shows. For the forward pass it has `set_modules_to_forward_prefetch`.

# %% [markdown]
# ## 6 · Break-it lab: a norm of one shard, taken for the whole
#
# Training with **gradient clipping** (기울기 클리핑) works on one process. Someone moves it to flat shards, and leaves the line as it was:


# %%
def clip_own(shards, max_norm):
    return nn.utils.clip_grad_norm_(shards, max_norm)


def clipped_step(clip, way="by hand", max_norm=0.02):
    """Take one step of SGD with clipping; return the norm that `clip` reports,
    and all weights.
    """
    model = make_model()
    parameters, weights, _ = wrapped(way, model)
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    x, y = next(batches())
    F.cross_entropy(model(x), y).backward()
    norm = clip(parameters, max_norm)
    optimizer.step()
    return float(norm), [weight.cpu() for weight in weights()]


# %%
predict(
    "01-4.clip",
    "Each of 2 ranks clips its shards by the norm of its own shards. What is seen?",
    [
        "an error from PyTorch",
        "the ranks hang",
        "nothing: the step is taken, in a different direction",
    ],
)

# %%
norm, reference = run_ranks(clipped_step, clip_own, world_size=1)[0]
start = [parameter.detach() for parameter in make_model().cpu().parameters()]
step = torch.cat(
    [(new - old).flatten() for new, old in zip(reference, start, strict=True)]
)
print(f"1 rank:  norm {norm:.4f}, length of the step {step.norm():.4f}")
for ranks in (2, 4):
    runs = run_ranks(clipped_step, clip_own, world_size=ranks)
    wrong = torch.cat(
        [(new - old).flatten() for new, old in zip(runs[0][1], start, strict=True)]
    )
    turned = F.cosine_similarity(wrong, step, dim=0).clamp(max=1).acos().rad2deg()
    print(
        f"{ranks} ranks: norms {[round(run[0], 4) for run in runs]}, length "
        f"{wrong.norm():.4f}, turned by {turned:.1f}°"
    )

# %%
outcome(
    "01-4.clip",
    f"No error. On 4 ranks the step has the length {wrong.norm():.3f} instead of "
    f"{step.norm():.3f}, and is turned by {turned:.1f}°.",
    right="nothing: the step is taken, in a different direction",
)

# %% [markdown]
# Read the evidence: each rank reports *its own* norm, and all are smaller than the one of the whole gradient. DDP's ranks hold the same weights, so different factors would show there. Here each rank
# holds different numbers anyway: there is nothing to compare. Each rank's part has the length `max_norm` now, so on N ranks the step is √N times as long as it may be.
#
# ### Exercise 3 · Repair it
#
# ●●○ · 8 minutes · good for: any sum over a model whose parts lie on different ranks.
#
# The norm of the whole gradient is the root of the sum of all squares. Make it from what each rank has. If it is larger than `max_norm`, multiply every gradient
# by `max_norm / norm`, in place; if not, change nothing. Return the norm before, on all ranks. A shard that was not used has `grad` None.


# %% exercise: clip_shards
def clip_shards(shards: list[nn.Parameter], max_norm: float) -> torch.Tensor:
    """Scale the gradients of all ranks' shards down to the norm `max_norm`, if
    theirs is larger; return the norm.
    """
    gradients = [shard.grad for shard in shards if shard.grad is not None]
    ### BEGIN SOLUTION
    square = torch.stack([gradient.square().sum() for gradient in gradients]).sum()
    dist.all_reduce(square)
    norm = square.sqrt()
    if norm > max_norm:
        for gradient in gradients:
            gradient.mul_(max_norm / norm)
    return norm
    ### END SOLUTION


# %% check: clip_shards
checked = check.clip_shards(clip_shards, points=2)


### BEGIN HIDDEN TESTS
def _hidden_clip():
    shard = nn.Parameter(torch.zeros(4, device=device()))
    shard.grad = torch.full((4,), 1.0 + dist.get_rank(), device=device())
    norms = [float(clip_shards([shard], limit)) for limit in (100.0, 1.0)]
    return norms, shard.grad.cpu()


for _rank, (_norms, _gradient) in enumerate(
    run_ranks(_hidden_clip, world_size=3, timeout=30)
):
    assert all(abs(norm - 56**0.5) < 1e-3 for norm in _norms)
    assert torch.allclose(
        _gradient, torch.full((4,), (1.0 + _rank) / 56**0.5), rtol=1e-4
    )
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "What of a norm adds up over shards and ranks?"</summary>
#
# A triangle with the sides 3 and 4 at a right angle has the long side 5, not 7. Squares add up.
# </details>
#
# <details><summary>Help – I get "Clipping makes long gradients shorter"</summary>
#
# The factor is `max_norm / norm` only where the norm is larger. Else it is 1.
# </details>
#
# The package's own, `sharding.clip_grad_norm_`, gives one process's step again. With `fully_shard`, PyTorch's own line is right: its parameters are DTensors (lesson 02), which know that they are parts. The
# norm that it returns is a part too, until `full_tensor()`.


# %%
def clip_fully_sharded(parameters, max_norm):
    return nn.utils.clip_grad_norm_(parameters, max_norm).full_tensor()


for way, clip in {
    "by hand": sharding.clip_grad_norm_,
    "fully_shard": clip_fully_sharded,
}.items():
    for ranks in (2, 4):
        norm, weights = run_ranks(clipped_step, clip, way, world_size=ranks)[0]
        off = largest_difference(weights, reference)
        print(f"{way:11} on {ranks} ranks: norm {norm:.4f}, weights off by {off:.0e}")
        assert off < 1e-6

# %% [markdown]
# ## 7 · Mixed precision: what has 16 bits, and what keeps 32
#
# Large models often compute in **bfloat16** (16 bits), and train in float32. FSDP does both: shards, gradients and Adam's numbers are float32; a unit is cast *before* it is gathered.

# %%
predict(
    "01-4.mixed",
    "bfloat16 for computing. What gets half as large on a rank?",
    [
        "all of it: 16 bits everywhere",
        "gathered units and their messages",
        "the optimizer's numbers",
    ],
)


# %%
def look_inside(param_dtype):
    model = make_model(torch.float32)
    seen = {}
    model[1][0].register_forward_hook(
        lambda layer, x, y: seen.update(weight=layer.weight.dtype, activation=y.dtype)
    )
    sharded = FlatShards(model, param_dtype=param_dtype)
    optimizer = torch.optim.Adam(sharded.shards)
    x, y = next(batches())
    with listed_messages() as messages:
        F.cross_entropy(model(x.float()).float(), y).backward()
    optimizer.step()
    shard = sharded.shards[1]
    seen |= {
        "shard": shard.dtype,
        "its gradient": shard.grad.dtype,
        "Adam": optimizer.state[shard]["exp_avg"].dtype,
    }
    gathered = sum(message.size for message in messages if message.kind == "all-gather")
    reduced = sum(
        message.size for message in messages if message.kind == "reduce-scatter"
    )
    states = measure_memory(nn.ParameterList(sharded.shards), optimizer).total
    return seen, {
        "states": states,
        "gathered": gathered,
        "reduced": reduced,
        "peak": max(e.held for e in sharded.events),
    }


# %%
full32, mixed = (
    run_ranks(look_inside, dtype, world_size=2)[0] for dtype in (None, torch.bfloat16)
)
for name, dtype in mixed[0].items():
    print(f"{name:13} {full32[0][name]!s:14} {dtype}")
for name, size in mixed[1].items():
    print(f"{name:13} {full32[1][name]:8.0f} bytes → {size:8.0f} bytes")

# %%
halved = (
    mixed[1]["gathered"] * 2 == full32[1]["gathered"]
    and mixed[1]["states"] == full32[1]["states"]
)
assert halved
outcome(
    "01-4.mixed",
    f"States: {mixed[1]['states']:.0f} bytes both times. Gathered: "
    f"{full32[1]['gathered']} bytes become {mixed[1]['gathered']}.",
    right="gathered units and their messages",
)

# %% [markdown]
# The states have the 4 + 4 + 8 bytes per parameter of notebook 3's "float32, Adam", shared by N: mixed precision does not make them smaller. It halves what is gathered and the activations, and on many GPUs
# 16-bit arithmetic is faster. Why keep 32 bits at all? A bfloat16 has 8 significant bits. A small step is lost:

# %%
weight = torch.tensor(1.0)
step = torch.tensor(0.001)
for dtype in (torch.float32, torch.bfloat16):
    value = weight.to(dtype)
    for _ in range(100):
        value = value + step.to(dtype)
    print(f"{dtype!s:14} 1 + 100 steps of 0.001 = {float(value):.4f}")

# %% [markdown]
# In PyTorch: `fully_shard(unit, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32))`. Without `reduce_dtype` the gradients are also *added up* in bfloat16.

# %% [markdown]
# ## 8 · Saved on two ranks, loaded on one and on four
#
# Each rank saves its own shards: no rank has to hold the model. But two shards of 985 numbers are not four of 493. What is saved must be cut again.


# %%
def save_shards(folder):
    model = make_model()
    parameters, weights, sharded = wrapped("by hand", model)
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    for x, y in batches():
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    torch.save(
        sharded.state_dict(),
        f"{folder}/rank_{dist.get_rank()}_of_{dist.get_world_size()}.pt",
    )
    return [weight.cpu() for weight in weights()]


Path("saved_shards").mkdir(exist_ok=True)
trained = run_ranks(save_shards, "saved_shards", world_size=2)[0]
for path in sorted(Path("saved_shards").iterdir()):
    print(
        path.name,
        {
            name: len(shard)
            for name, shard in torch.load(path, map_location="cpu").items()
        },
    )

# %% [markdown]
# ### Exercise 4 · Cut again
#
# ●●● · 10 minutes · good for: a training run that stops on 64 GPUs and goes on on 48.
#
# A unit has `length` numbers, without padding. It was saved on `saved_ranks` ranks. Return the shard that rank `rank` of `world_size` keeps. `open_shard(r)` reads the saved
# shard of the old rank r. Files are large: open only those that hold your numbers. A rank whose shard is all zeros may open one, for its type.


# %% exercise: reshard
def reshard(
    open_shard, saved_ranks: int, length: int, rank: int, world_size: int
) -> torch.Tensor:
    """Return this rank's shard, of `world_size` ranks, from shards that were saved
    on `saved_ranks` ranks.
    """
    # lengths of a shard, rounded up
    old, new = -(-length // saved_ranks), -(-length // world_size)
    ### BEGIN SOLUTION
    start, stop = min(rank * new, length), min((rank + 1) * new, length)
    first, last = min(start, length - 1) // old, max(start, stop - 1) // old
    opened = torch.cat(
        [open_shard(source) for source in range(first, min(last, saved_ranks - 1) + 1)]
    )
    own = opened[start - first * old : stop - first * old]
    return F.pad(own, (0, new - len(own)))
    ### END SOLUTION


# %% check: reshard
checked = check.reshard(reshard, points=3)
### BEGIN HIDDEN TESTS
for _old, _length, _new in ((2, 14, 4), (3, 10, 1), (4, 13, 3), (2, 5, 4)):
    _unit = torch.randn(_length)
    _saved = [flat_shards.own_shard([_unit], rank, _old) for rank in range(_old)]
    for _rank in range(_new):
        _wanted = flat_shards.own_shard([_unit], _rank, _new)
        assert torch.equal(
            reshard(_saved.__getitem__, _old, _length, _rank, _new), _wanted
        )
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "zeros that were added when it was saved are not part of it"</summary>
#
# The last saved shard ends with padding. `length` says where the unit ends.
# </details>
#
# <details><summary>Help – I get "where does what you opened begin?"</summary>
#
# Number the unit from 0. Your numbers go from `start` to `stop`. The first file that you open begins at `first * old`.
# </details>
#
# `FlatShards.load_state_dicts` uses the package's own. Each rank here reads both files; they are small.


# %%
def load_shards(folder, saved_ranks):
    sharded = FlatShards(make_model())
    paths = [f"{folder}/rank_{rank}_of_{saved_ranks}.pt" for rank in range(saved_ranks)]
    sharded.load_state_dicts([torch.load(path, map_location="cpu") for path in paths])
    return [weight.cpu() for weight in sharded.full_parameters().values()]


for ranks in (1, 4):
    loaded = run_ranks(load_shards, "saved_shards", 2, world_size=ranks)[0]
    print(
        f"saved on 2 ranks, loaded on {ranks}: off by "
        f"{largest_difference(loaded, trained)}"
    )
    assert all(
        torch.equal(ours, theirs) for ours, theirs in zip(loaded, trained, strict=True)
    )

# %% [markdown]
# The optimizer's numbers are flat shards of the same lengths, and are cut the same way. PyTorch does all this with **distributed checkpoints** (`torch.distributed.checkpoint`), which lesson 04 uses.

# %% [markdown]
# ## 9 · CPU offload (오프로드): what it would do
#
# With `CPUOffloadPolicy` the shards, their gradients and the optimizer's numbers lie in the host's memory. A GPU holds only gathered units. In return, a shard travels to the GPU before each
# gather, its gradient travels back, and the CPU takes the optimizer's step. Worked out from nominal speeds, not measured, for 7.5 billion parameters in float32 with bfloat16 gathers on 8 ranks:

# %%
numbers = 7.5e9 / 8  # per rank
states = 16 * numbers  # 4 + 4 + 8 bytes
# the float32 shard to the GPU twice, its float32 gradient back
crossing = (4 + 4 + 4) * numbers
for link, speed in {"PCIe 4, 16 lanes": 32e9, "PCIe 5, 16 lanes": 64e9}.items():
    print(
        f"{link}: {states / 1e9:.0f} GB leave each GPU; {crossing / speed:.2f} s per "
        f"step on the link at {speed / 1e9:.0f} GB/s"
    )

# %% [markdown]
# It is for models that do not fit otherwise. More ranks share the states out further, and cost no trip to the host.
#
# ## 10 · What the log said
#
# | The log | The evidence | Corrected |
# |---|---|---|
# | Model parallel: the model itself is distributed, and that is hard | Section 4: FSDP distributes the *model's states*, and each rank computes with whole units on its own samples. | FSDP is **data parallelism** with the states shared out. Model parallelism shares the *computing* out: lesson 02. |
# | 데이터를 나눠 … 결과의 평균: the mean of results | Section 3: a reduce-scatter of gradients. | Still the mean of **gradients**; each rank gets its shard of it. |
#
# ## Take away
#
# * A unit is one flat tensor with padding; each rank keeps one equal shard, as a copy.
# * Gather, compute, free; gather again, compute, reduce-scatter. Three messages per unit, 1.5 times the bytes of DDP.
# * A rank holds at most its shards and the units that are gathered. Small, equal units keep that low.
# * Prefetch 1 hides a gather that is shorter than the computing. It costs one more gathered unit.
# * A norm over shards needs a sum of squares over ranks. Clipped by its own norm, each rank is silently wrong.
# * Mixed precision: gathered units and activations in 16 bits; shards, gradients and optimizer in 32.
# * Saved shards are cut again for a different number of ranks; the padding is not part of the unit.
#
# **Questions on this lesson:** [quiz](quiz.ipynb). **Next lesson:** [pipelines](../02_model_parallelism/1_pipeline.ipynb), where the model itself is cut.
#
# ### Glossary
#
# | English | 한국어 | here |
# |---|---|---|
# | unit | 유닛 | a child of the model; it is gathered and freed as one |
# | shard | 샤드 | the 1/N of a flat unit that a rank keeps |
# | padding | 패딩 | zeros at the end, so that shards are equal |
# | all-gather | 올개더 | every rank gets the parts of all |
# | reduce-scatter | 리듀스 스캐터 | every rank gets its part of the sum |
# | reshard | 재샤딩 | give the gathered unit's memory back; or: cut saved shards again |
# | prefetch | 미리 가져오기 | gather the next unit early |
# | gradient clipping | 기울기 클리핑 | make a long gradient shorter |
# | mixed precision | 혼합 정밀도 | computing in 16 bits, keeping float32 weights |
# | offload | 오프로드 | keep states in the host's memory |
#
# ### Further reading
#
# * Zhao et al. 2023, [PyTorch FSDP](https://arxiv.org/abs/2304.11277): flat parameters, prefetch, rate limits (sections 3 and 4).
# * Rajbhandari et al. 2020, [ZeRO](https://arxiv.org/abs/1910.02054): the 1.5 times of stage 3 (section 7).
# * PyTorch, [fully_shard](https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html): what FSDP2 does differently from FSDP1.
# * PyTorch, [Getting started with FSDP2](https://docs.pytorch.org/tutorials/intermediate/FSDP_tutorial.html): prefetch, mixed precision, clipping and checkpoints in PyTorch's words.
