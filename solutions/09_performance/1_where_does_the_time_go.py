# %% [markdown]
# # Where does the time go?
#
# **{minutes} minutes** · one CPU is enough (two processes), the same code measures GPUs · before this: lessons 01 and 05
#
# "It is slow" is a symptom, not a diagnosis. In this notebook you break a training step into its parts, on one process
# and on two. You learn what this machine can do at best, and where each layer stands. Then you make code faster, and the
# check measures it.
#
# **After this notebook you can**
#
# 1. break a step into data, forward, backward, communication and waiting, by clock and by profiler;
# 2. read the trace of each rank, and say how much communication is exposed;
# 3. place a layer under the roofline of a machine, and say what limits it;
# 4. find graph breaks and recompilations of `torch.compile`;
# 5. say where 16-bit numbers fail, and where they pay;
# 6. make a function faster, and prove it by a ratio from one run.

# %% setup

# %%
from torchcourse.quiz import outcome, predict, recall

recall("09_performance")

# %%
import functools
import inspect
import json
import os
import time
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from torchcourse import environment, figures, loader_workers
from torchcourse.data import make_loader, mnist
from torchcourse.lessons.data_parallelism.trace import (
    computing_and_sending,
    length,
    read_trace,
)
from torchcourse.lessons.data_parallelism.trace_picture import show_trace
from torchcourse.lessons.performance import checks as check
from torchcourse.lessons.performance import slow_loop
from torchcourse.lessons.performance.class_means import class_means_loop, drawn
from torchcourse.lessons.performance.graphs import break_reasons, counted, cpp_compiler
from torchcourse.lessons.performance.roofline import (
    best_seconds,
    measure_layers,
    measure_machine,
)
from torchcourse.lessons.performance.roofline_picture import (
    describe_dense,
    draw_dense,
    show_roofline,
)
from torchcourse.lessons.performance.speed import compare
from torchcourse.lessons.performance.step_clock import StepClock, operations
from torchcourse.lessons.performance.step_clock_picture import show_parts
from torchcourse.models import row_transformer, small_cnn
from torchcourse.ranks import run_ranks, who
from torchcourse.timing import in_turn

loader_workers.prepare()  # where a system does not fork, they start slowly otherwise
torch.set_num_threads(1)
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # no notes of the profiler's own
print(environment.hardware())

# %% [markdown]
# ## 1 · By the clock
#
# The simplest tool is a clock around each part of the loop. `StepClock` adds up the seconds of named parts. What no part
# covers is called *rest*.

# %%
predict(
    "09-1.parts",
    "A small CNN trains on MNIST. The images are in memory. Which part of a step "
    "takes the longest?",
    ["data", "forward", "backward", "optimizer"],
)


# %%
def train(batches, clock, device="cpu"):
    torch.manual_seed(0)
    model = small_cnn().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for images, labels in clock.waiting_for(batches):
        images, labels = images.to(device), labels.to(device)
        with clock.part("forward"):
            loss = F.cross_entropy(model(images), labels)
        with clock.part("backward"):
            optimizer.zero_grad()
            loss.backward()
        with clock.part("optimizer"):
            optimizer.step()
        clock.step()
    return clock.per_step()


device = who.device()
digits = torch.utils.data.Subset(mnist("train"), range(1280))
loader = make_loader(digits, batch_size=64, shuffle=True, seed=0)
train(loader, StepClock(device), device)  # the first pass warms up, and is not counted
parts = train(loader, StepClock(device), device)
show_parts({f"on {device.type}": parts})

# %%
longest = max(parts, key=parts.get)
share, times = (
    parts[longest] / sum(parts.values()),
    parts["backward"] / parts["forward"],
)
outcome(
    "09-1.parts",
    f"{longest}: {share:.0%} of a step of {sum(parts.values()):.1f} ms. Backward "
    f"took {times:.1f} times as long as forward.",
    right=longest,
)

