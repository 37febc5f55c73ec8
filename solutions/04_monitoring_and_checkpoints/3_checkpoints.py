# %% [markdown]
# # Checkpoints: whole, exact, and readable elsewhere
#
# **{minutes} minutes** · one CPU is enough (two processes); with several GPUs, each process takes one · before this: lesson 01; the two other
# notebooks of this lesson are not needed
#
# A **checkpoint** (체크포인트) is a file from which training goes on, or a trained model is used. Three things can go wrong with it. The
# machine dies while the file is written. The run that goes on is not the run that stopped. And the file does not load where you need it:
# that one is question 1 of the study log.
#
# **After this notebook you can**
#
# 1. save the best and the last state so that a kill at any moment leaves a whole file;
# 2. resume a run in mid-epoch so that it continues exactly;
# 3. load on one device what was trained on several, and say what stood in the way;
# 4. load a file of unknown origin safely, and notice what did not fit.

# %% setup

# %%
from torchcourse.quiz import outcome, predict, recall

recall("04_monitoring_and_checkpoints")

# %%
import os
import shutil
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from torchcourse import environment, figures
from torchcourse.data import SeededSamples, make_loader, mnist
from torchcourse.lessons.monitoring import checks as check
from torchcourse.lessons.monitoring.by_hand import PIECES, NoisyDigits, Run, add_noise
from torchcourse.lessons.monitoring.foreign_examples import (
    absent_gpu,
    save_as_from,
    zoo,
)
from torchcourse.lessons.monitoring.save_interval_picture import interval_picture
from torchcourse.models import small_cnn
from torchcourse.ranks import RankError, device, run_ranks
from torchcourse.training import CheckpointError, Trainer, checkpoint
from torchcourse.training.crash import kill_at_step, kill_while_saving
from torchcourse.training.foreign import (
    export_safetensors,
    gather,
    load_any,
    save_sharded,
)

# these networks are so small that threads would only wait for one another
torch.set_num_threads(1)
print(environment.hardware())

# %% [markdown]
# ## 1 · What is in the file?
#
# A model's **state dict** (상태 사전) maps names to tensors. To use a model, that is enough. To go on training, it is not.

# %%
predict(
    "04-3.size",
    "AdamW trained the model. The file with everything to go on training is how many "
    "times as big as the file with the weights?",
    ["about as big", "about twice", "about three times"],
)

# %%
model = small_cnn()
optimizer = torch.optim.AdamW(model.parameters())
model(torch.randn(8, 1, 28, 28)).sum().backward()
optimizer.step()  # the optimizer makes its state in its first step
torch.save(model.state_dict(), "weights.pt")
torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "all.pt")
weights, everything = os.path.getsize("weights.pt"), os.path.getsize("all.pt")
parameters = sum(parameter.numel() for parameter in model.parameters())
print(
    f"{parameters:,} parameters of 4 bytes: {4 * parameters:,}. weights.pt: "
    f"{weights:,} bytes. all.pt: {everything:,} bytes."
)

# %%
ratio = everything / weights
outcome(
    "04-3.size",
    f"{ratio:.2f} times. For each weight AdamW keeps two more "
    f"numbers: a running mean of the gradient, and one of its square.",
    right="about as big"
    if ratio < 1.5
    else "about twice"
    if ratio < 2.5
    else "about three times",
)

# %% [markdown]
# ### The best, and the last
#
# Keep two states: the **last** (마지막), to go on after a crash, and the **best** (최고) on the validation data, to use. Keeping the best in
# a variable has a trap. Watch the number:

# %%
best = model.state_dict()
before = best["0.weight"][0, 0, 0, 0].item()
with torch.no_grad():
    model[0].weight += 1  # stands for the next training step
print(
    f"kept: {before:.3f}, later in the same variable: "
    f"{best['0.weight'][0, 0, 0, 0].item():.3f}"
)

# %% [markdown]
# `state_dict()` copies nothing: "the best" went on training. Save it to a file, or `copy.deepcopy` it. The `Trainer` writes both files:

