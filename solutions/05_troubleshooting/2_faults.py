# %% [markdown]
# # Leaks, NaN, silent bugs, and processes that hang
#
# **{minutes} minutes** · one CPU is enough (two or three processes); what needs a GPU says so · before this:
# [memory](1_memory.ipynb)
#
# A training run that crashes tells you where. The faults of this notebook are quieter. Memory grows a little with each
# step. A number is NaN. A bug costs two points of accuracy and says nothing. A process waits for ever.
#
# **After this notebook you can**
#
# 1. find a leak by its growth per step, and name the line that keeps the tensors alive;
# 2. trace a NaN to the layer and the step that made it;
# 3. catch silent bugs with cheap checks in the first steps;
# 4. find out where a rank or a loader worker hangs or died;
# 5. read device, shape and asynchronous CUDA errors, and make a run repeatable.

# %% setup

# %%
from torchcourse.quiz import outcome, predict, recall

recall("05_troubleshooting")

# %%
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from torchcourse import environment, figures
from torchcourse.data import mnist
from torchcourse.lessons.data_parallelism import averaging
from torchcourse.lessons.troubleshooting import checks as check
from torchcourse.lessons.troubleshooting.invariants import SanityProbe
from torchcourse.lessons.troubleshooting.leaks import find_leaks
from torchcourse.lessons.troubleshooting.overflow import (
    FORMATS,
    describe_magnitudes,
    magnitudes,
)
from torchcourse.lessons.troubleshooting.overflow_picture import draw_magnitudes
from torchcourse.lessons.troubleshooting.probes import NanProbe
from torchcourse.lessons.troubleshooting.silent_bugs import BUGS, TASKS, prepare
from torchcourse.lessons.troubleshooting.stacks import (
    Shaky,
    by_rank,
    of_worker,
    read_from_drive,
    write_stack_after,
)
from torchcourse.models import mlp
from torchcourse.ranks import (
    RankError,
    RankTimeout,
    default_world_size,
    device,
    run_ranks,
)
from torchcourse.units import format_bytes

Path("runs").mkdir(exist_ok=True)
# the networks here are so small that a second thread only waits
torch.set_num_threads(1)
print(environment.hardware())

# %% [markdown]
# ## 1 · Memory that grows
#
# A **memory leak** (메모리 누수) in Python is never forgotten memory. A tensor is freed when nothing refers to it any more. So
# where memory grows from step to step, *something still holds the tensors*. Two questions find the fault: what is
# left of earlier steps, and who holds it?
#
# Here is a validation as it is often written. It adds up the losses, to print their mean.

# %%
images, labels = mnist("test")[:]
torch.manual_seed(0)
model = mlp(784, 256, 10)
batch, answers = images[:100], labels[:100]
kept = {"total": 0.0}


def validation_step():
    loss = F.cross_entropy(model(batch), answers)
    kept["total"] = kept["total"] + loss


# %%
predict(
    "05-2.total",
    "The loss is one number of 4 bytes. How much memory does each further validation "
    "step keep?",
    [
        "4 bytes: the loss",
        "about 100 KiB: what the layers put out",
        "nothing: the sum is overwritten",
    ],
)

# %%
report = find_leaks(validation_step, steps=8)
print(report)

# %%
outcome(
    "05-2.total",
    f"{format_bytes(report.bytes_a_step)} per step. The sum was computed from the "
    f"loss, the loss from the layers, and autograd keeps "
    "what a backward pass would need.",
    right="about 100 KiB: what the layers put out",
)

# %% [markdown]
# The sum is one number, but it is the end of an **autograd graph** (자동 미분 그래프) in which all steps hang. The report
# names the graph, the variable at its end, and the line that makes it longer.
#
# In training, the same line leaks much less. Why?

# %%
optimizer = torch.optim.Adam(model.parameters())
kept["total"] = 0.0


def training_step():
    loss = F.cross_entropy(model(batch), answers)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    kept["total"] = kept["total"] + loss


training_report = find_leaks(training_step, steps=8)
print(training_report)

# %% [markdown]
# `backward()` frees what the graph had saved. What stays are its nodes: small objects in main memory, no tensors. It is
# still a leak, but the one that fills a GPU is the *evaluation* without `no_grad`.
#
# The remedy is the same for both: **do not keep the tensor, keep what you want to know**, as `loss.item()` or
# `total += loss.detach()` (notebook 1, section 5).

# %% [markdown]
# ### Who else holds tensors?
#
# A hook with a memory, and an exception that was kept. The next cell builds both. Who would look there?

# %%
errors = []


def add_statistics(layer):
    history = []

    def remember(module, inputs, output):
        history.append(output.detach())

    return layer.register_forward_hook(remember)


def careful_step():
    try:
        hidden = model[:2](batch)
        if hidden.isfinite().all():  # for the demonstration: every batch is "bad"
            raise ValueError("this batch is skipped")
    except ValueError as error:
        errors.append(error)


# %%
hook = add_statistics(model[2])
print(find_leaks(training_step, steps=6))
hook.remove()
print()
print(find_leaks(careful_step, steps=6))
errors.clear()