# %% [markdown]
# For a dense layer the backward pass computes two products, one for the gradient of the inputs and one for that of the
# weights. The forward pass computes one. Twice the time would follow, if products were all. In this network pooling and
# normalization take time, too. On a GPU each operation also has to be started by Python, which takes longer than a small
# one itself. So do not guess the ratio: measure it.
#
# A GPU works on while Python goes on. A clock without `torch.cuda.synchronize()` then measures how long Python took to
# *ask*. `StepClock` waits at the end of each part. That makes the parts true, and the whole loop a little slower.
#
# ### The same loop, starved
#
# Now each image takes a millisecond to read, as from a disk that is far away. Nothing in the model changes.


# %%
class FarAway(torch.utils.data.Dataset):
    def __len__(self):
        return 320

    def __getitem__(self, index):
        time.sleep(0.001)
        return digits[index]


far = torch.utils.data.DataLoader(FarAway(), batch_size=64)
workers = loader_workers.at_most(2)  # a few containers allow none
waiting = torch.utils.data.DataLoader(FarAway(), batch_size=64, num_workers=workers)
starved = train(far, StepClock(device), device)
fed = train(waiting, StepClock(device), device)
show_parts({"in memory": parts, "far away": starved, f"{workers} workers": fed})

# %% [markdown]
# Workers do not make a single read faster. They read beside each other, and *while* the model computes. With only 5
# steps, part of what is left is the time to start the workers. Lesson 06 is about this; here it is one row of a picture that tells you where to look.
#
# ## 2 · By the profiler
#
# The clock says which *part* is slow. `torch.profiler` says which *operation*. It records each one with its start and
# its end, on the CPU and on the GPU. (The steps below are on the CPU, on every machine: nothing moves the model.)

# %%
model = small_cnn()
images, labels = next(iter(loader))
# PyTorch 2.11 warns each time that a profile begins empty
warnings.filterwarnings("ignore", "Warning: Profiler clears events")
with torch.profiler.profile() as profiler:
    for _ in range(3):
        F.cross_entropy(model(images), labels).backward()
print(operations(profiler))

# %% [markdown]
# *Self* time is the time of the operation itself, without the operations that it called. Sort by it: a name at the top
# of *total* time may only have called what was slow.
#
# The same record as a file is a **trace** (트레이스). `export_chrome_trace` writes JSON. Open the file at
# <https://ui.perfetto.dev>, which reads it in your browser, or read it with ten lines of code:

# %%
profiler.export_chrome_trace("step.json")
events = [
    event
    for event in json.loads(Path("step.json").read_text())["traceEvents"]
    if event.get("ph") == "X"
]
kinds = {event["name"] for event in events}
print(
    f"{len(events)} events of {len(kinds)} names in "
    f"{Path('step.json').stat().st_size / 2**20:.1f} MiB. One of them:"
)
print(
    {key: events[10][key] for key in ("name", "ts", "dur", "tid") if key in events[10]}
)

# %% [markdown]
# `ts` is the start and `dur` the length, both in microseconds. A measurement has a price, too. Here is what the
# profiler costs:


# %%
def plain():
    F.cross_entropy(model(images), labels).backward()


def profiled():
    with torch.profiler.profile():
        plain()


times = in_turn({"plain": plain, "profiled": profiled}, rounds=5)
price = min(times["profiled"]) / min(times["plain"])
print(
    f"A step inside the profiler takes {price:.1f} times as long, and leaves "
    f"{len(events) // 3} events. So profile a few steps, not a training run."
)

# %% [markdown]
# ## 3 · Two ranks: communication and waiting
#
# On several ranks a step has two more parts: **communication** (통신), and **waiting** (대기) for a slower rank. The
# clock of one rank cannot tell them apart. The traces of both can.

# %%
predict(
    "09-1.waiting",
    "Two ranks train with DistributedDataParallel. Rank 1 needs 30 ms longer in each "
    "step before its backward pass. "
    "Where does rank 0's trace show these 30 ms?",
    [
        "in its forward pass",
        "in its collectives, as a long all-reduce",
        "nowhere: rank 0 is not slower",
    ],
)