# %%
torch.manual_seed(0)
model = small_cnn(width=8)
trainer = Trainer(
    model,
    torch.optim.AdamW(model.parameters(), lr=0.01),
    F.cross_entropy,
    checkpoint_dir="kept",
    save_every=10,
    keep=3,
    progress=False,
)
some_digits = torch.utils.data.Subset(mnist("train"), range(1280))
validation = make_loader(mnist("test"), 500, shuffle=False)
history = trainer.fit(
    make_loader(some_digits, 64), epochs=3, val_loader=validation, overwrite=True
)
print(sorted(path.name for path in Path("kept").iterdir()))
print(
    "validation loss of each epoch:",
    [round(loss, 3) for loss in history["val_loss"]],
    " best epoch:",
    history.best["epoch"],
)

# %% [markdown]
# `save_every=10` saves within an epoch, every ten steps. `keep=3` keeps the three newest states besides, in case the newest one
# turns out to be spoiled. Without `overwrite=True`, `fit` refuses a folder that holds an earlier run, as it would when this cell runs twice.
# When a cluster ends the job by SIGTERM, the Trainer saves `last.pt` first, and `resume=True` goes on from there.

# %% [markdown]
# ## 2 · A kill at any moment
#
# The machine may stop at any moment: `kill -9`, a lost power line, a queue that ends your job. Now and then, that moment lies within a save.
# Here a process saves 20 MB again and again and is killed at a random moment, with `torch.save` and with the package's `checkpoint.save`.

# %%
predict(
    "04-3.kill",
    "torch.save writes over the file of the last save, again and again. Of five "
    "processes killed on the way, how many leave a readable file?",
    [
        "all five: a file is replaced in one go",
        "some or none: it is being written most of the time",
    ],
)

# %%
left = {
    save.__module__: kill_while_saving(save, Path("killed"), kills=5)
    for save in (torch.save, checkpoint.save)
}
for name, outcomes in left.items():
    print(f"{name}.save: {outcomes}")
good = left["torch.serialization"].count("whole")
outcome(
    "04-3.kill",
    f"torch.save in place: {good} of 5 whole. checkpoint.save: "
    f"{left['torchcourse.training.checkpoint'].count('whole')} of 5.",
    right="all five: a file is replaced in one go"
    if good == 5
    else "some or none: it is being written most of the time",
)

# %% [markdown]
# An unreadable file is worse than it looks: the state from *before* is lost as well, since the new one was written over it.
#
# ### Exercise 1 · Save so that a kill costs nothing
#
# ●●○ · 10 minutes · good for: every file that a program must not lose.
#
# The new content must be on the disk, whole, before it gets the name of the old one. `os.replace(a, b)` gives the file `a` the name `b` in one
# step that cannot be seen half done (an **atomic** 원자적 step). `os.fsync(file.fileno())` waits until a file's content has reached the disk;
# before it, `file.flush()` hands over what Python still holds.