# %% [markdown]
# The hook's list lives in its **closure** (클로저), the hook in the layer, the layer in the model. The exception holds
# its **traceback** (트레이스백), the traceback holds the frame of the function, and the frame holds every local variable. Store `str(error)` instead.
#
# How does `find_leaks` do it? After each step it asks a *weak reference* (약한 참조) of every storage whether it is still there.
# What survives from step to step is a leak. From there it follows `gc.get_referrers`, Python's own list of who refers to
# an object, until it meets a variable. A graph that keeps no tensors shows by its nodes: those of every step are still there.
# It works on any device. It is slow: use it for ten steps.
#
# What is in no tensor has no such name: a list of NumPy arrays, a log of Python objects. There the report says only that the memory of the
# process grows. Python's own [`tracemalloc`](https://docs.python.org/3/library/tracemalloc.html) names the line then.

# %% [markdown]
# ## 2 · A number that is not a number
#
# **NaN** ("not a number") comes from 0/0, ∞−∞, the root or logarithm of a negative number; **inf** (무한대) from numbers that are
# too large. Both spread: one step after the first NaN gradient, whole layers of weights are NaN, and the evidence is gone.
#
# First see how little it takes in 16 bits. The picture shows a training step of a network of six layers, in the format that
# you choose. Try this:
#
# * `fp16`, and a larger and larger input. Which layer overflows first, and at which magnitude?
# * The same in `bf16`: as many bits, divided differently. What does it have more of than `fp16`?
# * `fp16` with tiny inputs: nothing overflows, and yet something is lost. What does a *loss scale* (손실 스케일) of 2^12 do
#   about that? And of 2^24?


# %%
torch.manual_seed(0)
deep = mlp(64, 64, 64, 64, 64, 64, 16)[1:]
sample = torch.randn(64, 64)


def overflow(format, input_times_10_to_the, loss_scale_2_to_the):
    found = magnitudes(
        deep,
        sample * 10**input_times_10_to_the,
        FORMATS[format],
        2.0**loss_scale_2_to_the,
    )
    return found, format


# %%
figures.explorer(
    lambda **values: draw_magnitudes(*overflow(**values)),
    alt=lambda **values: describe_magnitudes(overflow(**values)[0]),
    input_times_10_to_the=(-4, 7, 0),
    loss_scale_2_to_the=(0, 24, 0),
    format=["fp16", "bf16", "fp32"],
)

# %% [markdown]
# `fp16` ends at 65,504. `bf16` has the range of `fp32` and fewer digits. That is why `fp16` needs a loss scale (a
# `GradScaler`) and `bf16` does not.
#
# ### The first layer that fails
#
# The last place where you *see* a NaN is the loss. The first place where it *is* can be found with a **hook** (훅): a function
# that PyTorch calls after a layer's forward pass.

# %% [markdown]
# ### Exercise 1 · Find the first layer
#
# ●●○ · 10 minutes · good for: asking of a NaN since which layer it is there.
#
# Call the model once. Return the name (as in `named_modules()`) of the first layer, in the order of the *calls*, whose output
# holds a NaN or an infinity; `None` if all are finite. Layers are modules without children. Leave no hooks behind:
# `handle = layer.register_forward_hook(look)` calls `look(layer, inputs, output)` after the layer, until `handle.remove()`.


# %% exercise: first_bad_layer
def first_bad_layer(model: nn.Module, inputs: torch.Tensor) -> str | None:
    """Return the name of the first layer whose output is not finite."""
    bad, handles = [], []
    for name, module in model.named_modules():
        ### BEGIN SOLUTION
        if next(module.children(), None) is not None:
            continue

        def look(module, args, output, name=name):
            if not output.isfinite().all():
                bad.append(name)

        handles.append(module.register_forward_hook(look))
        ### END SOLUTION
    with torch.no_grad():
        model(inputs)
    ### BEGIN SOLUTION
    for handle in handles:
        handle.remove()
    return bad[0] if bad else None
    ### END SOLUTION


# %% check: first_bad_layer
checked = check.first_bad_layer(first_bad_layer, points=3)
### BEGIN HIDDEN TESTS
_model = nn.Sequential(
    nn.Linear(4, 4), nn.Sequential(nn.Tanh(), nn.Linear(4, 4)), nn.Linear(4, 2)
)
_x = torch.randn(5, 4)
assert first_bad_layer(_model, _x) is None
_model[2].bias.data[1] = math.inf
assert first_bad_layer(_model, _x) == "2"
_model[1][1].weight.data[0, 0] = math.nan
assert first_bad_layer(_model, _x) == "1.1"
assert not any(_module._forward_hooks for _module in _model.modules())
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – my function returns the name of the last layer, whichever is bad</summary>
#
# All hooks share one variable `name`, and when they run, the loop is over. Give each hook its own:
# `def look(module, args, output, name=name):`.
# </details>
#
# <details><summary>Help – it returns an empty name, or "1" instead of "1.1"</summary>
#
# The model itself and each `Sequential` are modules too. Whose list of `children()` is empty?
# </details>
#
# ### Break-it lab A: a NaN in the middle of a run
#
# The package's `NanProbe` does the same for all layers, forward and backward, in every step. It keeps the largest magnitude
# of each layer on the device and waits for it once a step. This run computes a loss that looks innocent: the mean *distance*
# of the outputs from their targets.