# %%
def traced(slower):
    """Profile one step on each rank; rank 1 takes `slower` seconds longer before its
    backward pass.
    """
    warnings.filterwarnings("ignore", "Warning: Profiler clears events")
    torch.manual_seed(0)
    model = DistributedDataParallel(small_cnn(width=32), bucket_cap_mb=0.2)
    images, labels = torch.randn(64, 1, 28, 28), torch.randint(10, (64,))
    for number in range(3):
        dist.barrier()
        profiler = torch.profiler.profile() if number == 2 else None
        if profiler:
            profiler.start()
        loss = F.cross_entropy(model(images), labels)
        time.sleep(slower * dist.get_rank())
        loss.backward()
    profiler.stop()
    profiler.export_chrome_trace(f"rank_{dist.get_rank()}.json")


ON_CPU = {
    "CUDA_VISIBLE_DEVICES": "",
    "KINETO_LOG_LEVEL": "99",
}  # without the profiler's own notes
run_ranks(traced, 0.0, world_size=2, env=ON_CPU)
show_trace("rank_0.json", "rank_1.json")

# %%
run_ranks(traced, 0.03, world_size=2, env=ON_CPU)
show_trace("rank_0.json", "rank_1.json")

# %%
in_collectives = [
    length(computing_and_sending(read_trace(f"rank_{rank}.json"), rank)[1])
    for rank in (0, 1)
]
rank_0_waits = in_collectives[0] > in_collectives[1] + 10
why = (
    "Rank 0 sends its first bucket, and waits inside the collective until rank 1 has "
    "come: a bar ends when the result "
    "is there."
    if rank_0_waits
    else "This time rank 0 was held up as well, by something else on this machine. "
    "Run the two cells above again."
)
outcome(
    "09-1.waiting",
    f"Rank 0 spent {in_collectives[0]:.0f} ms in collectives, rank 1 "
    f"{in_collectives[1]:.0f} ms. {why}",
    right="in its collectives, as a long all-reduce" if rank_0_waits else None,
)

# %% [markdown]
# So a long collective on one rank is no sign of a slow network. Look at the *other* ranks: who came last?
#
# Communication that runs while the rank computes costs nothing. What is left is **exposed** (노출된 통신), and only that
# makes the step longer.
#
# ### Exercise 1 · Exposed communication
#
# ●○○ · 8 minutes · good for: reading a trace as a number.


# %% exercise: exposed
def exposed(
    computing: list[tuple[float, float]], sending: list[tuple[float, float]]
) -> float:
    """Return the milliseconds in which a rank sends and does not compute.

    Each list holds (start, end) in order, and no two spans of one list overlap.
    """
    ### BEGIN SOLUTION
    whole = sum(end - start for start, end in sending)
    covered = sum(
        max(0.0, min(end, stop) - max(start, begin))
        for start, end in sending
        for begin, stop in computing
    )
    return whole - covered
    ### END SOLUTION


# %% check: exposed
checked = check.exposed(exposed, points=2)
### BEGIN HIDDEN TESTS
assert abs(exposed([(0, 3), (5, 9), (11, 12)], [(2, 6), (8, 13)]) - 5) < 1e-9
assert abs(exposed([(2, 4)], [(0, 10)]) - 8) < 1e-9
assert exposed([(0, 100)], [(1, 2), (3, 4)]) == 0
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – my number is too large when spans cross</summary>
#
# Two spans share the time from the later start to the earlier end, if that is more than 0.
# </details>
#
# ## 4 · The roofline: what is possible?
#
# A layer has to compute, and it has to move numbers between memory and processor. Both take time, and they run at the
# same time. So a layer takes at least
#
# $$\max\left(\frac{\text{operations}}{\text{peak}},\ \frac{\text{bytes}}{\text{bandwidth}}\right)$$
#
# Operations per byte are the layer's **arithmetic intensity** (연산 강도). Drawn over it, the best possible speed is a
# slope that bends into a flat line: the **roofline** (루프라인). Measure this machine's:

