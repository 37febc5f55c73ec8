# %% [markdown]
# # Memory: where it goes, and what to do when it runs out
#
# **{minutes} minutes** · one CPU is enough, a small device is simulated; on a GPU the same calls ask its allocator · before this:
# lessons 00 and 01
#
# The study log behind this course says about running out of memory (OOM): *hard to trace; what was in memory before is hard to know;
# shrink the batch and look; empty the cache*. This notebook makes memory visible: what is alive, since when, made by which
# line. Then you choose a remedy by its bytes, and not by luck.
#
# **After this notebook you can**
#
# 1. say where the memory of a training step goes, by formula and by measurement;
# 2. read an out-of-memory error and its timeline, and name what was alive and which line made it;
# 3. make a step fit with accumulation, checkpointing, mixed precision or no_grad, and say what each saves;
# 4. say what del, empty_cache and item do to memory, and what they do not.

# %% setup

# %%
from torchcourse.quiz import outcome, predict, recall

recall("05_troubleshooting")

# %%
import contextlib
import math
import time
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from torchcourse import environment, figures
from torchcourse.data import mnist
from torchcourse.lessons.troubleshooting import checks as check
from torchcourse.lessons.troubleshooting import offload
from torchcourse.lessons.troubleshooting.allocator import CachingAllocator
from torchcourse.lessons.troubleshooting.allocator_picture import (
    describe_segments,
    draw_segments,
)
from torchcourse.lessons.troubleshooting.batch_size import largest_batch_size
from torchcourse.lessons.troubleshooting.formula import kept_by_layers, step_bytes
from torchcourse.lessons.troubleshooting.gpu_device import memory_device
from torchcourse.lessons.troubleshooting.large_models import Decoder, resnet50
from torchcourse.lessons.troubleshooting.nvml import gpu_status
from torchcourse.lessons.troubleshooting.rank_memory import memory_of_a_step
from torchcourse.lessons.troubleshooting.simulated_device import (
    SimulatedDevice,
    fake_tensors,
)
from torchcourse.lessons.troubleshooting.step_study import study_step
from torchcourse.lessons.troubleshooting.step_study_picture import step_explorer
from torchcourse.lessons.troubleshooting.tracking import MemoryTracker
from torchcourse.lessons.troubleshooting.tracking_picture import (
    describe_memory,
    draw_memory,
)
from torchcourse.models import mlp, small_cnn
from torchcourse.ranks import run_ranks
from torchcourse.units import format_bytes

print(environment.hardware())
print(gpu_status())

# %% [markdown]
# The last line is `gpu_status()`. It asks NVIDIA's own library (NVML) for what `nvidia-smi` shows: memory, load, temperature,
# power, and which process holds how much (in a container mostly none is told). GPUtil, which the log names, parsed that program's text; its last release is from 2018.

# %% [markdown]
# ## 1 · Where the memory goes
#
# A small network learns digits: 106,000 parameters (파라미터), 128 images in a batch, Adam.

# %%
# copies: a view would hold all 5,000 images
images, labels = (tensor[:512].clone() for tensor in mnist()[:])
model = small_cnn()
print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters")
predict(
    "05-1.where",
    "What takes most of the memory in a training step?",
    [
        "the parameters",
        "Adam's numbers",
        "what the layers keep for the backward pass",
        "the images",
    ],
)

# %% [markdown]
# `MemoryTracker` looks at every operation of PyTorch while it is active. It notes each new piece of memory, a **storage** (저장 공간),
# by which operation and line it was made, and when it is freed. `watch` tells it what is a parameter, and what belongs to the optimizer.


# %%
def train_step(model, optimizer, x, y, tracker):
    tracker.mark("forward")
    loss = F.cross_entropy(model(x), y)
    tracker.mark("backward")
    loss.backward()
    tracker.mark("step")
    optimizer.step()
    optimizer.zero_grad()


# %%
optimizer = torch.optim.Adam(model.parameters())
x, y = images[:128], labels[:128]
# the first step makes Adam's numbers
train_step(model, optimizer, x, y, MemoryTracker())
with MemoryTracker() as tracker:
    tracker.watch(model, optimizer, x, y)
    train_step(model, optimizer, x, y, tracker)
figures.show(draw_memory(tracker), describe_memory(tracker))

# %%
kinds = tracker.peak_by_kind()
print({kind: format_bytes(size) for kind, size in kinds.items()})
most = max(kinds, key=kinds.get)
names = {
    "parameters": "the parameters",
    "optimizer": "Adam's numbers",
    "activations": "what the layers keep for the backward pass",
    "others": "the images",
}
outcome(
    "05-1.where",
    f"At the peak of {format_bytes(tracker.peak)}: {most}, "
    f"{kinds[most] / tracker.peak:.0%}. Parameters: "
    f"{format_bytes(kinds['parameters'])}.",
    right=names.get(most),
)

