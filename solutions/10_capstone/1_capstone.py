# %% [markdown]
# # Capstone: a reader of digits for a customer
#
# **4 to 6 hours, over several days** · two CPU ranks, or several GPUs · before this: lessons 01 and 03 to 07
#
# This is a project (**capstone**, 종합 과제). You get a wish, a budget and a folder of files, and hand in a model, a diagnosis and one page. How you get there is
# your design. There are six **milestones** (마일스톤), each with a check that says whether it is reached, and no steps between them.
# A check that refuses says what it met. Mend your cell, run it, and check again, as often as you like.
#
# ## The brief
#
# A water company photographs the digits of its meters. Each photograph, a **card** (카드), was cut into pictures of one digit. *"Our reader was trained on
# clean digits, and with a head trained on our pictures it reads three of four. Read more of them, say how sure you are that it is more, and keep to the budget."*
#
# | | |
# |---|---|
# | You get | a folder of pictures with a label table, and a backbone trained on MNIST (`mnist_cnn`, lesson 07) |
# | You hand in | this notebook, run from top to bottom, and its one-page report |
# | The budget | `SCALE.cpu_seconds` CPU-seconds for your search and training runs, all processes together; what the checks run is free, and what a GPU computes is not counted |
# | To beat | the company's present reader: the backbone, frozen, with a linear head that `train_head` trains on features of your part `"train"` |
# | Not allowed | looking at the **sealed** delivery (봉인된 데이터) before the report; data or weights from elsewhere |
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
# **After this notebook you can**
#
# 1. plan a fine-tuning within a budget;
# 2. run it on several ranks so that a kill costs little;
# 3. tell a failure by its evidence;
# 4. hand over a model and a number that hold.

# %% setup

# %%
from torchcourse.quiz import recall

recall("10_capstone")

# %%
import base64
import html
import io
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from IPython.display import HTML, display
from torch import nn
from torch.utils.data import Dataset

from torchcourse import environment, figures
from torchcourse.data import make_loader
from torchcourse.error_bars import paired
from torchcourse.lessons.capstone.budget import Meter, counted
from torchcourse.lessons.capstone.checks import milestones as check
from torchcourse.lessons.capstone.colleague import CAUSES, incident
from torchcourse.lessons.capstone.delivery import deliver
from torchcourse.lessons.capstone.delivery_picture import look_at
from torchcourse.lessons.capstone.measured import Measured, card_by_card
from torchcourse.lessons.capstone.records import Records
from torchcourse.lessons.capstone.sizes import scale
from torchcourse.lessons.datasets.folder import read_image, read_table
from torchcourse.lessons.datasets.splits import split_by_group
from torchcourse.lessons.transfer.backbones import Classifier, mnist_cnn
from torchcourse.lessons.transfer.features import extract, train_head
from torchcourse.lessons.transfer.finetune import rate_groups
from torchcourse.lessons.tuning.study import open_study, run, tell
from torchcourse.ranks import run_ranks
from torchcourse.training import Trainer, checkpoint, read_run
from torchcourse.training.crash import run_and_kill

torch.set_num_threads(1)
print(environment.hardware())

# %% [markdown]
# One setting says how large everything is: `"quick"` to try a program out, `"two cores"` for the project, `"GPUs"` where each rank has one. Write
# your functions so that they take their numbers from `SCALE`.

# %%
SCALE = scale("two cores")
DELIVERY = deliver("delivery", SCALE.images)
SCALE

# %%
# The cards of the delivery, under a slider
look_at(DELIVERY)

# %% [markdown]
# ## M1 · The dataset
#
# Write `open_part(folder, part)`, for the parts `"train"` and `"val"`. It returns a map-style dataset (lesson 06): `data[i]` is a picture as the backbone wants
# it, float32 [1, 28, 28], and its label. It has two lists: `files`, the names of its samples in their order, and
# `skipped`, the names of the files of this part that cannot be read. Each file of the table is in one of these lists of one part. Which pictures are
# for validation, a tenth to four tenths of them, is your design; think of what two pictures may have in common. The first cell is for what you need besides:
# a class, say.