# %%
machine = measure_machine(device)
print(f"peak of a product:   {machine.peak / 1e9:,.0f} · 10⁹ operations per second")
print(f"bandwidth of a copy: {machine.bandwidth / 1e9:,.1f} · 10⁹ bytes per second")
print(f"the roof bends at {machine.ridge:.1f} operations per byte")

# %%
predict(
    "09-1.relu",
    "A ReLU layer reads 4 bytes and writes 4 bytes for each number, and does one "
    "operation. What limits it?",
    ["compute", "memory", "it depends on the batch"],
)

# %%
points = measure_layers(small_cnn().to(device), images.to(device))
show_roofline(machine, points)
for number, point in enumerate(points, start=1):
    print(
        f"{number:2} {point.name:16} {point.intensity:6.2f} operations per byte, "
        f"roof by {point.bound(machine):7} "
        f"{point.reached(machine):5.0%} of its roof"
    )

# %%
outcome(
    "09-1.relu",
    f"1 operation on 8 bytes is 0.125, far below {machine.ridge:.1f}. A larger batch "
    f"has more of both.",
    right="memory" if machine.ridge > 0.125 else "compute",
)

# %% [markdown]
# A share above 100% is possible: a small layer finds its numbers in the cache, which is faster than the memory that the
# copy measured. A share of a few percent means that something else costs: the call itself, or a poor fit of the code. On a
# GPU, layers as small as these take as long as it takes to start them.
#
# The same on the transformer of lesson 02, which reads a digit as eight rows. With one sample, each weight that is read
# serves eight products, one per row. With 64 samples it serves 512.