# %% [markdown]
# Read the picture from left to right. The **forward pass** (순전파) piles up **activations** (활성값): results that the backward pass will
# need. The **backward pass** (역전파) takes them down again, the last one first. At the end the **optimizer** (옵티마이저) steps; on a CPU it works
# tensor by tensor and needs little more. (A GPU's default needs more: section 2.)
# Below, each bar is one tensor: the operation that made it, its layer, its bytes.
#
# | kind | bytes in float32 | lives |
# |---|---|---|
# | parameters | 4 for each | always |
# | gradients (기울기) | 4 for each | from backward to `zero_grad` |
# | optimizer | Adam 8, momentum 4, plain SGD 0 for each | always, from the first step on |
# | activations | what each layer keeps, times the batch | from forward to backward |
# | others | inputs, buffers, gradients of activations | most of them for a moment |
#
# What a layer keeps depends on what its derivative needs. A linear layer or a convolution keeps its *input*. ReLU keeps its *output*, which is
# the next layer's input: one tensor, counted once. BatchNorm keeps its input. The loss keeps the logarithms of the probabilities.

# %%
kept = kept_by_layers(small_cnn(), (128, 1, 28, 28))
for name, size in kept:
    layer = type(model[int(name)]).__name__ if name.isdigit() else "cross-entropy"
    print(f"{name:>5} {layer:<14} {format_bytes(size):>10}")

# %% [markdown]
# The first convolution shows 0 bytes: its input is the batch, which is counted as "others". A max-pooling layer keeps the *places* of its maxima, as
# integers of 8 bytes each.
#
# The formula and the tracker are two independent roads. Do they meet? Count after the forward pass:

# %%
with MemoryTracker() as tracker:
    tracker.watch(model, x, y)
    loss = F.cross_entropy(model(x), y)
    measured = tracker.by_kind()["activations"]
formula = step_bytes(model, x.shape).activations
print(
    f"formula {formula:,} bytes, measured {measured:,}: they differ by "
    f"{measured - formula}"
)
assert measured - formula == 8  # the loss itself, and the number that it was divided by

# %% [markdown]
# ### Exercise 1 · The bytes of a step
#
# ●●○ · 8 minutes · good for: knowing before you start whether a model fits, and what would have to shrink.
#
# For a dense network with ReLU between its layers, as `mlp(784, 64, 10)`: float32, Adam, cross-entropy. Leave out the batch itself and
# the optimizer's step counter. For the activations, ask of each tensor on the way: does the derivative of some layer need it?


# %% exercise: mlp_bytes
def mlp_bytes(widths: list[int], batch: int) -> tuple[int, int, int, int]:
    """Return the bytes of parameters, gradients, Adam's numbers and activations.

    `widths` are as in mlp(*widths).
    """
    ### BEGIN SOLUTION
    count = sum(inputs * outputs + outputs for inputs, outputs in pairwise(widths))
    # each ReLU's output, and the loss's logarithms
    activations = batch * sum(widths[1:])
    return 4 * count, 4 * count, 8 * count, 4 * activations
    ### END SOLUTION


# %% check: mlp_bytes
checked = check.mlp_bytes(mlp_bytes, points=2)
### BEGIN HIDDEN TESTS
from torchcourse.checks.values import judged

for _widths, _batch in (
    ([5, 6, 7, 8, 9], 11),
    ([100, 2], 3),
    ([64, 512, 512, 10], 256),
):
    _right = step_bytes(mlp(*_widths), (_batch, _widths[0]))
    assert list(mlp_bytes(_widths, _batch)) == [
        _right.parameters,
        _right.gradients,
        _right.optimizer,
        _right.activations,
    ]


@judged(mlp_bytes)
def _of_drawn_widths(mlp_bytes, draw):
    from torchcourse.lessons.troubleshooting.formula import step_bytes
    from torchcourse.models import mlp

    widths, batch = (
        [draw.randint(2, 90) for _ in range(draw.randint(2, 6))],
        draw.randint(1, 64),
    )
    right = step_bytes(mlp(*widths), (batch, widths[0]))
    assert list(mlp_bytes(widths, batch)) == [
        right.parameters,
        right.gradients,
        right.optimizer,
        right.activations,
    ]


### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "you count each hidden layer twice"</summary>
#
# Does anybody need what a linear layer puts out *before* the ReLU? ReLU's derivative is 0 or 1, and its output tells which.
# </details>
#
# <details><summary>Help – my activations are off by batch × the last width</summary>
#
# That is what the loss keeps: a logarithm for each class of each sample.
# </details>

# %% [markdown]
# ## 2 · Out of memory, on a device that is not there
#
# A `SimulatedDevice` is a tracker with a limit. Tensors are ordinary CPU tensors, and the arithmetic is real. When they would need more
# than the device has, it raises what a GPU raises: `torch.OutOfMemoryError`. Here is one with 32 MiB, and a batch of 192 images instead of 128.

# %%
device = SimulatedDevice("32 MiB")
x, y = images[:192], labels[:192]
try:
    with device:
        device.watch(model, optimizer, x, y)
        train_step(model, optimizer, x, y, device)
except torch.OutOfMemoryError as error:
    print(error)

# %% [markdown]
# Read it in this order:
#
# 1. **What was wanted**, where. This line is where the *last* drop fell. It is often not the guilty one.
# 2. **What was in use, by kind.** Mostly activations? Then the batch, or something that keeps graphs alive. Mostly optimizer? Then the model.
# 3. **The largest live tensors**: operation, shape, layer, line. The first number of a shape is mostly the batch.
#
# And the log's question, *what happened before?* The timeline knows:

# %%
figures.show(
    draw_memory(device, largest=6, capacity=device.capacity), describe_memory(device)
)

