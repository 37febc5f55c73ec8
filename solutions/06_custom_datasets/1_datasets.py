# %% [markdown]
# # Datasets: from files to batches
#
# **{minutes} minutes** · one CPU is enough, and GPUs are not used: nothing is trained here · before this: lesson 00
#
# The study log lists an assignment that was not begun: *Custom Dataset 및 Custom DataLoader*. Here you do it: images in a
# folder with a label table, a file that does not fit into memory, a stream, and a loader by hand.
#
# **After this notebook you can**
#
# 1. write a map-style and an iterable dataset that load lazily;
# 2. write a loader by hand: sampler, fetch, collate, prefetch.

# %% setup

# %%
from torchcourse.quiz import outcome, predict, recall

recall("06_custom_datasets")

# %%
import csv
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    default_collate,
    random_split,
)

from torchcourse.data import mnist
from torchcourse.lessons.datasets import by_hand, folder
from torchcourse.lessons.datasets.checks import datasets as check
from torchcourse.lessons.datasets.folder import ImageTable, read_image, write_images
from torchcourse.lessons.datasets.memory_mapped import (
    MappedArray,
    memory_limit,
    write_rows,
)
from torchcourse.ranks import run_ranks

torch.set_num_threads(1)
print(f"on the CPU, PyTorch {torch.__version__}")

# %% [markdown]
# ## 1 · A folder of images with a label table
#
# Most projects begin with a folder and a table. Make one of 400 handwritten digits.

# %%
images, digit = mnist()[:400]
pixels = (images[:, 0] * 0.3081 + 0.1307).mul(255).round().to(torch.uint8)
rows = [{"file": f"{n:03}.png", "label": int(label)} for n, label in enumerate(digit)]
write_images("scans", pixels, rows)
print(*Path("scans/labels.csv").read_text().splitlines()[:4], sep="\n")

# %% [markdown]
# A **map-style dataset** (맵 스타일 데이터셋) has two methods. `len(data)` says how many samples there are, and `data[i]` returns sample number i.
# Nothing more is asked of it ([documentation](https://docs.pytorch.org/docs/stable/data.html#map-style-datasets)). The package has one:

# %%
predict(
    "06-1.lazy",
    "`ImageTable('scans')` is made, and then `data[7]` is asked for. How many of the "
    "400 images are opened?",
    ["400: all at the beginning", "1", "8: up to number 7"],
)

# %%
with mock.patch.object(folder, "read_image", wraps=read_image) as opened:
    data = ImageTable("scans")
    image, label = data[7]
print(
    f"{len(data)} samples; number 7 is a {data.classes[label]}, {list(image.shape)}, "
    f"{image.min():.0f} to {image.max():.0f}"
)
outcome(
    "06-1.lazy", f"{opened.call_count}. Making it reads the table alone.", right="1"
)

# %% [markdown]
# That is **lazy loading** (지연 로딩): the memory does not grow with the folder. But *mistakes* should show at once. A missing image that
# shows in hour three costs three hours. To look whether each file is *there* is cheap, so do that when the dataset is made.

