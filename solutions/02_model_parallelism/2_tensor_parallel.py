# %% [markdown]
# # Tensor parallelism: every layer over several devices
#
# **{minutes} minutes** · one CPU is enough (two to four processes) · before this: [pipelines](1_pipeline.ipynb), section 1, and
# the [ring](../01_data_parallelism/2_distributed_data_parallel.ipynb) of lesson 01; what attention computes
# ([Vaswani et al. 2017](https://arxiv.org/abs/1706.03762), section 3.2)
#
# A pipeline cuts a model *between* its layers. So a rank waits for the one before it, and a single layer must still fit
# into one device. This notebook cuts *through* the layers: each rank holds a part of every weight matrix, and all of them
# work on the same samples at the same time. That is **tensor parallelism** (텐서 병렬화).
#
# **After this notebook you can**
#
# 1. split a linear layer by columns and by rows so that the result stays exact;
# 2. say which collectives a tensor-parallel block needs in forward and in backward;
# 3. put tensor and data parallelism on a two-dimensional mesh.

# %% setup

# %%
from torchcourse.quiz import outcome, predict, recall

recall("02_model_parallelism")

# %%
from collections import Counter
from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from torchcourse import environment, figures
from torchcourse.data import digits
from torchcourse.lessons.data_parallelism.data_parallel import average_gradients
from torchcourse.lessons.model_parallelism import checks as check
from torchcourse.lessons.model_parallelism import tensor_parallel as tp
from torchcourse.lessons.model_parallelism.planner import grand_teton
from torchcourse.lessons.model_parallelism.tensor_parallel import with_dtensor
from torchcourse.lessons.model_parallelism.tensor_parallel.cost import (
    COLUMN_ROW,
    ORDERS,
    block_bytes,
)
from torchcourse.lessons.model_parallelism.tensor_parallel.layers_picture import (
    split_picture,
)
from torchcourse.lessons.model_parallelism.tensor_parallel.vocabulary import (
    cut_cross_entropy,
)
from torchcourse.models import TransformerBlock, row_transformer
from torchcourse.ranks import device, export_script, run_ranks

# these networks are so small that threads would only wait for one another
torch.set_num_threads(1)
print(environment.hardware())

# %% [markdown]
# ## 1 · Two ways to cut a matrix
#
# A linear layer computes y = x·A + b. The matrix A has a column for each output and a row for each input. Cut it
# **by columns** or **by rows**. In one process, with 64 bits, so that rounding cannot hide a mistake:

# %%
torch.manual_seed(0)
linear = nn.Linear(4, 6).double()
x = torch.randn(3, 4, dtype=torch.float64)
# PyTorch keeps the transpose of A
A, b = linear.weight.T.detach(), linear.bias.detach()
y = x @ A + b

by_columns = torch.cat([x @ part for part in A.chunk(2, dim=1)], dim=1) + b
by_rows = (
    sum(
        inputs @ part
        for inputs, part in zip(x.chunk(2, dim=1), A.chunk(2, dim=0), strict=True)
    )
    + b
)
for name, result in (("by columns", by_columns), ("by rows", by_rows)):
    print(f"{name:10}: largest difference to y {(result - y).abs().max():.0e}")
print("linear.weight has the shape", list(linear.weight.shape), "and A", list(A.shape))

# %% [markdown]
# * **Column-parallel** (열 병렬): each rank has all of x and computes *some outputs*. The outputs are put side by side.
# * **Row-parallel** (행 병렬): each rank has some of the inputs and computes *an addend of every output*. The addends are summed.
#
# PyTorch keeps `weight` as [outputs, inputs], the transpose of A. So the columns of A are
# `weight.chunk(ranks, dim=0)`.

# %%
predict(
    "02-2.column",
    "Two ranks hold a layer by columns. Both have the whole x and need only their "
    "own outputs. What must they exchange?",
    [
        "nothing, neither forward nor backward",
        "forward nothing; backward the gradients of the weights",
        "forward nothing; backward the gradient of x, which is summed",
        "forward the outputs; backward nothing",
    ],
)

# %% [markdown]
# Ask autograd for the gradient of x twice: once through the outputs of rank 0 only, once through those of rank 1.

# %%
x.requires_grad_()
# stands for whatever follows
weights = torch.arange(18.0, dtype=torch.float64).view(3, 6)
outputs = linear(x)
whole = torch.autograd.grad((outputs * weights).sum(), x, retain_graph=True)[0]
rank_0, rank_1 = (
    torch.autograd.grad((outputs * weights)[:, part].sum(), x, retain_graph=True)[0]
    for part in (slice(3), slice(3, 6))
)
print(f"rank 0 alone: off by {(rank_0 - whole).abs().max():.1f}")
print(f"their sum:    off by {(rank_0 + rank_1 - whole).abs().max():.0e}")

# %%
outcome(
    "02-2.column",
    "x went into the outputs of both ranks, so its gradient is a sum over both: an "
    "all-reduce on the way back. The "
    "gradient of a rank's weights needs that rank's outputs only: it stays where it "
    "is.",
    right="forward nothing; backward the gradient of x, which is summed",
)

# %% [markdown]
# ### Exercise 1 · By columns
#
# ●●○ · 10 minutes · good for: the first half of every split layer, and your first collective *inside* autograd.
#
# A **`torch.autograd.Function`** is a step whose backward pass you write yourself. `forward(ctx, x)` returns the output.
# `backward(ctx, gradient)` gets the gradient of the output and returns the gradient of x. It is called as `Enter.apply(x)`.
# (`ctx` could keep tensors for `backward`; none is needed. `x.view_as(x)` is x, as a new tensor.)
#
# `Enter` is the entrance of the split layer. Forward it passes x on. Backward it gets the gradient that *this rank's*
# outputs gave, and returns the gradient for the layers before. Write its backward pass, and the layer.
#
# (`dist.all_reduce` works in place, and other code may still use the gradient: `clone()` it first.)