# %% [markdown]
# ### Models that would never fit here
#
# With **fake tensors** (가짜 텐서), shapes, types and autograd work, but there are no numbers inside. So a laptop can simulate a step
# of ResNet-50 with 64 images of 224 × 224, or of a language model with 7 billion parameters.

# %%
predict(
    "05-1.resnet",
    "ResNet-50 has 25.6 million parameters, 98 MiB. A step with Adam and 64 images "
    "needs about…",
    [
        "0.4 GiB: parameters, gradients, and twice as much for Adam",
        "1.5 GiB",
        "5.5 GiB",
    ],
)


# %%
def simulated_steps(
    build, make_batch, capacity, dtype=torch.float32, steps=2, **options
):
    """Train with AdamW on fake tensors; return the device that saw it.

    Adam's numbers are there from the first step on.
    """
    with fake_tensors(dtype), SimulatedDevice(capacity) as device:
        model, batch = build(), make_batch()
        optimizer = torch.optim.AdamW(model.parameters(), **options)
        device.watch(model, optimizer, *batch)
        for _ in range(steps):
            logits = model(batch[0]).flatten(0, -2)
            F.cross_entropy(logits, batch[1].flatten()).backward()
            del logits
            optimizer.step()
            optimizer.zero_grad()
    return device


# %%
def photos(count):
    return lambda: (
        torch.randn(count, 3, 224, 224),
        torch.zeros(count, dtype=torch.long),
    )


start = time.perf_counter()
resnet = simulated_steps(resnet50, photos(64), "8 GiB")
print(f"{time.perf_counter() - start:.1f} s; peak {format_bytes(resnet.peak)}")
print({kind: format_bytes(size) for kind, size in resnet.peak_by_kind().items()})
outcome(
    "05-1.resnet",
    f"{format_bytes(resnet.peak)}, of which activations "
    f"{format_bytes(resnet.peak_by_kind()['activations'])}.",
    right="5.5 GiB",
)

# %%
try:
    simulated_steps(resnet50, photos(128), "8 GiB")
except torch.OutOfMemoryError as error:
    print(error)


# %%
def tokens():
    return torch.zeros(1, 2048, dtype=torch.long), torch.zeros(
        1, 2048, dtype=torch.long
    )


start = time.perf_counter()
decoder = simulated_steps(
    Decoder, tokens, "80 GiB", torch.bfloat16, steps=1, foreach=False
)
print(f"{time.perf_counter() - start:.1f} s; peak {format_bytes(decoder.peak)}")
for way in ("foreach", "fused"):
    peak = simulated_steps(
        Decoder, tokens, "80 GiB", torch.bfloat16, steps=1, **{way: True}
    ).peak
    print(f"with {way}=True the peak is {format_bytes(peak)}")
print({kind: format_bytes(size) for kind, size in decoder.peak_by_kind().items()})

# %% [markdown]
# The three ways of AdamW compute the same. `foreach=True` works on many tensors at once, and is the default on a GPU
# ([documentation](https://docs.pytorch.org/docs/stable/generated/torch.optim.AdamW.html)). For that it holds temporary tensors as large as the
# parameters, as the difference shows. So `fused=True` or `foreach=False` is a remedy where the optimizer makes the peak.
#
# Two models, two shapes of the problem. ResNet-50 is mostly activations: a smaller batch helps. The language model with its one sample of 2048
# tokens (토큰) is mostly parameters, gradients and optimizer: no batch is small enough for 24 GiB. Lesson 01 shares those out over ranks.
#
# What the simulation leaves out: workspaces inside operations, gaps between blocks, and the context of a GPU, which takes some hundred MiB by itself.

# %% [markdown]
# ## 3 · Break-it lab: the evaluation that runs out of memory
#
# Training went well. Then this evaluation runs out of memory, on a device on which *training* steps of the same size fit.


# %%
def broken_evaluate(model, batches):
    model.eval()
    outputs = []
    for images, _ in batches:
        outputs.append(model(images))
    labels = torch.cat([labels for _, labels in batches])
    return (torch.cat(outputs).argmax(1) == labels).float().mean().item()


# %%
batches = list(zip(images.split(64), labels.split(64), strict=True))
evaluation = SimulatedDevice("40 MiB")
try:
    with evaluation:
        evaluation.watch(model, *[tensor for batch in batches for tensor in batch])
        print(broken_evaluate(model, batches))
except torch.OutOfMemoryError as error:
    print(error)
figures.show(
    draw_memory(evaluation, capacity=evaluation.capacity), describe_memory(evaluation)
)

# %% [markdown]
# The evidence: memory climbs batch by batch, and never comes down. The largest live tensors are activations, several of the *same* layer, from
# earlier batches. No line asked for gradients. So what keeps them?
#
# ### Exercise 2 · Repair it
#
# ●●○ · 6 minutes · good for: an evaluation that runs out of memory although training fits.
#
# Same accuracy over all samples, on the same device. No forward pass keeps what only a backward pass needs. After it, gradients are recorded as before. Smaller batches are no repair: try them, and see why.