# %%
for batch in (1, 64):
    transformer = measure_layers(
        row_transformer(width=128).to(device),
        torch.randn(batch, 1, 8, 8, device=device),
    )
    linear = [point for point in transformer if point.name.endswith("Linear")]
    middle = sorted(point.intensity for point in linear)[len(linear) // 2]
    memory = sum(point.bound(machine) == "memory" for point in linear)
    print(
        f"batch {batch:2}: {middle:5.1f} operations per byte in the middle, memory "
        f"limits {memory} of {len(linear)}"
    )

# %% [markdown]
# Play: from which batch on is a dense layer limited by computing on this machine? What do 2 bytes per number change, and
# what does a narrow layer?

# %%
figures.explorer(
    functools.partial(draw_dense, machine),
    alt=functools.partial(describe_dense, machine),
    batch=(1, 256, 8),
    width=(32, 2048, 1024, 32),
    bytes_per_number=[4, 2],
)

# %% [markdown]
# ### Exercise 2 · A lower bound for a dense layer
#
# ●●○ · 10 minutes · good for: knowing what a measured time should be compared with.


# %% exercise: linear_seconds
def linear_seconds(
    batch: int,
    inputs: int,
    outputs: int,
    bytes_per_number: int,
    peak: float,
    bandwidth: float,
) -> float:
    """Return the seconds that the forward pass of `nn.Linear(inputs, outputs)` takes at
    least.

    A multiplication and an addition are two operations. Inputs and weights are read
    once, outputs are written once; the bias may be left out. `peak` is in operations
    per second, `bandwidth` in bytes per second.
    """
    ### BEGIN SOLUTION
    operations = 2 * batch * inputs * outputs
    moved = (batch * inputs + inputs * outputs + batch * outputs) * bytes_per_number
    return max(operations / peak, moved / bandwidth)
    ### END SOLUTION


# %% check: linear_seconds
checked = check.linear_seconds(linear_seconds, points=2)
### BEGIN HIDDEN TESTS
for _batch, _inputs, _outputs, _width in ((3, 700, 900, 4), (4096, 700, 900, 2)):
    _flop = 2 * _batch * _inputs * _outputs
    _moved = _width * (_batch * _inputs + _inputs * _outputs + _batch * _outputs)
    _value = linear_seconds(_batch, _inputs, _outputs, _width, 3e9, 7e7)
    assert abs(_value / max(_flop / 3e9, _moved / 7e7) - 1) < 2e-3
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I am right for one sample and too high for many</summary>
#
# How often are the weights read for one batch?
# </details>
#
# ## 5 · `torch.compile`: one graph or many
#
# `torch.compile` has two halves. The front records the tensor operations of your function as a **graph** (그래프). The
# back makes code of it, and **fuses** (융합) operations so that numbers are moved once instead of once per operation. The
# front stops where the next step depends on a *value*: a **graph break** (그래프 끊김). Each piece is then compiled by itself,
# and nothing is fused across the break.
#
# `counted` uses a back that only counts. So this works on machines without a C++ compiler.

# %%
predict(
    "09-1.breaks",
    "A function of five operations has `if x.sum() > 0:` in its middle. How many "
    "graphs does one call record?",
    ["1", "2", "5"],
)


# %%
def branching(x):
    x = torch.sin(x) * 2
    if x.sum() > 0:
        x = x - 1
    return torch.relu(x)


compiled, graphs = counted(branching)
compiled(torch.ones(4))
print("graphs:", graphs.sizes, "operations each")
print(*break_reasons(branching, torch.ones(4)), sep="\n")

# %%
outcome("09-1.breaks", f"{len(graphs)} graphs.", right=str(len(graphs)))

# %% [markdown]
# The front also remembers what it took for granted, such as shapes. If that no longer holds, it records again: a
# **recompilation** (재컴파일). Feed a function with sequences of different lengths:

# %%
fixed, graphs = counted(lambda x: torch.relu(x) * 2, dynamic=False)
counts = []
for size in (10, 20, 30, 40, 40):
    fixed(torch.ones(size))
    counts.append(len(graphs))
print("dynamic=False:   graphs after each call:", counts)
usual, graphs = counted(lambda x: torch.relu(x) * 2)
counts = []
for size in (10, 20, 30, 40, 40):
    usual(torch.ones(size))
    counts.append(len(graphs))
print("as it is by default:                   ", counts)

# %% [markdown]
# By default, the front takes a size as variable once it has seen two. A last, smaller batch then costs one more
# recording, not one per size.
#
# ### What fusing gains
#
# Twelve operations, one after the other, read and write the whole tensor twelve times. One fused operation does it once.
# Building that needs a C++ compiler. For a GPU it takes seconds, for a CPU about half a minute the first time. So there you
# have to ask for it.

# %%
BUILD_CODE = torch.cuda.is_available()  # set True to build on a CPU, too


def chain(x):
    for _ in range(3):
        x = torch.relu(x * 1.01 - 0.1) + x
    return x


compiler = cpp_compiler()
if not (BUILD_CODE and compiler):
    print(
        "Nothing was built. C++ compiler here:",
        compiler or "none: then nothing can be fused",
    )
else:
    torch.compiler.reset()
    # more than its caches hold, or a GPU gains little
    numbers = 64_000_000 if device.type == "cuda" else 2_000_000
    fused, x = torch.compile(chain), torch.randn(numbers, device=device)
    assert torch.allclose(fused(x), chain(x), atol=1e-5)
    gain = best_seconds(lambda: chain(x), device) / best_seconds(
        lambda: fused(x), device
    )
    print(f"the same values, {gain:.1f} times as fast")

# %% [markdown]
# ### Exercise 3 · One graph
#
# ●●○ · 10 minutes · good for: letting the compiler see a whole function.
#
# This function makes a tensor smaller if its largest number is above a limit. It asks for a value, so it breaks.


# %%
def limited_with_a_break(x, limit):
    largest = x.abs().max()
    if largest.item() > limit:
        x = x * (limit / largest)
    return torch.relu(x)


compiled, graphs = counted(limited_with_a_break)
compiled(torch.randn(6, 5) * 20, 1.0), compiled(torch.zeros(6, 5), 1.0)
print(f"{len(graphs)} graphs of {graphs.sizes} operations")


# %% exercise: limited
def limited(x: torch.Tensor, limit: float) -> torch.Tensor:
    """Return what `limited_with_a_break` returns, for all x [N, D], also for zeros;
    compiled, it is one graph.
    """
    ### BEGIN SOLUTION
    return torch.relu(x * (limit / x.abs().max().clamp_min(limit)))
    ### END SOLUTION


# %% check: limited
checked = check.one_graph(limited, points=3)
### BEGIN HIDDEN TESTS
for _x in (
    torch.randn(3, 4, dtype=torch.float64) * 9,
    torch.full((2, 2), -7.0),
    torch.rand(5, 1) / 9,
):
    _compiled, _graphs = counted(limited)
    torch.testing.assert_close(
        _compiled(_x.clone(), 2.0), limited_with_a_break(_x, 2.0)
    )
    assert len(_graphs) == 1
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – how do I write an `if` without an `if`?</summary>
#
# Compute a factor that is 1 where nothing is to be done. `torch.where`, `clamp_min` and `torch.maximum` choose between
# values inside a graph.
# </details>
#
# ## 6 · Fewer bits: where they fail, where they pay
#
# A 16-bit number moves half the bytes. **float16** has 10 bits for the digits, and its largest number is 65,504.
# **bfloat16** has the range of float32, and only 7 bits for the digits. See both fail:

# %%
predict(
    "09-1.lost",
    "A weight is 1.0. A thousand updates of 0.001 are added, one by one, in "
    "bfloat16. What is the weight then?",
    ["about 2", "about 1.5", "1.0: nothing was added"],
)

# %%
for dtype in (torch.float32, torch.float16, torch.bfloat16):
    weight = torch.tensor(1.0, dtype=dtype)
    for _ in range(1000):
        weight = weight + torch.tensor(0.001, dtype=dtype)
    info = torch.finfo(dtype)
    small, large = (
        torch.tensor(1e-8, dtype=dtype).item(),
        torch.tensor(70_000.0, dtype=dtype).item(),
    )
    print(
        f"{dtype}: 1 + 1000 · 0.001 = {weight:.4f};  1e-8 is {small:.1g};  70,000 is "
        f"{large:g};  step at 1: {info.eps:.1g}"
    )

# %%
lost = torch.tensor(1.0, dtype=torch.bfloat16)
for _ in range(1000):
    lost = lost + torch.tensor(0.001, dtype=torch.bfloat16)
outcome(
    "09-1.lost",
    f"{lost.item():g}. The next bfloat16 number after 1 is "
    f"{1 + torch.finfo(torch.bfloat16).eps:g}: 0.001 is less than "
    "half of that step, and is rounded away.",
    right="1.0: nothing was added" if lost.item() == 1 else "about 2",
)

# %% [markdown]
# So weights and the optimizer's state stay in 32 bits, and only the products run in 16. That is **mixed precision**
# (혼합 정밀도), `torch.autocast`. float16 needs a scaled loss beside it, because small gradients become 0.
#
# Does it pay? In bytes always. The time of a product shrinks only where the hardware has units for it. Measure:

# %%
for dtype in (torch.float32, torch.bfloat16):
    found = measure_machine(device, dtype, size=None if device.type == "cuda" else 512)
    print(
        f"{dtype!s:15} {torch.finfo(dtype).bits // 8} bytes per number, "
        f"{found.peak / 1e9:8,.0f} · 10⁹ operations per second"
    )

# %% [markdown]
# ## 7 · Measured speed, graded
#
# Seconds change with the machine and with what else runs on it. A *ratio* of two times, taken one right after the other,
# changes much less. `compare` does this: both functions in turn, new inputs for each pair, each output compared
# afterwards, and the median of the ratios. On a busy machine it takes more pairs.

# %%
print(inspect.getsource(class_means_loop))

# %%
same_function = compare(
    class_means_loop,
    class_means_loop,
    lambda pair: drawn(pair),
    lambda *_: None,
    target=1.5,
)
print("the loop against itself:", same_function)

# %% [markdown]
# That is the noise of this machine, now. A result is worth a sentence only where it is far outside of it.
#
# The two checks below count the processor's time (`time.process_time`), on one thread. So they ask for less work, and
# do not count what other programs do at the same time. They would miss a function that only waits, for a disk for example.
#
# ### Exercise 4 · Class means, five times as fast
#
# ●●● · 15 minutes · good for: replacing a loop by operations on whole tensors.


# %% exercise: class_means
def class_means(
    features: torch.Tensor, labels: torch.Tensor, classes: int
) -> torch.Tensor:
    """Return what `class_means_loop` returns, at least five times as fast.

    Features [N, D] and labels [N] give means [classes, D], of the type of the features;
    0 for a class without rows.
    """
    ### BEGIN SOLUTION
    sums = torch.zeros(classes, features.shape[1], dtype=features.dtype).index_add_(
        0, labels, features
    )
    counts = torch.bincount(labels, minlength=classes)
    return sums / counts.clamp_min(1)[:, None]
    ### END SOLUTION


# %% check: class_means
checked = check.class_means(class_means, points=4)
### BEGIN HIDDEN TESTS
for _seed in (77, 78):
    _features, _labels, _classes = drawn(_seed, 400)
    torch.testing.assert_close(
        class_means(_features, _labels, _classes + 3),
        class_means_loop(_features, _labels, _classes + 3),
    )
    torch.testing.assert_close(
        class_means(_features.float(), _labels, _classes),
        class_means_loop(_features.float(), _labels, _classes),
    )
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – how do I add rows by label without a loop?</summary>
#
# Read what `Tensor.index_add_` does. Or ask which matrix, made of the labels, turns the features into sums.
# </details>
#
# <details><summary>Help – I get NaN</summary>
#
# One class has no rows. What do you divide by there?
# </details>
#
# ## 8 · Break-it lab: all right, and slow
#
# A colleague's loop trains well, and its report is right. It takes several times as long as it needs to.

# %%
print(inspect.getsource(slow_loop.train))


# %%
def a_run(train, steps=20):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 128),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.BatchNorm1d(128),
        nn.Linear(128, 10),
    )
    batches = [(torch.randn(16, 64), torch.randint(10, (16,))) for _ in range(steps)]
    held_out = torch.randn(2048, 64), torch.randint(10, (2048,))
    return train(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        batches,
        held_out,
    )


