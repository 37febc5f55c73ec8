# %% [markdown]
# # The clinic: data, numbers, ranks, checkpoints
#
# **{minutes} minutes** · one CPU is enough (two and three processes) · before this: [the clinic's first half](3_clinic.ipynb)
#
# Here are six more programs. Few of these faults are in a single line. Most are between two things that are both right: an
# image and its label, training and service, rank 0 and rank 1, a run and its restart. (Three more wait in lesson 06, which
# teaches what they need.)
#
# **After this notebook you can**
#
# 1. go from a symptom to its cause, and repair it there instead of muting it.

# %% setup

# %%
from torchcourse.quiz import outcome, predict, recall

recall("05_troubleshooting")

# %%
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy import asarray
from PIL import Image
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from torchcourse.lessons.troubleshooting import clinic
from torchcourse.lessons.troubleshooting.checks import clinic as check
from torchcourse.models import mlp

print(f"PyTorch {torch.__version__}; the clinic computes on the CPU.")

# %% [markdown]
# The method is that of the first half: **reproduce** (재현), **look** at evidence, **one hypothesis** (가설), **one change** at the cause,
# **prove**. The checks refuse what only hides the symptom. You may take the wards in any order.
#
# ## 1 · Ward: data
#
# When a model does not learn, look at the data *as the model gets them*, before you touch the model.
#
# ### Patient 1

# %%
clinic.admit("idle_since_tuesday")

# %% [markdown]
# The evidence is a window on what was loaded. Move it through the folder with the slider, and read each **label** (레이블).

# %%
clinic.evidence("idle_since_tuesday")

# %%
clinic.hints("idle_since_tuesday")

# %% [markdown]
# ●○○ · 6 minutes · good for: every dataset that is made of files and a table. Repair the part below.


# %% repair: idle_since_tuesday
def load_scans(folder):
    """Return the scans [N, 1, 28, 28], scaled to 0–1, and their labels [N]."""
    # the first row is the header
    rows = (folder / "labels.csv").read_text().splitlines()[1:]
    label_of = {name: int(label) for name, label in (row.split(",") for row in rows)}
    images, labels = [], []
    for path in sorted(folder.glob("*.png")):
        try:
            images.append(torch.tensor(asarray(Image.open(path))) / 255)
        except OSError:  # the scanner sometimes leaves an unreadable file
            continue
        labels.append(label_of[path.name])
    return torch.stack(images).unsqueeze(1), torch.tensor(labels)


# %% [markdown]
# <details><summary>Help – I get "scans have a wrong label"</summary>
#
# You repaired it for this folder. What if two files in a row cannot be read, or the very first?
# </details>
#
# <details><summary>Help – I get "are no scan of the folder"</summary>
#
# Something stands in for the scan that could not be read. It keeps the two lists equally long, and is trained on.
# </details>

# %% [markdown]
# ### Patient 2
#
# **Normalization** (정규화) shifts and scales the input, so that training starts well for any scanner.

# %%
clinic.admit("good_only_in_crowds")

# %%
predict(
    "05-4.alone",
    "`standardize` gets a single scan. What comes out?",
    [
        "the same numbers as for this scan among 200 others",
        "the same picture, but brighter",
        "nothing: zeros everywhere",
    ],
)

# %%
seen = clinic.evidence("good_only_in_crowds")
outcome(
    "05-4.alone",
    f"A single scan comes out with a standard deviation of {seen['alone']:.2f}, one "
    f"among 200 with {seen['together']:.2f}.",
    right="nothing: zeros everywhere",
)

# %%
clinic.hints("good_only_in_crowds")

# %% [markdown]
# ●●○ · 8 minutes · good for: every model that leaves the notebook. You may change both parts.


# %% repair: good_only_in_crowds
def standardize(pixels, mean, std):
    """Shift and scale scans [N, 784] by a mean for each pixel and
    one standard deviation.
    """
    return (pixels - mean) / std