# %% exercise: column_linear
class Enter(torch.autograd.Function):
    """Forward: x as it is.

    Backward: the gradient that x has through the outputs of all ranks.
    """

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        ### BEGIN SOLUTION
        total = gradient.clone()
        dist.all_reduce(total)
        return total
        ### END SOLUTION


def column_linear(x, linear):
    """This rank's outputs [..., outputs/N] of the whole layer `linear`, for x [...,
    inputs], the same on each rank.

    Rank r of N computes the r-th block of neighboring outputs, and uses only what it
    needs of `linear.weight` and `linear.bias`. The loss is a sum over the outputs of
    all ranks. `backward()`, from each rank's addend of it, gives x the gradient of the
    whole loss, on each rank.
    """
    ### BEGIN SOLUTION
    rank, ranks = dist.get_rank(), dist.get_world_size()
    return F.linear(
        Enter.apply(x), linear.weight.chunk(ranks)[rank], linear.bias.chunk(ranks)[rank]
    )
    ### END SOLUTION


# %% check: column_linear
checked = check.column_linear(column_linear, points=3)


### BEGIN HIDDEN TESTS
def _column_against_whole(seed):
    torch.manual_seed(seed)
    _rank, _ranks = dist.get_rank(), dist.get_world_size()
    _linear = nn.Linear(5, 8).double()
    _x, _w = (
        torch.randn(2, 7, 5, dtype=torch.float64),
        torch.randn(2, 7, 8, dtype=torch.float64),
    )
    _ours, _right = _x.clone().requires_grad_(), _x.clone().requires_grad_()
    _y = column_linear(_ours, _linear)
    (_y * _w.chunk(_ranks, -1)[_rank]).sum().backward()
    _whole = _linear(_right)
    (_whole * _w).sum().backward()
    return max(
        (_y - _whole.chunk(_ranks, -1)[_rank]).abs().max().item(),
        (_ours.grad - _right.grad).abs().max().item(),
    )


for _seed, _ranks in ((11, 2), (12, 4)):
    assert (
        max(run_ranks(_column_against_whole, _seed, world_size=_ranks, timeout=60))
        < 1e-12
    )
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – "mat1 and mat2 shapes cannot be multiplied"</summary>
#
# Print `linear.weight.shape`. Which dimension is the outputs? This rank has all inputs, and some outputs.
# </details>
#
# <details><summary>Help – "The outputs are right, but the gradient of the input …"</summary>
#
# Does x go through `Enter.apply`? It does nothing to the numbers on the way forward, so forgetting it is not seen there.
# Then look at what `Enter.backward` returns.
# </details>
#
# <details><summary>Help – which ranks do I have?</summary>
#
# `dist.get_rank()` and `dist.get_world_size()`, inside the function.
# </details>

# %% [markdown]
# ### By rows: the mirror image
#
# Now each rank has a part of the inputs, [..., inputs/N], as it comes out of a layer by columns. It multiplies with its
# part of the weights and gets an addend of *every* output. Forward the addends are summed: an all-reduce. And backward? All ranks
# hold the same y and compute the same loss from it, so each of them has the whole gradient of y. It passes through a sum
# to each addend unchanged: nothing is sent.
#
# | | forward | backward | in Megatron-LM's paper |
# |---|---|---|---|
# | `Enter`, before a layer by columns | nothing | all-reduce | *f* |
# | `Leave`, after a layer by rows | all-reduce | nothing | *g* |
#
# ### Exercise 2 · By rows
#
# ●●○ · 8 minutes · good for: the other half. Mind the bias: it is added once, and each rank needs its gradient.


# %% exercise: row_linear
class Leave(torch.autograd.Function):
    """Forward: the sum of the ranks' addends.

    Backward: the gradient that this rank's addend gets through the sum.
    """

    @staticmethod
    def forward(ctx, addend):
        ### BEGIN SOLUTION
        total = addend.clone()
        dist.all_reduce(total)
        return total
        ### END SOLUTION

    @staticmethod
    def backward(ctx, gradient):
        ### BEGIN SOLUTION
        return gradient
        ### END SOLUTION


def row_linear(x_part, linear):
    """All outputs [..., outputs] of the whole layer `linear`, the same on each rank.

    Rank r of N has the r-th block of neighboring inputs, `x_part` [..., inputs/N], and
    uses only what it needs of `linear.weight`. `backward()`, from the same loss on each
    rank, gives `x_part` its gradient, and `linear.bias` its gradient on each rank.
    """
    ### BEGIN SOLUTION
    weight = linear.weight.chunk(dist.get_world_size(), dim=1)[dist.get_rank()]
    return Leave.apply(F.linear(x_part, weight)) + linear.bias
    ### END SOLUTION


# %% check: row_linear
checked = check.row_linear(row_linear, points=3)


### BEGIN HIDDEN TESTS
def _row_against_whole(seed):
    torch.manual_seed(seed)
    _rank, _ranks = dist.get_rank(), dist.get_world_size()
    _linear = nn.Linear(8, 3).double()
    _x, _w = (
        torch.randn(2, 7, 8, dtype=torch.float64),
        torch.randn(2, 7, 3, dtype=torch.float64),
    )
    _ours, _right = (
        _x.chunk(_ranks, -1)[_rank].clone().requires_grad_(),
        _x.clone().requires_grad_(),
    )
    _y = row_linear(_ours, _linear)
    (_y * _w).sum().backward()
    _bias = _linear.bias.grad.clone()
    _linear.zero_grad()
    _whole = _linear(_right)
    (_whole * _w).sum().backward()
    _gradient = _right.grad.chunk(_ranks, -1)[_rank]
    return max(
        (_a - _b).abs().max().item()
        for _a, _b in (
            (_y, _whole),
            (_ours.grad, _gradient),
            (_bias, _linear.bias.grad),
        )
    )