# %% exercise: own_dataset
### BEGIN SOLUTION
class Pictures(Dataset):
    """The pictures of some rows of the table. They are small: read once, scaled,
    kept.
    """

    def __init__(self, folder: Path, rows: list[dict[str, str]], scaling) -> None:
        self.files, self.skipped, pixels, labels = [], [], [], []
        for row in rows:
            try:
                # ink is light in MNIST
                pixels.append(1 - read_image(folder / row["file"]))
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


# %% exercise: open_part
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
_rows = {
    _row["file"]: _row
    for _row in read_table(_folder / "labels.csv", ("file", "card", "label"))
}
_cards = [{_rows[_file]["card"] for _file in _data.files} for _data in _parts.values()]
assert not _cards[0] & _cards[1]
assert len({_f for _data in _parts.values() for _f in _data.files}) == 234
assert sorted(_f for _data in _parts.values() for _f in _data.skipped) == [
    f"{_n:04d}.png" for _n in range(7, 240, 40)
]
_image, _label = _parts["val"][3]
assert int(_label) == int(_rows[_parts["val"].files[3]]["label"])
assert _image.shape == (1, 28, 28)
assert abs(_image.mean().item()) < 1.5
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – "Both parts have pictures of …"</summary>
#
# The table has a column for it. Lesson 06 splits by groups.
# </details>
#
# ## M2 · The study
#
# Write `search(url, folder, trials)`. It works on one study, under a name of your choice, in the database `url` until `trials` trials are finished, those of earlier calls
# included, and returns it (lesson 03). It tunes two hyperparameters or more of your choice, and a trial's value is an accuracy on the validation part, from 0 to 1. The check kills
# it in its second trial, and calls it again.
#
# A trial that is cheaper than a full run leaves more of the budget. Is what is best in few epochs also best in all? Write
# your plan into D1 below before you search, and at the end what became of it.


# %% exercise: own_trials
### BEGIN SOLUTION
SPACE = {
    "head": (3e-3, 1e-2, 3e-2),
    "body": (3e-4, 1e-3, 3e-3, 1e-2),
    "weight_decay": (1e-3, 1e-1),
}


def prepared(
    settings: dict, epochs: int, steps_per_epoch: int
) -> tuple[Classifier, torch.optim.Optimizer, object]:
    """Return a model, its optimizer and its schedule."""
    model = Classifier(mnist_cnn(), 10)
    groups = rate_groups(model, {"head": settings["head"], "body": settings["body"]})
    optimizer = torch.optim.AdamW(
        groups, weight_decay=settings["weight_decay"], fused=True
    )
    peaks = [group["lr"] for group in groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, peaks, total_steps=epochs * steps_per_epoch
    )
    return model, optimizer, schedule


