# %% [markdown]
# # The clinic: splits and workers
#
# **{minutes} minutes** · one CPU is enough (two loader processes), on Linux or macOS · before this:
# [loading at scale](3_loading_at_scale.ipynb), and from lesson 05 [the clinic's first half](../05_troubleshooting/3_clinic.ipynb)
#
# Three more patients of the clinic. Each of their faults is in how the data is split or loaded, such as a **data leak** (데이터 누수). None of them is in the model.
# You know the method: **reproduce** (재현), **look** at evidence, **one hypothesis** (가설), **one change** at the cause, **prove**.
# The checks refuse what only hides the symptom.
#
# **After this notebook you can**
#
# 1. find a split that leaks, and split by group instead;
# 2. report and count a corrupt record instead of skipping it in silence;
# 3. use workers and their seeds, so that each draws numbers of its own.

# %% setup

# %%
from torchcourse.quiz import recall

recall("06_custom_datasets")

# %%
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from torchcourse.lessons.datasets.checks import clinic as check
from torchcourse.lessons.troubleshooting import clinic

print(f"PyTorch {torch.__version__}; the clinic computes on the CPU.")

# %% [markdown]
# ## 1 · Ward: splits
#
# ### Patient 1
#
# **Validation** (검증) is a rehearsal: it says how the model will do on data that it has never seen.

# %% patient: promised_more

# %% [markdown]
# ●●○ · 8 minutes · good for: every dataset with several pictures of one thing: frames of a film, slices of a scan, copies by
# **augmentation** (데이터 증강).


# %% repair: promised_more
def make_splits(images, labels, copies=8, share=0.2):
    """Return (images, labels) to train on and (images, labels) to validate on, the
    given share of the data.
    """
    order = torch.randperm(len(images))
    held_back = round(share * len(images))
    val, train = order[:held_back], order[held_back:]
    return (augment(images[train], copies), labels[train].repeat(copies)), (
        images[val],
        labels[val],
    )


# %% [markdown]
# <details><summary>Help – I get "have a version in the training set too"</summary>
#
# Which line decides on which side a copy ends up? At that line, what does the program know about where it comes from?
# </details>
#
# <details><summary>Help – I get "of 10 classes"</summary>
#
# The data of this check is sorted by class, as folders often are. Taking the last fifth is no random choice.
# </details>

# %% [markdown]
# ## 2 · Ward: workers
#
# A DataLoader with `num_workers=2` has its samples fetched by two other processes, the **workers** (워커). What goes wrong there,
# goes wrong out of your sight.
#
# ### Patient 2

# %% patient: details_are_lost

# %% [markdown]
# ●●○ · 8 minutes · good for: every loader that runs at night. You may change all three parts. Whoever reads the log in the morning
# has to see what happened to a bad line: keep nothing silent.


# %% repair: details_are_lost
def parse_record(line):
    """Return the image [784], scaled to 0–1, and the label.

    Comes from our command-line tool.
    """
    label, _, pixels = line.partition(" ")
    values = bytes.fromhex(pixels)
    if len(values) != 784:
        raise ValueError(f"a record of {len(values)} pixels, instead of 784")
    return torch.tensor(list(values)) / 255, int(label)


class Records(Dataset):
    def __init__(self, path):
        self.lines = []
        for number, line in enumerate(Path(path).read_text().splitlines()):
            try:
                parse_record(line)
            except ValueError as error:
                print(f"line {number} left out: {error}")
            else:
                self.lines.append(line)

    def __len__(self):
        return len(self.lines)

    def __getitem__(self, index):
        return parse_record(self.lines[index])


def record_loader(path, seed):
    order = torch.Generator().manual_seed(seed)
    return DataLoader(
        Records(path),
        batch_size=32,
        shuffle=True,
        generator=order,
        num_workers=2,
    )


# %% [markdown]
# <details><summary>Help – I get "the epoch still ends at the bad line"</summary>
#
# That is progress: the error can be read now. What should happen to such a line, and when could it be found?
# </details>
#
# <details><summary>Help – I get "Nothing dies any more, because there is no worker"</summary>
#
# You used it to see the error. Take it back now.
# </details>

# %% [markdown]
# ### Patient 3

# %% patient: augmentation_adds_nothing

# %% [markdown]
# ●●● · 10 minutes · good for: every random choice that a worker makes. You may change both parts.


# %% repair: augmentation_adds_nothing
class JitteredDigits(Dataset):
    """Images [N, 1, 28, 28], each multiplied by a random
    brightness between 0.5 and 1.5.
    """

    def __init__(self, images, labels, seed):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        # PyTorch seeds its generator again in each worker, each epoch
        brightness = 0.5 + torch.rand(()).item()
        return self.images[index] * brightness, self.labels[index], brightness


def jitter_loader(images, labels, seed):
    # the workers' seeds are drawn from this one too
    order = torch.Generator().manual_seed(seed)
    return DataLoader(
        JitteredDigits(images, labels, seed),
        batch_size=32,
        shuffle=True,
        generator=order,
        num_workers=2,
    )


# %% [markdown]
# <details><summary>Help – I get "the second epoch are those of the first"</summary>
#
# A worker is started again in each epoch. A seed made of its number alone is the same each time.
# </details>
#
# <details><summary>Help – I get "two runs with the same seed draw other numbers"</summary>
#
# Without a seed NumPy asks the operating system. Look at what `torch.utils.data.get_worker_info()` offers.
# </details>

# %% [markdown]
# ## Take away
#
# * Split first, then make copies. All pictures of one thing belong on one side.
# * `num_workers=0` shows the error of a worker. It does not mend it.
# * Random numbers in a worker come from what PyTorch seeds there, or from (seed, epoch, index).

# %%
clinic.board("splits", "workers")

# %% [markdown]
# **Questions on this lesson:** [quiz](quiz.ipynb). **Next lesson:** [features and fine-tuning](../07_transfer_learning/1_features_and_fine_tuning.ipynb).
#
# ### Glossary
#
# | English | 한국어 | here |
# |---|---|---|
# | validation | 검증 | a rehearsal on data that was not trained on |
# | data leak | 데이터 누수 | validation data that the training has seen |
# | augmentation | 데이터 증강 | changed copies of a sample |
# | worker | 워커 | a process that loads samples |
#
# ### Further reading
#
# * PyTorch, [torch.utils.data](https://docs.pytorch.org/docs/stable/data.html): workers, their seeds, `worker_init_fn`.
# * Kapoor and Narayanan 2023, [Leakage and the reproducibility crisis in machine-learning-based science](https://doi.org/10.1016/j.patter.2023.100804).