# %% exercise: evaluate
def evaluate(model: nn.Module, batches: list) -> float:
    """Return the accuracy (0 to 1) over all samples of all batches
    of (images, labels).
    """
    model.eval()
    ### BEGIN SOLUTION
    right = samples = 0
    with torch.no_grad():
        for images, labels in batches:
            right += (model(images).argmax(1) == labels).sum().item()
            samples += len(labels)
    return right / samples
    ### END SOLUTION


# %% check: evaluate
checked = check.evaluate(evaluate, points=2)
### BEGIN HIDDEN TESTS
_model = mlp(784, 512, 10)
_batches = list(zip(images.split(100), labels.split(100), strict=True))
_right = (_model(images).argmax(1) == labels).float().mean().item()
with SimulatedDevice("4 MiB") as _device:
    _device.watch(_model, *[_tensor for _batch in _batches for _tensor in _batch])
    assert math.isclose(float(evaluate(_model, _batches)), _right, abs_tol=1e-6)
assert torch.is_grad_enabled()
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "still out of memory"</summary>
#
# An output has a `grad_fn`, and behind it hangs the whole **graph** (계산 그래프) of its batch with all activations. A list of outputs is a list of graphs.
# Which context tells PyTorch not to record?
# </details>
#
# <details><summary>Help – I get "It fits, but the accuracy over all batches is …"</summary>
#
# Do all samples count? The mean of the batches' accuracies is wrong when the last batch is smaller.
# </details>

# %% [markdown]
# ## 4 · Make it fit
#
# Now a step of training that is too large. Four remedies besides a smaller batch, tried on a small decoder that is heavy in activations:
#
# * **gradient accumulation** (기울기 누적): the batch in parts, one after the other; one optimizer step;
# * **activation checkpointing** (활성값 체크포인팅), the recomputation of lesson 02: keep a block's input only, and compute its inside again in the backward pass;
# * **mixed precision** (혼합 정밀도): compute in 16 bits where that is safe; parameters stay in 32;
# * an optimizer with fewer numbers.

# %%
predict(
    "05-1.remedy",
    "16 samples, Adam, float32. Which of these leaves the lowest peak?",
    [
        "mixed precision",
        "checkpointing",
        "accumulation in 4 parts",
        "SGD instead of Adam",
    ],
)

# %%
choices = {
    "plain": {},
    "mixed precision": {"precision": "mixed (bfloat16)"},
    "checkpointing": {"checkpointing": True},
    "accumulation in 4 parts": {"accumulation": 4},
    "SGD instead of Adam": {"optimizer": "SGD"},
    "only forward, no_grad": {"training": False},
}
remedies = {}
for name, choice in choices.items():
    step = remedies[name] = study_step(16, **choice)
    plain = remedies["plain"]
    kinds = {kind: f"{size / 2**20:.0f}" for kind, size in step.by_kind.items() if size}
    print(
        f"{name:<24} {format_bytes(step.peak):>10}  {step.peak / plain.peak:4.0%}  "
        f"MiB: {kinds}"
    )

# %%
candidates = [
    "mixed precision",
    "checkpointing",
    "accumulation in 4 parts",
    "SGD instead of Adam",
]
best = min(candidates, key=lambda name: remedies[name].peak)
outcome(
    "05-1.remedy",
    f"{best}: {format_bytes(remedies[best].peak)} instead of "
    f"{format_bytes(plain.peak)}.",
    right=best,
)

# %% [markdown]
# `no_grad` is no remedy for training, but look at it: without a backward pass there are no activations to keep at all.
#
# Each remedy has its price. Accumulation: the parts run one after the other, and BatchNorm sees only its part. Checkpointing: about one more
# forward pass of computing ([Chen et al. 2016](https://arxiv.org/abs/1604.06174)). Mixed precision: fewer digits. (Its 16-bit copies of weights count as activations here.) SGD: a different training run. Play with them:
#
# * Find the lowest peak at batch 32. Which kind is left over, and what would reduce *that*?
# * When does checkpointing stop helping? Look at 16 parts.

# %%
step_explorer()

# %% [markdown]
# ### Exercise 3 · The largest batch that fits
#
# ●●○ · 10 minutes · good for: the log's remedy, *shrink the batch and look*, done in a few tries instead of an evening.
#
# `attempt(size)` runs a whole training step with that many samples, and raises `torch.OutOfMemoryError` if they do not fit. If `n` fit, fewer fit too.
# Return the largest size from 1 to `limit` that fits (0 if none does), after at most 2·log2(limit) + 1 tries. Leave memory as you found it: keep no results
# and no errors.


# %% exercise: find_batch_size
def find_batch_size(attempt, limit: int) -> int:
    """Return the largest batch size up to `limit` for which attempt(size) does not
    run out of memory.
    """
    ### BEGIN SOLUTION
    fits, too_many = 0, limit + 1
    while too_many - fits > 1:
        size = (fits + too_many) // 2
        try:
            attempt(size)
            fits = size
        except torch.OutOfMemoryError:
            too_many = size
    return fits
    ### END SOLUTION