for _seed, _ranks in ((21, 2), (22, 4)):
    assert (
        max(run_ranks(_row_against_whole, _seed, world_size=_ranks, timeout=60)) < 1e-12
    )
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – the outputs are right, but the gradient of the input is N times too large</summary>
#
# You sum on the way back too (`torch.distributed.nn.functional.all_reduce` does so: it takes each rank's loss for a part
# of one total). Here each rank has the *same* loss.
# </details>
#
# <details><summary>Help – the bias is there N times, or has a gradient on one rank only</summary>
#
# What happens to a bias that is added before the sum? And to the gradient of one that only rank 0 adds?
# </details>
#
# <details><summary>Help – "autograd … does not know how to go back"</summary>
#
# A bare `dist.all_reduce(y)` changes numbers behind autograd's back. Put it into `Leave.forward`, and use `Leave.apply`.
# </details>

# %% [markdown]
# ## 2 · Column, then row
#
# The **MLP** of a transformer block has two layers: A makes the width four times as large, GELU follows, B makes it
# small again. Cut A by columns and B by rows. The package has your two layers as modules, and `tp.Traffic()` notes every
# collective that is called inside it.

# %%
predict(
    "02-2.pair",
    "y = GELU(x·A)·B. Each rank has x and needs y. How many collectives forward, with "
    "A by columns and B by rows, and the other way round?",
    [
        "one, and one: the layers are the same",
        "one, and two",
        "two, and two: one for each layer",
        "two, and one",
    ],
)


# %%
def mlp(order):
    """Both layers split in this order: what is sent forward and backward, and how
    far y is from that of the whole layers.
    """
    torch.manual_seed(0)
    first, second = (
        nn.Linear(*sizes).double().to(device()) for sizes in ((32, 128), (128, 32))
    )
    x = torch.randn(8, 8, 32, dtype=torch.float64).to(device()).requires_grad_()
    if order == COLUMN_ROW:
        column, row = tp.ColumnParallelLinear(first), tp.RowParallelLinear(second)
    else:
        row, column = tp.RowParallelLinear(first), tp.ColumnParallelLinear(second)
    with tp.Traffic() as forward:
        y = (
            row(F.gelu(column(x)))
            if order == COLUMN_ROW
            else tp.join(column(F.gelu(row(tp.cut(x)))))
        )
    with tp.Traffic() as backward:
        y.square().sum().backward()
    return forward, backward, (y - second(F.gelu(first(x)))).abs().max().item()


for order in ORDERS:
    forward, backward, off = run_ranks(mlp, order, world_size=2)[0]
    print(
        f"{order} (off by {off:.0e})\n    forward:  {forward}\n    backward: {backward}"
    )

# %% [markdown]
# Row, then column is exact too, and sends several times as much. Its first layer ends in a sum, which is four times as wide
# here. And it begins with `tp.cut` (each rank takes its part of x) and ends with `tp.join` (parts side by side): an
# **all-gather** (올개더) each way. Could one leave out the sum in the middle, and apply GELU to the parts?

# %%
parts = torch.tensor([1.0, -2.0])  # of two ranks
print(
    f"GELU of the sum {F.gelu(parts.sum()):.3f}, sum of the GELUs "
    f"{F.gelu(parts).sum():.3f}"
)

# %%
outcome(
    "02-2.pair",
    "One: the sum after B. A's outputs are whole, only fewer on each rank, so GELU "
    "takes them as they are, and they are "
    "just the inputs that this rank's rows of B ask for. The other way round it is "
    "two: the sum before GELU, and the outputs side by side.",
    right="one, and two",
)

# %% [markdown]
# ### Who holds what, and what it costs
#
# The picture has the matrices above and the bytes below: what a rank sends for these two layers in one step, forward and
# backward. Beside it is what data parallelism would send (the gradients of both layers, averaged), and what crosses one
# border of a pipeline. All in float32.
#
# Guess first, then move:
#
# * More ranks: does each rank send less, as each holds less?
# * Twice the tokens: which bar does not move? Twice the width: which grows fourfold?
# * Then the other order.

# %%
split_picture()

# %% [markdown]
# Tensor parallelism sends no weights. Between these layers it sends *activations* and
# their gradients, tokens × width numbers at a time.

# %% [markdown]
# ## 3 · Attention: whole heads
#
# **Attention** (어텐션) begins with a layer that makes queries, keys and values, and ends with a layer that mixes the heads. In
# between, no **head** (헤드) knows of another. So: the first layer by columns, some heads for each rank, the last layer by
# rows. But *which* columns?
#
# The three are fused into one layer. Its outputs come in this order: all queries, all keys, all values.

# %%
predict(
    "02-2.heads",
    "Four heads of 8 numbers: the fused layer has 96 outputs. Two ranks take 48 "
    "neighbors each, by `chunk`. What is on rank 0?",
    [
        "heads 0 and 1: their queries, keys and values",
        "all queries, and half of the keys",
        "the first half of each head",
        "it raises an error: the shapes do not fit",
    ],
)