# %%
bad = [{"file": "000.png", "label": 1}, {"file": "lost.png", "label": 2}]
for name, table in (("one.csv", bad), ("two.csv", [{"name": "000.png", "digit": 1}])):
    with open(f"scans/{name}", "w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    try:
        ImageTable("scans", name)
    except (FileNotFoundError, ValueError) as error:
        print(f"{type(error).__name__}: {error}")

# %% [markdown]
# A dataset may change its images by chance, to train on more versions (**augmentation**, 데이터 증강), as a `transform`. Then split the *numbers*, not the dataset:
# both parts of `random_split` are views of one dataset, with one transform.

# %%
noisy = ImageTable("scans", transform=lambda image: image + torch.randn_like(image))
_, val = random_split(noisy, [300, 100])
still = Subset(ImageTable("scans"), val.indices)
for name, part in (("random_split alone", val), ("a second dataset", still)):
    twice = torch.equal(part[0][0], part[0][0])
    print(f"{name:18s} two looks at one validation image are equal: {twice}")

# %% [markdown]
# ### Exercise 1 · A dataset of image files
#
# ●●○ · 12 minutes · good for: every project whose data are files.
#
# `labels.csv` lies in the folder and has the columns `file` and `label`. The folder may hold other files. A class's number is its place among the *sorted*
# labels. Raise `FileNotFoundError`, with the name, when the dataset is made and an image is missing. `read_image(path)` returns a tensor [1, H, W].


# %% exercise: Pictures
class Pictures(Dataset):
    """The images that `labels.csv` in a folder lists, in its order: `(image [1, H,
    W], class number)`.
    """

    def __init__(self, folder: Path) -> None:
        ### BEGIN SOLUTION
        self.folder = Path(folder)
        with open(self.folder / "labels.csv", newline="") as file:
            self.rows = list(csv.DictReader(file))
        for row in self.rows:
            if not (self.folder / row["file"]).is_file():
                raise FileNotFoundError(
                    f"{row['file']} is in labels.csv and not in {self.folder}."
                )
        self.classes = sorted({row["label"] for row in self.rows})
        ### END SOLUTION

    def __len__(self) -> int:
        ### BEGIN SOLUTION
        return len(self.rows)
        ### END SOLUTION

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        ### BEGIN SOLUTION
        row = self.rows[index]
        return read_image(self.folder / row["file"]), self.classes.index(row["label"])
        ### END SOLUTION


# %% check: Pictures
checked = check.pictures(Pictures, points=3)
### BEGIN HIDDEN TESTS
_pixels = torch.arange(6 * 20).reshape(6, 4, 5).to(torch.uint8)
_kinds = ["d", "b", "b", "a", "c", "d"]
_rows = [{"file": f"{(5 * n) % 6}.pgm", "label": kind} for n, kind in enumerate(_kinds)]
write_images("hidden", _pixels, _rows)
_data = Pictures(Path("hidden"))
assert len(_data) == 6
for _n in (4, 0, 5, 2):
    _image, _number = _data[_n]
    assert torch.equal(_image, _pixels[_n][None] / 255)
    assert int(_number) == "abcd".index(_kinds[_n])
write_images(
    "hidden",
    255 - _pixels[:1],
    [{"file": _rows[3]["file"], "label": "a"}],
    table="unused.csv",
)
assert torch.equal(_data[3][0], (255 - _pixels[:1]) / 255)
Path("hidden", _rows[4]["file"]).unlink()
_named = "nothing was raised"
try:
    Pictures(Path("hidden"))
except FileNotFoundError as _error:
    _named = str(_error)
assert _rows[4]["file"] in _named
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "all images are in memory"</summary>
#
# `__init__` reads the table. Which of the three methods is called once for each sample that is wanted?
# </details>
#
# <details><summary>Help – I get "as they appear in the table"</summary>
#
# The training table and the test table list the classes in different orders. Which order do they share?
# </details>
#
# ## 2 · What does not fit into memory
#
# A million small files have to be opened one by one; one large array is one file. A `.npy` file can be **memory-mapped** (메모리 맵): the array seems to be in memory.
# The operating system brings in the pages that you touch, and drops them when it needs the room.
#
# The file below has 96 MiB. A process may allocate 24 MiB more than it has (`RLIMIT_DATA`, which Linux enforces).

# %%
predict(
    "06-1.map",
    "Which of the two can read every row of the 96 MiB, with 24 MiB to allocate?",
    ["neither", "the memory map alone", "both, `np.load` more slowly"],
)

# %%
MIB = 2**20
write_rows(
    "large.npy",
    96,
    (np.full((8, MIB // 4), part, dtype=np.float32) for part in range(12)),
)


def read_with_little_memory():
    with memory_limit(24 * MIB) as enforced:
        mapped = MappedArray("large.npy")
        mean = sum(
            float(row.mean()) for row in map(mapped.__getitem__, range(len(mapped)))
        ) / len(mapped)
        try:
            np.load("large.npy")
            loaded = True
        except MemoryError as error:
            loaded = str(error)
    return enforced, mean, loaded


((enforced, mean, loaded),) = run_ranks(read_with_little_memory, world_size=1)
print(
    f"limit enforced: {enforced}; mapped: mean {mean} of all 96 MiB; np.load: {loaded}"
)
outcome(
    "06-1.map",
    f"All rows came through the map. Loading was refused: {enforced}.",
    right="the memory map alone" if enforced else "both, `np.load` more slowly",
)

# %% [markdown]
# `MappedArray` is a map-style dataset again: `rows[i]` is a copy of row i. It pickles as a path, so loader workers get a few bytes instead of 96 MiB.
#
# ## 3 · Iterable: what comes as a stream
#
# A log, a socket, a compressed archive: such sources can be read from front to back and in no other way. An **iterable dataset** (이터러블 데이터셋) has one method,
# `__iter__`. It has no numbers, and often no length.


# %%
class Lines(IterableDataset):
    """The rows of a CSV file, one after the other; never more than one in memory."""

    def __init__(self, path):
        self.path = path

    def __iter__(self):
        with open(self.path, newline="") as file:
            for row in csv.DictReader(file):
                yield row["file"], int(row["label"])


print(next(iter(DataLoader(Lines("scans/labels.csv"), batch_size=3))))
predict(
    "06-1.stream",
    "You ask for a stream in mixed order: `DataLoader(Lines(…), shuffle=True)`. What "
    "happens?",
    [
        "it reads all lines first, then mixes",
        "it mixes within each batch",
        "it is refused",
    ],
)

# %%
try:
    DataLoader(Lines("scans/labels.csv"), shuffle=True)
    said = "it was accepted"
except ValueError as error:
    said = str(error)
outcome("06-1.stream", f"PyTorch says: {said}", right="it is refused")

# %% [markdown]
# A full shuffle needs numbers to draw. A stream can be mixed only in part, by a **shuffle buffer** (셔플 버퍼). It holds some samples, gives out one of
# them by chance, and takes the next (`ShardedStream(shuffle=True, buffer=256)` in notebook 3). So take a map-style dataset when you can. With loader workers, each worker would read the
# *whole* stream; notebook 3 deals it out.
#
# | | map-style | iterable |
# |---|---|---|
# | you write | `__len__`, `__getitem__` | `__iter__` |
# | order | a sampler's | the source's |
# | over workers | the DataLoader deals numbers out | you deal out |
# | over ranks | a `DistributedSampler` deals numbers out (lesson 01) | you deal out |
#
# ## 4 · A loader by hand
#
# A DataLoader is four things in a row. The **sampler** (샘플러) gives numbers. **Fetch** takes that many samples. **Collate** makes one batch
# of them. **Prefetch** (미리 가져오기) does all that ahead of time, elsewhere, while you train.
#
# With the last one, a batch is fetched while the one before is used. Here fetching takes 8 ms and so does the training step.

# %%
predict(
    "06-1.prefetch",
    "15 batches, each fetched in 8 ms and used for 8 ms. Prefetching makes the epoch …",
    [
        "about as long: the work is the same",
        "about half as long",
        "about a third as long: 2 are ahead",
    ],
)


# %%
class Slow(Dataset):
    def __len__(self):
        return 15

    def __getitem__(self, index):
        time.sleep(0.008)
        return index


def epoch(ahead):
    with ThreadPoolExecutor(1) as pool:
        start = time.perf_counter()
        for _ in by_hand.batches(
            Slow(), range(15), 1, default_collate, pool.submit, ahead
        ):
            time.sleep(0.008)
        return 1e3 * (time.perf_counter() - start)


alone, two = epoch(ahead=0), epoch(ahead=2)
outcome(
    "06-1.prefetch",
    f"{alone:.0f} ms without, {two:.0f} ms with two batches ahead. The slower of the "
    f"two sets the pace.",
    right="about half as long"
    if two < 0.8 * alone
    else "about as long: the work is the same",
)

# %% [markdown]
# The last batch is often shorter. With one sample in it, BatchNorm has no spread to divide by, and the epoch dies at its very end. `drop_last=True` leaves that
# batch out; a fresh shuffle leaves out others next time.

# %%
norm, nine = nn.BatchNorm1d(4), TensorDataset(torch.randn(9, 4))
for drop_last in (False, True):
    steps = 0
    try:
        for (x,) in DataLoader(nine, 4, shuffle=True, drop_last=drop_last):
            norm(x)
            steps += 1
        print(f"drop_last={drop_last}: {steps} batches")
    except ValueError as error:
        print(f"drop_last={drop_last}: after {steps} batches: {error}")

# %% [markdown]
# ### Exercise 2 · The loader
#
# ●●● · 15 minutes · good for: knowing what `num_workers` and `prefetch_factor` do, and where an error inside a worker comes from.
#
# `submit(function, *arguments)` starts the work elsewhere and returns a **future** (퓨처) at once. `future.result()` waits for it. Fetch and
# collate belong in that work. When you hand over a batch, the next `ahead` have to be under way, and no more than one beyond.


# %% exercise: batches
def batches(dataset, sampler, batch_size, collate, submit, ahead=2):
    """Yield `collate` of each `batch_size` samples, in the sampler's order; the last
    batch may be smaller.
    """
    ### BEGIN SOLUTION

    def fetch(part):
        return collate([dataset[number] for number in part])

    numbers, futures = iter(sampler), deque()
    while True:
        while len(futures) <= ahead and (part := list(islice(numbers, batch_size))):
            futures.append(submit(fetch, part))
        if not futures:
            return
        yield futures.popleft().result()
    ### END SOLUTION


# %% check: batches
checked = check.batches(batches, points=3)
### BEGIN HIDDEN TESTS
_set = TensorDataset(torch.arange(31).float(), torch.arange(31) ** 2)
for _size, _ahead, _threads in ((4, 2, 1), (7, 1, 2), (31, 3, 1)):
    _order = torch.randperm(31, generator=torch.Generator().manual_seed(_size)).tolist()
    with ThreadPoolExecutor(_threads) as _pool:
        _started = []

        def _submit(*work, _pool=_pool, _started=_started, **options):
            _started.append(work)
            return _pool.submit(*work, **options)

        _mine, _under_way = [], []
        for _batch in batches(_set, _order, _size, default_collate, _submit, _ahead):
            _mine.append(_batch)
            _under_way.append(len(_started) - len(_mine))
    _theirs = list(DataLoader(_set, _size, sampler=_order))
    assert len(_mine) == len(_theirs) == len(_started)
    assert all(torch.equal(a[1], b[1]) for a, b in zip(_mine, _theirs, strict=True))
    assert all(
        min(_ahead, len(_mine) - 1 - n) <= way <= _ahead + 1
        for n, way in enumerate(_under_way)
    )
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "called outside of what you gave to `submit`"</summary>
#
# `submit(collate, [dataset[n] for n in part])` fetches first and submits then: arguments are computed before a call. Put the fetching into a function.
# </details>
#
# <details><summary>Help – I get "What is still under way, or left out because it does not fill a batch?"</summary>
#
# When the sampler has no more numbers, batches that were started are still waiting, and the last one may be short. Who hands
# them over?
# </details>

# %% [markdown]
# ## 5 · What the log said
#
# | The log | The evidence | Now |
# |---|---|---|
# | 기본과제 2) Custom Dataset 및 Custom DataLoader: not begun | Exercises 1 and 2 | It is done when both checks pass: a dataset is two methods, a loader four steps. The work is in what the assignment does not say: what is missing here, and what is too long, too rare, or on both sides of the split in notebook 2. |
#
# ## Take away
#
# * A dataset reads a table when it is made, and a file when it is asked. What is missing is named at once.
# * A loader is sampler, fetch, collate, prefetch. Prefetching hides the shorter of fetching and training, at the price of memory.
#
# **Next notebook:** [sequences, classes and splits](2_sequences_and_classes.ipynb). **Questions on this lesson:** [quiz](quiz.ipynb).
#
# ### Glossary
#
# | English | 한국어 | here |
# |---|---|---|
# | map-style dataset | 맵 스타일 데이터셋 | `len(data)` and `data[i]` |
# | iterable dataset | 이터러블 데이터셋 | from front to back |
# | lazy loading | 지연 로딩 | opened when it is asked for |
# | memory map | 메모리 맵 | a file that looks like an array |
# | sampler | 샘플러 | gives the numbers of the samples |
# | prefetch | 미리 가져오기 | fetched while the last batch is used |
#
# ### Further reading
#
# * PyTorch, [torch.utils.data](https://docs.pytorch.org/docs/stable/data.html).
# * NumPy, [memmap](https://numpy.org/doc/stable/reference/generated/numpy.memmap.html).
