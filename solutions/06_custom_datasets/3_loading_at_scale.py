# %% [markdown]
# # Loading at scale: feed the loop, share the stream, lose nothing
#
# **{minutes} minutes** · one CPU is enough (two ranks, two workers each); a GPU is used where there is one · before this: lesson 01 and
# notebook 1
#
# A loader has two duties. It must be fast enough that the training never waits. And it must deliver what it says: every sample once, none left
# out in silence, the same after an interruption. Both fail without an error message. So here you measure the first and prove the second.
#
# **After this notebook you can**
#
# 1. use workers, seeds, pinning and prefetching, and measure where a batch's time goes;
# 2. shard a stream over ranks and workers so that every sample is seen exactly once;
# 3. report and count a corrupt record instead of skipping it in silence;
# 4. resume a loader in the middle of an epoch exactly.

# %% setup

# %%
from torchcourse.quiz import outcome, predict, recall

recall("06_custom_datasets")

# %%
import itertools
import pickle
import random
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset, Subset

from torchcourse import environment, figures, loader_workers
from torchcourse.data import SeededSamples, make_loader, mnist
from torchcourse.data.loaders import begin_at, set_epoch
from torchcourse.data.memory_loader import MemoryLoader
from torchcourse.lessons.datasets import (
    practice,
    sharding_picture,
    waiting,
    waiting_picture,
)
from torchcourse.lessons.datasets.checks import loading as check
from torchcourse.lessons.datasets.corrupt import CheckedLoader, CorruptRecord, Guarded
from torchcourse.lessons.datasets.folder import ImageTable, write_images
from torchcourse.lessons.datasets.loader_profile import profile_loader
from torchcourse.lessons.datasets.sharding import ShardedStream, in_step, mixed
from torchcourse.models import mlp
from torchcourse.ranks import export_script, run_ranks
from torchcourse.training import Trainer

# where a system does not fork, workers start slowly without this
start_method = loader_workers.prepare()
# Workers that sleep need no core, so more workers than cores make sense here.
warnings.filterwarnings("ignore", "This DataLoader will create")
# the models are tiny, and the other cores are for workers and ranks
torch.set_num_threads(1)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
print(environment.hardware())

# %% [markdown]
# ## 1 · Where does the time of a batch go?
#
# A batch is **fetched** (read, decoded), **collated** (put together into a batch), sent to the device, and used. `RemoteScans` has PNG images on a slow
# drive: each read takes 0.4 ms, in which the processor has nothing to do. The step is one of a GPU that takes 8 ms for 50 images; the processor
# waits for it. (Both are made with `time.sleep`, so that you see the same on every machine. The decoding is real.)

# %%
scans = practice.RemoteScans()


def step(batch):
    time.sleep(0.008)


predict(
    "06-2.wait",
    "No workers: the loop loads a batch, then trains on it. What share of its time "
    "does it wait for data?",
    ["less than a quarter", "about half", "more than half"],
)

# %%
measure = partial(profile_loader, step=step, device=device, batches=10, cores=4)
profile = measure(DataLoader(scans, 50, shuffle=True))
print(profile)

# %%
share = profile.wait / (profile.wait + profile.transfer + profile.step)
outcome(
    "06-2.wait",
    f"It waits {share:.0%} of its time. Reading alone takes "
    f"{profile.load['read']:.1f} ms per batch, the step {profile.step:.1f} ms.",
    right="less than a quarter"
    if share < 0.25
    else "about half"
    if share < 0.55
    else "more than half",
)

# %% [markdown]
# `profile_loader` asks for samples one by one and takes the time of each stage. A dataset names its stages with `with stage("decode"): …`. You
# should do this before you change anything: a loader has four places where it can be slow, and each has a different remedy.
#
# | slow is | remedy |
# |---|---|
# | read | larger files (shards), a nearer disk, workers that wait in parallel |
# | decode | decode once and store the result; a cheaper format; workers, if there are cores |
# | collate, or Python a sample | make whole batches: `__getitems__`, or tensors in memory |
# | transfer | **pinned memory** (고정 메모리) and a copy that does not wait |

# %% [markdown]
# ### The limit
#
# No loader that copies is faster than copying. That is a yardstick. MNIST fits into memory: how near does each way come to it?

# %%
predict(
    "06-2.fastest",
    "4,000 small images that lie in memory, in batches of 50. Which way gives the "
    "most images per second?",
    [
        "DataLoader with 2 workers",
        "DataLoader without workers",
        "one index_select a batch, no DataLoader",
    ],
)


