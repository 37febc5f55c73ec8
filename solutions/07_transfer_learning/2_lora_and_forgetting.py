# %% [markdown]
# # LoRA and forgetting: learning something new without losing the old
#
# **{minutes} minutes** · one CPU is enough (two processes); with several GPUs, each process takes one · before this: lesson 01,
# and the first notebook of this lesson
#
# Fine-tuning writes over what a network knew. Here you measure how much is lost, try six ways to lose less, and write one of them
# yourself: LoRA, which leaves the old weights alone. Then you fine-tune on two ranks with parts that are frozen, where a mistake
# raises no error.
#
# **After this notebook you can**
#
# 1. write LoRA by hand, merge it exactly, and count its trainable bytes;
# 2. measure catastrophic forgetting, and reduce it;
# 3. fine-tune under DDP with frozen parts.

# %% setup

# %%
from torchcourse.quiz import outcome, predict, recall

recall("07_transfer_learning")

# %%
import copy

import torch
import torch.distributed as dist
import torch.nn.functional as F
from matplotlib.patches import Rectangle
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Subset

from torchcourse import environment, figures
from torchcourse.data import make_loader
from torchcourse.error_bars import paired
from torchcourse.lessons.transfer.checks import lora as check
from torchcourse.lessons.transfer.few_labels import accuracy
from torchcourse.lessons.transfer.finetune import (
    freeze,
    freeze_norms,
    trainable_bytes,
    unfreeze,
)
from torchcourse.lessons.transfer.forgetting import (
    KNOBS,
    NEW_IMAGES,
    blend,
    curves,
    learn,
    mnist_reader,
    results,
    small_digits,
    tasks,
)
from torchcourse.lessons.transfer.lora import (
    LoRALinear,
    adapter_state,
    add_lora,
    merge,
    without_adapters,
)
from torchcourse.ranks import (
    RankError,
    device,
    export_script,
    run_ranks,
)
from torchcourse.training import Trainer

torch.set_num_threads(1)
print(environment.hardware())

# %% [markdown]
# ## 1 · What fine-tuning writes over
#
# A small network reads MNIST. It is to read other digits as well: 8×8 pixels, by other writers. It has the ten classes
# already, so nothing about it has to change but the weights.

# %%
reader, known = mnist_reader(), tasks()
old, new = known["MNIST"], known["small digits"]
read = {name: accuracy(reader, *task.test.tensors) for name, task in known.items()}

# %%
figure, axes = figures.new(7, 1.9, ncols=9)
for axis, image in zip(
    axes,
    [*old.test[:3][0], *new.test[:3][0], *known["turned"].test[:3][0]],
    strict=True,
):
    axis.imshow(image[0], cmap="gray_r")
    axis.axis("off")
title = "The reader reads " + ", ".join(
    f"{share:.0%} of {name}" for name, share in read.items()
)
figure.suptitle(title)
figures.show(figure, f"Three digits of each of three tasks. {title}.")

# %%
predict(
    "07-2.forget",
    f"Fine-tuned on {NEW_IMAGES} small digits, it reads nearly all of them. How many "
    f"of MNIST does it still read?",
    [
        "as many as before: they are digits, too",
        "more: it has seen more digits",
        "clearly fewer",
    ],
)

# %%
tuned = learn(reader, new.train)
before, after = read["MNIST"], accuracy(tuned, *old.test.tensors)
right = "as many as before: they are digits, too"
if abs(after - before) > 0.02:
    right = "clearly fewer" if after < before else "more: it has seen more digits"
outcome(
    "07-2.forget",
    f"Small digits: {accuracy(tuned, *new.test.tensors):.1%}. MNIST: {before:.1%} "
    f"before, {after:.1%} after.",
    right=right,
)

# %% [markdown]
# No image of MNIST was *un*learned. The loss of the new task says nothing about the old one, so the weights went wherever
# the new one led. That is **catastrophic forgetting** (치명적 망각), described in
# [McCloskey and Cohen 1989](https://doi.org/10.1016/S0079-7421%2808%2960536-8).
#
# With a third task after it, MNIST turned by a quarter turn, here is the whole story. A row is a moment, a column is a task:

# %%
turned = learn(tuned, known["turned"].train)
table = torch.tensor(
    [
        [accuracy(m, *t.test.tensors) for t in known.values()]
        for m in (reader, tuned, turned)
    ]
)
print(f"{'after learning':16}" + "".join(f"{name:>14}" for name in known))
for name, row in zip(known, table.tolist(), strict=True):
    print(f"{name:16}" + "".join(f"{share:14.1%}" for share in row))

