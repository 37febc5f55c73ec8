# %% [markdown]
# # Capstone: a reader of digits for a customer
#
# **4 to 6 hours, over several days** · two CPU ranks, or several GPUs · before this: lessons 01 and 03 to 07
#
# This is a project. You get a wish, a budget and a folder of files, and hand in a model, a diagnosis and one page. How you get there is
# your design: there are six milestones, each with a check that says whether it is reached, and no steps between them.
#
# ## The brief
#
# A water company photographs the digits of its meters. Each photograph, a **card** (카드), was cut into pictures of one digit. *"Our reader was trained on
# clean digits, and on our pictures it reads three of four. Read more of them, say how sure you are that it is more, and keep to the budget."*
#
# | | |
# |---|---|
# | You get | a folder of pictures with a label table, and a backbone trained on MNIST (`mnist_cnn`, lesson 07) |
# | You hand in | this notebook, run from top to bottom, and its one-page report |
# | The budget | `SCALE.cpu_seconds` CPU-seconds for search and training runs, all processes together |
# | To beat | the backbone, frozen, with a linear head: the company's present reader |
# | Not allowed | looking at the sealed delivery before the report; data or weights from elsewhere |
#
# | Milestone | What the check runs | Points |
# |---|---|---|
# | M1 Dataset (데이터셋) | your dataset, on a new delivery | 3 |
# | M2 Study (스터디) | your search: it is killed in its second trial, and called again | 3 |
# | M3 Run on two ranks | your training function, in two processes; its TensorBoard log is read back | 4 |
# | M4 Diagnosis (진단) | your test of a failure, on runs that you have not seen | 4 |
# | M5 Checkpoint on one device | your checkpoint of two ranks, in one process | 3 |
# | M6 Report (보고서) | your program that writes the page, with other numbers | 4 |
# | Judged by a person | three answers in words, by the rubric at the end | 12 |
#
# **After this notebook you can** plan a fine-tuning within a budget; run it on several ranks so that a kill costs little; tell a failure by its
# evidence; hand over a model and a number that hold.

# %% setup

# %%
from torchcourse.quiz import recall

recall("10_capstone")

# %%
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset

from torchcourse import figures
from torchcourse.data import make_loader
from torchcourse.lessons.capstone.budget import Meter
from torchcourse.lessons.capstone.checks import milestones as check
from torchcourse.lessons.capstone.delivery import deliver
from torchcourse.lessons.capstone.sizes import scale
from torchcourse.lessons.datasets.folder import read_image, read_table
from torchcourse.lessons.datasets.splits import split_by_group
from torchcourse.lessons.transfer.backbones import Classifier, mnist_cnn
from torchcourse.lessons.transfer.finetune import rate_groups
from torchcourse.lessons.tuning.study import open_study, run, tell
from torchcourse.ranks import default_world_size, run_ranks
from torchcourse.training import Trainer

torch.set_num_threads(1)
print(f"{default_world_size()} ranks by default, {torch.cuda.device_count()} GPUs, PyTorch {torch.__version__}")

# %% [markdown]
# One setting says how large everything is: `"quick"` to try a program out, `"two cores"` for the project, `"GPUs"` where each rank has one. Write
# your functions so that they take their numbers from `SCALE`.

# %%
SCALE = scale("two cores")
DELIVERY = deliver("delivery", SCALE.images)
SCALE

# %%
rows = read_table(DELIVERY / "labels.csv", ("file", "card", "label"))
figure, axes = figures.new(7, 1.4, ncols=10, nrows=2)
shown = [row for row in rows if row["card"] in {rows[0]["card"], rows[1]["card"]}]
for axis in axes.flat:
    axis.axis("off")
for axis, row in zip(axes.flat, shown, strict=False):
    try:
        axis.imshow(read_image(DELIVERY / row["file"])[0], cmap="gray", vmin=0, vmax=1)
        axis.set_title(row["label"], fontsize=8)
    except ValueError as error:
        print(error)
figures.show(figure, f"The pictures of two cards of the {len(rows)} in the delivery, with their labels.")