# %% check: find_batch_size
checked = check.find_batch_size(find_batch_size, points=3)
### BEGIN HIDDEN TESTS
for _most, _limit in ((13, 16), (1, 2), (700, 4096), (511, 512), (0, 8)):
    _tries = []

    def _attempt(size, most=_most, tries=_tries):
        tries.append(size)
        assert len(tries) < 100, "no end"
        if size > most:
            raise torch.OutOfMemoryError("too large")

    assert find_batch_size(_attempt, _limit) == _most
    assert len(_tries) <= 2 * math.log2(_limit) + 1
    assert max(_tries) <= _limit
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "Each try should halve what is left"</summary>
#
# You know a size that fits (0 always does) and one that does not (limit + 1). Where between them does one try tell you most?
# </details>
#
# <details><summary>Help – I get "are still taken that were free before"</summary>
#
# Do not store what `attempt` returns. Do not store the error either: `error.__traceback__` holds every frame it went through, with all its tensors.
# </details>
#
# The package's own is `largest_batch_size`. It doubles first, because small tries are quick:


# %%
def one_step_of(size):
    model = small_cnn()
    optimizer = torch.optim.Adam(model.parameters())
    finder_device.watch(model, optimizer)
    F.cross_entropy(model(images[:size]), labels[:size]).backward()
    optimizer.step()


with SimulatedDevice("24 MiB") as finder_device:
    before = finder_device.current
    print(largest_batch_size(one_step_of, limit=256))
    print(f"memory before {before} bytes, after {finder_device.current} bytes")

# %% [markdown]
# ### Exercise 4 · Gradient accumulation
#
# ●●○ · 8 minutes · good for: the batch you want on the device you have.
#
# Cut the batch into `parts` (the last ones may be smaller, none is empty), and add to `.grad`, up to rounding, the gradient of `loss_fn(model(x), y)` over the whole batch.
# `loss_fn` takes a mean, like `F.cross_entropy`. Only one part's activations may be alive at a time.


# %% exercise: accumulate
def accumulate(
    model: nn.Module, loss_fn, x: torch.Tensor, y: torch.Tensor, parts: int
) -> None:
    """Add the gradient of the mean loss of the batch (x, y) to .grad, part by part.

    No optimizer step.
    """
    pairs = zip(x.tensor_split(parts), y.tensor_split(parts), strict=True)
    ### BEGIN SOLUTION
    for part, targets in pairs:
        loss = loss_fn(model(part), targets)
        (loss * len(part) / len(x)).backward()
    ### END SOLUTION


# %% check: accumulate
checked = check.accumulate(accumulate, points=3)
### BEGIN HIDDEN TESTS
for _samples, _parts in ((10, 3), (33, 32)):
    _model = mlp(784, 20, 10).double()
    _x, _y = images[:_samples].double(), labels[:_samples]
    F.cross_entropy(_model(_x), _y).backward()
    _whole = [_parameter.grad.clone() for _parameter in _model.parameters()]
    _model.zero_grad()
    accumulate(_model, F.cross_entropy, _x, _y, _parts)
    assert all(
        torch.allclose(_p.grad, _g)
        for _p, _g in zip(_model.parameters(), _whole, strict=True)
    )
    accumulate(_model, F.cross_entropy, _x, _y, _parts)
    assert all(
        torch.allclose(_p.grad, 2 * _g)
        for _p, _g in zip(_model.parameters(), _whole, strict=True)
    )
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – the gradients are N times too large</summary>
#
# `backward()` *adds* to `.grad`. N means added up are N times a mean.
# </details>
#
# <details><summary>Help – right for equal parts, wrong for others</summary>
#
# A part of 2 samples in a batch of 10 has a share of 2/10, not of 1/parts. Lesson 01 met the same with uneven ranks.
# </details>
#
# <details><summary>Help – the gradients are right, but nothing is saved</summary>
#
# A part's activations go when *its* backward is done. Is there one `backward()` at the end, for the sum of all losses?
# </details>

# %% [markdown]
# ### Exercise 5 · Checkpoints in the right place
#
# ●●○ · 8 minutes · good for: deep models, which keep activations in every block.
#
# `checkpoint(function, x, use_reentrant=False)` runs the function without keeping what is inside. In the backward pass it runs it again. Where do you
# put it? Look what three choices leave at the peak, for 12 blocks:


# %%
def peak_of(forward):
    blocks, x = check.residual_blocks(12), torch.randn(64, 32)
    with MemoryTracker() as tracker:
        tracker.watch(blocks, x)
        forward(blocks, x).sum().backward()
    return format_bytes(max(tracker.timeline().by_kind["activations"]))


print("no checkpoint:          ", peak_of(lambda blocks, x: blocks(x)))
print(
    "one around all blocks:  ",
    peak_of(lambda blocks, x: checkpoint(blocks, x, use_reentrant=False)),
)
print(
    "one around the last:    ",
    peak_of(lambda b, x: checkpoint(b[-1], b[:-1](x), use_reentrant=False)),
)

# %% [markdown]
# One around everything saves nothing: at the start of the backward pass it computes all of it again, and *then* all of it is alive. One around
# the last block saves nothing at the peak either: it is computed again while all the others are still alive.