# %%
class Distance(nn.Module):
    """A regression network; the loss is the mean distance between output and target."""

    def __init__(self):
        super().__init__()
        self.first, self.act, self.last = nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)

    def forward(self, x):
        return self.last(self.act(self.first(x)))


def batch_of(step):
    x = torch.randn(32, 16, generator=torch.Generator().manual_seed(step))
    return x, x[:, :4].clone()


# %%
def train_distance(distance, steps=12):
    """Return what the probe found, or None; step 7 holds a sample that the model
    gets exactly right.
    """
    torch.manual_seed(0)
    net = Distance()
    steps_taken = torch.optim.SGD(net.parameters(), lr=0.05)
    with NanProbe(net) as probe:
        for number in range(steps):
            x, target = batch_of(number)
            output = net(x)
            if number == 7:
                target[0] = output[0].detach()
            loss = distance(output, target).mean()
            steps_taken.zero_grad()
            loss.backward()
            if found := probe.look(loss):
                return found
            steps_taken.step()


def root_of_squares(output, target):
    return (output - target).square().sum(dim=1).sqrt()


# %%
predict(
    "05-2.root",
    "In step 7 one sample is predicted exactly: its distance is 0. What becomes NaN "
    "first?",
    ["the loss", "the gradient", "nothing: 0 is a good loss"],
)

# %%
found = train_distance(root_of_squares)
print(found)
outcome(
    "05-2.root",
    f"{found.phase.capitalize()}: the loss of that step was a number.",
    right="the gradient",
)

# %% [markdown]
# The derivative of √x at 0 is infinite, and infinity times 0 (the derivative of x² there) is NaN. The loss of that step is fine.
# **The forward pass was finite**, says the evidence, so you need not look at layers and data, only at the loss function.
#
# ### Exercise 2 · Repair it
#
# ●●○ · 5 minutes · good for: the same trap in `hypot`, `x / x.norm()`, `var().sqrt()` and `acos()`.
#
# The distance must stay right (to 0.001) for all other samples, and its gradient finite for all.