# %% [markdown]
# ## M1 · The dataset
#
# Write `open_part(folder, part)`, for the parts `"train"` and `"val"`. It returns a map-style dataset (lesson 06): `data[i]` is a picture as the backbone wants
# it, float32 [1, 28, 28], and its label. It has two lists: `files`, the names of its samples in their order, and
# `skipped`, the names of the files of this part that cannot be read. Each file of the table is in one of these lists of one part. Which pictures are
# for validation, a tenth to four tenths of them, is your design; think of what two pictures may have in common.


# %% exercise: open_part
class Pictures(Dataset):
    """The pictures of some rows of the table. They are small: read once, scaled, kept."""

    ### BEGIN SOLUTION
    def __init__(self, folder: Path, rows: list[dict[str, str]], scaling) -> None:
        self.files, self.skipped, pixels, labels = [], [], [], []
        for row in rows:
            try:
                pixels.append(1 - read_image(folder / row["file"]))  # ink is light in MNIST
            except ValueError:
                self.skipped.append(row["file"])
                continue
            self.files.append(row["file"])
            labels.append(int(row["label"]))
        self.images, self.labels = scaling(torch.stack(pixels), 1), torch.tensor(labels)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.images[index], int(self.labels[index])

    ### END SOLUTION


def open_part(folder: Path, part: str) -> Dataset:
    """Return the part "train" or "val" of a delivery."""
    ### BEGIN SOLUTION
    rows = read_table(folder / "labels.csv", ("file", "card", "label"))
    train, val = split_by_group([row["card"] for row in rows], 0.25)
    chosen = {"train": train, "val": val}[part]
    return Pictures(folder, [rows[number] for number in chosen], mnist_cnn().scaling)
    ### END SOLUTION


# %% check: open_part
checked = check.dataset(open_part, points=3)
### BEGIN HIDDEN TESTS
_folder = deliver("hidden-m1", 240, seed=31)
_parts = {_part: open_part(_folder, _part) for _part in ("train", "val")}
_rows = {_row["file"]: _row for _row in read_table(_folder / "labels.csv", ("file", "card", "label"))}
_cards = [{_rows[_file]["card"] for _file in _data.files} for _data in _parts.values()]
assert not _cards[0] & _cards[1]
assert sum(len(_data) for _data in _parts.values()) == 234
assert sorted(_f for _data in _parts.values() for _f in _data.skipped) == [f"{_n:04d}.png" for _n in range(7, 240, 40)]
_image, _label = _parts["val"][3]
assert int(_label) == int(_rows[_parts["val"].files[3]]["label"])
assert _image.shape == (1, 28, 28)
assert abs(_image.mean().item()) < 1.5
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – "cards are in both parts"</summary>
#
# The table has a column for it. Lesson 06 splits by groups.
# </details>
#
# ## M2 · The study
#
# Write `search(url, folder, trials)`. It works on a study in the database `url` until `trials` trials are finished, those of earlier calls
# included, and returns it (lesson 03). It tunes two hyperparameters or more of your choice, and a trial's value is an accuracy on the validation part. The check kills
# it in its second trial, and calls it again.
#
# A trial that is cheaper than a full run leaves more of the budget. Is what is best in few epochs also best in all? Say what you decided in D1 below.


# %% exercise: search
### BEGIN SOLUTION
SPACE = {"head": (3e-3, 1e-2, 3e-2), "body": (3e-4, 1e-3, 3e-3, 1e-2), "weight_decay": (1e-3, 1e-1)}


def prepared(settings: dict, epochs: int, steps_per_epoch: int) -> tuple[Classifier, torch.optim.Optimizer, object]:
    """Return a model, its optimizer and its schedule."""
    model = Classifier(mnist_cnn(), 10)
    groups = rate_groups(model, {"head": settings["head"], "body": settings["body"]})
    optimizer = torch.optim.AdamW(groups, weight_decay=settings["weight_decay"])
    peaks = [group["lr"] for group in groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=epochs * steps_per_epoch)
    return model, optimizer, schedule