# %% exercise: checkpointed
def checkpointed(blocks: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    """Return blocks(x), with less than half of its activations alive at the peak of
    forward and backward.
    """
    ### BEGIN SOLUTION
    for block in blocks:
        x = checkpoint(block, x, use_reentrant=False)
    return x
    ### END SOLUTION


# %% check: checkpointed
checked = check.checkpointed(checkpointed, points=2)
### BEGIN HIDDEN TESTS
_blocks, _x = check.residual_blocks(9), torch.randn(50, 32)
_peaks, _gradients = [], []
for _forward in (lambda x: _blocks(x), lambda x: checkpointed(_blocks, x)):
    _blocks.zero_grad()
    with MemoryTracker() as _tracker:
        _tracker.watch(_blocks, _x)
        _forward(_x).square().sum().backward()
    _peaks.append(max(_tracker.timeline().by_kind["activations"]))
    _gradients.append([_parameter.grad.clone() for _parameter in _blocks.parameters()])
assert _peaks[1] < 0.65 * _peaks[0]
assert all(
    torch.allclose(_a, _b, atol=1e-4) for _a, _b in zip(*_gradients, strict=True)
)
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "no gradient"</summary>
#
# Pass `use_reentrant=False`. The old way gives no gradient to a block whose input needs none, and the first block's input is the data.
# </details>

# %% [markdown]
# ### Or move them away
#
# Activations need not be on the *device* until the backward pass comes. Inside `with torch.autograd.graph.save_on_cpu():`, each tensor that autograd saves goes to the host's
# memory, and comes back when it is needed. On a CPU the two are one memory, and the context copies nothing. So here the copies are made all the same, and counted apart:

# %%
twelve, rows = check.residual_blocks(12), torch.randn(512, 32)
for way in offload.WAYS:
    print(f"{way:24}", offload.step_with(twelve, rows, way))

# %% [markdown]
# "Device" holds parameters, gradients and the rest, too. Checkpoints pay with computing; `save_on_cpu` pays with copies. It copies more than the layers keep: also the weights that they save, and
# a tensor once for each layer that saves it. What this takes cannot be seen without a GPU. It depends on the link: bytes copied, divided by its speed (lesson 01), less what the computing hides. With
# `pin_memory=True`, copies can run beside the computing.

# %%
if torch.cuda.is_available():
    blocks, x = check.residual_blocks(12).cuda(), torch.randn(65536, 32, device="cuda")
    ways = {
        "all kept": contextlib.nullcontext,
        "save_on_cpu": partial(torch.autograd.graph.save_on_cpu, pin_memory=True),
    }
    for name, way in ways.items():
        for _ in range(2):  # the first one also pins memory
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
            start = time.perf_counter()
            with way():
                total = blocks(x).sum()
            total.backward()
            torch.cuda.synchronize()
            seconds = time.perf_counter() - start
        peak = format_bytes(torch.cuda.max_memory_allocated())
        print(f"{name:12} peak {peak:>10}, {1000 * seconds:.0f} ms")
else:
    print("No GPU here: bytes were counted, and no time was measured.")

# %% [markdown]
# ## 5 · del, empty_cache and item
#
# The log's remedies. First **del**: it removes a *name*. Memory goes when nothing refers to the storage any more.

# %%
with MemoryTracker() as tracker:
    batch = torch.zeros(1024, 1024)
    first_row = batch[0]
    print("made:                ", format_bytes(tracker.current))
    del batch
    print(
        "after del batch:     ",
        format_bytes(tracker.current),
        "   a view of one row keeps it all",
    )
    first_row = first_row.clone()
    print("after cloning the row:", format_bytes(tracker.current))

# %% [markdown]
# **empty_cache.** PyTorch does not give freed GPU memory back to the driver. It keeps it as a **cache** (캐시), in **segments** (세그먼트), for the next tensor.
# So there are two figures: *allocated* (live tensors) and *reserved* (segments). `nvidia-smi` sees only the second one.
#
# A CPU has no such cache in PyTorch. `CachingAllocator` is a *model* of the GPU's, by the rules in
# [PyTorch's source](https://github.com/pytorch/pytorch/blob/main/c10/cuda/CUDACachingAllocator.cpp): sizes, splitting, best fit.

# %%
MIB = 2**20
gpu = CachingAllocator(capacity=60 * MIB)
blocks = {
    name: gpu.allocate(size * MIB, name)
    for name, size in (("a", 5), ("b", 5), ("c", 5), ("d", 5), ("e", 32))
}
for name in "bde":
    gpu.free(blocks[name])
figures.show(draw_segments(gpu), describe_segments(gpu))

# %%
predict(
    "05-1.cache",
    f"{format_bytes(gpu.allocated)} are allocated, {format_bytes(gpu.reserved)} "
    f"reserved. What does empty_cache() do?",
    [
        "it frees a and c too",
        "it gives back all that is free: 10 MiB stay reserved",
        "it gives back only segments that are wholly free: 20 MiB stay reserved",
    ],
)

# %%
given_back = gpu.empty_cache()
figures.show(draw_segments(gpu), describe_segments(gpu))
outcome(
    "05-1.cache",
    f"{format_bytes(given_back)} go back to the driver. {format_bytes(gpu.reserved)} "
    f"stay, {format_bytes(gpu.allocated)} of them in use: two small "
    "tensors hold a whole segment.",
    right="it gives back only segments that are wholly free: 20 MiB stay reserved",
)

# %% [markdown]
# So what is it good for? Hardly for your own program: the next tensor would have come from the cache anyway, and now it must ask the driver again. PyTorch
# also empties the cache by itself before it gives up. The documentation says it plainly:
# [*empty_cache() doesn't increase the amount of GPU memory available for PyTorch*](https://docs.pytorch.org/docs/stable/generated/torch.cuda.memory.empty_cache.html).
# (With `expandable_segments` it can give back parts of a segment, too.) It helps a *different* process on the same GPU. It does not help against **fragmentation** (단편화), free memory in pieces that are too small, as long as each segment is partly in use:

# %%
gpu = CachingAllocator(capacity=40 * MIB)
blocks = [gpu.allocate(5 * MIB, f"t{number}") for number in range(8)]
for block in blocks[::2]:
    gpu.free(block)
figures.show(draw_segments(gpu), describe_segments(gpu))
try:
    gpu.allocate(9 * MIB)
except torch.OutOfMemoryError as error:
    print(error)
print(f"empty_cache() gives back {format_bytes(gpu.empty_cache())}.")

# %% [markdown]
# On a real GPU, the next cell shows both figures. Without one it says so.

# %%
if torch.cuda.is_available():

    def taken():
        live, segments = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
        return f"{format_bytes(live)} allocated, {format_bytes(segments)} reserved"

    print("before:      ", taken())  # section 4's tensors, and room for products
    large = torch.zeros(64 * MIB, device="cuda")
    print("256 MiB made:", taken())
    del large
    print("del:         ", taken())
    torch.cuda.empty_cache()
    print("empty_cache: ", taken())
else:
    print("No GPU here: the pictures above are modeled, and nothing was measured.")

# %% [markdown]
# **item.** The log says: turn a *1-d tensor* into a Python object. What is meant is a tensor with **one element**: a loss has no dimensions at all.

# %%
loss = F.cross_entropy(model(images[:16]), labels[:16])
print(
    "dimensions of a loss:",
    loss.dim(),
    "   elements:",
    loss.numel(),
    "   as a number:",
    loss.item(),
)
try:
    torch.tensor([1.0, 2.0]).item()
except RuntimeError as error:
    print("a 1-d tensor of two elements:", error)

# %%
kept_as = {
    "loss": lambda loss: loss,
    "loss.detach()": lambda loss: loss.detach(),
    "loss.item()": lambda loss: loss.item(),
}
for name, keep in kept_as.items():
    with SimulatedDevice("1 GiB") as device:
        losses = [
            keep(F.cross_entropy(model(images[:16]), labels[:16])) for _ in range(10)
        ]
        print(f"10 losses kept as {name:<14} {format_bytes(device.current):>10}")

guess, wanted = torch.randn(1000, 1000, requires_grad=True), torch.randn(1000, 1000)
for loss_function in (F.l1_loss, F.mse_loss):
    loss = loss_function(guess, wanted).detach()
    held = loss.untyped_storage().nbytes()
    print(
        f"a detached {loss_function.__name__}: {held:,} bytes behind it; cloned "
        f"{loss.clone().untyped_storage().nbytes()}"
    )

# %% [markdown]
# `loss` drags its graph along; notebook 2 hunts for such leaks. `detach()` lets the graph go and keeps the tensor's **storage** (저장 공간) on the device. For
# cross-entropy that is one small block. `F.mse_loss` on a CPU is different (PyTorch 2.11 and 2.13): its one number sits in the memory of all
# squared errors, and a detached loss keeps all of it ([issue 185647](https://github.com/pytorch/pytorch/issues/185647)).
# `loss.detach().clone()` keeps one number. `item()` keeps nothing there: it is a Python float.
#
# But `item()` has a price that **only a GPU shows**: the wait of [lesson 04](../04_monitoring_and_checkpoints/1_monitoring.ipynb). To know the *number*, Python must
# wait until the GPU is done, and its queue runs dry. So: `item()` when you log. In between, add up in **one** tensor:
# `total += loss.detach()`, where `total = torch.zeros((), device=loss.device)`. Keep no list of detached losses.

# %%
if torch.cuda.is_available():
    matrix = torch.randn(4096, 4096, device="cuda")
    torch.cuda.synchronize()
    start = time.perf_counter()
    product = matrix @ matrix
    queued = time.perf_counter() - start
    product.sum().item()
    print(
        f"the multiplication was queued in {queued * 1e3:.2f} ms; item() came back "
        f"after {(time.perf_counter() - start) * 1e3:.2f} ms"
    )
else:
    print(
        "No GPU here: on a CPU every operation is done when its call returns, so "
        "item() has nothing to wait for."
    )

# %% [markdown]
# ## 6 · Scale up
#
# **A GPU, or none: the same calls.** `memory_device` is the current GPU with a limit, if there is one. There, bytes come from PyTorch's allocator and
# its recorded history; operations and kinds from the tracker. Else it is a simulated device.

# %%
where = "cuda" if torch.cuda.is_available() else "cpu"
with memory_device("256 MiB") as device:
    model = small_cnn().to(where)
    optimizer = torch.optim.Adam(model.parameters())
    x, y = images[:128].to(where), labels[:128].to(where)
    device.watch(model, optimizer, x, y)
    for _ in range(2):
        train_step(model, optimizer, x, y, device)
    print(type(device).__name__, "peak:", format_bytes(device.peak))
    print(*device.live()[:3], sep="\n")

# %% [markdown]
# On a GPU you can also record the allocator's history for the viewer at [pytorch.org/memory_viz](https://docs.pytorch.org/docs/stable/torch_cuda_memory.html):
# `torch.cuda.memory._record_memory_history()`, run, `torch.cuda.memory._dump_snapshot("snapshot.pickle")`.
#
# **One rank, two ranks.** The ranks share out a batch of 256. What gets smaller?

# %%
on_ranks = {n: run_ranks(memory_of_a_step, world_size=n) for n in (1, 2)}
for n, ranks in on_ranks.items():
    for rank, kinds in enumerate(ranks):
        print(
            f"{n} rank(s), rank {rank}:",
            {kind: format_bytes(size) for kind, size in kinds.items()},
        )
alone, half = on_ranks[1][0], on_ranks[2][0]
assert abs(half["activations"] / alone["activations"] - 0.5) < 0.01
assert (half["parameters"], half["optimizer"]) == (
    alone["parameters"],
    alone["optimizer"],
)

# %% [markdown]
# Activations halve. Parameters, gradients and Adam's numbers stay, on every rank: lesson 01's sharding is for those. The same step
# in a terminal, on one machine:
#
# ```
# torchrun --standalone --nproc-per-node 2 -m torchcourse.lessons.troubleshooting.rank_memory
# ```
#
# On two machines with eight GPUs each, the same line on both, where `HOST` is the name of the first one:
#
# ```
# torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 -m torchcourse.lessons.troubleshooting.rank_memory
# ```

# %% [markdown]
# ## 7 · What the log said
#
# | The log | The evidence here | Corrected |
# |---|---|---|
# | OOM: 추적이 힘듦, hard to trace | Section 2: the error lists the largest live tensors with operation, layer and line. | Traceable, once something records what is alive. |
# | 메모리 이전상황 파악이 힘듦: what was before is hard to know | The timeline of sections 1 to 3. On a GPU: `_record_memory_history`. | Record it *before* it happens. |
# | batch size를 줄이고 확인해본다: shrink the batch and look | Section 2: it helps ResNet-50, and not the 7B model, whose batch is one sample. Section 3: it does not stop a memory that grows with each sample. | Right for activations. Search by halving, or keep the batch and accumulate. |
# | GPUUtil로 memory leak 확인 | `gpu_status()`: the driver's figures, which count the cache too. | It shows *that* memory grows; the tracker shows *which line*. Notebook 2. |
# | cache 삭제하기 (memory free) | Section 5: `empty_cache` gives back wholly free segments only, and frees no tensor. | No remedy for your own out-of-memory. |
# | loop 연산 시 tensor variables는 gpu 메모리 사용 | Ten losses kept: with their graphs, detached, as numbers. | True, and the graph behind them is the large part. |
# | 1d tensor는 python 기본 객체로 변환 | `.item()` takes a tensor with *one element*, and refuses two. | One element; and on a GPU it waits. |

# %% [markdown]
# ## Take away
#
# * Parameters, gradients, optimizer: bytes per parameter. Activations: what the layers keep, times the batch, and mostly the larger part.
# * In an out-of-memory error, the line that failed is the last drop. Look at what is alive, of which kind, made where.
# * Activations too large: accumulate, checkpoint, mixed precision, move them to the host. States too large: a different optimizer, or shard them. No backward: `no_grad`.
# * Checkpoint block by block, never all in one.
# * `del` removes a name. `empty_cache` frees no tensor. `item` takes one element, drops the graph, and waits for the GPU.
#
# **Next notebook:** [leaks, NaN, silent bugs, hangs](2_faults.ipynb). **Questions on this lesson:** [quiz](quiz.ipynb).
#
# ### Glossary
#
# | English | 한국어 | here |
# |---|---|---|
# | storage | 저장 공간 | the memory behind a tensor and all its views |
# | activations | 활성값 | what a layer keeps for the backward pass |
# | gradient | 기울기 | derivative of the loss for each parameter |
# | graph | 계산 그래프 | what autograd recorded, with its activations |
# | fake tensor | 가짜 텐서 | shape and type without numbers |
# | gradient accumulation | 기울기 누적 | a batch in parts, one step |
# | activation checkpointing | 활성값 체크포인팅 | keep inputs, compute the inside again |
# | mixed precision | 혼합 정밀도 | computing in 16 bits, parameters in 32 |
# | cache, segment | 캐시, 세그먼트 | memory that PyTorch keeps from the driver |
# | fragmentation | 단편화 | free memory in pieces that are too small |
#
# ### Further reading
#
# * PyTorch, [Understanding CUDA Memory Usage](https://docs.pytorch.org/docs/stable/torch_cuda_memory.html): snapshots, and the viewer.
# * PyTorch, [CUDA semantics](https://docs.pytorch.org/docs/stable/notes/cuda.html): asynchronous execution, the caching allocator.
# * PyTorch, [torch.utils.checkpoint](https://docs.pytorch.org/docs/stable/checkpoint.html): why `use_reentrant=False`.
# * PyTorch, [save_on_cpu](https://docs.pytorch.org/docs/stable/autograd.html#torch.autograd.graph.save_on_cpu): saved tensors on the host.
# * Chen et al. 2016, [Training Deep Nets with Sublinear Memory Cost](https://arxiv.org/abs/1604.06174).
# * Micikevicius et al. 2017, [Mixed Precision Training](https://arxiv.org/abs/1710.03740).