# %% exercise: safe_distance
def safe_distance(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the distance of each row of `output` from that of `target`, [n]; with a
    finite gradient everywhere.
    """
    ### BEGIN SOLUTION
    return ((output - target).square().sum(dim=1) + 1e-8).sqrt()
    ### END SOLUTION


# %% check: safe_distance
checked = check.safe_distance(safe_distance, points=2)
### BEGIN HIDDEN TESTS
_out = torch.tensor([[3.0, 4.0], [1.0, 1.0], [0.0, 0.02]], requires_grad=True)
_target = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
_got = safe_distance(_out, _target)
assert (_got - torch.tensor([5.0, 0.0, 0.02])).abs().max() < 1.001e-3
_got.sum().backward()
assert _out.grad.isfinite().all()
assert (_out.grad[0] - torch.tensor([0.6, 0.8])).abs().max() < 1e-3
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – the value is right now, and the gradient still NaN</summary>
#
# `torch.where(d > 0, d, 0)` chooses a value *after* the root was taken. Its backward pass still multiplies 0 by infinity. What
# goes *into* the root must not be 0.
# </details>
#
# PyTorch's own norms know the trap: `torch.linalg.vector_norm(output - target, dim=1)` has the gradient 0 at 0, and so have
# `norm()` and `std()`. Take them where you can.
#
# ### What watching costs
#
# PyTorch has a tool of its own, `torch.autograd.detect_anomaly`: it names the *forward line* of the operation whose backward
# pass made a NaN. It is thorough, and slow: take it for the one step that you want explained.


# %%
def seconds_a_step(watch, steps=20):
    torch.manual_seed(0)
    net, x, y = mlp(784, 256, 256, 10), images[:128], labels[:128]
    probe = NanProbe(net) if watch == "NanProbe" else None
    start = time.perf_counter()
    with torch.autograd.set_detect_anomaly(watch == "detect_anomaly"):
        for _ in range(steps):
            net.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            if probe:
                probe.check(loss)
    return (time.perf_counter() - start) / steps


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # detect_anomaly says each time that it is slow
    # in turn, so that a busy moment hits all
    rounds = [
        {way: seconds_a_step(way) for way in ("nothing", "NanProbe", "detect_anomaly")}
        for _ in range(3)
    ]
for way in rounds[0]:
    print(f"{way:15s} {1e3 * min(times[way] for times in rounds):6.2f} ms per step")

# %% [markdown]
# This step is a very short one. Measure on your own whether the probe can stay on all the time. Two things to know:
#
# - In fp16 a `GradScaler` makes gradients overflow *on purpose*, and skips those steps. Call `probe.check(loss, scaler=scaler)`: the
#   probe then notes them in `probe.skipped` and goes on, as long as the scale is above 1.
# - `torch.compile` runs a model past hooks. The probe then warns, and sees weights, loss and gradients alone. For the step in
#   question, `torch.compiler.set_stance("force_eager")` runs the layers one by one again.

# %% [markdown]
# ## 3 · Silent bugs
#
# A **silent bug** (조용한 버그) raises no error. The training runs, the loss falls, the model is worse than it should be, and
# nobody knows what it should have been.

# %%
predict(
    "05-2.silent",
    "Twelve training programs, each with one bug: no `zero_grad()`, no `eval()`, "
    "softmax twice … How many end at least 10 "
    "points of accuracy below the healthy run?",
    ["nearly all", "about half", "three or fewer"],
)

# %%
silent = [
    "no_zero_grad",
    "softmax_twice",
    "head_left_out",
    "frozen_by_mistake",
    "always_eval",
    "never_eval",
    "sorted",
    "raw_inputs",
    "epochs_as_batches",
    "not_divided",
    "dropout_always",
    "validation_raw",
]


def accuracy(bug=None, steps=75):
    run = prepare(TASKS["digits"], seed=0)
    if bug:
        BUGS[bug].plant(run)
    return run.go(steps)


healthy = accuracy()
ends = {bug: accuracy(bug) for bug in silent}

# %%
figure, axes = figures.new(height=3.6)
low = [bug for bug, value in ends.items() if value < healthy - 0.1]
order = sorted(ends, key=ends.get)
axes.barh(
    [BUGS[bug].line for bug in order],
    [100 * ends[bug] for bug in order],
    color=figures.COLORS["blue"],
)
axes.axvline(100 * healthy, color=figures.COLORS["vermillion"], label="healthy run")
axes.set(xlabel="validation accuracy after 75 steps (%)", xlim=(0, 100))
axes.set_title(
    f"{len(ends) - len(low)} of {len(ends)} bugs end within 10 points of the healthy "
    f"run, or above"
)
axes.legend(frameon=False, loc="lower right")
figures.show(
    figure,
    f"Healthy {healthy:.0%}. "
    + ", ".join(f"{BUGS[bug].line} {ends[bug]:.0%}" for bug in order),
)

# %%
outcome(
    "05-2.silent",
    f"{len(low)} of {len(ends)}: {', '.join(BUGS[bug].line for bug in low)}. The "
    f"healthy run has {healthy:.0%}.",
    right="nearly all"
    if len(low) > 8
    else "about half"
    if len(low) > 3
    else "three or fewer",
)

# %% [markdown]
# In practice you do not know what the healthy run would have. So look at what *must hold
# in every healthy run*, whatever the model and the data are: an **invariant** (불변 조건). `SanityProbe` watches your own loop
# for its first 20 steps, and looks for some hundred ways to break one. It also looks at what is around the steps: a best state that is no
# copy, `set_epoch` forgotten, clipping before `unscale_`, evaluation mode left on.

# %%
for bug in [None, *silent]:
    run = prepare(TASKS["digits"], seed=0)
    if bug:
        BUGS[bug].plant(run)
    with SanityProbe(run.model, run.optimizer) as probe:
        run.go(steps=20)
    print(
        f"{BUGS[bug].line if bug else 'healthy':40s}",
        ", ".join(alarm.name for alarm in probe.alarms()) or "no alarm",
    )
print(f"\nThe last one in full: {probe.alarms()[0]}")

# %% [markdown]
# These rules were set on two tasks and judged on four others. On 60 healthy loops that are
# built differently (LBFGS, two networks against each other …; `make bench ARGS=invariants`) they are silent, and they name each of
# 26 bugs. But the rules were written with these bugs in view. Of 32 bugs that were written without a look at the rules they named 11
# (30 after more rules). Of 32 more, written in the same way later, they named 23. Then somebody who knew the rules wrote 32: they
# named 10 of 16, and 5 of the 16 whose kinds no rule had been made for. Of 32 more, again without a look at the rules, they named
# 19 (31 after more rules), and of 64 more 53 (61 after more rules). They accused 14 of 261 healthy programs, and stopped one with an
# error. Of your bugs they will find a part. And some are beyond them:

# %%
beyond = [bug.line for bug in BUGS.values() if not bug.alarms]
print(f"Of {len(BUGS)} bugs, no alarm for {len(beyond)}: {'; '.join(beyond)}.")

# %% [markdown]
# A fifth of wrong labels looks like a hard task. No rule replaces looking at some samples with their labels.
#
# ### Exercise 3 · Three invariants by hand
#
# ●●○ · 12 minutes · good for: fifteen lines that you can paste into any project.
#
# **a)** Which trainable parameters never change? Call `step()` a few times and compare. An optimizer without the head, a
# `detach()`, a replaced layer: all of them show here.


# %% exercise: unchanged
def unchanged(model: nn.Module, step: Callable[[], None], steps: int = 5) -> list[str]:
    """Call `step()` so many times; return the names of the trainable parameters that
    are as they were before.
    """
    ### BEGIN SOLUTION
    before = {
        name: parameter.detach().clone() for name, parameter in model.named_parameters()
    }
    for _ in range(steps):
        step()
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and torch.equal(parameter, before[name])
    ]
    ### END SOLUTION


# %% check: unchanged
checked = check.unchanged(unchanged, points=2)
### BEGIN HIDDEN TESTS
torch.manual_seed(2)
_model = nn.ModuleDict(
    {"used": nn.Linear(3, 3), "idle": nn.Linear(3, 3), "fixed": nn.Linear(3, 3)}
)
_model["fixed"].requires_grad_(False)
_sgd = torch.optim.SGD(_model.parameters(), lr=0.1)


def _step():
    _sgd.zero_grad()
    _model["used"](torch.ones(2, 3)).square().sum().backward()
    _sgd.step()


assert set(unchanged(_model, _step, 3)) == {"idle.weight", "idle.bias"}
assert not set(unchanged(_model["used"], _step, 2))
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – my function says that everything is unchanged</summary>
#
# The optimizer changes parameters *in place*. `dict(model.named_parameters())` holds the same tensors before and after.
# </details>
#
# **b)** Does a sample's output depend on its neighbors in the batch? In evaluation it must not: a softmax or a norm over the
# wrong dimension, a `view` that mixes, all show here.


# %% exercise: mixes_samples
def mixes_samples(model: nn.Module, batch: torch.Tensor) -> bool:
    """Say whether, in evaluation mode, the outputs of some samples change with the rest
    of the batch.

    The model is afterwards in the mode in which it came. Rounding (up to a thousandth
    of the outputs' size) is no change.
    """
    was_training = model.training
    ### BEGIN SOLUTION
    model.eval()
    with torch.no_grad():
        together = model(batch)
        alone = torch.cat([model(sample[None]) for sample in batch])
    model.train(was_training)
    return bool((together - alone).abs().max() > 1e-3 * together.abs().max())
    ### END SOLUTION


# %% check: mixes_samples
checked = check.mixes_samples(mixes_samples, points=2)
### BEGIN HIDDEN TESTS
torch.manual_seed(3)
_x = torch.randn(9, 6)
_plain = nn.Sequential(
    nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3)
)
assert not mixes_samples(_plain, _x)
assert _plain.training
assert mixes_samples(nn.Sequential(nn.Linear(6, 5), nn.Softmax(dim=0)), _x)
assert not mixes_samples(nn.Sequential(nn.Linear(6, 5), nn.Softmax(dim=1)).eval(), _x)
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get <code>Expected more than 1 value per channel</code></summary>
#
# This BatchNorm has no running statistics, or the model is in training mode: it cannot take a batch of one. Compare the
# first *half* of the batch with the same rows of the whole batch.
# </details>
#
# **c)** Does the model start by guessing? With C classes, a model that knows nothing has a loss of log C. Far above that, it starts sure and wrong.
# And scores that are all in [0, 1] and add up to 1 have been through a softmax already.


# %% exercise: bad_start
def bad_start(scores: torch.Tensor, targets: torch.Tensor) -> list[str]:
    """Judge the scores [N, C] that a new model gives to cross_entropy. Return some of:

    "softmax twice": each row is a probability distribution (to within 0.001).
    "no guess": the loss is more than 1.5 above log C.
    """
    found = []
    ### BEGIN SOLUTION
    if (scores >= 0).all() and ((scores.sum(dim=1) - 1).abs() < 1e-3).all():
        found.append("softmax twice")
    if F.cross_entropy(scores, targets) > math.log(scores.size(1)) + 1.5:
        found.append("no guess")
    ### END SOLUTION
    return found


# %% check: bad_start
checked = check.bad_start(bad_start, points=2)
### BEGIN HIDDEN TESTS
torch.manual_seed(5)
_y = torch.randint(7, (40,))
_scores = torch.randn(40, 7)
assert not list(bad_start(0.3 * _scores, _y))
assert list(bad_start(_scores.softmax(dim=1), _y)) == ["softmax twice"]
assert list(bad_start(30 * _scores, _y)) == ["no guess"]
_part = torch.cat([_scores.softmax(dim=1)[:39], _scores[39:]])
assert not list(bad_start(_part, _y))
### END HIDDEN TESTS
checked

# %% [markdown]
# ## 4 · Errors that say something else
#
# ### Shapes and devices
#
# Three messages that everybody meets. The device `meta` has no memory, and takes the place of a second device here. A
# GPU says it in other words: `Expected all tensors to be on the same device, but …`, or, in a convolution,
# `Input type (torch.FloatTensor) and weight type (torch.cuda.FloatTensor) should be the same`.

# %%
layer = nn.Linear(100, 10)
for wrong in (
    batch.flatten(1),
    torch.ones(4, 100, device="meta"),
    torch.ones(4, 100).double(),
):
    try:
        layer(wrong)
    except RuntimeError as error:
        print(error)

# %% [markdown]
# Read them from the numbers. `mat1 and mat2 shapes cannot be multiplied (100x784 and 100x10)`: your input is `mat1`, [100, 784];
# the layer's weight (transposed) is `mat2`, so the layer wants 100 numbers per sample and gets 784. The *inner* numbers must agree.
# All messages about devices mean: the layer's weights are in one place, the input in another. Move the *model* once and each *batch*
# as it comes; a tensor made inside `forward()` needs `device=x.device`. The third message names two dtypes (자료형): the input is double
# (64 bits), the weights are float (32 bits). NumPy's default is double; `.float()` converts the input.
#
# Worse is the shape that raises no error:

# %%
outputs, targets = torch.randn(64, 1), torch.randn(64)
print(
    "differences:",
    (outputs - targets).shape,
    " mean square:",
    (outputs - targets).square().mean().item(),
)
print(
    "as meant:   ",
    (outputs[:, 0] - targets).shape,
    "    mean square:",
    (outputs[:, 0] - targets).square().mean().item(),
)

# %% [markdown]
# **Broadcasting** (브로드캐스팅) compared each output with each target: 4,096 pairs instead of 64. Such a model learns the mean of the targets. PyTorch warns
# only inside its own losses; `SanityProbe` calls it `broadcast`, and the course's Trainer refuses it.
#
# ### CUDA errors come late
#
# A call of the GPU returns before the GPU has done it (**asynchronous**, 비동기). So an error inside a kernel is reported by
# some *later* call, and the traceback shows an innocent line. With the environment variable `CUDA_LAUNCH_BLOCKING=1` each
# call waits, and the line is right; it is slow, so only for the hunt. It must be set before CUDA starts: restart the kernel.
# (PyTorch, [asynchronous execution](https://docs.pytorch.org/docs/stable/notes/cuda.html#asynchronous-execution).)
#
# The next cell has a label that does not exist. It runs in a process of its own, because after such an error a process can use its GPU
# no more. A GPU's kernel prints the rule that was broken, before the error. Without a GPU the cell shows the second method, **the same
# step on the CPU**, where each error comes at its line.


# %%
def step_with_a_wrong_label():
    scores = torch.zeros(4, 10, device=device())
    targets = torch.tensor([1, 2, 10, 3], device=device())
    F.cross_entropy(scores, targets)  # the fault is here
    print((scores * 2).sum().item())


for blocking in "01" if torch.cuda.is_available() else "0":
    try:
        run_ranks(
            step_with_a_wrong_label,
            world_size=1,
            env={"CUDA_LAUNCH_BLOCKING": blocking},
        )
    except RankError as error:
        print(f"CUDA_LAUNCH_BLOCKING={blocking}: {error.message}", error.traceback)

# %% [markdown]
# ## 5 · Processes that hang or die
#
# ### Loader workers
#
# A **worker** (워커) of a DataLoader is a process. It can fail in three ways, and each looks different. (The loaders run in a process
# of their own here, so that nothing of it touches the notebook.)


# %%
def load(trouble, **options):
    for _ in DataLoader(
        Shaky(size=8, bad=5, trouble=trouble), num_workers=2, **options
    ):
        pass


def load_with_timeout():
    load("hangs", timeout=3, worker_init_fn=write_stack_after(1, "runs"))


# %%
for function, arguments in (
    (load, ["raises"]),
    (load, ["dies"]),
    (load_with_timeout, []),
):
    try:
        run_ranks(function, *arguments, world_size=1)
    except RankError as error:
        lines = error.message.strip().splitlines()
        print(f"{error.kind}: {lines[0]}", f"… {lines[-1]}" if len(lines) > 1 else "")

# %% [markdown]
# * **It raises**: the worker's traceback travels to you, and names the worker.
# * **It dies**: the message depends on who notices first. It is "killed by signal: Killed", "exited unexpectedly" or "Connection reset by
#   peer". Or the loading process ends too, without a word. Often the system killed it, out of main memory: look at what each worker keeps. (After "Bus error", look
#   at shared memory, `/dev/shm`.)
# * **It hangs**: *without* `timeout=` nothing would ever come. With it you learn *that* a worker hangs, and not where. For that,
#   `write_stack_after` had each worker write its stack to a file, by Python's `faulthandler`:

# %%
for worker in (0, 1):
    print(
        f"worker {worker}:",
        " → ".join(of_worker(f"runs/worker-{worker}.txt")) or "waits for work",
    )

# %% [markdown]
# To find a bad *sample*, set `num_workers=0`: then everything happens in your process, and the debugger works.
#
# ### Ranks
#
# A rank that hangs stops all others at their next collective. Here rank 1 reads a sample from the same drive. A time limit, and
# **the stack of each rank** (스택), are the evidence.


# %%
def batches_of_rank(trouble, steps=4):
    """This rank's batches.

    In step 2 rank 1 has trouble: "a drive" that does not answer, or "a NaN".
    """
    generator = torch.Generator().manual_seed(dist.get_rank())
    for step in range(steps):
        x, y = (
            torch.randn(8, 5, generator=generator),
            torch.randint(3, (8,), generator=generator),
        )
        if step == 2 and dist.get_rank() == 1:
            if trouble == "a drive":
                read_from_drive()
            x[3, 0] = math.nan
        yield x.to(device()), y.to(device())


def training(model, batches):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in batches:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        averaging.average_gradients(model)
        optimizer.step()


def start(training, trouble):
    torch.manual_seed(0)
    return training(nn.Linear(5, 3).to(device()), batches_of_rank(trouble))


# %%
ON_CPU = {"CUDA_VISIBLE_DEVICES": ""}
stacks = {}
try:
    run_ranks(start, training, "a drive", world_size=3, timeout=4, env=ON_CPU)
except RankTimeout as error:
    stacks = by_rank(error)
    print(error)

# %% [markdown]
# Two ranks are in an all-reduce: that is where one *waits*, not where the fault is. One is somewhere else. In a script, set a
# time limit too: NCCL's watchdog gives up after ten minutes by default, and
# [`py-spy dump --pid PID`](https://github.com/benfred/py-spy) shows the stack of any running Python process.
#
# ### Exercise 4 · Who is not where the others are?
#
# ●○○ · 6 minutes · good for: with 64 ranks you do not read the stacks one by one.


# %%
for rank, lines in stacks.items():
    print(f"rank {rank}:", lines)


# %% exercise: odd_ones_out
def odd_ones_out(stacks: dict[int, list[str]]) -> list[int]:
    """Return the ranks whose stack differs from the most frequent one, in ascending
    order.

    A stack is a list of lines of source, the innermost last; a rank that has returned
    has an empty list.
    """
    ### BEGIN SOLUTION
    where = {rank: tuple(lines) for rank, lines in stacks.items()}
    places = list(where.values())
    common = max(places, key=places.count)
    return sorted(rank for rank, place in where.items() if place != common)
    ### END SOLUTION


# %% check: odd_ones_out
checked = check.odd_ones_out(odd_ones_out, points=2)
### BEGIN HIDDEN TESTS
_stacks = {3: ["a", "w"], 0: ["b", "w"], 2: ["a", "w"], 1: []}
assert list(odd_ones_out(_stacks)) == [0, 1]
assert not list(odd_ones_out({rank: ["step()", "wait()"] for rank in range(4)}))
assert list(odd_ones_out({0: [], 1: ["x"], 2: ["x"], 3: ["x", "y"]})) == [0, 3]
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – two stacks end with the same line, and the check says that they differ</summary>
#
# All collectives end in the same line of PyTorch, `work.wait()`. Look further out for *which* one it is.
# </details>

# %% [markdown]
# ### Break-it lab B: a step that one rank skips
#
# A colleague is careful: "a batch with a NaN must not spoil the weights, so I skip it." On one GPU that works. On three ranks,
# rank 1 meets a broken sample in step 2.


# %%
def careful_training(model, batches):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in batches:
        loss = F.cross_entropy(model(x), y)
        if not loss.isfinite():
            continue  # skip the bad batch
        optimizer.zero_grad()
        loss.backward()
        averaging.average_gradients(model)
        optimizer.step()


# %%
predict(
    "05-2.skip",
    "Rank 1 skips its batch of step 2. What happens?",
    [
        "all ranks go on, and their weights stay equal",
        "rank 1 is a step ahead from then on, and in the end the others wait for a "
        "rank that is gone",
        "rank 1 stops with an error at once, and the others with it",
    ],
)

# %%
try:
    run_ranks(start, careful_training, "a NaN", world_size=3, timeout=4, env=ON_CPU)
except RankError as error:
    print(
        f"rank {error.rank}: {error.message[:150]} …",
        error.note.partition("(rank")[0],
        error.traceback,
        sep="\n",
    )

# %%
outcome(
    "05-2.skip",
    "Rank 1 had returned, and the others still wanted its gradients. Before that, "
    "its gradients of step 3 were averaged with "
    "the others' of step 2, without a word.",
    right="rank 1 is a step ahead from then on, and in the end the others wait for a "
    "rank that is gone",
)

# %% [markdown]
# ### Exercise 5 · Skip together
#
# ●●○ · 8 minutes · good for: every decision that changes who calls what (skip, stop early, save), since all have to take it.
#
# If the loss of *any* rank is not finite, *all* ranks skip this step. `loss` has already been computed, on every rank.


# %% exercise: any_rank_bad
def any_rank_bad(loss: torch.Tensor) -> bool:
    """Say, on every rank alike, whether the loss of at least one rank is not finite."""
    ### BEGIN SOLUTION
    bad = (~loss.detach().isfinite()).float()
    dist.all_reduce(bad, op=dist.ReduceOp.MAX)
    return bool(bad.item())
    ### END SOLUTION


# %% check: any_rank_bad
checked = check.any_rank_bad(any_rank_bad, points=3)


### BEGIN HIDDEN TESTS
def _decisions():
    tables = (
        [0.5, 1.0, 2.0],
        [0.5, math.nan, 1.0],
        [math.inf, 1.0, -math.inf],
        [1.0, 1.0, math.nan],
        [3.0, 4.0, 5.0],
    )
    return [
        any_rank_bad(torch.tensor(table[dist.get_rank()], device=device()))
        for table in tables
    ]


assert (
    run_ranks(_decisions, world_size=3, timeout=20)
    == [[False, True, True, True, False]] * 3
)
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – the ranks wait for one another in the check</summary>
#
# Is your collective inside an `if` that asks for this rank's loss? Ranks with a good loss never get there.
# </details>
#
# <details><summary>Help – a NaN on rank 1, and rank 0 says False</summary>
#
# The maximum or minimum of numbers with a NaN among them is not reliable across backends, and a large but finite loss
# can overflow in a sum. Send a flag, 0 or 1, instead of the loss.
# </details>

# %% [markdown]
# ## 6 · Twice the same
#
# A fault that shows only sometimes is hard to hunt. **Non-determinism** (비결정성) has three sources. The first: random numbers
# (the start, the order, dropout, augmentation). One seed at the start repairs that, *if* nothing else draws from the same generator.
# The second: the order of additions. In floating point (a + b) + c is not a + (b + c):

# %%
numbers = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0))
sums = {numbers[torch.randperm(len(numbers))].sum().item() for _ in range(20)}
print(
    f"{len(sums)} different sums of the same numbers in 20 orders, "
    f"{max(sums) - min(sums):.1e} apart"
)

# %% [markdown]
# On a GPU some kernels add in whatever order threads come; so does a different number of CPU threads or ranks.
# `torch.use_deterministic_algorithms(True)` chooses kernels that repeat, or raises an error where there is none. Across other versions,
# machines or devices nothing is promised. The third source: workers and ranks. Each needs a seed of its own, drawn from one.
# (PyTorch, [reproducibility](https://docs.pytorch.org/docs/stable/notes/randomness.html).)

# %% [markdown]
# ## 7 · Scale up: whose NaN is it?
#
# With DistributedDataParallel a NaN of one rank is in everybody's gradients after the all-reduce, and in everybody's weights a
# step later. The probe looks at each rank's own forward pass, so it still knows.


# %%
def whose():
    torch.manual_seed(0)
    net = mlp(5, 16, 3).to(device())
    probe = NanProbe(net)
    for x, y in batches_of_rank("a NaN"):
        loss = F.cross_entropy(net(x), y)
        net.zero_grad()
        loss.backward()
        found = probe.look(loss)
        averaging.average_gradients(net)
        spoiled = not all(p.grad.isfinite().all() for p in net.parameters())
        if spoiled:
            return spoiled, str(found) if found else "nothing of my own"
    return False, "nothing"


for ranks in sorted({1, 2, 3, default_world_size()}):
    print(f"{ranks} rank(s)")
    for rank, (spoiled, found) in enumerate(run_ranks(whose, world_size=ranks)):
        print(f"  rank {rank}: gradients spoiled: {spoiled}; found: {found}")

# %% [markdown]
# (With one rank there is no rank 1, and so no trouble.) All gradients are spoiled, and one rank says why: it was the data. Under `torchrun` the same lines run:
#
# ```
# torchrun --standalone --nproc-per-node=8 train.py
# torchrun --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-endpoint=HOST:29500 train.py
# ```

# %% [markdown]
# ## 8 · What the log said
#
# | The log | The evidence here | Corrected |
# |---|---|---|
# | GPUUtil로 memory leak 확인하기: find a memory leak with GPUtil | Section 1: growth per step shows *that* there is a leak; the references show *whose*. A GPU's total shows neither, and PyTorch's cache hides small growth from it. | Watch **live bytes per step**, then ask **who holds them**. (NVML is GPUtil's successor, notebook 1.) |
# | loop연산 시 tensor variables는 gpu 메모리 사용: in loops, tensor variables use GPU memory | A variable of the loop is overwritten, and its tensor freed. What grew was what *outlived a turn*: a sum with its graph, a list, a hook, an exception. | A tensor stays as long as **something refers to it**, also through an autograd graph. |
#
# ## Take away
#
# * A leak is a reference that is still held. Measure growth per step, then follow the references to a variable.
# * `total += loss` keeps whole graphs in an evaluation without `no_grad`; after `backward()` only their nodes.
# * The first place of a NaN counts: data, weights, forward, loss or backward, in which layer and step. A finite loss can have a NaN
#   gradient.
# * Accuracy shows few silent bugs. Checks of what must hold in every healthy run show many of them, within 20 steps.
# * CUDA's errors come late: take `CUDA_LAUNCH_BLOCKING=1`, or the CPU.
# * A time limit, then the stack of each process. Look first at the process that is not where the others are.
# * A decision that changes who calls what is taken by all ranks together.
#
# **Next notebook:** [the clinic](3_clinic.ipynb). **Questions on this lesson:** [quiz](quiz.ipynb).
#
# ### Glossary
#
# | English | 한국어 | here |
# |---|---|---|
# | memory leak | 메모리 누수 | memory that grows because something still refers to it |
# | autograd graph | 자동 미분 그래프 | what a tensor was computed from, kept for the backward pass |
# | weak reference | 약한 참조 | a reference that keeps nothing alive |
# | closure | 클로저 | the outer variables that an inner function keeps |
# | traceback | 트레이스백 | where an error came through, with all local variables |
# | NaN, inf | NaN, 무한대(inf) | results that are not a number, or too large for the format |
# | loss scale | 손실 스케일 | a factor that keeps small gradients above 0 in fp16 |
# | hook | 훅 | a function that PyTorch calls at a layer or a tensor |
# | silent bug | 조용한 버그 | wrong, without an error |
# | invariant | 불변 조건 | what holds in every healthy run |
# | broadcasting | 브로드캐스팅 | shapes are stretched until they fit |
# | asynchronous | 비동기 | the call returns before the work is done |
# | worker | 워커 | a process that loads samples |
# | non-determinism | 비결정성 | the same program, other numbers |
#
# ### Further reading
#
# * PyTorch, [FAQ: my model reports "cuda runtime error(2): out of memory"](https://docs.pytorch.org/docs/stable/notes/faq.html):
#   do not accumulate history across your training loop.
# * PyTorch, [anomaly detection](https://docs.pytorch.org/docs/stable/autograd.html#anomaly-detection).
# * Micikevicius et al. 2017, [Mixed Precision Training](https://arxiv.org/abs/1710.03740): why a loss scale, with histograms.
# * A. Karpathy 2019, [A Recipe for Training Neural Networks](https://karpathy.github.io/2019/04/25/recipe/): the first part is a list of
#   invariants.
# * PyTorch, [DataLoader](https://docs.pytorch.org/docs/stable/data.html): `timeout`, `worker_init_fn`, shared memory.
# * Python, [faulthandler](https://docs.python.org/3/library/faulthandler.html) and
#   [gc.get_referrers](https://docs.python.org/3/library/gc.html#gc.get_referrers).