# %% [markdown]
# ### Exercise 1 · One number for what was lost
#
# ●○○ · 6 minutes · good for: watching an old task while you train a new one. Most programs never look.
#
# For each *old* task (all but the newest): its best accuracy at any earlier moment, minus its accuracy now. The mean of that over
# the old tasks is the **forgetting measure** (망각 척도) of [Chaudhry et al. 2018](https://arxiv.org/abs/1801.10112).


# %% exercise: forgetting
def forgetting(accuracy: torch.Tensor) -> float:
    """Return the forgetting at the last moment, from a table [T, T] with T ≥ 2: row
    = moment, column = task.
    """
    ### BEGIN SOLUTION
    earlier, now = accuracy[:-1, :-1], accuracy[-1, :-1]
    return (earlier.max(dim=0).values - now).mean().item()
    ### END SOLUTION


# %% check: forgetting
checked = check.forgetting(forgetting, points=2)
### BEGIN HIDDEN TESTS
from torchcourse.checks.values import judged

_table = torch.tensor(
    [[0.5, 0.1, 0.3], [0.75, 0.25, 0.3], [0.5, 0.5, 1.0]], dtype=torch.float64
)
assert abs(forgetting(_table) - 0.0) < 1e-6
assert (
    abs(forgetting(torch.tensor([[1.0, 0.0], [0.25, 1.0]], dtype=torch.float64)) - 0.75)
    < 1e-6
)
_table = torch.rand(
    5, 5, generator=torch.Generator().manual_seed(9), dtype=torch.float64
)
_lost = [
    max(_table[_i, _j].item() for _i in range(4)) - _table[4, _j].item()
    for _j in range(4)
]
assert abs(forgetting(_table) - sum(_lost) / 4) < 1e-6


@judged(forgetting)
def _in_drawn_tables(forgetting, draw):
    import torch

    rows = [[draw.random() for _ in range(4)] for _ in range(4)]
    lost = [max(row[task] for row in rows[:-1]) - rows[-1][task] for task in range(3)]
    assert (
        abs(forgetting(torch.tensor(rows, dtype=torch.float64)) - sum(lost) / 3) < 1e-6
    )


### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – the check says that a task had a higher accuracy later</summary>
#
# The diagonal holds each task right after it was learned. Learning a similar task may have helped it since.
# </details>
#
# ## 2 · LoRA: leave the weights, train beside them
#
# **LoRA** (low-rank adaptation, 저랭크 적응; [Hu et al. 2021](https://arxiv.org/abs/2106.09685)) freezes the weight W of a layer and trains an
# **adapter** (어댑터) beside it:
#
# $$y = W x + b + \frac{\alpha}{r}\, U D x$$
#
# D (`down`) leads from all inputs to r numbers, U (`up`) from these to all outputs. r is the **rank** (랭크; here the rank of a
# matrix, not a process). The paper calls D and U A and B. What training adds to W is then a matrix of rank r at most. Move the sliders: when is the adapter no longer small?


# %%
def share_of_weights(inputs, outputs, rank):
    share = rank * (inputs + outputs) / (inputs * outputs)
    return (
        f"rank {rank}: {rank * (inputs + outputs):,} numbers beside "
        f"{inputs * outputs:,}, {share:.1%}"
    )


# %%
def draw_adapter(inputs, outputs, rank):
    figure, axes = figures.new(7, 3.2)
    boxes = {
        "W": (0, 0, inputs, outputs),
        "down": (0, -outputs / 8 - rank, inputs, rank),
    }
    boxes["up"] = (inputs * 1.05, 0, rank, outputs)
    for (name, (x, y, width, height)), color in zip(
        boxes.items(), ("gray", "blue", "orange"), strict=True
    ):
        axes.add_patch(
            Rectangle(
                (x, y),
                width,
                height,
                color=figures.COLORS[color],
                alpha=0.7,
                label=name,
            )
        )
    axes.set(
        xlim=(-10, inputs * 1.1 + rank),
        ylim=(-outputs / 4 - rank, outputs * 1.05),
        yticks=(0, outputs),
    )
    axes.set(
        xlabel="inputs (columns)",
        ylabel="outputs (rows)",
        title=share_of_weights(inputs, outputs, rank),
    )
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


# %%
figures.explorer(
    draw_adapter,
    alt=share_of_weights,
    inputs=(64, 1568, 512, 32),
    outputs=(32, 512, 256, 32),
    rank=(1, 128, 8),
)

# %% [markdown]
# How should D and U begin? At the start of training, the network should compute just what it did before.

# %%
predict(
    "07-2.start",
    "How do `down` and `up` begin?",
    [
        "both random",
        "both zero",
        "`down` random, `up` zero",
        "`down` zero, `up` zero, W random",
    ],
)