# %%
def rate(loader, rounds=3):
    """Images per second, the best of some epochs."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        images = sum(len(labels) for _, labels in loader)
        seconds.append(time.perf_counter() - start)
    return images / min(seconds)


def copied(data, buffer):
    """Copy the images in order: what no loader can beat."""
    for images, labels in zip(
        data.tensors[0].split(50), data.tensors[1].split(50), strict=True
    ):
        yield buffer.copy_(images), labels


train_set = mnist()
ways = {
    "DataLoader with 2 workers": DataLoader(
        train_set, 50, shuffle=True, num_workers=2, persistent_workers=True
    ),
    "DataLoader without workers": DataLoader(train_set, 50, shuffle=True),
    "one index_select a batch, no DataLoader": MemoryLoader(train_set, 50, reuse=True),
}
rates = {name: rate(loader) for name, loader in ways.items()}
buffer = train_set.tensors[0][:50].clone()
limit = max(rate(copied(train_set, buffer), rounds=1) for _ in range(5))
for name, value in rates.items():
    print(
        f"{name:40s} {value / 1000:7.0f} thousand images/s, {value / limit:5.1%} of "
        f"copying"
    )
outcome(
    "06-2.fastest",
    f"Copying alone: {limit / 1000:.0f} thousand images/s.",
    right=max(rates, key=rates.get),
)

# %% [markdown]
# `MemoryLoader` gives the batches of `make_loader`, in the same order. Why do workers make it *worse* here? To make a batch takes
# a fraction of a millisecond. To get it from another process takes longer.

# %% [markdown]
# ## 2 · How many workers?
#
# A **worker** (워커) is a process that loads batches. With `prefetch_factor=2` (미리 가져오기) each has two batches asked for ahead. Move the sliders: a training step
# takes 10 ms, receiving a batch from a worker 1 ms.

# %%
figures.explorer(
    waiting_picture.draw_timeline,
    alt=waiting.timeline_finding,
    workers=(0, 6, 2),
    load=(5, 60, 25),
)

# %% [markdown]
# The time of a batch, once the start is over:
#
# * without workers: load + step, one after the other;
# * with w workers: whichever is slower, the workers (load / w) or the loop (step + send).
#
# Does the model hold? Measure the loader of section 1, with more and more workers:

# %%
load, loop = sum(profile.load.values()), profile.transfer + profile.step
counts = [0, 1, 2, 4]
measured = [
    profile,
    *(measure(DataLoader(scans, 50, num_workers=workers)) for workers in counts[1:]),
]
took = [run.wait + run.transfer + run.step for run in measured]
model_says = [
    waiting.batch_time(load, loop, workers, profile.send) for workers in counts
]

# %%
figure, axes = figures.new(6, 3)
finding = (
    f"{took[0]:.0f} ms per batch without workers, {took[-1]:.0f} ms with 4 (model: "
    f"{model_says[-1]:.0f})"
)
axes.plot(
    counts, model_says, "o--", color=figures.COLORS["gray"], mfc="white", label="model"
)
axes.plot(counts, took, "o-", label="measured")
axes.set(
    xlabel="workers",
    ylabel="time per batch [ms]",
    ylim=(0, None),
    xticks=counts,
    title=finding,
)
axes.legend(frameon=False)
figures.show(figure, f"Time per batch over the number of workers. {finding}.")

# %% [markdown]
# Where the measured line lies above the model, the workers compete for cores: they wait in parallel, but they decode on the cores that there are. The
# model knows nothing of that. It takes its times from section 1; where it lies above what is measured, the machine was busier then. So measure, and never ask for "as many workers as there are cores" by habit: each one costs memory and a start.
#
# ### Exercise 1 · As few workers as are needed
#
# ●●○ · 8 minutes · good for: the first setting of every new training machine.
#
# Return the number of workers, 0 to `cores`, with which a batch takes the shortest time; of several equally good numbers the smallest.


# %% exercise: workers_for
def workers_for(load: float, step: float, send: float, cores: int) -> int:
    """Return the number of workers for a batch that takes `load` to make, `send` to
    receive and `step` to train on.
    """
    ### BEGIN SOLUTION
    times = {0: load + step}
    for workers in range(1, cores + 1):
        times[workers] = max(load / workers, step + send)
    return min(times, key=times.get)  # the first of several, and so the smallest
    ### END SOLUTION


# %% check: workers_for
checked = check.workers_for(workers_for, points=2)
### BEGIN HIDDEN TESTS
from torchcourse.checks.values import judged

for _load, _step, _send, _cores, _workers in [
    (70, 9, 1, 16, 7),
    (71, 9, 1, 16, 8),
    (70, 9, 1, 5, 5),
    (2, 50, 2.5, 8, 0),
    (3, 50, 2.5, 8, 1),
    (12, 6, 6, 4, 1),
]:
    assert workers_for(_load, _step, _send, _cores) == _workers


@judged(workers_for)
def _on_drawn_machines(workers_for, draw):
    for _ in range(5):
        # 840: no rounding
        load, step, send = (
            840 * draw.randint(1, 9),
            draw.randint(1, 999),
            draw.randint(1, 99),
        )
        seconds = [
            load + step,
            *(max(load / workers, step + send) for workers in range(1, 9)),
        ]
        assert workers_for(load, step, send, 8) == seconds.index(min(seconds))


### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "with 1 workers a batch takes …, without any …"</summary>
#
# When loading is cheaper than receiving (`load < send`), a worker makes things worse. Compare the time without workers, too.
# </details>
#
# ### What workers cost
#
# Workers start when an epoch begins and end with it, unless `persistent_workers=True` keeps them. And each batch ahead lies in memory:


# %%
def three_epochs(**options):
    loader = DataLoader(Subset(scans, range(100)), 50, **options)
    start = time.perf_counter()
    batches = [len(list(loader)) for _ in range(3)]
    return time.perf_counter() - start, batches[0]


for keep in (False, True):
    seconds, batches = three_epochs(num_workers=2, persistent_workers=keep)
    print(
        f"persistent_workers={keep!s:5}: three epochs of {batches} batches take "
        f"{1000 * seconds:.0f} ms"
    )
ahead = 2 * 2 * profile.bytes
print(
    f"2 workers × 2 batches ahead × {profile.bytes / 1024:.0f} KiB = "
    f"{ahead / 1024:.0f} KiB"
)
large = 64 * 3 * 224 * 224 * 4
print(
    f"8 workers × 2 × a batch of 64 color photos of 224×224 in float32: "
    f"{8 * 2 * large / 2**30:.1f} GiB"
)

# %% [markdown]
# And the dataset itself? Forked workers share its memory with the notebook, page by page, until somebody writes to a page (**copy-on-write**, 쓸 때 복사). Python writes
# when it only reads: each object counts its references. So a long list of names is copied into every worker, little by little, and main memory grows in the
# first epoch. Linux shows it as *private* memory of a process. Here one worker reads 200,000 names:

# %%
names = [f"image-{number:07}.png" for number in range(200_000)]
if start_method != "fork":
    print(f"Workers start by {start_method} here: each has a copy from the beginning.")
elif Path("/proc/self/smaps_rollup").exists():
    for kept in (names, np.array(names)):
        loader = DataLoader(practice.Names(kept), 10_000, num_workers=1)
        private = torch.cat(list(loader))
        print(
            f"{type(kept).__name__:8s} the worker's own memory grows by "
            f"{(private[-1] - private[0]) / 2**20:.0f} MiB"
        )
else:
    print("This system does not say which memory is a process's own.")

# %% [markdown]
# An array of fixed-width text is one object, with one count
# ([PyTorch issue 13246](https://github.com/pytorch/pytorch/issues/13246)). Three more things do not survive the way into a worker:
#
# * an **open file** or database connection. Forked workers share its position; workers that are started without a fork (macOS, Windows, Python 3.14) get the dataset
#   pickled, and that fails, as below. Open it in the worker, when the first sample is asked for;
# * a **CUDA tensor** made in a forked worker: "Cannot re-initialize CUDA in forked subprocess". Workers return CPU tensors;
# * in a script, such workers import the script again. So its loop belongs under `if __name__ == "__main__":`.

# %%
for dataset in (practice.OpenFile("names.txt"), practice.OpensLater("names.txt")):
    try:
        print(f"{type(dataset).__name__}: {len(pickle.dumps(dataset))} bytes")
    except TypeError as error:
        print(f"{type(dataset).__name__}: {error}")

# %% [markdown]
# **Pinning** is for GPUs. Memory that the system may move has to be copied to a fixed place before the GPU can fetch it. `pin_memory=True` puts batches there at
# once, in a thread. `tensor.to(device, non_blocking=True)` then returns before the copy is done, and the copy runs beside the computing
# ([PyTorch's guide](https://docs.pytorch.org/tutorials/intermediate/pinmem_nonblock.html)). Without a GPU there is nothing to gain:

# %%
if device.type == "cuda":
    batch = torch.zeros(large // 4)
    for name, source in (("pageable", batch), ("pinned", batch.pin_memory())):
        source.to(device)
        torch.cuda.synchronize()
        start = time.perf_counter()
        source.to(device, non_blocking=True)
        returned = time.perf_counter()
        torch.cuda.synchronize()
        done = time.perf_counter()
        print(
            f"{name}: returns after {1000 * (returned - start):.2f} ms, done after "
            f"{1000 * (done - start):.2f} ms"
        )
else:
    print("No GPU here: a batch is used where it was made.")

# %% [markdown]
# ## 3 · Random numbers in workers
#
# `Noise` has a generator of its own, made in `__init__` with a seed, "so that runs can be repeated". Each sample is one draw. Two workers load 8
# samples, in two epochs.

# %%
predict(
    "06-2.noise",
    "16 samples in total (2 epochs × 8). How many different random numbers are among "
    "them?",
    ["16", "8", "4"],
)


# %%
def two_epochs(dataset, **options):
    loader = DataLoader(
        dataset, 1, num_workers=2, generator=torch.Generator().manual_seed(1), **options
    )
    return [[value for batch in loader for value in batch.tolist()] for _ in range(2)]


drawn = two_epochs(practice.Noise())
for number, values in enumerate(drawn):
    print(f"epoch {number}:", *(f"{value:.3f}" for value in values))
different = len(set(drawn[0] + drawn[1]))
outcome(
    "06-2.noise",
    f"{different} different numbers among 16: each worker has a copy of the "
    f"generator, and each epoch has new copies.",
    right=str(different) if different in (4, 8, 16) else None,
)

# %% [markdown]
# Nothing failed, and three of four samples get the number of a different one. Three ways out. Draw from the streams of `torch`, `random` or
# `numpy.random`: the DataLoader seeds them in each worker when the worker starts. That is again in each epoch, except with `persistent_workers=True`: there the
# streams go on. Or give each worker's copy a generator, in a
# **`worker_init_fn`**. Or have no streams (lesson 04): `SeededSamples` lets the numbers depend on seed, epoch and index alone.

# %%
for name, values in {
    "torch's own stream": two_epochs(practice.GlobalNoise()),
    "worker_init_fn": two_epochs(
        practice.Noise(), worker_init_fn=practice.own_generator
    ),
}.items():
    print(f"{name}: {len(set(values[0] + values[1]))} different numbers among 16")

seeded = SeededSamples(practice.GlobalNoise(), seed=7)
by_workers = [
    torch.cat(list(DataLoader(seeded, 2, num_workers=workers))).tolist()
    for workers in (0, 2)
]
assert by_workers[0] == by_workers[1]
print("SeededSamples: the same numbers without workers and with two")

# %% [markdown]
# ## 4 · A stream, and who reads it
#
# An **iterable dataset** (이터러블 데이터셋) has no numbers to deal out: it is read from its beginning to its end. Suited to logs, to archives, to what is too
# large for a list of samples. `NaiveStream` yields 12 records. Two ranks read it, with two workers each.


# %%
def read_all(dataset):
    return [
        record
        for batch in DataLoader(dataset, 3, num_workers=2)
        for record in batch.tolist()
    ]


predict(
    "06-2.stream",
    "How many records do the two ranks train on in an epoch, of the 12?",
    ["12", "24", "48"],
)

# %%
records = list(
    itertools.chain(*run_ranks(read_all, practice.NaiveStream(), world_size=2))
)
print(sorted(records))
outcome(
    "06-2.stream",
    f"{len(records)} records: each worker of each rank has a copy of the dataset, "
    f"and reads all of it.",
    right=str(len(records)),
)

# %% [markdown]
# The run takes four times as long and looks healthy: an "epoch" is four. A stream has to ask who is reading.
#
# ### Exercise 2 · My share of a stream
#
# ●●○ · 10 minutes · good for: every iterable dataset that meets `num_workers` or a second rank.
#
# There are `world_size` ranks with `workers` workers each. Yield the records of one of them. All together get each record exactly once, and the shares
# differ by one record at most. The stream may be endless.


# %% exercise: my_share
def my_share(records, rank: int, world_size: int, worker: int, workers: int):
    """Yield the records for this worker of this rank, without reading ahead."""
    ### BEGIN SOLUTION
    reader = rank * workers + worker
    for number, record in enumerate(records):
        if number % (world_size * workers) == reader:
            yield record
    ### END SOLUTION


# %% check: my_share
checked = check.my_share(my_share, points=3)
### BEGIN HIDDEN TESTS
for _ranks, _workers, _count in [
    (3, 5, 100),
    (4, 1, 3),
    (1, 7, 50),
    (2, 3, 0),
    (5, 2, 11),
]:
    _parts = [
        list(my_share(iter(range(_count)), _rank, _ranks, _worker, _workers))
        for _rank in range(_ranks)
        for _worker in range(_workers)
    ]
    assert sorted(itertools.chain(*_parts)) == list(range(_count))
    assert max(map(len, _parts)) - min(map(len, _parts)) <= 1
_stream = (_n if _n < 500 else 1 / 0 for _n in range(501))  # no endless list
assert len(list(itertools.islice(my_share(_stream, 2, 3, 1, 2), 9))) == 9
for _rank, _worker in itertools.product(range(2), range(2)):
    _read = []
    _stream = (_read.append(n) or f"{7 * n % 20}" for n in range(500))
    for _record in itertools.islice(my_share(_stream, _rank, 2, _worker, 2), 5):
        assert _record == f"{7 * _read[-1] % 20}"
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "comes 2 times. Do two readers have the same number?"</summary>
#
# `rank + worker` is 1 for worker 1 of rank 0, and for worker 0 of rank 1. Count as in a house: rooms a floor × floor + room.
# </details>
#
# <details><summary>Help – I get "it never ends"</summary>
#
# `list(records)` reads to the end, and a stream need not have one. Loop over `records` and `yield`.
# </details>
#
# The package's `ShardedStream` does this, and asks torch who is reading: `get_worker_info()` for the worker, the process group for the rank. The records lie
# in **shards** (샤드), files of many records. Two ways to deal:

# %%
figures.explorer(
    sharding_picture.draw_shares,
    alt=sharding_picture.shares_finding,
    ranks=(1, 4, 2),
    workers=(1, 4, 2),
    by=["record", "shard"],
)

# %% [markdown]
# By record, each reader goes through all files and passes over most records: even shares, much reading. By shard, each file is read once: little
# reading, uneven shares, and idle readers when there are more of them than files. Large datasets have thousands of shards, and deal them.
#
# A stream is mixed by a **shuffle buffer** (셔플 버퍼): it holds some records, gives out one of them by chance, and takes the next. How far does a record get?

# %%
for size in (1, 50, 600):
    order = torch.tensor(list(mixed(range(600), size, random.Random(0))))
    moved = (order - torch.arange(600)).abs().float().mean()
    print(f"buffer {size:3d}: {order[:8].tolist()} …, moved by {moved:.0f} on average")

# %% [markdown]
# A small buffer mixes neighbors only. If the file is sorted by class, so are the batches. Hence the two steps of `ShardedStream(shuffle=True)`: shards in a new
# order each epoch, then a buffer.
#
# ### Uneven shares, and ranks that wait
#
# Five shards of 40 images, dealt to two ranks: 120 and 80 images. Every step has an all-reduce, in which all ranks must take part. After the
# shorter rank's last batch, the longer one would wait for ever (lesson 01). A map-style loader knows its length and repeats a few samples. A stream
# knows nothing; so `in_step` lets the ranks agree before each batch, and end together.


# %%
def steps_of_ranks(agree):
    stream = ShardedStream(
        [range(40 * n, 40 * n + 40) for n in range(5)], practice.digit_shard, by="shard"
    )
    batches = DataLoader(stream, 20)
    return sum(1 for _ in (in_step(batches) if agree else batches))


print(
    "batches on each rank:           ", run_ranks(steps_of_ranks, False, world_size=2)
)
print(
    "steps on each rank, with in_step:", run_ranks(steps_of_ranks, True, world_size=2)
)

# %% [markdown]
# The price: what the longer rank still has is not used in this epoch. By record and shuffled it is little, and other records each time.
#
# ### Scale up: one process, two ranks
#
# The same function, on one process and on two ranks. Dealt by record, the ranks' batches of 25 make up the batch of 50 of one process, so the
# weights must agree.


# %%
def train_on_stream(batch):
    torch.manual_seed(0)
    model = mlp(784, 10)
    trainer = Trainer(
        model,
        torch.optim.SGD(model.parameters(), lr=0.05),
        F.cross_entropy,
        progress=False,
    )
    stream = ShardedStream(
        [range(n, n + 100) for n in range(0, 1000, 100)], practice.digit_shard
    )
    trainer.fit(DataLoader(stream, batch), epochs=1)
    return next(trainer.model.parameters()).detach().cpu()


one = run_ranks(train_on_stream, 50, world_size=1)[0]
two = run_ranks(train_on_stream, 25, world_size=2)
difference = max((one - other).abs().max().item() for other in two)
assert difference < 1e-5
print(
    f"largest difference between the weights of 1 process and of 2 ranks: "
    f"{difference:.1e}"
)

# %% [markdown]
# On several GPUs or machines nothing changes but the start. Write the call into a script for `torchrun`; it prints how to start it:

# %%
export_script(train_on_stream, "train_on_stream.py", 25)

# %% [markdown]
# ## 5 · Break-it lab: the loader that never complains
#
# 1,000 scanned digits in a folder, with a label table. The disk was full while one batch of scans was written, so some files were cut off. A colleague has
# made the loader "robust". Look at how:

# %%
pixels, labels = practice.pixels()
rows = [{"file": f"{n:04d}.png", "label": int(label)} for n, label in enumerate(labels)]
write_images("scans", pixels, rows)
cut_off = [row["file"] for row in rows if row["label"] == 7]
whole_files = {}
for name in cut_off:
    with open(f"scans/{name}", "r+b") as file:
        whole_files[name] = file.read()
        file.truncate(len(whole_files[name]) // 2)


class Robust(Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        try:
            return self.images[index]
        except Exception:
            return self[(index + 1) % len(self)]


# %%
predict(
    "06-2.robust",
    "A tenth of the files is corrupt, and another sample takes the place of each. "
    "What will the run show?",
    [
        "an error",
        "a training loss that is clearly too high",
        "a normal training loss and a weak spot somewhere",
    ],
)


# %%
def fit(loader, epochs=5):
    torch.manual_seed(0)
    net = mlp(784, 64, 10)
    trainer = Trainer(
        net,
        torch.optim.Adam(net.parameters(), lr=5e-3),
        F.cross_entropy,
        progress=False,
    )
    history = trainer.fit(loader, epochs)
    test_images, test_labels = mnist("test").tensors
    images = test_images * 0.3081 + 0.1307  # from 0 to 1, as the files are
    with torch.no_grad():
        right = (
            trainer.model.eval()(images.to(trainer.device)).argmax(1).cpu()
            == test_labels
        )
    recall_of = [
        right[test_labels == digit].float().mean().item() for digit in range(10)
    ]
    return history["loss"][-1], right.float().mean().item(), recall_of


images = ImageTable("scans")
loss, accuracy, recall_of = fit(make_loader(Robust(images), 50))
print(f"training loss {loss:.3f}, test accuracy {accuracy:.1%}")

# %% [markdown]
# No error, a small loss, an accuracy that one might believe. Now the evidence: the share of each digit that is recognized (**recall**, 재현율).

# %%
figure, axes = figures.new(6, 2.6)
worst = min(range(10), key=lambda digit: recall_of[digit])
finding = (
    f"Of the {worst}s, {recall_of[worst]:.0%} are recognized; of the others at least "
    f"{sorted(recall_of)[1]:.0%}"
)
axes.bar(range(10), [100 * value for value in recall_of])
axes.set(xlabel="digit", ylabel="recognized [%]", xticks=range(10), title=finding)
figures.show(figure, f"Bars of the recall of each digit. {finding}.")
outcome(
    "06-2.robust",
    f"Training loss {loss:.3f}. {finding}. The loader never said a word.",
    right="a normal training loss and a weak spot somewhere"
    if loss < 0.3
    else "a training loss that is clearly too high",
)

# %% [markdown]
# **Corrupt records** (손상된 레코드) are seldom spread at random: they come from one camera, one day, one disk. So to leave them out changes what the data *are*. And
# `except Exception` would hide a bug in your own code as well.
#
# ### Exercise 3 · Fetch, and tell
#
# ●●○ · 10 minutes · good for: data that others collected.
#
# Return two lists: the samples that could be read, in order, and `(name, reason)` of each that could not. A record is bad when it raises
# `ValueError` or `OSError`. Every other exception is a bug, and goes on. Nothing takes the place of a bad record.


# %% exercise: fetch
def fetch(dataset, names, numbers) -> tuple[list, list]:
    """Return the samples with these numbers that can be read, and name and reason of
    those that cannot.
    """
    ### BEGIN SOLUTION
    samples, corrupt = [], []
    for number in numbers:
        try:
            samples.append(dataset[number])
        except (ValueError, OSError) as error:
            corrupt.append((names[number], str(error)))
    return samples, corrupt
    ### END SOLUTION


# %% check: fetch
checked = check.fetch(fetch, points=3)


### BEGIN HIDDEN TESTS
class _Hidden:
    def __getitem__(self, number):
        if number % 5 == 3:
            raise (ValueError, OSError)[number % 2](f"bad block {number}")
        if number == 20:
            raise ZeroDivisionError
        return number * number


_names = [f"file {number}" for number in range(30)]
_samples, _corrupt = fetch(_Hidden(), _names, [19, 18, 3, 0, 13, 14])
assert _samples == [361, 0, 196]
assert [name for name, _ in _corrupt] == ["file 18", "file 3", "file 13"]
assert all(
    f"bad block {number}" in str(reason)
    for number, (_, reason) in zip((18, 3, 13), _corrupt, strict=True)
)
try:
    fetch(_Hidden(), _names, [1, 20])
except ZeroDivisionError:
    pass
else:
    raise AssertionError("a bug was hidden")
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "that is a mistake in the program"</summary>
#
# `except Exception` catches everything. Name the two classes that a bad file raises: `except (ValueError, OSError) as error`.
# </details>
#
# The package does the same through workers. `Guarded` puts a note instead of the record, and the note travels inside the batch. `CheckedLoader` takes it
# out. It either ends at the first one or counts, with a limit:

# %%
for options in ({"on_corrupt": "raise"}, {"on_corrupt": "report", "most": 0.02}):
    loader = CheckedLoader(
        make_loader(Guarded(images, images.files), 50, num_workers=2), **options
    )
    try:
        for _ in loader:
            pass
    except CorruptRecord as error:
        print(options, "→", error, "\n")

# %% [markdown]
# Now somebody knows: the names are those of the full disk's day. The files are fetched again from the scanner, all but three.

# %%
for name in cut_off[3:]:
    with open(f"scans/{name}", "wb") as file:
        file.write(whole_files[name])
loader = CheckedLoader(
    make_loader(Guarded(images, images.files), 50), on_corrupt="report", most=0.01
)
repaired_loss, repaired_accuracy, repaired = fit(loader)
print(loader.report)
assert len(loader.report) == 3
print(
    f"of the {worst}s, {recall_of[worst]:.0%} were recognized before, "
    f"{repaired[worst]:.0%} now"
)

# %% [markdown]
# ## 6 · In the middle of an epoch
#
# A run is stopped after some batches and goes on later. Which batch comes next? The sampler has counted what was drawn from it:

# %%
predict(
    "06-2.drawn",
    "Two workers, prefetch_factor=2, batches of 5. You have received 3 batches. How "
    "many were drawn from the sampler?",
    ["3", "5", "7"],
)

# %%
sampler = practice.CountingSampler(100)
batches = iter(DataLoader(practice.Noise(100), 5, sampler=sampler, num_workers=2))
for _ in range(3):
    next(batches)
in_queue = sampler.drawn // 5 - 3
del batches  # ends the workers
outcome(
    "06-2.drawn",
    f"{sampler.drawn // 5} batches were drawn, and {in_queue} of them wait in a "
    f"queue or are being made.",
    right=str(sampler.drawn // 5),
)

# %% [markdown]
# What is in the queue is lost when the process ends. So a checkpoint keeps the number of batches that were *used*: epoch and batch, two
# numbers. The rest follows, if the order of an epoch depends on seed and epoch alone.
#
# ### Exercise 4 · The rest of an epoch
#
# ●●○ · 10 minutes · good for: runs on machines that may be taken away.
#
# The order of an epoch is `torch.randperm` with a generator of its own, seeded with `seed + epoch`. It is cut into batches; the last one may be
# smaller. `drawn` batches were drawn from the sampler, and `waiting` of them were still in the queue. Return the batches that are left to train on.


# %% exercise: rest_of_epoch
def rest_of_epoch(
    samples: int, batch_size: int, seed: int, epoch: int, drawn: int, waiting: int
) -> list[list[int]]:
    """Return the numbers of the samples of each batch that was not used yet."""
    ### BEGIN SOLUTION
    order = torch.randperm(
        samples, generator=torch.Generator().manual_seed(seed + epoch)
    )
    batches = [batch.tolist() for batch in order.split(batch_size)]
    return batches[drawn - waiting :]
    ### END SOLUTION


# %% check: rest_of_epoch
checked = check.rest_of_epoch(rest_of_epoch, points=2)
### BEGIN HIDDEN TESTS
for _n, _size, _seed, _epoch, _drawn, _waiting in [
    (101, 10, 3, 4, 9, 4),
    (12, 5, 0, 7, 3, 3),
    (64, 8, 9, 0, 8, 0),
]:
    _order = torch.randperm(
        _n, generator=torch.Generator().manual_seed(_seed + _epoch)
    ).tolist()
    _rest = [
        list(batch)
        for batch in rest_of_epoch(_n, _size, _seed, _epoch, _drawn, _waiting)
    ]
    assert list(itertools.chain(*_rest)) == _order[(_drawn - _waiting) * _size :]
    assert all(len(batch) == _size for batch in _rest[:-1])
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "It draws from (or seeds) torch's global generator"</summary>
#
# `torch.manual_seed(…)` sets the stream that dropout draws from as well. Make `torch.Generator()`, seed that one, and hand it to `randperm(generator=…)`.
# </details>
#
# `begin_at` of the package does it for `make_loader`, and the `Trainer` calls it when it resumes (lesson 04). Samples that depend on their number alone are passed
# over without being loaded. Here with random noise on each image: the whole epoch with two workers, and after the
# stop without any:


# %%
def epoch_three(workers, begin):
    loader = make_loader(
        SeededSamples(train_set, practice.noisy, seed=5),
        50,
        seed=5,
        num_workers=workers,
    )
    set_epoch(loader, 3)
    return begin_at(loader, begin)


uninterrupted, resumed = list(epoch_three(2, 0)), list(epoch_three(0, 60))
assert len(uninterrupted) == 60 + len(resumed)
for (images_a, labels_a), (images_b, labels_b) in zip(
    uninterrupted[60:], resumed, strict=True
):
    assert torch.equal(images_a, images_b)
    assert torch.equal(labels_a, labels_b)
print(f"{len(resumed)} batches after the stop, all bit for bit as without it")

# %% [markdown]
# A stream cannot be entered in the middle: `begin_at` reads what was used, and drops it. With the same seed, epoch and number of readers, what
# follows is the same:


# %%
def stream_epoch(begin):
    stream = ShardedStream(
        [range(n, n + 50) for n in range(0, 600, 50)],
        practice.digit_shard,
        shuffle=True,
        seed=2,
    )
    loader = DataLoader(stream, 50, num_workers=2)
    set_epoch(loader, 1)
    return [labels for _, labels in begin_at(loader, begin)]


whole, rest = stream_epoch(0), stream_epoch(7)
assert all(torch.equal(a, b) for a, b in zip(whole[7:], rest, strict=True))
print(f"{len(whole)} batches; the last {len(rest)} are the same after a stop")

# %% [markdown]
# torchdata's [StatefulDataLoader](https://github.com/meta-pytorch/data/tree/main/torchdata/stateful_dataloader) keeps the state of each worker, so that a dataset
# which can save its own position need not read everything again.

# %% [markdown]
# ## 7 · What the log said
#
# | The log | The evidence | What holds |
# |---|---|---|
# | "[ ] 기본과제 2) Custom Dataset 및 Custom DataLoader": a box without a tick | Sections 1, 4, 5 and 6: a loader that seems to work can wait most of its time, read every record four times, lose a class, or begin at the wrong batch. None of these raises an error. | A custom loader is done when four things are measured: where its time goes, that each sample comes once, what it could not read, and that it goes on where it stopped. Exercises 1–4 are these four; then tick the box. |

# %% [markdown]
# ## Take away
#
# * Profile before you tune. Read, decode, collate, transfer: each has its own remedy, and workers are the remedy for some.
# * Workers pay when making a batch takes longer than receiving one. Take the fewest that keep the loop busy.
# * A generator made in `__init__` is copied into each worker. Let random numbers depend on seed, epoch and index.
# * An iterable dataset is read by rank × worker readers. Each needs its number, or each record comes that many times.
# * Never replace or skip a record in silence. Count it, name it, set a limit.
# * What was used counts, not what was drawn.
#
# **Next notebook:** [the clinic: splits and workers](4_clinic_data.ipynb). **Questions on this lesson:** [quiz](quiz.ipynb).
#
# ### Glossary
#
# | English | 한국어 | here |
# |---|---|---|
# | worker | 워커 | a process that loads samples |
# | prefetch | 미리 가져오기 | a batch asked for before it is needed |
# | collate | collate(배치로 묶기) | put samples together into a batch |
# | pinned memory | 고정 메모리 | memory that the system does not move, so that a GPU can fetch from it |
# | iterable dataset | 이터러블 데이터셋 | a dataset that is read from beginning to end |
# | copy-on-write | 쓸 때 복사 | memory that is shared until somebody writes to it |
# | shard | 샤드 | a file, or another part of the data |
# | shuffle buffer | 셔플 버퍼 | records that a stream holds to give out one by chance |
# | corrupt record | 손상된 레코드 | a record that cannot be read |
# | recall | 재현율 | of all samples of a class, the share that is recognized |
#
# ### Further reading
#
# * PyTorch, [torch.utils.data](https://docs.pytorch.org/docs/stable/data.html): workers, iterable datasets, seeds, pinning.
# * PyTorch, [A guide on good usage of non_blocking and pin_memory](https://docs.pytorch.org/tutorials/intermediate/pinmem_nonblock.html).
# * torchdata, [StatefulDataLoader](https://github.com/meta-pytorch/data/tree/main/torchdata/stateful_dataloader).