class DigitReader:
    """A classifier for scans [N, 1, 28, 28], whatever brightness the scanner gives."""

    def __init__(self, seed=0):
        torch.manual_seed(seed)
        self.model = mlp(784, 32, 10)

    def fit(self, scans, labels, epochs=6, lr=0.02):
        optimizer = torch.optim.SGD(self.model.parameters(), lr=lr, momentum=0.9)
        pixels = scans.flatten(1)
        self.mean, self.std = pixels.mean(dim=0), pixels.std()
        inputs = standardize(pixels, self.mean, self.std)
        for _ in range(epochs):
            for batch in torch.randperm(len(inputs)).split(32):
                loss = F.cross_entropy(self.model(inputs[batch]), labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    @torch.no_grad()
    def predict(self, scans):
        return self.model(standardize(scans.flatten(1), self.mean, self.std)).argmax(
            dim=1
        )


# %% [markdown]
# <details><summary>Help – I get "scans get a different answer"</summary>
#
# Print what `standardize` makes of one scan, alone and among others. Is there still a number in it that comes from the request?
# </details>
#
# <details><summary>Help – I get "The numbers of one scanner are not those of another"</summary>
#
# You wrote numbers down. From which data could the program compute them, and when?
# </details>

# %% [markdown]
# ## 2 · Ward: numbers
#
# ### Patient 3

# %%
clinic.admit("nan_since_new_scanner")

# %%
clinic.evidence("nan_since_new_scanner")

# %% [markdown]
# A colleague has a repair at hand: keep the probability away from 0 and 1, with `p.clamp(1e-7, 1 - 1e-7)`. The loss is then finite.
# But a loss is there to be differentiated.

# %%
predict(
    "05-4.clamp",
    "A scan that is no zero (target 0), and a logit of 20: the network is certain, "
    "and wrong. "
    "What is the gradient of the clamped loss for this logit?",
    ["about 1, as it should be", "very large", "0"],
)

# %%
logit = torch.tensor(20.0, requires_grad=True)
p = torch.sigmoid(logit).clamp(1e-7, 1 - 1e-7)
loss = -(1 - p).log()
loss.backward()
outcome(
    "05-4.clamp",
    f"The loss is {loss.item():.1f}, and its gradient {logit.grad.item():g}.",
    right="0",
)

# %% [markdown]
# The clamped loss says that this scan is very wrong, and tells the weights nothing about it. That is **muting** (증상만 가리기).

# %%
clinic.hints("nan_since_new_scanner")

# %% [markdown]
# ●●○ · 6 minutes · good for: every loss that you write yourself. A finite loss alone is not enough: look at its gradient too.


# %% repair: nan_since_new_scanner
def detection_loss(logits, targets):
    """Return the mean cross-entropy of logits [N] and targets [N] (1 for a zero, 0
    for another digit).
    """
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)


# %% [markdown]
# <details><summary>Help – I get "the gradient is 0"</summary>
#
# See the prediction above: the number that the logarithm sees is mended, and what the logit was is forgotten.
# </details>
#
# <details><summary>Help – I get "gradients are NaN"</summary>
#
# The backward pass computes with the numbers from before your repair. Zero times infinity is NaN there too.
# </details>

# %% [markdown]
# ## 3 · Ward: ranks
#
# ### Patient 4
#
# A **DistributedSampler** (분산 샘플러) gives each rank its share of the indices of an epoch.

# %% patient: images_nobody_sees

# %% [markdown]
# ●○○ · 6 minutes · good for: every training run on more than one rank.


# %% repair: images_nobody_sees
def train_sampled(model, data, epochs, seed=0, lr=0.1):
    """Train `model` on this rank's share of the data, in a new order each epoch."""
    sampler = DistributedSampler(data, seed=seed)
    loader = DataLoader(data, batch_size=16, sampler=sampler)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for epoch in range(epochs):
        sampler.set_epoch(epoch)  # a fresh order each epoch, the same on every rank
        for images, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            average_gradients(model)
            optimizer.step()


# %% [markdown]
# <details><summary>Help – I get "in the very order of epoch"</summary>
#
# Without a new epoch number the sampler shuffles as before. When is it read: at the start of the loop, or in it?
# </details>
#
# <details><summary>Help – I get "its share would be"</summary>
#
# The sampler is gone. Who cuts the data into shares now?
# </details>

# %% [markdown]
# ### Patient 5
#
# **Early stopping** (조기 종료) ends a training run when the validation loss no longer falls. A **collective** (집합 통신) needs all ranks.