with torch.profiler.profile() as profiler:
    report = a_run(slow_loop.train)
print({name: len(value) for name, value in report.items()})
print(operations(profiler))

# %% [markdown]
# How often is each operation called, for 20 steps? Which of these calls does the report need? Write a loop that returns
# the same report and the same weights in half the time or less.


# %% exercise: quick_loop
def quick_train(model, optimizer, batches, held_out):
    """Return what `slow_loop.train` returns, and leave the same weights; at least
    twice as fast.
    """
    ### BEGIN SOLUTION
    losses, accuracies = [], []
    for step, (images, labels) in enumerate(batches, start=1):
        model.train()
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step % slow_loop.EVERY == 0:
            accuracies.append(slow_loop.accuracy(model, held_out))
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    return {"losses": losses, "accuracies": accuracies, "weights": weights}
    ### END SOLUTION


# %% check: quick_loop
checked = check.quick_loop(quick_train, points=3)
### BEGIN HIDDEN TESTS
_right, _own = a_run(slow_loop.train, 33), a_run(quick_train, 33)
assert _own["accuracies"] == _right["accuracies"]
assert len(_own["losses"]) == 33
torch.testing.assert_close(_own["weights"], _right["weights"])
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – too few or too many passes are in training mode</summary>
#
# `slow_loop.accuracy` leaves the model in evaluation mode. Where does your loop put it back?
# </details>
#
# ## 9 · When nothing moves at all
#
# A rank that hangs has no slow part: it has no part at all. Then ask where each process *is*. The launcher of this course
# shows the stack of each rank when the time is up. [py-spy](https://github.com/benfred/py-spy) shows that of any Python
# process from outside, without a change to the program: `py-spy dump --pid PID`.