def accuracies(settings: dict, train_part: Dataset, val_part: Dataset):
    """Train for half of the epochs; yield the validation accuracy after each."""
    torch.manual_seed(0)
    epochs = max(2, SCALE.epochs // 2)
    loader = make_loader(train_part, SCALE.batch_size)
    model, optimizer, schedule = prepared(settings, epochs, len(loader))
    trainer = Trainer(model, optimizer, F.cross_entropy, scheduler=schedule, schedule_by="step", progress=False)
    for _ in range(epochs):
        trainer.fit(loader, 1)
        yield trainer.evaluate(make_loader(val_part, 250, shuffle=False))["accuracy"]


### END SOLUTION
def search(url: str, folder: Path, trials: int):
    """Work on the study in `url` until `trials` of its trials are finished; return it."""
    ### BEGIN SOLUTION
    parts = open_part(folder, "train"), open_part(folder, "val")
    return run(open_study(url, SPACE, "reader"), lambda settings: accuracies(settings, *parts), trials)
    ### END SOLUTION


# %% check: search
checked = check.study(search, points=3)
### BEGIN HIDDEN TESTS
_folder = deliver("hidden-m2", 160, seed=32)
for _trials in (1, 2, 2):
    _study = search("sqlite:///hidden-m2.db", _folder, _trials)
    assert len([_t for _t in _study.trials if _t.state.is_finished() and _t.value is not None]) == _trials
### END HIDDEN TESTS
checked

# %% [markdown]
# Now run *your* search, on the delivery. Kill it once, as a machine would, and let it go on. Count the CPU-seconds: `Meter` counts those of this
# process, `counted` those of ranks. Then write down the settings that you take: a later reader has no database.

# %% exercise: my_search
### BEGIN SOLUTION
with Meter() as meter:
    study = search("sqlite:///reader.db", DELIVERY, SCALE.trials)
for trial in study.trials:
    tell(study, trial)
print(f"{meter.seconds:.0f} CPU-seconds; the best settings are {study.best_params}")
### END SOLUTION
settings = {"head": 1e-2, "body": 3e-3, "weight_decay": 1e-1}  ### SOLUTION
spent_searching = meter.seconds  ### SOLUTION

# %% [markdown]
# ## M3 · A run on two ranks
#
# Write `train(settings, folder, run_dir, seed)`. `run_ranks` calls it in each rank. It fine-tunes on the part `"train"`, dealt to the ranks, and returns the
# trained model on every rank. Below `run_dir` it leaves a log for TensorBoard with a loss and a value of the validation part, epoch by epoch, and a
# checkpoint (lessons 01, 04, 07).


# %% exercise: train
def train(settings: dict, folder: Path, run_dir: Path, seed: int) -> nn.Module:
    """Fine-tune on all ranks; return the model that is to be used."""
    ### BEGIN SOLUTION
    torch.manual_seed(seed)
    loader = make_loader(open_part(folder, "train"), SCALE.batch_size, seed=seed)
    model, optimizer, schedule = prepared(settings, SCALE.epochs, len(loader))
    trainer = Trainer(
        model,
        optimizer,
        F.cross_entropy,
        scheduler=schedule,
        log_dir=run_dir / "log",
        log_every=10,
        checkpoint_dir=run_dir,
        monitor="val_accuracy",
        mode="max",
        progress=False,
    )
    trainer.fit(loader, SCALE.epochs, make_loader(open_part(folder, "val"), 250, shuffle=False))
    trainer.restore("best")
    return trainer.model
    ### END SOLUTION


# %% check: train
checked = check.ddp_run(partial(train, settings), points=4)
### BEGIN HIDDEN TESTS
_models = run_ranks(
    partial(train, settings), deliver("hidden-m3", 160, seed=33), Path("hidden-m3-run"), 5, world_size=2
)
for _one, _other in zip(_models[0].parameters(), _models[1].parameters(), strict=True):
    torch.testing.assert_close(_one, _other)
assert len(list(Path("hidden-m3-run").rglob("*tfevents*"))) >= 1
### END HIDDEN TESTS
checked