# %% patient: closed_connection

# %% [markdown]
# ●●● · 10 minutes · good for: every decision in a training run on several ranks.


# %% repair: closed_connection
def train_until_stale(model, train, val, epochs=12, patience=2, lr=0.05):
    """Train on this rank's parts; stop after `patience` epochs without a better
    validation loss. Returns the losses.
    """
    images, labels = train
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    best, stale, losses = float("inf"), 0, []
    for epoch in range(epochs):
        for batch in torch.arange(len(images)).split(16):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            average_gradients(model)
            optimizer.step()
        loss = validation_loss(model, *val)
        dist.all_reduce(loss)  # the same number on every rank, so the same decision
        loss = loss.item() / dist.get_world_size()
        losses.append(loss)
        print(f"epoch {epoch}: validation loss {loss:.3f}")
        if loss < best:
            best, stale = loss, 0
        else:
            stale += 1
        if stale == patience:
            break
    return losses


# %% [markdown]
# <details><summary>Help – I get "the last after"</summary>
#
# Nobody is left alone, because nobody stops. Stopping early was the wish.
# </details>
#
# <details><summary>Help – I get "the ranks still wait"</summary>
#
# A collective was put where only some ranks come by. At which line does each of them wait?
# </details>

# %% [markdown]
# ## 4 · Ward: checkpoints
#
# ### Patient 6
#
# A **checkpoint** (체크포인트) must hold everything that belongs to *one* moment of the training.

# %% patient: resumes_elsewhere

# %% [markdown]
# ●●○ · 8 minutes · good for: every run that may outlast its machine.


# %% repair: resumes_elsewhere
def train_resumably(run, batch_of, steps, path, every=10):
    """Train `run` (model, optimizer, scheduler) up to step `steps`, from the
    checkpoint at `path` if there is one.
    """
    start = 0
    if path.exists():
        saved = torch.load(path)
        start = saved.pop("step")
        for name, state in saved.items():
            run[name].load_state_dict(state)
    for step in range(start, steps):
        images, labels = batch_of(step)
        loss = F.cross_entropy(run["model"](images), labels)
        run["optimizer"].zero_grad()
        loss.backward()
        run["optimizer"].step()
        run["scheduler"].step()
        if (step + 1) % every == 0:
            torch.save(
                {"step": step + 1}
                | {name: part.state_dict() for name, part in run.items()},
                path,
            )


# %% [markdown]
# <details><summary>Help – I get "the learning rate is"</summary>
#
# Weights from after the step, schedule from before it. What else belongs to a step?
# </details>
#
# <details><summary>Help – I get "One batch is trained on twice"</summary>
#
# How many steps are done when this line runs, and what does the file say?
# </details>

# %% [markdown]
# ## Take away
#
# * A model that does not learn: look at ten samples *as the model gets them*, from the front, the middle and the end.
# * What is learned from data, statistics included, belongs to the training set, and is saved with the model.
# * A finite loss is not a healthy loss. Look at its gradient where the network is wrong.
# * Ranks share one order of the data, and one decision about each collective.
# * A checkpoint belongs between two steps. A run without a break and a resumed one must end the same.

# %%
clinic.board("data", "numbers", "ranks", "checkpoints")

# %% [markdown]
# **Questions on this lesson:** [quiz](quiz.ipynb). **Next lesson:** [datasets](../06_custom_datasets/1_datasets.ipynb).
#
# ### Glossary
#
# | English | 한국어 | here |
# |---|---|---|
# | label | 레이블 | what the model should answer for a sample |
# | normalization | 정규화 | shifting and scaling the input by numbers of the training set |
# | distributed sampler | 분산 샘플러 | gives each rank its share of an epoch's indices |
# | early stopping | 조기 종료 | ending a training run whose validation loss no longer falls |
#
# ### Further reading
#
# * PyTorch, [torch.utils.data](https://docs.pytorch.org/docs/stable/data.html): DistributedSampler.
# * PyTorch, [BCEWithLogitsLoss](https://docs.pytorch.org/docs/stable/generated/torch.nn.BCEWithLogitsLoss.html): why it takes logits.
# * PyTorch, [torch.distributed](https://docs.pytorch.org/docs/stable/distributed.html): time limits, and debugging of collectives.