# %%
def one_rank_leaves():
    if dist.get_rank() == 0:
        dist.all_reduce(torch.ones(1))  # rank 1 never calls it
    else:
        time.sleep(60)


try:
    run_ranks(one_rank_leaves, world_size=2, timeout=4, env=ON_CPU)
except RuntimeError as error:
    shown = [
        line
        for line in str(error).splitlines()
        if line.startswith("rank") or "Cell" in line or "    dist." in line
    ]
    print(*shown, sep="\n")

# %% [markdown]
# ## 10 · Scale up: the same clock on each rank
#
# The loop of section 1 runs on several ranks, each with its own clock and its share of the data. Where there are fewer GPUs
# than ranks, they compute on the CPU: then compare the ranks with each other, and not with section 1.


# %%
def clocked_rank(width):
    torch.manual_seed(0)
    model = DistributedDataParallel(small_cnn(width=width).to(who.device()))
    optimizer, clock = (
        torch.optim.SGD(model.parameters(), lr=0.05),
        StepClock(who.device()),
    )
    for images, labels in clock.waiting_for(
        make_loader(mnist("train"), batch_size=64, seed=0)
    ):
        with clock.part("forward"):
            loss = F.cross_entropy(
                model(images.to(who.device())), labels.to(who.device())
            )
        with clock.part("backward + communication"):
            optimizer.zero_grad()
            loss.backward()
        with clock.part("optimizer"):
            optimizer.step()
        clock.step()
        if clock.steps == 15:
            break
    total = next(model.parameters()).detach().double().sum().item()
    return clock.per_step(), total, who.device().type