# %%
for name, make_down, make_up in (
    ("both zero", torch.zeros, torch.zeros),
    ("up zero", torch.randn, torch.zeros),
):
    x, weight = torch.randn(5, 6), torch.randn(4, 6)
    down, up = make_down(2, 6).requires_grad_(), make_up(4, 2).requires_grad_()
    (F.linear(x, weight) + x @ down.T @ up.T).square().mean().backward()
    print(
        f"{name:10} gradient of down {down.grad.norm():.2f}, of up {up.grad.norm():.2f}"
    )
outcome(
    "07-2.start",
    "Both random would change the outputs at once. With both zero, both gradients "
    "are zero, for ever.",
    right="`down` random, `up` zero",
)

# %% [markdown]
# ### Exercise 2 · LoRA by hand
#
# ●●○ · 10 minutes · good for: adapting a model that is too large to be trained whole.


# %% exercise: own_lora
class OwnLoRA(nn.Module):
    """A linear layer with an adapter: base(x) + alpha / rank · up (down x).

    Only `down` and `up` learn.

    `down` is a parameter [rank, inputs], `up` one of [outputs, rank]. At the start it
    computes what `base` does.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base = base
        ### BEGIN SOLUTION
        base.requires_grad_(False)
        self.scale = alpha / rank
        self.down = nn.Parameter(
            torch.randn(rank, base.in_features) / base.in_features**0.5
        )
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))
        ### END SOLUTION

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ### BEGIN SOLUTION
        return self.base(x) + self.scale * (x @ self.down.T @ self.up.T)
        ### END SOLUTION


# %% check: own_lora
checked = check.own_lora(OwnLoRA, points=3)
### BEGIN HIDDEN TESTS
torch.manual_seed(21)
for _inputs, _outputs, _rank, _alpha in ((9, 3, 4, 10.0), (2, 6, 1, 3.0)):
    _base, _x = nn.Linear(_inputs, _outputs), torch.randn(4, _inputs)
    _old, _layer = copy.deepcopy(_base), OwnLoRA(_base, _rank, _alpha)
    assert not any(isinstance(_module, LoRALinear) for _module in _layer.modules())
    torch.testing.assert_close(_layer(_x), _old(_x))
    assert {_n for _n, _p in _layer.named_parameters() if _p.requires_grad} == {
        "down",
        "up",
    }
    _layer.up.data.normal_()
    _added = torch.einsum("ni,ri,or->no", _x, _layer.down, _layer.up) * _alpha / _rank
    torch.testing.assert_close(_layer(_x), _old(_x) + _added)
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – "no optimizer will find `down`"</summary>
#
# `model.parameters()` lists attributes of the class `nn.Parameter`. A plain tensor is not one of them.
# </details>
#
# <details><summary>Help – "It should be `down` and `up`, and nothing else"</summary>
#
# A parameter learns if it asks for gradients. Which method of a layer takes that from all its parameters?
# </details>
#
# The package's `add_lora` puts an adapter beside linear layers *and convolutions*: there `down` is a convolution to r channels and `up` one
# of 1×1. Layers are chosen by name, as for `freeze` in notebook 1:

# %%
model = copy.deepcopy(reader)
freeze(model)
torch.manual_seed(0)
print("adapters beside", add_lora(model, "body.conv2", "body.dense", rank=4))
print([name for name, parameter in model.named_parameters() if parameter.requires_grad])
with torch.no_grad():
    assert torch.equal(model(old.test[:8][0]), reader(old.test[:8][0]))

# %% [markdown]
# What cannot be is said in one sentence:

# %%
try:
    add_lora(model, "body.norm1")
except ValueError as error:
    print(error)

# %% [markdown]
# ## 3 · Merging
#
# An adapter costs two more products in each call. Once training is done it can be **merged** (병합): computed into the weight, so that a plain layer is left.

# %%
predict(
    "07-2.merge",
    "How much does a merged network differ from the one with adapters?",
    [
        "by rounding only",
        "by about 1%: a low rank is an approximation",
        "it needs another round of training",
    ],
)

# %%
adapted = learn(reader, new.train, way="LoRA")
plain = copy.deepcopy(adapted)
merge(plain)
with torch.no_grad():
    images = new.test.tensors[0]
    off = (
        (plain(images) - adapted(images)).abs().max() / adapted(images).abs().max()
    ).item()
    moved = (
        (reader(images) - adapted(images)).abs().max() / adapted(images).abs().max()
    ).item()
outcome(
    "07-2.merge",
    f"Merged: {off:.0e} off. Without the adapters: {moved:.0e}.",
    right="by rounding only" if off < 1e-5 else None,
)
assert off < 1e-5

# %% [markdown]
# The low rank limits what training may *add*. The sum itself is exact: (W + s·U D) x = W x + s·U (D x).
#
# ### Exercise 3 · Merge
#
# ●●○ · 6 minutes · good for: serving an adapted model at the price of the plain one.
#
# `layer` is the package's: it has `base`, `down`, `up` and `scale`. Leave it as it is: a server may want to take the adapter off again.


# %% exercise: merged
def merged(layer: LoRALinear) -> nn.Linear:
    """Return a new plain layer that computes what `layer` does.

    `layer` and its base stay as they are.
    """
    ### BEGIN SOLUTION
    plain = copy.deepcopy(layer.base)
    with torch.no_grad():
        plain.weight += layer.scale * layer.up @ layer.down
    return plain
    ### END SOLUTION


# %% check: merged
checked = check.merged(merged, points=2)
### BEGIN HIDDEN TESTS
torch.manual_seed(22)
for _bias in (True, False):
    _layer = LoRALinear(nn.Linear(7, 3, bias=_bias), rank=2, alpha=9.0)
    nn.init.normal_(_layer.up)
    _x, _weight = torch.randn(5, 7), _layer.base.weight.clone()
    _plain, _out = merged(_layer), _layer(_x)
    assert type(_plain) is nn.Linear
    torch.testing.assert_close(_plain(_x), _out, rtol=1e-4, atol=1e-5)
    assert torch.equal(_layer.base.weight, _weight)
    torch.testing.assert_close(_layer(_x), _out)
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – the check says that the old weight has changed</summary>
#
# `plain = layer.base` is a second name for the same layer. Who else looks at its weight?
# </details>
#
# ## 4 · What it costs
#
# A frozen weight is in memory, but gets no gradient and no optimizer state. So LoRA saves memory while training, and what
# has to be *kept* of a training run is the adapter alone.

# %%
whole = sum(parameter.nbytes for parameter in reader.parameters())
predict(
    "07-2.bytes",
    f"The reader has {whole / 1e3:.0f} kB of weights. How many bytes is a file of "
    f"adapters of rank 8 for all its layers?",
    ["about 60 kB", "about 210 kB", "as many: each layer has one"],
)

# %%
kept = sum(tensor.nbytes for tensor in adapter_state(adapted).values())
outcome(
    "07-2.bytes",
    f"{kept / 1e3:.0f} kB, {kept / whole:.0%} of {whole / 1e3:.0f} kB.",
    right="about 60 kB",
)

# %% [markdown]
# ### Exercise 4 · Count what training takes
#
# ●●○ · 8 minutes · good for: knowing before the run whether it fits.
#
# With AdamW, training keeps for each number that learns a gradient and two **moments** (모멘트), all in the weight's own type.


# %% exercise: training_bytes
def training_bytes(model: nn.Module) -> tuple[int, int]:
    """Return the bytes of all weights, and the bytes that training with AdamW adds:
    gradients and moments.
    """
    ### BEGIN SOLUTION
    weights = sum(parameter.nbytes for parameter in model.parameters())
    learning = sum(
        parameter.nbytes for parameter in model.parameters() if parameter.requires_grad
    )
    return weights, 3 * learning
    ### END SOLUTION


# %% check: training_bytes
checked = check.training_bytes(training_bytes, points=2)
### BEGIN HIDDEN TESTS
_model = nn.Sequential(
    nn.Linear(5, 6), LoRALinear(nn.Linear(6, 8), rank=3), nn.Linear(8, 8)
).double()
_model[0].bias.requires_grad_(False)
assert tuple(training_bytes(_model)) == (
    8 * (36 + 56 + 42 + 72),
    3 * 8 * (30 + 42 + 72),
)
assert tuple(training_bytes(_model.half())) == (
    2 * (36 + 56 + 42 + 72),
    3 * 2 * (30 + 42 + 72),
)
assert training_bytes(_model.requires_grad_(False))[1] == 0
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – "not every number has four bytes"</summary>
#
# A tensor knows how many bytes one of its numbers takes, and how many it takes as a whole.
# </details>
#
# For a model that is *large*, the picture changes by orders of magnitude. A language model of 7 billion weights in bfloat16:

# %%
learns = 7e9 * 0.003  # an adapter of 0.3%
for name, numbers in (("fine-tuned", 7e9), ("LoRA", learns)):
    print(
        f"{name:10} weights {2 * 7e9 / 1e9:.0f} GB, gradients and moments "
        f"{3 * 2 * numbers / 1e9:5.1f} GB"
    )

# %% [markdown]
# That is with everything in bfloat16. The usual way keeps weights and moments for the optimizer in float32 as well: 16 bytes per weight that learns, 112 GB for all of them.
# The activations come on top, and LoRA does not save them: gradients have to travel through the frozen layers to reach the adapters.
#
# ## 5 · Six ways to forget less
#
# | way | what it does | what it needs | its knob |
# |---|---|---|---|
# | lower rate | smaller steps | | the rate |
# | head only | the body stays frozen | | the rate |
# | **rehearsal** (리허설) | old images mixed into each batch | some old images | how many |
# | **distillation** (지식 증류) | on new images, stay near what the old network says ([Li and Hoiem 2016](https://arxiv.org/abs/1606.09282)) | the old network | its weight |
# | **EWC** | holds each weight back as far as the old task depends on it ([Kirkpatrick et al. 2017](https://arxiv.org/abs/1612.00796)) | old images, once | the strength |
# | LoRA | adapters of rank 8 beside all layers | | the rate |
#
# All start from the same reader and see the same images five times, at the same rate unless that is the knob. BatchNorm keeps its statistics (notebook 1).
#
# Each way has a knob, and most knobs trade the new task against the old one. So one setting of a way is a *point*, and says as much about the knob as about the way. Compare curves, or points that
# learn equally well.

# %%
predict(
    "07-2.ways",
    "LoRA, and full fine-tuning whose rate was lowered until it reads as many of the "
    "small digits as LoRA. Which keeps more of MNIST?",
    ["LoRA", "fine-tuning at the lower rate", "neither: less than a point apart"],
)

# %% [markdown]
# One of the ways, here and now:

# %%
rehearsed = learn(reader, new.train, "rehearsal", old.train)
print(
    f"MNIST {accuracy(rehearsed, *old.test.tensors):.1%}, small digits "
    f"{accuracy(rehearsed, *new.test.tensors):.1%}"
)

# %% [markdown]
# And all of them, with four values of each knob and five seeds, which choose the images and their order. They were measured before, by
# `python -m torchcourse.tools.make_data.forgetting`:

# %%
curve = curves()
for way, values in curve.items():
    knob = KNOBS[way]
    print(f"{way}: {knob.name}")
    for setting, (kept, learned) in zip(
        knob.tried, 100 * values.mean(axis=1), strict=True
    ):
        print(f"   {setting:<9g} MNIST {kept:.1f}%   small digits {learned:.1f}%")

# %%
figure, axes = figures.new(7, 3.8)
for (way, values), marker in zip(curve.items(), "osD^vP", strict=True):
    axes.plot(
        *100 * values.mean(axis=1).T,
        marker + "-",
        markersize=5,
        label=f"{way} ({KNOBS[way].name})",
    )
axes.plot(
    100 * read["MNIST"], 100 * read["small digits"], "k*", markersize=12, label="before"
)
title = "A way is a curve: most knobs trade old for new"
axes.set(
    xlabel="accuracy on MNIST (old), %",
    ylabel="accuracy on small digits (new), %",
    title=title,
)
axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
ends = "; ".join(
    f"{way} from {100 * first[0]:.0f} and {100 * first[1]:.0f} to "
    f"{100 * last[0]:.0f} and {100 * last[1]:.0f}"
    for way, (first, *_, last) in (
        (way, values.mean(axis=1)) for way, values in curve.items()
    )
)
figures.show(
    figure,
    f"{title}: accuracies in % on old and new for {len(curve)} ways, means of five "
    f"seeds. {ends}.",
)


# %%
def points(difference):
    """Say a difference of accuracies in percentage points, with its 95% interval."""
    low, high = 100 * difference.low, 100 * difference.high
    return f"{100 * difference.mean:+.1f} points [{low:+.1f}, {high:+.1f}]".replace(
        "-", "−"
    )


lora = curve["LoRA"][0]
equal = min(
    curve["fine-tuned"], key=lambda values: abs(values[:, 1].mean() - lora[:, 1].mean())
)
on_old, on_new = (paired(equal[:, task], lora[:, task]) for task in (0, 1))
verdicts = {
    "clearly above": "fine-tuning at the lower rate",
    "level": "neither: less than a point apart",
    "clearly below": "LoRA",
}
outcome(
    "07-2.ways",
    f"Fine-tuning − LoRA, five pairs: small digits {points(on_new)}, MNIST "
    f"{points(on_old)}.",
    right=verdicts.get(on_old.verdict(0.01)),
)

# %% [markdown]
# And at the *same* rate, from ten seeds each:

# %%
table = results()
for task, name in enumerate(("MNIST", "small digits")):
    print(
        f"LoRA − fine-tuned, {name}: "
        f"{points(paired(table['LoRA'][:, task], table['fine-tuned'][:, task]))}"
    )

# %% [markdown]
# At the same rate LoRA forgets less than full fine-tuning and learns less, as [Biderman et al. 2024](https://arxiv.org/abs/2405.09673) found for language models. But the same rate is
# not the same amount of learning. Where both learn equally well, a lower rate keeps more of the old task here, and costs nothing.
#
# Read the picture from the upper right. Of the settings that read 95% of the small digits, distillation keeps 95.9% of MNIST, rehearsal with 300 old images 95.2%, and the lowest rate 94.6%. The
# first two are not clearly apart. EWC keeps 92.0%, LoRA 87.8%, and a head alone never gets so far. This holds for four values of one knob each, read off the same test images for all ways. Two knobs
# together, such as EWC at a lower rate, were not tried.
#
# ### Between the old network and the new
#
# The cheapest way needs no further training: **blend** (혼합) the weights, (1 − s)·old + s·new
# ([Wortsman et al. 2021](https://arxiv.org/abs/2109.01903)). For LoRA, merged, that is the adapter turned up to s. Move `percent`:

# %%
few_old, few_new = old.test[:300], new.test[:300]
blended = {}
for name, target in (("fine-tuned", tuned), ("LoRA", plain)):
    blends = [blend(reader, target, step / 10) for step in range(11)]
    blended[name] = [(accuracy(m, *few_old), accuracy(m, *few_new)) for m in blends]


# %%
def describe_blend(percent, network):
    on_old, on_new = blended[network][percent // 10]
    return f"{percent}% {network}: MNIST {on_old:.1%}, small digits {on_new:.1%}"


def draw_blend(percent, network):
    figure, axes = figures.new(7, 3)
    for label, values in zip(
        ("MNIST", "small digits"), zip(*blended[network], strict=True), strict=True
    ):
        axes.plot(range(0, 101, 10), values, "o-", label=label)
    axes.axvline(percent, color=figures.COLORS["gray"])
    axes.set(
        xlabel=f"share of {network}, %",
        ylabel="accuracy",
        title=describe_blend(percent, network),
    )
    axes.legend(frameon=False)
    return figure


figures.explorer(
    draw_blend, alt=describe_blend, percent=(0, 100, 50, 10), network=list(blended)
)

# %% [markdown]
# ### The switch
#
# LoRA has something that the five other ways lack. The old weights are still there: switch the adapter off, and the old network is back, to the last bit.
# So one model can carry an adapter for each customer.

# %%
predict(
    "07-2.switch",
    "LoRA learned the turned digits while BatchNorm was in training mode. Switched "
    "off, does it read MNIST as before?",
    ["yes: no old weight has changed", "no: something else has changed"],
)

# %%
for keep_norms in (True, False):
    model = learn(
        reader, known["turned"].train, "LoRA", epochs=3, keep_norms=keep_norms
    )
    with without_adapters(model):
        off = accuracy(model, *old.test.tensors)
    moved = (
        (model.body.norm2.running_mean - reader.body.norm2.running_mean)
        .abs()
        .max()
        .item()
    )
    print(
        f"BatchNorm frozen: {keep_norms!s:5} switched off {off:.1%} (was "
        f"{before:.1%}), its mean moved by {moved:.2f}"
    )

# %%
# `off` and `moved` are those of the last run, with BatchNorm in training mode
outcome(
    "07-2.switch",
    f"MNIST {off:.1%}, and {before:.1%} before. The running statistics are no weights, "
    f"and no gradient moves them: the forward pass does.",
    right="no: something else has changed"
    if moved > 0
    else "yes: no old weight has changed",
)

# %% [markdown]
# So: `freeze_norms` before LoRA, or the switch does not lead back.
#
# ## 6 · Break-it lab: unfrozen too late
#
# On several ranks, DistributedDataParallel (DDP, lesson 01) asks *once*, when it is made, which parameters want gradients, and puts those
# into its buckets. A colleague trains in two stages: the head first, then the dense layer as well.


# %%
images, labels = new.train[:80]


def batch():
    """This rank's part of 80 images, in 64 bits,
    so that rounding cannot hide anything.
    """
    mine = slice(dist.get_rank(), None, dist.get_world_size())
    return images[mine].double().to(device()), labels[mine].to(device())


def train_stage(replica, steps=3):
    """A few steps of SGD on whatever is not frozen."""
    inputs, targets = batch()
    optimizer = torch.optim.SGD(
        [p for p in replica.parameters() if p.requires_grad], lr=0.02
    )
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(replica(inputs), targets).backward()
        optimizer.step()


# %%
def start():
    model = copy.deepcopy(reader).double().to(device())
    freeze_norms(model)
    return model


def two_stages():
    model = start()
    freeze(model, "body")
    replica = DistributedDataParallel(model)
    train_stage(replica)
    unfreeze(model, "body.dense")
    train_stage(replica)
    return {name: weight.detach().cpu() for name, weight in model.named_parameters()}


# %%
predict(
    "07-2.late",
    "It runs on two ranks. What happens in the second stage?",
    [
        "an error: DDP meets a parameter that it does not know",
        "the dense layer stays as it is",
        "each rank trains a dense layer of its own",
    ],
)

# %%
ones, others = run_ranks(two_stages, world_size=2)
apart = {name: (ones[name] - others[name]).abs().max().item() for name in ones}
for name, distance in apart.items():
    print(f"{name:20} the two ranks are {distance:.0e} apart")

# %%
differing = sorted(name for name, distance in apart.items() if distance > 1e-12)
own = "body.dense.weight" in differing
outcome(
    "07-2.late",
    f"No error. Different between the ranks: {' and '.join(differing) or 'nothing'}. "
    f"What is unfrozen after wrapping is never averaged.",
    right="each rank trains a dense layer of its own" if own else None,
)

# %% [markdown]
# The network that rank 0 saves has seen half of the data in that layer. Nothing tells you, unless you compare the ranks.
#
# The other way round is loud. Freeze *after* wrapping, and DDP waits for gradients that never come:


# %%
def frozen_too_late():
    model = start()
    replica = DistributedDataParallel(model)
    freeze(model, "body")
    train_stage(replica)


try:
    run_ranks(frozen_too_late, world_size=2)
except RankError as error:
    print(error.message[:220], "…")

# %% [markdown]
# `find_unused_parameters=True`, which the message offers, makes DDP look through the graph in every step. It helps here, costs time, and hides
# the next forgotten layer. If you know what is frozen, say so before you wrap.
#
# ### Exercise 5 · Stages on ranks
#
# ●●○ · 8 minutes · good for: gradual unfreezing on more than one GPU.
#
# Repair the colleague's program for any list of stages. `train_stage(replica)` makes a new optimizer each time.


# %% exercise: unfreeze_in_stages
def unfreeze_in_stages(model: nn.Module, stages: list[str], train_stage) -> None:
    """In a rank: freeze all, then unfreeze one name of `stages` after the other and
    train what is unfrozen so far.

    All ranks end with the weights that one process would get on all the data.
    """
    ### BEGIN SOLUTION
    freeze(model)
    for name in stages:
        unfreeze(model, name)
        train_stage(DistributedDataParallel(model))
    ### END SOLUTION


# %% check: unfreeze_in_stages
checked = check.unfreeze_in_stages(unfreeze_in_stages, points=3)


### BEGIN HIDDEN TESTS
def _staged():
    _model = start()
    unfreeze_in_stages(_model, ["head", "body.dense", "body.conv2"], train_stage)
    return {
        _name: _weight.detach().cpu() for _name, _weight in _model.named_parameters()
    }


_one, _two, _three = (
    *run_ranks(_staged, world_size=1),
    *run_ranks(_staged, world_size=2),
)
for _name in _one:
    torch.testing.assert_close(_two[_name], _one[_name], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(_three[_name], _one[_name], rtol=1e-9, atol=1e-12)
assert not torch.equal(_one["body.conv2.weight"], start().cpu().body.conv2.weight)
assert torch.equal(_one["body.conv1.weight"], start().cpu().body.conv1.weight)
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – the ranks end with different weights</summary>
#
# When does DDP learn which parameters there are? Where is that in your loop?
# </details>
#
# <details><summary>Help – "a module doesn't have any parameter that requires a gradient"</summary>
#
# Everything is frozen at that line, so DDP would have nothing to do. Unfreeze first, then wrap.
# </details>
#
# ## 7 · Scale up
#
# The Trainer wraps for you. So the order is: freeze, add adapters, unfreeze the head, freeze the norms; *then* optimizer and Trainer. The adapters start at random on each
# rank; DDP copies rank 0's to all.


# %%
def fine_tune(lora=True, norms_kept=True, steps=12):
    """Fine-tune on all ranks; return the trained weights, and the bytes that this
    rank averages in a step.
    """
    torch.manual_seed(0)
    model = mnist_reader()
    if lora:
        freeze(model)
        add_lora(model, "body", rank=4)
        unfreeze(model, "head")
    if norms_kept:
        freeze_norms(model)
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=0.02
    )
    data = Subset(small_digits("train"), range(20 * steps))
    Trainer(model, optimizer, F.cross_entropy, progress=False).fit(
        make_loader(data, 20), 1
    )
    return {
        name: tensor.cpu() for name, tensor in model.state_dict().items()
    }, trainable_bytes(model)


# %%
def largest(ones, others):
    return max(
        (ones[name].double() - others[name].double()).abs().max().item()
        for name in ones
    )


for lora, norms_kept in ((False, True), (True, True), (True, False)):
    (alone, sent), *_ = run_ranks(fine_tune, lora, norms_kept, world_size=1)
    (first, _), (second, _) = run_ranks(fine_tune, lora, norms_kept, world_size=2)
    off = largest(first, alone)
    print(
        f"LoRA {lora!s:5} norms kept {norms_kept!s:5} {sent / 1e3:4.0f} kB learn; 2 "
        f"ranks against 1: {off:.0e}"
    )
    assert (off < 1e-4) == norms_kept

# %% [markdown]
# With frozen norms, two ranks train what one process does. With norms in training mode each rank normalizes by *its* part of the batch, and they do
# not (lesson 01 has the why).
#
# Fewer bytes learn. Do fewer travel, too? A **hook** (훅) sees each bucket on its way:


# %%
def bytes_sent(lora):
    """What one step hands to the all-reduce, in bytes."""
    model, sent = mnist_reader().to(device()), []
    if lora:
        freeze(model)
        add_lora(model, rank=4)

    def count(state, bucket):
        sent.append(bucket.buffer().nbytes)
        return allreduce_hook(state, bucket)

    replica = DistributedDataParallel(model)
    replica.register_comm_hook(None, count)
    inputs, targets = batch()
    F.cross_entropy(replica(inputs.float()), targets).backward()
    return sum(sent)


full, thin = (
    run_ranks(bytes_sent, False, world_size=2)[0],
    run_ranks(bytes_sent, True, world_size=2)[0],
)
print(
    f"a step sends {full:,} bytes fine-tuned, {thin:,} with LoRA: {full / thin:.0f} "
    f"times fewer"
)

# %% [markdown]
# ### Out of the notebook
#
# The same function as a program, for `torchrun`:

# %%
export_script(fine_tune, "fine_tune_lora.py", overwrite=True)

# %% [markdown]
# ```
# torchrun --standalone --nproc-per-node=2 fine_tune_lora.py                       # one machine
# torchrun --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d \
#          --rdzv-endpoint=FIRST_MACHINE:29500 fine_tune_lora.py                   # two machines, on each of them
# ```
#
# ## 8 · What the log said
#
# | The log | The evidence here | Corrected |
# |---|---|---|
# | 심화과제 Transfer Learning, not ticked off: it stayed a plan | Sections 1 and 5: the network that learned the new task lost part of the old one. Six ways and a blend were measured on *both* tasks. | The assignment is not done when the new accuracy is high. Measure the old task, too, before and after. |
# | 다중 GPU에 학습을 분산: distribute the training over GPUs | Section 6: no error, and a layer of its own on each rank. | Ranks train one model only as far as DDP knows its parameters. Freeze and unfreeze *before* you wrap. |
#
# ## Take away
#
# * A new task leads the weights where it likes. Measure the old task, or you will not know.
# * Old images mixed in, the old network's opinion, a lower rate, or a blend of old and new weights keep most of it.
# * A way to forget less is a curve. Compare ways where they learn equally well.
# * LoRA: W stays, a product of two thin matrices learns. `up` starts at zero, the scale is alpha / rank.
# * Merging is exact to rounding. Kept apart, adapters are small, and can be switched off: then nothing is forgotten, if BatchNorm was frozen.
# * What is frozen takes no gradient, no moments, no messages.
# * Freeze, then wrap. Unfreeze, then wrap again.
#
# **Questions on this lesson:** [quiz](quiz.ipynb). **Next lesson:** [convolution](../08_convolution/1_convolution.ipynb).
#
# ### Glossary
#
# | English | 한국어 | here |
# |---|---|---|
# | catastrophic forgetting | 치명적 망각 | a new task costs the old one |
# | forgetting measure | 망각 척도 | best earlier accuracy minus accuracy now, mean over old tasks |
# | LoRA | 저랭크 적응 | a trained product of two thin matrices beside a frozen weight |
# | adapter | 어댑터 | the two matrices |
# | rank (of a matrix) | 랭크 | how many numbers lie between `down` and `up` |
# | merging | 병합 | computing the adapter into the weight |
# | moments | 모멘트 | what Adam keeps for each weight |
# | rehearsal | 리허설 | old samples in new batches |
# | distillation | 지식 증류 | learning what another network says |
# | blending | 혼합 | weights between two networks |
# | hook | 훅 | a function that is called on the way |
#
# ### Further reading
#
# * Hu et al. 2021, [LoRA](https://arxiv.org/abs/2106.09685): section 4 is short, and all of it.
# * Biderman et al. 2024, [LoRA Learns Less and Forgets Less](https://arxiv.org/abs/2405.09673).
# * Kirkpatrick et al. 2017, [Overcoming catastrophic forgetting](https://arxiv.org/abs/1612.00796): EWC.
# * Li and Hoiem 2016, [Learning without Forgetting](https://arxiv.org/abs/1606.09282): distillation.
# * Wortsman et al. 2021, [Robust fine-tuning of zero-shot models](https://arxiv.org/abs/2109.01903): blending.
# * PyTorch, [DistributedDataParallel](https://docs.pytorch.org/docs/stable/generated/torch.nn.parallel.DistributedDataParallel.html): what
#   it asks of a module, and when.