# %% exercise: save_whole
def save_whole(state: dict, path: str) -> None:
    """Save `state` to `path`, so that at every moment the file there is whole: the
    old one, or the new one.
    """
    ### BEGIN SOLUTION
    temporary = f"{path}.tmp"
    with open(temporary, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    ### END SOLUTION


# %% check: save_whole
checked = check.save_whole(save_whole, points=2)
### BEGIN HIDDEN TESTS
for _step in (1, 2, 3):
    save_whole(
        {"step": _step, "weights": torch.full((500,), float(_step))}, "hidden_save.pt"
    )
    _state = torch.load("hidden_save.pt", weights_only=True)
    assert _state["step"] == _step
    assert bool((_state["weights"] == _step).all())
_outcomes = kill_while_saving(
    lambda state, path: save_whole(state, str(path)),
    Path("hidden_kills"),
    kills=3,
    seed=5,
)
assert set(_outcomes) == {"whole"}
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "you write into the file that holds the old state"</summary>
#
# Any way of opening `path` for writing empties it. Write under a different name first.
# </details>
#
# <details><summary>Help – I get "which folder is certainly on the same disk"</summary>
#
# A renaming is atomic within one file system only. The folder of `path` itself is the one to use.
# </details>
#
# Two more things that the package's `checkpoint.save` does: it forces the *folder's* new entry to the disk, and it ends the file in a
# **checksum** (체크섬). Some damage stays unnoticed without one. Flip one bit of a weight:

# %%
torch.save({"weight": torch.ones(4)}, "plain.pt")
checkpoint.save({"weight": torch.ones(4)}, "sealed.pt")
for name in ("plain.pt", "sealed.pt"):
    content = bytearray(Path(name).read_bytes())
    # one bit of the first 1.0
    content[content.find(b"\x00\x00\x80\x3f" * 4) + 3] ^= 0x40
    Path(name).write_bytes(content)
print("torch.load says nothing:", torch.load("plain.pt", weights_only=True))
try:
    checkpoint.load("sealed.pt")
except CheckpointError as error:
    print("checkpoint.load:", error)

# %% [markdown]
# ### How often?
#
# Each save takes time from training; each crash costs the work since the last save. In between there is a best **interval**: √(2 · C · M),
# for C seconds per saving and M seconds from crash to crash (Young 1974). Llama 3 405B, on 16,384 GPUs, counted 419 unexpected interruptions in 54
# days ([section 3.3.4](https://arxiv.org/abs/2407.21783)): one every three hours. Try:
#
# * that run, with 30 seconds per saving. How much does "once an hour" lose?
# * a crash every two days: does it still matter?

# %%
interval_picture()

# %%
from time import perf_counter

start = perf_counter()
checkpoint.save(checkpoint.load("kept/last.pt"), "again.pt")
print(
    f"Loading and saving the whole state of this small run: "
    f"{1000 * (perf_counter() - start):.0f} ms"
)

# %% [markdown]
# ## 3 · Go on exactly
#
# After a crash, a run that goes on should be *the same run*: every later loss equal to that of a run that never stopped, to the last bit. Then a
# crash changes nothing in your results, and a difference always means a bug. What does that take? Here is a small run with all its pieces in
# plain sight: dropout and BatchNorm, AdamW, a schedule, 20 batches per epoch.

# %%
import inspect

print(inspect.getsource(Run.train))

# %%
predict(
    "04-3.piece",
    "The run stops in its second epoch. Restored are weights, optimizer, schedule "
    "and position, but not the state of the random numbers. "
    "Which loss is the first one to differ?",
    [
        "none: the order of the samples is known",
        "the very first: dropout draws other numbers",
        "only those of the next epoch",
    ],
)

# %% [markdown]
# ### Exercise 2 · Capture and restore
#
# ●●○ · 12 minutes · good for: any training loop that is not the package's `Trainer`.
#
# Write both halves. `capture` returns a dict that `checkpoint.save` accepts: tensors, numbers and containers of them, no objects. `restore` gets it back
# from the file, and a *new* run that was built with a different seed. Look at `Run.train` above: what does its next step depend on?


# %% exercise: resume
def capture(run: Run) -> dict:
    """Return all that the next steps of `run` depend on."""
    ### BEGIN SOLUTION
    return {
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "scheduler": run.scheduler.state_dict(),
        "random": torch.get_rng_state(),
        "position": (run.epoch, run.batch),
    }
    ### END SOLUTION


def restore(run: Run, state: dict) -> None:
    """Put `run`, which was just built, where the captured one was."""
    ### BEGIN SOLUTION
    run.model.load_state_dict(state["model"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.scheduler.load_state_dict(state["scheduler"])
    run.epoch, run.batch = state["position"]
    torch.set_rng_state(state["random"])
    ### END SOLUTION


# %% check: resume
checked = check.resume((capture, restore), points=3)
### BEGIN HIDDEN TESTS
for _stop in (3, 20, 33):
    _run = Run(seed=_stop)
    _run.train(_stop)
    checkpoint.save(capture(_run), "hidden_run.pt")
    _after = _run.train(9)
    _again = Run(seed=99)
    restore(_again, checkpoint.load("hidden_run.pt"))
    assert _again.train(9) == _after
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "dropout will draw other numbers"</summary>
#
# `torch.get_rng_state()` and `torch.set_rng_state()`. Is anything drawn after you set it? Building a layer draws.
# </details>
#
# <details><summary>Help – I get "put states into the dict, not objects"</summary>
#
# A schedule is an object with a `state_dict()`. So are a model, an optimizer and a gradient scaler.
# </details>
#
# A `GradScaler` is a piece as well: in float16 it multiplies the loss, so that small gradients do not become 0 (lesson 05). So are, on a GPU, `torch.cuda.get_rng_state()`, and Python's
# and NumPy's random numbers where you use them.
#
# ### Drop one piece
#
# The package's own `capture` and `restore`, with one piece left out each time: how far are the later losses from those of the unbroken run?

# %%
from torchcourse.lessons.monitoring import by_hand

whole = Run().train(45)


def losses_without(piece):
    run = Run()
    run.train(27)
    state = by_hand.capture(run)
    state.pop(piece, None)
    again = Run(seed=1)
    by_hand.restore(again, state)
    return again.train(18)


differences = {
    piece or "nothing": [
        abs(a - b) for a, b in zip(losses_without(piece), whole[27:], strict=True)
    ]
    for piece in (*PIECES, None)
}

# %%
figure, axis = figures.new(height=3.0)
largest = {piece: max(values) for piece, values in differences.items()}
axis.barh(list(largest), list(largest.values()), height=0.6)
for row, (piece, value) in enumerate(largest.items()):
    axis.text(
        value + 0.02,
        row,
        f"{value:.2g} (first step {differences[piece][0]:.2g})",
        va="center",
        fontsize=8,
    )
axis.set(
    xlabel="largest difference of a loss to the unbroken run, of 18 steps",
    ylabel="left out",
)
axis.set_xlim(0, 1.35 * max(largest.values()))
smallest = min(value for piece, value in largest.items() if piece != "nothing")
axis.set_title(
    f"With every piece the difference is {largest['nothing']:g}; without one it is "
    f"{smallest:.2g} or more"
)
text = ", ".join(f"{piece} {value:.3g}" for piece, value in largest.items())
figures.show(
    figure, f"Largest difference of a loss, by the piece that was left out: {text}."
)

# %%
assert largest["nothing"] == 0
outcome(
    "04-3.piece",
    f"Without the random numbers, the first loss already differs by "
    f"{differences['random'][0]:.2g}.",
    right="the very first: dropout draws other numbers",
)

# %% [markdown]
# Not every gap shows at once. Without the schedule or the optimizer's state, the first loss after the restart is
# *right*: it is computed before the first step. A look at one number after a restart proves little.

# %% [markdown]
# ## 4 · Break-it lab: it resumes to a different loss
#
# Now a real run: the `Trainer`, which restores every piece, with images that get fresh noise each time (**augmentation**, 데이터 증강), loaded by two
# **workers** (워커, processes that load). It is killed in step 14. The machine that takes over has fewer cores, so it loads without workers.
# All on the CPU, where equal means equal to the last bit.


# %%
def train(folder, dataset, workers=0, die_after=None):
    torch.manual_seed(int(os.environ["RANK"]))
    layers = [
        nn.Flatten(),
        nn.Linear(784, 32),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(32, 10),
    ]
    model = nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    options = {
        "checkpoint_dir": folder,
        "save_every": 4,
        "log_every": 1,
        "progress": False,
    }
    trainer = Trainer(model, optimizer, F.cross_entropy, **options)
    if die_after is not None:
        kill_at_step(trainer, die_after)
    history = trainer.fit(
        make_loader(dataset, 64, num_workers=workers), epochs=2, resume=True
    )
    return [row["loss"] for row in history.steps]


# %%
def start_over(folder):
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier run of this notebook
    return folder


def killed_and_resumed(folder, dataset, workers_before, workers_after, **where):
    """Return the losses of a run that was killed after step 13 and went on."""
    start_over(folder)
    try:
        run_ranks(train, folder, dataset, workers_before, 13, **where)
    except RankError as error:
        print(
            "killed:",
            error.kind,
            "· saved last: step",
            checkpoint.load(f"{folder}/last.pt")["position"]["step"],
        )
    return run_ranks(train, folder, dataset, workers_after, **where)[0]


on_the_cpu = {"world_size": 1, "env": {"CUDA_VISIBLE_DEVICES": ""}}
unbroken = run_ranks(
    train, start_over("streams_unbroken"), NoisyDigits(), 2, **on_the_cpu
)[0]
resumed = killed_and_resumed("streams_killed", NoisyDigits(), 2, 0, **on_the_cpu)

# %%
figure, axis = figures.new(height=2.6)
steps = range(1, len(unbroken) + 1)
axis.plot(steps, [abs(a - b) for a, b in zip(unbroken, resumed, strict=True)], "o-")
axis.axvline(12.5, color=figures.COLORS["gray"], linestyle="--")
axis.text(12.3, axis.get_ylim()[1] * 0.85, "resumed here", ha="right")
gap = max(abs(a - b) for a, b in zip(unbroken, resumed, strict=True))
axis.set(xlabel="step", ylabel="difference of the losses", xticks=range(0, 21, 4))
axis.set_title(f"Everything was restored, and the losses differ by up to {gap:.2g}")
figures.show(
    figure,
    f"Up to step 12 the losses of both runs are equal; afterwards they differ by up "
    f"to {gap:.2g}.",
)

# %% [markdown]
# Read the evidence. Weights, optimizer, dropout and the order of the samples are right: the `Trainer` restores them. What else does a
# loss depend on? On the images, and those get noise from a stream of random numbers. Which stream? That of the worker that happens to load
# the sample. With a different number of workers, the noise differs.
#
# The way out is not to save the streams of all workers. Have no streams. Let the noise of a sample depend on what it *is*: the seed of the run, the number of the epoch, and the number of
# the sample.
#
# ### Exercise 3 · Noise without a stream
#
# ●●○ · 8 minutes · good for: runs that are the same on 0, 2 and 8 workers, on 1 and 4 ranks, before and after a crash.
#
# Return the image plus normal noise with a standard deviation of 0.1. The noise depends on `seed`, `epoch` and `index` alone. PyTorch's own random
# numbers stay where they are: dropout needs them.


# %% exercise: noisy_image
def noisy_image(image: torch.Tensor, seed: int, epoch: int, index: int) -> torch.Tensor:
    """Return a new image: this one with noise that is always the
    same for the same three numbers.
    """
    ### BEGIN SOLUTION
    generator = torch.Generator().manual_seed(hash((seed, epoch, index)))
    return image + 0.1 * torch.randn(image.shape, generator=generator)
    ### END SOLUTION


# %% check: noisy_image
checked = check.noisy_image(noisy_image, points=2)
### BEGIN HIDDEN TESTS
_image = torch.full((2, 3), 5.0)
_noises = {}
for _key in ((3, 0, 9), (3, 9, 0), (9, 3, 0), (0, 0, 12), (3, 1, 8), (12, 0, 0)):
    _noises[_key] = noisy_image(_image, *_key)
    torch.rand(7)
    assert torch.equal(noisy_image(_image, *_key), _noises[_key])
    assert 0 < float((_noises[_key] - 5).abs().max()) < 0.7
assert len({tuple(_noise.flatten().tolist()) for _noise in _noises.values()}) == 6
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "each sample would set them back to the same place"</summary>
#
# `torch.manual_seed` sets the one generator that all share. A `torch.Generator()` is yours, and `torch.randn` takes `generator=…`.
# </details>
#
# <details><summary>Help – I get "only … get noise of their own"</summary>
#
# Three numbers have to become one seed without mixing them up. Python's `hash` of a tuple of whole numbers does it, and gives the same in every process.
# </details>
#
# ### The proof
#
# `SeededSamples` of the package does this for any dataset: before each sample it sets the generators by seed, epoch and index, and puts them back
# afterwards. The same run, the same kill, two workers before and none after:

# %%
seeded = SeededSamples(torch.utils.data.TensorDataset(*by_hand.digits()), add_noise)
unbroken = run_ranks(train, start_over("seeded_unbroken"), seeded, 0, **on_the_cpu)[0]
resumed = killed_and_resumed("seeded_killed", seeded, 2, 0, **on_the_cpu)
print(
    "largest difference of 20 losses:",
    max(abs(a - b) for a, b in zip(unbroken, resumed, strict=True)),
)
assert resumed == unbroken

# %% [markdown]
# ## 5 · Load on one device what was trained on several
#
# Question 1 of the log: a model was trained on several GPUs and saved. On a machine with one GPU, or none, it has to be loaded. What is
# the main problem? The log says: *단순히 multi GPU model이니 모델 크기가 클거라 생각했다*, "since it is a multi-GPU model, I simply thought it
# would be big". Test that first.

# %%
predict(
    "04-3.ranks",
    "The same model is trained with DistributedDataParallel on 1, 2 and 4 ranks, and "
    "rank 0 saves its state dict. The file of 4 ranks is…",
    ["4 times as big", "a quarter as big", "just as big"],
)


# %%
def train_and_save(path):
    torch.manual_seed(0)
    ddp = DistributedDataParallel(small_cnn().to(device()))
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    for images, labels in make_loader(some_digits, 64):
        optimizer.zero_grad()
        F.cross_entropy(ddp(images.to(device())), labels.to(device())).backward()
        optimizer.step()
    if dist.get_rank() == 0:
        torch.save(ddp.state_dict(), path)


sizes = {}
for ranks in (1, 2, 4):
    run_ranks(train_and_save, f"from_{ranks}_ranks.pt", world_size=ranks)
    sizes[ranks] = os.path.getsize(f"from_{ranks}_ranks.pt")
print("bytes:", sizes)

# %%
assert max(sizes.values()) - min(sizes.values()) < 500  # names and rounding, no weights
outcome(
    "04-3.ranks",
    f"{sizes[1]:,}, {sizes[2]:,} and {sizes[4]:,} bytes: {parameters:,} parameters "
    f"of 4 bytes each, and a little for BatchNorm, names and the note of the device. "
    "Each rank has the whole model, and one of the copies is saved.",
    right="just as big",
)

# %% [markdown]
# So size is not the problem. What is? Take the file as it would come from a machine with four GPUs, where rank 3 saved it. (Usually rank 0 saves, and the file notes `cuda:0`. A machine with
# one GPU has that device, so there only the second half below is left; a machine without a GPU meets both.) For each tensor the file notes the device. (With fewer GPUs here, `save_as_from` writes the note of a device that you do not have; everything else is as `torch.save` does it.)

# %%
state = torch.load("from_4_ranks.pt", map_location="cpu", weights_only=True)
save_as_from(absent_gpu(), state, "elsewhere.pt")
try:
    torch.load("elsewhere.pt", weights_only=True)
except RuntimeError as error:
    print("1.", str(error)[:230])

# %% [markdown]
# **The first half: the device.** `torch.load` puts each tensor back to where it was. `map_location="cpu"` says where to instead. Then the state dict
# loads. Into the model?

# %%
state = torch.load("elsewhere.pt", map_location="cpu", weights_only=True)
model = small_cnn()
try:
    model.load_state_dict(state)
except RuntimeError as error:
    print("2.", str(error)[:330], "…")

# %% [markdown]
# **The second half: the names.** DDP wraps the model: its own part is called `module`, so each name has the **prefix** (접두사) `module.`. DataParallel does the
# same, and `torch.compile` puts `_orig_mod.` there. Many answers on the web add `strict=False`. It makes the error go away:

# %%
answer = model.load_state_dict(state, strict=False)
images, labels = mnist("test").tensors


def accuracy(model):
    with torch.no_grad():
        return (model.eval()(images).argmax(1) == labels).float().mean().item()


print(
    f"missing {len(answer.missing_keys)}, unexpected {len(answer.unexpected_keys)}, "
    f"loaded {len(state) - len(answer.unexpected_keys)} tensors"
)
print(f"accuracy {accuracy(model):.1%}: the model still has its random weights")

# %% [markdown]
# ### Exercise 4 · Load it
#
# ●●○ · 10 minutes · good for: question 1, as code.
#
# Write the loader. It takes files from DDP or DataParallel on any device, and files without a wrapper. What does not fit has to be an error, and
# no program inside a file may run.


# %% exercise: load_on_one
def load_on_one(path: str, model: nn.Module) -> None:
    """Load the weights in the file into `model`, which has no wrapper."""
    ### BEGIN SOLUTION
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(
        {name.removeprefix("module."): tensor for name, tensor in state.items()}
    )
    ### END SOLUTION


# %% check: load_on_one
checked = check.load_on_one(load_on_one, points=3)
### BEGIN HIDDEN TESTS
_right = small_cnn(width=4)
for _names in ("module.{}", "{}"):
    save_as_from(
        "cuda:7",
        {
            _names.format(_name): _tensor
            for _name, _tensor in _right.state_dict().items()
        },
        "hidden.pth",
    )
    _model = small_cnn(width=4)
    load_on_one("hidden.pth", _model)
    assert all(
        torch.equal(_tensor, _right.state_dict()[_name])
        for _name, _tensor in _model.state_dict().items()
    )
for _wrong in (nn.Sequential(nn.Linear(2, 2)), small_cnn(width=5)):
    _refused = False
    try:
        load_on_one("hidden.pth", _wrong)
    except Exception:
        _refused = True
    assert _refused
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "Did you take “module.” out of the middle of a name?"</summary>
#
# `str.replace` looks everywhere. There is a string method for the beginning only.
# </details>
#
# <details><summary>Help – I get "made a folder on your disk while it was being read"</summary>
#
# `weights_only=True` is the default since PyTorch 2.6. Somewhere you pass False.
# </details>
#
# The cure at the source is shorter still: save `ddp.module.state_dict()`. The `Trainer` does.
#
# ## 6 · A file that you know nothing about
#
# The package has such a loader for all that is found in the wild. It says what it did:

# %%
model = small_cnn()
report = load_any("elsewhere.pt", model)
print(f"accuracy {accuracy(model):.1%}")

# %% [markdown]
# And here is a zoo: thirteen files that all claim to be this model. Before you look: which of them should load?

# %%
for path in zoo(model, Path("zoo")):
    try:
        report = load_any(path, small_cnn(), quiet=True)
        print(f"✓ {path.name}: {'; '.join(report.steps) or 'as it is'}\n")
    except CheckpointError as error:
        print(f"✗ {str(error).removeprefix('zoo/')}\n")

# %% [markdown]
# Three rules are behind it, and they are worth more than the code:
#
# * **All or nothing.** A name without a partner is an error, and nothing is changed. Where you *want* to keep a layer, you say which one
#   (`leave=("11.",)`).
# * **A file is data.** A pickle can run any program while it is read ([PyTorch's own warning](https://docs.pytorch.org/docs/stable/notes/serialization.html)).
#   `weights_only=True` reads tensors and plain values, and refuses the rest.
# * **No guessing.** Two sets of weights fit? Then you say which (`part="ema"`).
#
# The optimizer has a trap of its own: PyTorch numbers the parameters. Two layers swapped in the program, and each gets the other's state, in silence if
# the shapes agree. The package keeps names:

# %%
names = checkpoint.load("kept/last.pt")["optimizer"]["groups"][0]["params"]
numbers = trainer.optimizer.state_dict()["param_groups"][0]["params"]
print("PyTorch's file:", numbers, "\nthe package's: ", names)

# %% [markdown]
# **safetensors** is a format without any program in it: a table of names, types and shapes, then the numbers. By itself it takes one flat dict of tensors:
# no step count, no nested dicts, no two names for one tensor. `export_safetensors` writes the rest as text, in the place that the format has for notes.

# %%
export_safetensors(checkpoint.load("kept/last.pt"), "whole.safetensors")
other = small_cnn(width=8)
load_any("whole.safetensors", other, optimizer=torch.optim.AdamW(other.parameters()))
assert all(
    torch.equal(tensor, trainer.model.state_dict()[name].cpu())
    for name, tensor in other.state_dict().items()
)

# %% [markdown]
# ## 7 · Scale up
#
# **Two ranks, killed and resumed.** The same function `train` as in the lab. Each rank has its own dropout, so each has a state of random
# numbers, and rank 0 saves them all.

# %%
unbroken = run_ranks(train, start_over("two_unbroken"), seeded, 0, world_size=2)[0]
resumed = killed_and_resumed("two_killed", seeded, 0, 0, world_size=2)
gap = max(abs(a - b) for a, b in zip(unbroken, resumed, strict=True))
print("largest difference on 2 ranks:", gap)
# GPUs may add up in a different order
assert gap == 0 if torch.cuda.device_count() < 2 else gap < 1e-3

# %% [markdown]
# **A model in shares.** With FSDP (lesson 01) no rank has the whole model. So each saves its share into a file of its own: **sharded**
# (샤딩된) checkpoints, written by `torch.distributed.checkpoint`. Here the size of a file does depend on the number of ranks.


# %%
def train_in_shares(folder):
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    model = small_cnn().to(device())
    fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(8, 1, 28, 28, device=device())).sum().backward()
    optimizer.step()
    save_sharded(folder, model, optimizer, epoch=1)
    weight = model[9].weight.full_tensor()  # every rank has to take part
    return weight.detach().cpu()


weight = run_ranks(train_in_shares, start_over("shares"), world_size=4)[0]
print({path.name: path.stat().st_size for path in sorted(Path("shares").iterdir())})

# %% [markdown]
# One process, without any rank, puts them together. That is what a single device needs:

# %%
model = small_cnn()
load_any("shares", model)
assert torch.equal(model[9].weight, weight)
whole = gather("shares", "whole.pt")
print("whole.pt:", os.path.getsize("whole.pt"), "bytes, with", ", ".join(whole))

# %% [markdown]
# **On a cluster** the same `Trainer` call runs under `torchrun`. It starts the ranks again after a crash, and `resume=True` goes on from the
# last file, which has to be where all machines can read it:
#
# ```
# export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
# torchrun --nproc-per-node=8 --max-restarts=3 train.py
# torchrun --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-endpoint=HOST:29400 --max-restarts=3 train.py
# ```
#
# Lesson 01 writes such a script with `export_script`, and [docs/REAL_MACHINES.md](../../docs/REAL_MACHINES.md) has these lines for Slurm, too. The first line is for PyTorch 2.13, where restarts fail without it; the next notebook kills
# ranks and a machine, and shows what happens then.

# %% [markdown]
# ## 8 · What the log said
#
# | The log | The evidence | Corrected |
# |---|---|---|
# | 단순히 multi GPU model이니 모델 크기가 클거라 생각했다: a multi-GPU model is big | Section 5: 1, 2 and 4 ranks wrote files of the same size, but for a few hundred bytes at most. | Data parallelism keeps a whole model on each GPU and saves one. Only *shares* (FSDP) are files of a different size, and smaller ones. |
# | device 문제가 생긴다. device 지정하기! A problem of the device: name the device | Section 5: `torch.load` stopped at a GPU that is not here; `map_location` helped. | Right where the file names a GPU that the machine lacks: always without a GPU, and with one GPU if another rank than 0 saved. Then it is **half** of it. |
# | – | With the device solved, not one name fitted; `strict=False` loaded nothing and was silent. | The other half, and from rank 0 to one GPU the whole problem, is the prefix **`module.`**. Take it off, or save `ddp.module.state_dict()`. |

# %% [markdown]
# ## Take away
#
# * Weights to use a model; weights, optimizer, schedule, scaler, random numbers and position to go on.
# * Write beside, `fsync`, then `os.replace`. A kill at any moment then leaves the old file or the new one.
# * Save every √(2·C·M) seconds, and keep a few.
# * Exactly means equal losses, many of them. Randomness of a sample comes from seed, epoch and index.
# * From several GPUs to one: `map_location` **and** `module.`. The size is no problem. `strict=False` is no answer.
# * A file is data: `weights_only`. What does not fit is named, or it is a bug.
#
# **Next notebook:** [It died](4_it_died.ipynb): who starts the ranks again, and what that costs. **Questions on this lesson:** [quiz](quiz.ipynb).
#
# ### Glossary
#
# | English | 한국어 | here |
# |---|---|---|
# | checkpoint | 체크포인트 | a file from which training goes on |
# | state dict | 상태 사전 | names and their tensors |
# | atomic | 원자적 | done or not done, never half |
# | checksum | 체크섬 | a number by which damage is noticed |
# | augmentation | 데이터 증강 | random changes to the samples |
# | worker | 워커 | a process that loads samples |
# | prefix | 접두사 | the beginning of a name, such as `module.` |
# | sharded | 샤딩된 | each rank keeps 1/N |
#
# ### Further reading
#
# * PyTorch, [serialization semantics](https://docs.pytorch.org/docs/stable/notes/serialization.html): what a file holds, and `weights_only`.
# * PyTorch, [torch.load](https://docs.pytorch.org/docs/stable/generated/torch.load.html): `map_location`.
# * PyTorch, [torch.distributed.checkpoint](https://docs.pytorch.org/docs/stable/distributed.checkpoint.html).
# * POSIX, [rename](https://pubs.opengroup.org/onlinepubs/9699919799/functions/rename.html): the one step that is never half done.
# * Pillai et al. 2014, [All File Systems Are Not Created Equal](https://www.usenix.org/conference/osdi14/technical-sessions/presentation/pillai): what a crash leaves on a disk.
# * Young 1974, [A first order approximation to the optimum checkpoint interval](https://doi.org/10.1145/361147.361115).
# * Llama team 2024, [The Llama 3 Herd of Models](https://arxiv.org/abs/2407.21783), section 3.3.4: interruptions of a large run.
# * [safetensors](https://huggingface.co/docs/safetensors/index).