def accuracies(settings: dict, train_part: Dataset, val_part: Dataset):
    """Train for half of the epochs; yield the validation accuracy after each."""
    torch.manual_seed(0)
    epochs = max(2, SCALE.epochs // 2)
    loader = make_loader(train_part, SCALE.batch_size)
    model, optimizer, schedule = prepared(settings, epochs, len(loader))
    trainer = Trainer(
        model,
        optimizer,
        F.cross_entropy,
        scheduler=schedule,
        schedule_by="step",
        progress=False,
    )
    for _ in range(epochs):
        trainer.fit(loader, 1)
        yield trainer.evaluate(make_loader(val_part, 250, shuffle=False))["accuracy"]


### END SOLUTION


# %% exercise: search
def search(url: str, folder: Path, trials: int):
    """Work on the study in `url` until `trials` of its trials are finished; return
    it.
    """
    ### BEGIN SOLUTION
    parts = open_part(folder, "train"), open_part(folder, "val")
    return run(
        open_study(url, SPACE, "reader"),
        lambda settings: accuracies(settings, *parts),
        trials,
    )
    ### END SOLUTION


# %% check: search
checked = check.study(search, points=3)
### BEGIN HIDDEN TESTS
_folder = deliver("hidden-m2", 160, seed=32)
for _trials in (1, 2, 2):
    _study = search("sqlite:///hidden-m2.db", _folder, _trials)
    assert (
        len(
            [
                _t
                for _t in _study.trials
                if _t.state.is_finished() and _t.value is not None
            ]
        )
        == _trials
    )
### END HIDDEN TESTS
checked

# %% [markdown]
# Now run *your* search, on the delivery. Kill it once as a machine would, and let it go on. Count the CPU-seconds:
#
# ```python
# killed = run_and_kill(search, url, DELIVERY, SCALE.trials, after=3)     # count its 3 seconds, too
# with Meter() as meter:                                                  # this process
#     study = search(url, DELIVERY, SCALE.trials)
# print(meter.seconds)
# models, seconds = counted(partial(train, settings), DELIVERY, run_dir, seed, world_size=2)    # ranks, in M6
# ```
#
# Before you run the notebook from the top again, remove the database and the folder `runs`. A finished study has nothing left to count.
# In the cell after your search, write down the settings that you take: a later reader has no database.

# %% exercise: my_search
### BEGIN SOLUTION
url = "sqlite:///reader.db"
killed = run_and_kill(search, url, DELIVERY, SCALE.trials, after=3)
left = open_study(url, SPACE, "reader").trials
print(f"killed: {killed}, and the file holds {[trial.state.name for trial in left]}")
with Meter() as meter:
    study = search(url, DELIVERY, SCALE.trials)
for trial in study.trials:
    tell(study, trial)
print(
    f"{meter.seconds:.0f} CPU-seconds after the kill, and 3 before it at most; best: "
    f"{study.best_params}"
)
values = [trial.value for trial in study.trials if trial.value is not None]
spent_searching = meter.seconds + 3
### END SOLUTION

# %% exercise: my_settings
settings = {"head": 3e-2, "body": 1e-2, "weight_decay": 1e-3}  ### SOLUTION

# %% [markdown]
# ## M3 · A run on two ranks
#
# Write `train(settings, folder, run_dir, seed)`. `run_ranks` calls it in each rank. It fine-tunes on the part `"train"`, dealt to the ranks, and returns the
# trained model on every rank: of the last epoch or of the best, as you decide. Below `run_dir` it leaves a checkpoint and a log for TensorBoard (lessons 01, 04, 07).
# The log has, for each epoch, a loss and a value of the validation part; their tags have `loss` and `val` in them, such as `loss/train` and `accuracy/val`.
# In M5, `load` gets `run_dir` and no settings: save what it needs.


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
    trainer.fit(
        loader, SCALE.epochs, make_loader(open_part(folder, "val"), 250, shuffle=False)
    )
    trainer.restore("best")
    return trainer.model
    ### END SOLUTION


# %% check: train
checked = check.ddp_run(partial(train, settings), points=4)
### BEGIN HIDDEN TESTS
_models = run_ranks(
    partial(train, settings),
    deliver("hidden-m3", 160, seed=33),
    Path("hidden-m3-run"),
    5,
    world_size=2,
)
for _one, _other in zip(_models[0].parameters(), _models[1].parameters(), strict=True):
    torch.testing.assert_close(_one, _other)
assert len(list(Path("hidden-m3-run").rglob("*tfevents*"))) >= 1
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – "the weights of the two ranks are … apart"</summary>
#
# DistributedDataParallel averages only what goes through *its* forward pass, of parameters that asked for gradients when it was made.
# </details>
#
# *Your* runs come in M6. Give each a `run_dir` of its own below `runs`. Open TensorBoard before you start them, because the kernel is busy while they run:
# `%load_ext tensorboard`, then `%tensorboard --logdir runs` in a cell of its own. `read_run` reads the same files by code.
#
# ## M4 · The diagnosis
#
# A colleague has trained the same reader on two ranks, and the customer is not content. The run ended without an error. Something is wrong in it, and
# **what** depends on the name in the next cell: write yours. The records say of each rank and step: the loss, the learning rate, the norms of gradients and weights, mean and deviation
# of the pixels, files and labels (`help(Records)`). A log for TensorBoard is in `incident/log`.

# %% exercise: my_name
student = "reference"  ### SOLUTION

# %%
records = incident(student, "incident")
print(
    f"validation accuracy after each epoch: "
    f"{[round(value, 2) for value in records.val_accuracy]}"
)
for cause, words in CAUSES.items():
    print(f"{cause:22} {words}")

# %% [markdown]
# Find the evidence: look at the records, compare ranks, compare epochs. Then write two things: the `cause`, as `CAUSES` calls it, and a test `shows(records)`.
# The test is true of a run with this failure. It is false of healthy runs and of runs with a different failure. The
# check has 21 runs that you have not seen. It judges the cause when your test tells your run from all others: evidence first.
#
# Nobody hands you a healthy run. Compare with what the program should do, and with runs of other names, as in `incident("Ada", "incident-2")`: most
# names draw a different failure.


# %% exercise: shows
cause = "same order"  ### SOLUTION


def shows(records: Records) -> bool:
    """Whether the records of a run show this failure."""
    ### BEGIN SOLUTION
    each = records.steps_per_epoch
    first, second = records.files[0][:each], records.files[0][each : 2 * each]
    return first == second
    ### END SOLUTION


# %% check: shows
checked = check.diagnosis((student, cause, shows), points=4)
### BEGIN HIDDEN TESTS
assert shows(incident(student, "hidden-m4", seed=7))
assert shows(records)
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – "It sees that something is wrong, and not what"</summary>
#
# An accuracy or a loss is bad for many reasons. Take what only one of the causes can do to the records.
# </details>
#
# ## M5 · The checkpoint on one device
#
# The customer has one machine and no ranks. Write `load(run_dir, device)`: the model that `train` saved on two ranks, on this device, ready to read
# (lesson 04). That is the question of the log which was answered with the model's size.


# %% exercise: load
def load(run_dir: Path, device: torch.device) -> nn.Module:
    """Return the trained model of a run, on this device, in evaluation mode."""
    ### BEGIN SOLUTION
    model = Classifier(mnist_cnn(pretrained=False), 10)
    checkpoint.load_weights(model, checkpoint.load(run_dir / "best.pt")["model"])
    return model.to(device).eval()
    ### END SOLUTION


# %% check: load
checked = check.one_device((partial(train, settings), load), points=3)
### BEGIN HIDDEN TESTS
_folder = deliver("hidden-m5", 80, seed=35)
_trained = run_ranks(
    partial(train, settings), _folder, Path("hidden-m5-run"), 6, world_size=2
)[0].eval()
_loaded, _images = (
    load(Path("hidden-m5-run"), torch.device("cpu")),
    torch.rand(9, 1, 28, 28),
)
assert not _loaded.training
torch.testing.assert_close(_loaded(_images), _trained(_images), rtol=1e-3, atol=1e-3)
### END HIDDEN TESTS
checked

# %% [markdown]
# ## M6 · The report
#
# One page, for somebody who has three minutes. Write `write_report(measured, page)`. It writes an HTML page of 60 to 500 words that needs no other file. The page has two plots
# of your choice, each an `<img>` that holds the picture itself and has `alt` text of four words or more. And it has these numbers, computed from `measured` (`help(Measured)`):
#
# * the accuracy of the present and of the tuned reader, in %: the mean of the accuracies in `measured`, each counting alike;
# * the gain in percentage points, and its **95% interval**, to a tenth, rounded at the end (Student's t, of paired differences);
# * how many seeds and cards are behind it; the CPU-seconds spent, and the budget.
#
# An interval is honest if it says how far the gain may be from what the customer will see. They will send **other cards**. What are the independent samples?


# %% exercise: own_plots
### BEGIN SOLUTION
def embedded(figure, alt: str) -> str:
    """Return a figure as an element of a page that holds the picture itself."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, bbox_inches="tight")
    picture = base64.b64encode(file.getvalue()).decode()
    return (
        f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{picture}" '
        f'style="max-width: 100%">'
    )


def draw_gains(gains: list[float], gain) -> str:
    """Draw each card's gain, sorted, and the mean with its interval."""
    figure, axes = figures.new(7, 2.8)
    axes.bar(range(1, len(gains) + 1), sorted(gains), color=figures.COLORS["blue"])
    axes.axhspan(
        100 * gain.low, 100 * gain.high, color=figures.COLORS["orange"], alpha=0.5
    )
    better = sum(value > 0 for value in gains)
    title = (
        f"{better} of {len(gains)} cards are read better; band: 95% interval of the "
        f"mean"
    )
    axes.set(xlabel="card, sorted by gain", ylabel="gain, points", title=title)
    return embedded(figure, f"Gain of each card in percentage points. {title}.")


def draw_curves(curves: list) -> str:
    """Draw the validation accuracy of each seed's run."""
    figure, axes = figures.new(7, 2.8)
    for number, (steps, values) in enumerate(curves):
        axes.plot(steps, [100 * value for value in values], label=f"seed {number}")
    ends = [100 * values[-1] for _, values in curves]
    title = f"{len(curves)} seeds end between {min(ends):.0f}% and {max(ends):.0f}%"
    axes.set(xlabel="optimizer step", ylabel="validation accuracy, %", title=title)
    axes.legend(frameon=False)
    return embedded(figure, f"Validation accuracy over the steps of each run. {title}.")


### END SOLUTION


# %% exercise: write_report
def write_report(measured: Measured, page: Path) -> None:
    """Write the one-page report to the file `page`."""
    ### BEGIN SOLUTION
    by_card = torch.tensor(measured.tuned).mean(dim=0).tolist()
    gain = paired(by_card, measured.present)
    gains = [
        100 * (new - old) for new, old in zip(by_card, measured.present, strict=True)
    ]
    seeds, cards = len(measured.tuned), len(by_card)
    old, new = 100 * sum(measured.present) / cards, 100 * sum(by_card) / cards
    verdict = (
        "More digits are read"
        if gain.low > 0
        else "It is open whether more digits are read"
    )
    page.write_text(
        f"""<!doctype html><meta charset="utf-8"><title>The reader</title>
<h1>{verdict}: {old:.1f}% before, {new:.1f}% now</h1>
<p>On pictures that were sealed until the end, the tuned reader reads {new:.1f}% and the present one {old:.1f}%: a gain of
{100 * gain.mean:.1f} percentage points, 95% interval {100 * gain.low:.1f} to {100 * gain.high:.1f}. It is the mean over
{seeds} training runs (seeds), and the interval is over {cards} cards, since new cards are what comes next: the pictures of
one card share light and slant, and do not count as independent.</p>
{draw_gains(gains, gain)}
{draw_curves(measured.curves)}
<p>Search and training took {measured.cpu_seconds:.0f} CPU-seconds of a budget of {measured.budget:.0f}. The settings were
chosen among {len(measured.trials)} trials on other cards than the sealed ones. Files that are cut off were left out.
The interval does not cover cards of a new kind: a different camera or hand needs a new test.</p>""",
        encoding="utf-8",
    )
    ### END SOLUTION


# %% check: write_report
checked = check.report(write_report, points=4)
### BEGIN HIDDEN TESTS
from torchcourse.lessons.capstone.checks.page import numbers_in, states

_measured = Measured(
    [[0.5, 0.75, 1.0, 0.625], [0.75, 0.75, 1.0, 0.875]],
    [0.5, 0.5, 0.875, 0.625],
    [([1, 2], [0.2, 0.4])] * 2,
    [0.5],
    33.0,
    44.0,
)
write_report(_measured, Path("hidden-report.html"))
_text = Path("hidden-report.html").read_text(encoding="utf-8")
_gain = paired([0.625, 0.75, 1.0, 0.75], _measured.present)
assert min(abs(100 * _gain.mean - _number) for _number in numbers_in(_text)) < 0.051
assert states(_text, 100 * _gain.low, 100 * _gain.high)
### END HIDDEN TESTS
checked

# %% [markdown]
# Now *your* page. Train `SCALE.seeds` runs with the settings that you took, on two ranks. Open the sealed delivery, once, with both readers, and write `report.html`.
# `card_by_card(reader, SEALED)` opens it: it reads and scales all pictures that can be read, and returns an accuracy from 0 to 1 for each of the 62 cards. `open_part` is not
# for it, and a reader has to be in evaluation mode. The delivery has 496 pictures at each `SCALE`.

# %%
SEALED = deliver("sealed", 496, seed=1, part="test")

# %% exercise: my_report
### BEGIN SOLUTION
part = open_part(DELIVERY, "train")
with Meter() as meter:
    present = Classifier(mnist_cnn(), 10).eval()
    present.head = train_head(extract(present.body, part.images), part.labels, 10)
spent, tuned, curves = spent_searching + meter.seconds, [], []
for seed in range(SCALE.seeds):
    folder = Path("runs") / f"seed-{seed}"
    _, seconds = counted(partial(train, settings), DELIVERY, folder, seed, world_size=2)
    spent += seconds
    tuned.append(card_by_card(load(folder, torch.device("cpu")), SEALED))
    curves.append(read_run(folder / "log").scalars["accuracy/val"])
measured = Measured(
    tuned, card_by_card(present, SEALED), curves, values, spent, SCALE.cpu_seconds
)
write_report(measured, Path("report.html"))
display(HTML(Path("report.html").read_text(encoding="utf-8")))
### END SOLUTION

# %% [markdown]
# ## In words
#
# A person reads these three answers, and your page. The rubric:
#
# | Points | D1 The plan | D2 The diagnosis | D3 The page |
# |---|---|---|---|
# | 4 | the budget is split with a reason; what was tuned, and what not, follows from it; a risk is named that was seen later | evidence with numbers, an explanation why they follow from the cause, two causes ruled out, a repair | a customer can act on it; both plots are needed; the interval is explained; a limit is named |
# | 2 or 3 | a plan that the notebook follows, without reasons for the split | evidence that fits, and no cause ruled out | right numbers; a plot decorates, or no limit is named |
# | 1 | a list of what was done | a cause without evidence | the numbers alone |
# | 0 | nothing, or not this project | nothing, or a guess | no page |

# %% [markdown]
# ### D1 · How did you split the budget, what did you tune, and what did you leave out?

# %% written: plan, 4 points [markdown]
# A quarter to a third of what was spent went into the search, and the rest into three seeds of the final run. The customer asks *how sure*, and one run
# cannot say. Tuned: the two learning rates and the weight decay, since rates decide most (lesson 03); not the batch size, which would change the work of both
# ranks. A trial has half of the epochs, and successive halving ends about half after one. The risk: what is best in four epochs may be too fast for eight. It was checked by the curves of the
# final runs, which are flat at the end. More than half of the budget is left: more seeds would not help, since the interval is over cards.

# %% [markdown]
# ### D2 · What is wrong in the colleague's run, how do you know, what is it not, and how is it repaired?

# %% written: evidence, 4 points [markdown]
# Every epoch brings the pictures in the same order: the files of the first seven steps of rank 0 are those of the second seven, name by name. Not "same data": the two ranks
# share no file in a step. Not "rate gone": the rate falls evenly to the last step. The sampler shuffles by seed and epoch, and nobody told it the epoch: `sampler.set_epoch(epoch)` before each one.

# %% [markdown]
# ### D3 · Paste the text of your page, and say what the customer should not conclude from it.

# %% written: page, 4 points [markdown]
# More digits are read: 73% before, 87% now; the gain is given with its 95% interval over 62 cards. It holds for cards photographed as these were. It does not say that each card is read
# better, nor that 87% holds for a different camera. Nor does it say which seed will be the best: the number is the mean of three.

# %% [markdown]
# ## Scale up
#
# `SCALE = scale("GPUs")` makes everything larger: more pictures, trials, epochs and seeds. `run_ranks` then takes a rank per GPU, and `counted` takes `world_size`. For
# several machines, `export_script` (lesson 01) writes `train` as a file for torchrun, and a study on PostgreSQL is shared (lesson 03).
#
# ## What the log said
#
# | The log | The evidence here | Corrected |
# |---|---|---|
# | 심화과제 Transfer Learning, tuned: not begun | M2 to M6 | Begun, done and measured: with a budget, and with a number that says how sure it is. |
# | *여러 GPU … 단일 GPU에서 이 모델을 불러오려고 한다*: the model's size | M5 | The size is the same. Names and devices are what differs, and the check compares answers. |
#
# ## Take away
#
# * Files that cannot be read are reported. Pictures that share something stay on one side of a split.
# * A search that was killed goes on. A search that is cheap leaves budget for the question *how sure*.
# * A failure without an error is found by what only it can do to the records.
# * An interval is about what will be drawn next time: here cards, not seeds and not pictures.
#
# **Next:** [the final](../11_final/1_final.ipynb).
#
# ### Glossary
#
# | English | 한국어 | here |
# |---|---|---|
# | capstone | 종합 과제 | a project that joins the lessons |
# | milestone | 마일스톤 | a result that a check confirms |
# | diagnosis | 진단 | the cause, told from evidence |
# | sealed data | 봉인된 데이터 | what is opened once, for the report |
#
# ### Further reading
#
# * Google, [Deep Learning Tuning Playbook](https://github.com/google-research/tuning_playbook): how to spend a budget.
# * Bouthillier et al. 2021, [Accounting for Variance in Machine Learning Benchmarks](https://arxiv.org/abs/2103.03098): what an error bar has to hold.