by_rank = run_ranks(clocked_rank, 8)
show_parts(
    {f"rank {n} on {where}": parts for n, (parts, _, where) in enumerate(by_rank)}
)
assert len({round(total, 6) for _, total, _ in by_rank}) == 1, (
    "all ranks hold the same weights"
)

# %% [markdown]
# On 8 GPUs, or on two machines of 8, put the function into a script, and start it with
# `torchrun --nproc-per-node=8 script.py`, or
# `torchrun --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-endpoint=HOST:29500 script.py`. On GPUs the backward
# pass and its messages overlap in time. The trace of section 3 then shows what the clock cannot separate.
#
# ## 11 · What the log said
#
# | The log | The evidence | The corrected statement |
# |---|---|---|
# | Wrong answer 3 took *performance* (성능) for speed. | Section 8: two loops with the same weights and the same accuracies; one takes half the time or less. | Speed and quality are two quantities: ask which one is meant, and measure that one. |
#
# ## Take away
#
# * First the parts, by a clock. Then the operations, by a profiler. Then the code.
# * A long collective on one rank can be the lateness of a different rank.
# * Compare a measured time with the roofline, not with a wish.
# * A graph ends where Python needs a value.
# * Sixteen bits lose small updates: keep weights in 32.
# * Speed is a ratio from one run, with its noise beside it.
#
# **Questions on this lesson:** [quiz](quiz.ipynb). **Next lesson:** [the capstone](../10_capstone/1_capstone.ipynb).
#
# ### Glossary
#
# | English | 한국어 | here |
# |---|---|---|
# | trace | 트레이스 | a record of each operation with start and end |
# | exposed communication | 노출된 통신 | communication during which the rank does not compute |
# | arithmetic intensity | 연산 강도 | operations per byte that has to be moved |
# | roofline | 루프라인 | the best possible speed over arithmetic intensity |
# | graph break | 그래프 끊김 | where the compiler's front hands over to Python |
# | recompilation | 재컴파일 | a graph recorded again, because something that was taken for granted changed |
# | fusion | 융합 | several operations done in one pass over the numbers |
# | mixed precision | 혼합 정밀도 | products in 16 bits, weights in 32 |
#
# ### Further reading
#
# * Williams, Waterman and Patterson 2009, [Roofline](https://doi.org/10.1145/1498765.1498785).
# * PyTorch, [torch.profiler](https://docs.pytorch.org/docs/stable/profiler.html).
# * PyTorch, [torch.compile](https://docs.pytorch.org/docs/stable/generated/torch.compile.html).
# * Micikevicius and others 2018, [Mixed precision training](https://arxiv.org/abs/1710.03740).