# %%
def attention_by_chunks():
    """A block whose fused layer is cut into neighboring blocks: how far is its
    output from the whole block's?
    """
    torch.manual_seed(0)
    block = TransformerBlock(32, heads=4).double().to(device())
    x = torch.randn(2, 8, 32, dtype=torch.float64).to(device())
    right = block(x)
    # rank r has the r-th block of outputs
    block.qkv = tp.ColumnParallelLinear(block.qkv)
    block.out = tp.RowParallelLinear(block.out)
    block.heads //= dist.get_world_size()
    held = Counter(
        ["queries", "keys", "values"][index // 32]
        for index in block.qkv.held["weight"][1].tolist()
    )
    return held, (block(x) - right).abs().max().item()


for rank, (held, off) in enumerate(run_ranks(attention_by_chunks, world_size=2)):
    print(f"rank {rank} holds {dict(held)}: off by {off:.2f}")

# %%
outcome(
    "02-2.heads",
    "Rank 0 has all queries and half of the keys, rank 1 the other keys and all "
    "values. All shapes fit, no error comes, "
    f"and the output is off by {off:.2f}.",
    right="all queries, and half of the keys",
)

# %% [markdown]
# ### Exercise 3 · Which outputs?
#
# ●●○ · 7 minutes · good for: splitting a checkpoint that somebody else has trained; fused layers are where that goes wrong.


# %% exercise: head_outputs
def head_outputs(heads: int, width: int, rank: int, ranks: int):
    """Which of the 3·width outputs of a fused query-key-value layer a rank holds: a
    list or tensor of their indices.

    Rank r of N has the r-th block of neighboring heads. Its outputs are in the same
    order as in the whole layer: its queries, its keys, its values. A head has
    width/heads outputs of each kind, and `ranks` divides `heads`.
    """
    ### BEGIN SOLUTION
    share = width // ranks
    return [
        third * width + rank * share + number
        for third in range(3)
        for number in range(share)
    ]
    ### END SOLUTION


# %% check: head_outputs
checked = check.head_outputs(head_outputs, points=2)
### BEGIN HIDDEN TESTS
for _heads, _width, _ranks in ((8, 48, 4), (6, 18, 2), (3, 9, 3)):
    _number = torch.arange(3 * _width)
    for _rank in range(_ranks):
        _got = torch.as_tensor(head_outputs(_heads, _width, _rank, _ranks))
        _mask = (_number % _width) * _ranks // _width == _rank
        assert torch.equal(
            _got.nonzero().flatten() if _got.dtype == torch.bool else _got,
            _number[_mask],
        )
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – where do I start?</summary>
#
# Write down the 24 outputs for width 8 and 4 heads, in three rows of 8: q, k, v. Draw lines between heads. Which columns of
# this table are rank 1's, if there are two ranks?
# </details>
#
# <details><summary>Help – "the right outputs in a different order"</summary>
#
# Attention cuts what the rank has into three equal blocks and takes the first for queries. So all queries of the rank come
# first, not all numbers of its first head.
# </details>

# %% [markdown]
# ## 4 · A whole model
#
# `tp.split(model)` splits attention and MLP of each block. Norms, embedding and output layer stay whole on each rank. The model is
# the one of the pipeline notebook:

# %%
images, labels = digits()[:16]
images = images.double()


def whole_model(blocks=2):
    """The same weights on each call and on each rank."""
    torch.manual_seed(0)
    return row_transformer(blocks).double().to(device())


def one_step():
    """Forward and backward on a split model: its traffic, its loss and, put
    together, its gradients.
    """
    model = tp.split(whole_model())
    with tp.Traffic() as forward:
        loss = F.cross_entropy(model(images.to(device())), labels.to(device()))
    with tp.Traffic() as backward:
        loss.backward()
    held = sum(parameter.numel() for parameter in model.parameters())
    gradients = {
        name: gradient.cpu() for name, gradient in tp.whole(model, "gradients").items()
    }
    return forward, backward, held, loss.item(), gradients


# %%
reference = whole_model().cpu()
loss = F.cross_entropy(reference(images), labels)
loss.backward()


def furthest(gradients):
    """The largest difference to the whole model's gradients, over all parameters."""
    return max(
        (gradients[name] - parameter.grad).abs().max().item()
        for name, parameter in reference.named_parameters()
    )


for ranks in (1, 2, 4):
    forward, backward, held, split_loss, gradients = run_ranks(
        one_step, world_size=ranks
    )[0]
    print(
        f"{ranks} rank(s): each holds {held:,} parameters; loss off by "
        f"{abs(split_loss - loss.item()):.0e}, ",
        end="",
    )
    print(
        f"gradients by {furthest(gradients):.0e}\n    forward:  {forward}\n    "
        f"backward: {backward}"
    )
    assert furthest(gradients) < 1e-12

# %% [markdown]
# Two all-reduces per block and direction: one for attention, one for the MLP.
#
# In data parallelism the gradients of all weights were averaged before the optimizer.

# %%
predict(
    "02-2.gradients",
    "Which gradients must the ranks of this model, split by `tp.split`, exchange "
    "before the optimizer's step?",
    [
        "all of them",
        "those of the norms and of the other weights that each rank holds whole",
        "none",
    ],
)


# %%
def sgd_losses(model, x, target, average=lambda model: None, steps=6):
    """Train; the loss of each step, of this rank's samples."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), target)
        loss.backward()
        average(model)
        optimizer.step()
        losses.append(loss.item())
    return losses


def train_alone():
    """Train a split model with no exchange of gradients; how far the ranks' copies
    of its whole parameters are apart after 20 steps.
    """
    model = tp.split(whole_model())
    sgd_losses(model, images.to(device()), labels.to(device()), steps=20)
    return tp.drift(model)


apart = run_ranks(train_alone, world_size=2)[0]
print(
    f"{len(apart)} parameters are whole on each rank; after 20 steps they are at "
    f"most {max(apart.values()):.0e} apart"
)

# %%
outcome(
    "02-2.gradients",
    "None. Here a part of a matrix lies on one rank only. And what is whole on each rank "
    "got its whole gradient on each, by the "
    "all-reduces on the way back.",
    right="none",
)

# %% [markdown]
# ### The exception: fewer key heads than ranks
#
# In **grouped-query attention** (그룹 쿼리 어텐션, GQA) several query heads share one key head and one value head (Ainslie et al. 2023). Llama 3 70B has 64 query heads and 8
# key heads. On 16 tensor ranks, two ranks hold a copy of the same key head, and each has only half of the queries that use it. Here are four query heads and two key heads on four ranks:


# %%
def copied_key_head():
    """How far this rank's gradient of its key head is off: alone, and summed over
    both copies.
    """
    torch.manual_seed(0)
    # [heads, tokens, numbers of a head]: four query heads, two key and value heads
    q = torch.randn(4, 8, 16).double().to(device())
    k, v = torch.randn(2, 2, 8, 16).double().to(device())
    rank, head = dist.get_rank(), dist.get_rank() // 2

    def gradient(queries):
        key = k[head].clone().requires_grad_()
        shared = [part.expand_as(queries) for part in (key, v[head])]
        F.scaled_dot_product_attention(queries, *shared).square().sum().backward()
        return key.grad

    own, right = gradient(q[[rank]]), gradient(q[2 * head : 2 * head + 2])
    groups = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    total = own.clone()
    dist.all_reduce(total, group=groups[head])
    return [(each - right).abs().max().item() for each in (own, total)]


for rank, (alone, summed) in enumerate(run_ranks(copied_key_head, world_size=4)):
    print(f"rank {rank}: off by {alone:.2f} alone, {summed:.0e} summed over the copies")

# %% [markdown]
# The gradients of a copied head's weights follow from these. So they too are summed over the copies before the optimizer's step.

# %% [markdown]
# ### PyTorch's own: DTensor
#
# In PyTorch you do not write layers for this. You say how each weight is stored, in a plan, and `parallelize_module` turns it into a
# **DTensor**: a tensor that knows its layout. `Shard(0)` is cut along dimension 0 and `Replicate()` is whole on each rank. The
# collectives follow.

# %%
for layer, style in with_dtensor.PLAN.items():
    print(f"{layer:8} {type(style).__name__}")

# %% [markdown]
# `parallelize_module(block, mesh, plan)` does it (`dense` is the MLP). A plan knows nothing of heads, so `with_dtensor.split_block` first brings the
# fused layer into an order in which each block of neighbors holds whole heads (exercise 3).


# %%
def with_plan(sequence):
    """One block, split by DTensor: how weights lie, what is sent, how far the output
    is from the whole block's.
    """
    # a mesh names the ranks that split the block; `sequence` comes below
    mesh = init_device_mesh(device().type, (dist.get_world_size(),))
    torch.manual_seed(0)
    whole, x = (
        TransformerBlock(32, 4).double(),
        torch.randn(4, 8, 32, dtype=torch.float64),
    )
    right = whole(x)
    if sequence:  # this rank's tokens
        x, right = (part.chunk(mesh.size(), 1)[dist.get_rank()] for part in (x, right))
    block = with_dtensor.split_block(whole.to(device()), mesh, sequence=sequence)
    with tp.Traffic() as traffic:
        y = block(x.to(device()).requires_grad_())
        y.sum().backward()
    layouts = {
        name: block.get_parameter(f"{name}.weight").placements
        for name in with_dtensor.PLAN
    }
    return layouts, traffic, (y.cpu() - right).abs().max().item()


# %%
layouts, traffic, off = run_ranks(with_plan, False, world_size=2)[0]
print(*(f"{name}.weight: {layout}" for name, layout in layouts.items()), sep="\n")
print(f"forward and backward: {traffic}; off by {off:.0e}")
assert off < 1e-12

# %% [markdown]
# So far each rank keeps, between attention and MLP, the activations of all tokens. **Sequence parallelism** (시퀀스 병렬화)
# divides the tokens there. An all-reduce is a reduce-scatter and an all-gather (lesson 01). So do the first half
# at the end of a region and the second at the beginning of the next; in between, each rank has some of the *tokens*:

# %%
_, sequence_traffic, off = run_ranks(with_plan, True, world_size=2)[0]
print(f"sequence parallel: {sequence_traffic}; off by {off:.0e}")
assert off < 1e-12
assert sequence_traffic.bytes_sent == traffic.bytes_sent

# %% [markdown]
# Twice as many messages, the same bytes, and the activations between the regions are shared out too (Korthikanti et al.
# 2022). Now the norms see different tokens on each rank, so *their* gradients have to be summed.

# %% [markdown]
# ### The vocabulary
#
# `tp.split` leaves the last layer whole. In a language model with 128,000 words its matrix is larger than any in a block. Cut it by columns, and each rank has
# the scores of some *words*. The loss needs no rank to have them all. Three numbers per token travel: the largest score, the sum of
# exponentials and the score of the right word (PyTorch's name: `loss_parallel`).


# %%
def loss_of_a_cut_output(words=1024, tokens=6):
    torch.manual_seed(0)
    x, output = torch.randn(tokens, 16), nn.Linear(16, words, bias=False)
    target = torch.randint(words, (tokens,))
    right = F.cross_entropy(output(x), target)
    part = tp.ColumnParallelLinear(output.to(device()))
    loss = cut_cross_entropy(part(x.to(device())), target.to(device()))
    return (loss.cpu() - right).abs().item()


print(f"off by {max(run_ranks(loss_of_a_cut_output, world_size=2)):.0e}")

# %% [markdown]
# ## 5 · Why it stays inside one machine
#
# A block sends four all-reduces of tokens × width numbers. In our code no computing hides them, unlike those of data
# parallelism: the next layer needs the sum. How long do they take? Take a block as wide as those of Llama 3 70B, on
# H100 GPUs. Bandwidths are those of the data sheets, and the share of the peak FLOP/s is that of published runs:

# %%
cluster, width, tokens = grand_teton(8), 8192, 8192
# forward once, backward twice; 12·width² weights, attention scores left out
flop = 3 * 2 * 12 * width**2 * tokens
for ranks in (2, 4, 8):
    computing = flop / ranks / (cluster.gpu.flops * cluster.efficiency.matmul)
    sent = block_bytes(tokens, width, ranks, number=2)
    inside, across = sent / cluster.link, sent / cluster.network
    print(
        f"{ranks} ranks: compute {1e3 * computing:4.1f} ms, send {sent / 1e9:.2f} GB: ",
        end="",
    )
    print(
        f"{1e3 * inside:.1f} ms over NVLink, {1e3 * across:4.1f} ms over network cards"
    )

# %% [markdown]
# More ranks compute for less time, but none sends less. In eight machines, with a network card for each GPU, eight ranks would
# send for longer than they compute. So the rule of Narayanan et al. (2021, takeaway 1): tensor parallelism up to the number of
# GPUs in a machine, and pipelines across machines. "Machine" means all GPUs that NVLink joins: 8 here, 72 in a rack of GB200 NVL72.

# %% [markdown]
# ## 6 · Two dimensions
#
# You have four ranks, in two machines of two. Tensor parallelism inside each machine, data parallelism between them: a **mesh**
# (메시) of 2 × 2. Each rank has two places, d and t:
#
# | | t = 0 | t = 1 |
# |---|---|---|
# | **d = 0** | rank 0 | rank 1 |
# | **d = 1** | rank 2 | rank 3 |
#
# A row is a **tensor group**: each layer is divided among its ranks, which work on the same samples.

# %%
predict(
    "02-2.mesh",
    "After the backward pass on this mesh: with whom does rank 0 average its "
    "gradients?",
    ["with rank 1", "with rank 2", "with all three others", "with nobody"],
)

# %% [markdown]
# ### Exercise 4 · The groups of a mesh
#
# ●○○ · 5 minutes · good for: every layout has this arithmetic in it, and a wrong group trains without an error.


# %% exercise: mesh_groups
def mesh_groups(ranks: int, tensor: int):
    """The groups of a mesh of (ranks/tensor) × tensor: (tensor groups, data groups),
    each a list of lists of ranks.

    A tensor group has `tensor` ranks, all neighbors: 0 … tensor−1 are the first. A data
    group (a column of the table) has those ranks that hold the same part of each layer.
    """
    ### BEGIN SOLUTION
    tensor_groups = [
        list(range(first, first + tensor)) for first in range(0, ranks, tensor)
    ]
    data_groups = [list(range(place, ranks, tensor)) for place in range(tensor)]
    return tensor_groups, data_groups
    ### END SOLUTION


# %% check: mesh_groups
checked = check.mesh_groups(mesh_groups, points=2)
### BEGIN HIDDEN TESTS
from torchcourse.checks.values import judged

for _ranks, _tensor in ((12, 4), (12, 3), (16, 8), (2, 2)):
    _groups, _copies = mesh_groups(_ranks, _tensor)
    _order = torch.arange(_ranks).view(-1, _tensor)
    assert (
        sorted(sorted(int(_r) for _r in _group) for _group in _groups)
        == _order.tolist()
    )
    assert (
        sorted(sorted(int(_r) for _r in _group) for _group in _copies)
        == _order.T.tolist()
    )


@judged(mesh_groups)
def _of_drawn_meshes(mesh_groups, draw):
    tensor, data = draw.randint(2, 6), draw.randint(2, 6)
    groups, copies = mesh_groups(tensor * data, tensor)
    rows = [list(range(tensor * row, tensor * (row + 1))) for row in range(data)]
    assert sorted(sorted(int(rank) for rank in group) for group in groups) == rows
    assert sorted(sorted(int(rank) for rank in group) for group in copies) == list(
        map(list, zip(*rows, strict=True))
    )


### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – the two kinds seem exchanged</summary>
#
# Write the ranks down row by row, `tensor` in each row. Which ranks of this table are in one machine? They divide the layers among them.
# </details>
#
# PyTorch makes the groups of a mesh with `init_device_mesh`. The rest is what you have: split over one group, average over the
# other.


# %%
def on_a_mesh(average_over="data"):
    """One step on a mesh of 2 × 2; this rank's groups,
    and the gradients, put together.
    """
    mesh = init_device_mesh(device().type, (2, 2), mesh_dim_names=("data", "tensor"))
    groups = {name: mesh[name].get_group() for name in ("data", "tensor")}
    model = tp.split(whole_model(), groups["tensor"])
    x, target = (
        part.chunk(2)[mesh["data"].get_local_rank()].to(device())
        for part in (images, labels)
    )
    F.cross_entropy(model(x), target).backward()
    average_gradients(model, groups[average_over])
    gradients = {
        name: gradient.cpu() for name, gradient in tp.whole(model, "gradients").items()
    }
    return {
        name: dist.get_process_group_ranks(group) for name, group in groups.items()
    }, gradients


for rank, (groups, gradients) in enumerate(run_ranks(on_a_mesh, world_size=4)):
    print(
        f"rank {rank}: layers split over {groups['tensor']}, gradients averaged over "
        f"{groups['data']}: ",
        end="",
    )
    print(f"off by {furthest(gradients):.0e}")
    assert furthest(gradients) < 1e-12

# %% [markdown]
# And with the wrong group, the other ranks of one's tensor group?

# %%
_, gradients = run_ranks(on_a_mesh, "tensor", world_size=4)[0]
size = max(parameter.grad.abs().max().item() for parameter in reference.parameters())
print(
    f"no error; gradients off by {furthest(gradients):.2f}, and the largest gradient "
    f"is {size:.2f}"
)

# %%
outcome(
    "02-2.mesh",
    "With rank 2 only: it holds the same part of each layer and saw other samples. "
    "Rank 1 holds other parts, of the same "
    f"shapes: averaged with those, not with rank 2's, the gradients are off by "
    f"{furthest(gradients):.2f}, without an error.",
    right="with rank 2",
)

# %% [markdown]
# ## 7 · Break-it lab: dropout
#
# Lesson 01 had a trap: with the same seed on every rank, dropout zeroes the same units on every rank, though the samples
# differ. A colleague remembers, and adds **dropout** (드롭아웃) to a tensor-parallel model with a seed for each rank. It is used in two places
# of the MLP:
#
# * *inner*, after GELU: on hidden units, different ones on each rank;
# * *outer*, after the second layer: on its output, which each rank holds whole.

# %%
images_32, labels_32 = digits()[:1280]


def train_with_dropout(seeds, steps=40):
    """Train with `seeds(step, rank)` → (inner, outer); the losses, and every ten
    steps how far the ranks are apart.
    """
    torch.manual_seed(0)
    model = tp.split(row_transformer(blocks=2).to(device()))
    dropouts = tp.Dropouts(model, p=0.2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses, apart = [], [0.0]
    for step in range(steps):
        batch = slice(64 * (step % 20), 64 * (step % 20) + 64)
        dropouts.seed(*seeds(step, dist.get_rank()))
        optimizer.zero_grad()
        loss = F.cross_entropy(
            model(images_32[batch].to(device())), labels_32[batch].to(device())
        )
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step % 10 == 9:
            apart.append(max(tp.drift(model).values()))
    return losses, apart


# %%
def colleagues_seeds(step, rank):
    """A different seed on each rank and step, of 1,000 each, and at each place."""
    return 1000 * step + rank, 1_000_000 + 1000 * step + rank


predict(
    "02-2.dropout",
    "Two tensor ranks train with the colleague's seeds. What happens?",
    [
        "all is well: independent masks are what dropout needs",
        "the loss becomes NaN, or does not fall",
        "the loss falls, but the ranks no longer hold one model",
        "an error: the all-reduces do not match",
    ],
)

# %%
(losses, apart), (losses_1, _) = run_ranks(
    train_with_dropout, colleagues_seeds, world_size=2
)

# %%
figure, axes = figures.new(height=2.8, ncols=2)
left, right = axes
left.plot(losses, label="rank 0")
left.plot(losses_1, "--", label="rank 1")
left.set(
    xlabel="step",
    ylabel="loss",
    title=f"The loss falls to {sum(losses[-10:]) / 10:.2f} …",
)
left.legend(frameon=False)
right.plot(range(0, 41, 10), apart, "o-", color=figures.COLORS["vermillion"])
right.set(xlabel="step", ylabel="largest difference of a weight", ylim=(0, None))
right.set_title(f"… and the copies are {max(apart):.2g} apart")
figures.show(
    figure,
    f"Loss from {losses[0]:.2f} to {losses[-1]:.2f} on both ranks; copies of weights "
    f"{max(apart):.2g} apart.",
)

# %% [markdown]
# Read the evidence:
#
# 1. Nothing fails, and the loss falls. But in a tensor group both ranks have the same samples and hold parts of one model. Should their losses
#    differ at all?
# 2. Embedding, norms and output layer are on both ranks, and should be equal. They drift apart. Which of them would you save?

# %%
difference = max(abs(a - b) for a, b in zip(losses, losses_1, strict=True))
outcome(
    "02-2.dropout",
    f"The loss falls. But the two ranks' losses differ by up to {difference:.2f}, "
    f"and their copies are {max(apart):.2g} apart. "
    "After the outer dropout each rank goes on with a different x, and the sums of "
    "the next layer add up parts of two models.",
    right="the loss falls, but the ranks no longer hold one model",
)

# %% [markdown]
# "Then one seed for all," says the colleague:


# %%
def one_seed(step, rank):
    """The same seed everywhere, a different one in each step."""
    return step, step


_, apart = run_ranks(train_with_dropout, one_seed, 10, world_size=2)[0]
print(f"the copies are {max(apart):.0e} apart")

# %% [markdown]
# The copies stay equal. But look at the *inner* masks:


# %%
def inner_mask(seed):
    """Which of this rank's 8 hidden units fall out, at 0.4, to see several."""
    return (
        (torch.rand(8, generator=torch.Generator().manual_seed(seed)) < 0.4)
        .int()
        .tolist()
    )


for step in range(2):
    masks = run_ranks(inner_mask, step, world_size=2)
    print(
        f"step {step}: units 0 to 7 on rank 0 {masks[0]}, units 8 to 15 on rank 1 "
        f"{masks[1]}"
    )

# %% [markdown]
# Unit 0 and unit 8 always fall out together: 8 coins are tossed for 16 units. No whole model's dropout does that.
#
# ### Exercise 5 · The right seeds
#
# ●●● · 10 minutes · good for: the question behind it comes with everything random: who must agree, and who must not?
#
# On a mesh of data × tensor, as in exercise 4. What would the whole model do? It tosses one coin for each unit of each sample, and
# new ones in each step. So ask for each place: which ranks hold the *same* numbers there?


# %% exercise: dropout_seeds
def dropout_seeds(step: int, rank: int, ranks: int, tensor: int) -> tuple[int, int]:
    """The seeds of the inner and of the outer dropout on this rank in this step: two
    whole numbers.

    There are `ranks` ranks; each `tensor` neighbors are a tensor group. Two masks get
    the same seed only if they must be equal.
    """
    ### BEGIN SOLUTION
    start = 2 * ranks * step
    return start + rank, start + ranks + rank // tensor
    ### END SOLUTION


# %% check: dropout_seeds
checked = check.dropout_seeds(dropout_seeds, points=3)
### BEGIN HIDDEN TESTS
for _ranks, _tensor in ((6, 3), (16, 4), (1, 1)):
    _used = {}
    for _step in range(9):
        for _rank in range(_ranks):
            _inner, _outer = map(int, dropout_seeds(_step, _rank, _ranks, _tensor))
            assert _used.setdefault(_inner, (_step, _rank, "inner")) == (
                _step,
                _rank,
                "inner",
            )
            assert _used.setdefault(_outer, (_step, _rank // _tensor, "outer")) == (
                _step,
                _rank // _tensor,
                "outer",
            )
    assert len(_used) == 9 * (_ranks + _ranks // _tensor)
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – "the same numbers come again"</summary>
#
# `step + rank` is the same number for step 1 on rank 0 and for step 0 on rank 1. Count through: how many different seeds does
# one step need? Where may the next step begin?
# </details>
#
# <details><summary>Help – "hold parts of the same layers, but their outer masks differ"</summary>
#
# In exercise 4, what is the same for all ranks of a tensor group, and a different number in the next group? You can compute it from
# `rank` and `tensor`.
# </details>
#
# Inside a tensor group, Megatron-LM does the same (Shoeybi et al. 2019, appendix B.2); its data groups share the inner seed. **The rule:** in a tensor-parallel run, compare the copies now and
# then, with `tp.drift(model)` or a checksum. The loss of one rank will not tell you.

# %% [markdown]
# ## 8 · Scale up
#
# One function for all layouts: on meshes of 1 × 1, 1 × 2 and 2 × 2 the losses must be those of one process.


# %%
def train_on_a_mesh(tensor=2):
    """Tensor groups of this size, data parallelism over the rest; the loss of the
    whole batch in each step.
    """
    mesh = init_device_mesh(
        device().type,
        (dist.get_world_size() // tensor, tensor),
        mesh_dim_names=("data", "tensor"),
    )
    group, place = mesh["data"].get_group(), mesh["data"].get_local_rank()
    torch.manual_seed(0)
    model = tp.split(
        row_transformer(blocks=2).double().to(device()), mesh["tensor"].get_group()
    )
    images, labels = digits()[:16]
    x, target = (
        part.chunk(mesh["data"].size())[place].to(device())
        for part in (images.double(), labels)
    )
    losses = sgd_losses(model, x, target, partial(average_gradients, group=group))
    mean = torch.tensor(losses, dtype=torch.float64, device=device())
    dist.all_reduce(mean, group=group)
    return (mean / mesh["data"].size()).tolist()


# %%
alone = sgd_losses(whole_model().cpu(), images, labels)
print("one process:     ", [round(value, 4) for value in alone])

for ranks, tensor in ((1, 1), (2, 2), (4, 2)):
    losses = run_ranks(train_on_a_mesh, tensor, world_size=ranks)[-1]
    off = max(abs(a - b) for a, b in zip(losses, alone, strict=True))
    print(
        f"data {ranks // tensor} × tensor {tensor}: largest difference over 6 steps "
        f"{off:.0e}"
    )
    assert off < 1e-9

# %% [markdown]
# ### PyTorch's own, in two dimensions
#
# The plan goes over one dimension of the mesh, and `fully_shard` of lesson 01 over the other.


# %%
def with_torch():
    """DTensor's tensor parallelism × FSDP2 on a mesh of 2 × 2; the losses of this
    rank's samples.
    """
    mesh = init_device_mesh(device().type, (2, 2), mesh_dim_names=("data", "tensor"))
    model = whole_model()
    for block in model[1:-1]:
        with_dtensor.split_block(block, mesh["tensor"])
        fully_shard(block, mesh=mesh["data"])
    fully_shard(model, mesh=mesh["data"])
    x, target = (
        part.chunk(2)[mesh["data"].get_local_rank()].to(device())
        for part in (images, labels)
    )
    return sgd_losses(model, x, target)


# ranks 0 and 2 have different samples
first, _, second, _ = run_ranks(with_torch, world_size=4)
off = max(abs((a + b) / 2 - c) for a, b, c in zip(first, second, alone, strict=True))
print(f"FSDP2 × DTensor: largest difference over 6 steps {off:.0e}")
assert off < 1e-9

# %% [markdown]
# ### Out of the notebook

# %%
export_script(train_on_a_mesh, "train_on_a_mesh.py", 2, overwrite=True)

# %% [markdown]
# ```
# torchrun --standalone --nproc-per-node=4 train_on_a_mesh.py                      # one machine: 2 × 2
# torchrun --nnodes=2 --nproc-per-node=2 --rdzv-backend=c10d \
#          --rdzv-endpoint=FIRST_MACHINE:29500 train_on_a_mesh.py                  # two machines
# ```

# %% [markdown]
# ## 9 · What the log said
#
# | The log | The evidence here | Corrected |
# |---|---|---|
# | 다중 GPU에 학습을 분산: training is spread over several GPUs | Section 4: each rank holds a part of *every* layer. | Spread can mean samples (lesson 01), whole layers (a pipeline), or each layer (here). |
# | 모델/데이터 나누기 (2가지): split the model or the data, two ways | Section 6: on a mesh of 2 × 2 both at once, gradients equal to one process. | They are dimensions, not alternatives: ranks = data × tensor (× pipeline). |

# %% [markdown]
# ## Take away
#
# * By columns: forward nothing, backward an all-reduce of the input's gradient. By rows: the mirror image.
# * Column, then row, with any function of single numbers between: one all-reduce each way. A transformer block: two each way.
# * Attention is split by whole heads. A fused layer needs its outputs picked, not chunked.
# * What is sent are activations: 8(N−1)/N · tokens · width numbers per block, on the critical path. So keep it inside a machine.
# * On a mesh, divide layers along one dimension and average gradients along the other.
# * Random numbers: equal where the ranks hold the same, different where they do not.
#
# ### Glossary
#
# | English | 한국어 | here |
# |---|---|---|
# | tensor parallelism | 텐서 병렬화 | each rank holds a part of every layer |
# | column-parallel | 열 병렬 | each rank computes some outputs |
# | row-parallel | 행 병렬 | each rank adds its inputs' part to every output |
# | all-reduce | 올리듀스 | the sum over all ranks, for all ranks |
# | all-gather | 올개더 | the parts of all ranks, side by side, for all ranks |
# | reduce-scatter | 리듀스 스캐터 | the sum over all ranks, a part of it for each |
# | head | 헤드 | one of several attentions in a layer; they do not know each other |
# | sequence parallelism | 시퀀스 병렬화 | between the split regions, each rank has some of the tokens |
# | mesh | 메시 | ranks in rows and columns, one kind of parallelism along each |
# | grouped-query attention, GQA | 그룹 쿼리 어텐션 | several query heads share a key head and a value head |
# | dropout | 드롭아웃 | some values become zero at random, in training |
#
# ### Further reading
#
# * Shoeybi et al. 2019, [Megatron-LM](https://arxiv.org/abs/1909.08053): section 3 has f and g, appendix B.2 the seeds.
# * Narayanan et al. 2021, [Efficient Large-Scale Language Model Training on GPU Clusters](https://arxiv.org/abs/2104.04473):
#   bytes, and which kind of parallelism goes where.
# * Korthikanti et al. 2022, [Reducing Activation Recomputation in Large Transformer Models](https://arxiv.org/abs/2205.05198):
#   sequence parallelism.
# * Ainslie et al. 2023, [GQA](https://arxiv.org/abs/2305.13245): grouped-query attention.
# * PyTorch, [Tensor Parallelism](https://docs.pytorch.org/docs/stable/distributed.tensor.parallel.html) and
#   [DTensor](https://docs.pytorch.org/docs/stable/distributed.tensor.html).
#
# **Next notebook:** [the planner](3_planner.ipynb), which says what layout of all these fits and is fast. **Questions on this
# lesson:** [quiz](quiz.ipynb).
