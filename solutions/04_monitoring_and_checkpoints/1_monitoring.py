# %% [markdown]
# # Monitoring: what a run tells, and what it costs to listen
#
# **{minutes} minutes** · one CPU is enough (two processes) · before this: lessons 00 and 01
#
# A training run of several hours tells you something every second, if you let it. You will write what a run says into
# files, look at it in TensorBoard, read it back by code, and find out what looking costs. On the way the third recorded
# wrong answer of the study log is settled: which of five statements are about *managing* a training run.
#
# **After this notebook you can**
#
# 1. write scalars, images, histograms and hyperparameters to TensorBoard, and read them back by code;
# 2. tell overfitting and underfitting from the curves of a run;
# 3. say what monitoring costs, and choose how often to look;
# 4. tell what manages a training run from what merely makes it faster.

# %% setup

# %%
from torchcourse.quiz import outcome, predict, recall

recall("04_monitoring_and_checkpoints")

# %%
import shutil
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.utils.data import Subset

from torchcourse import environment, figures
from torchcourse.data import make_loader, mnist
from torchcourse.lessons.monitoring import checks as check
from torchcourse.lessons.monitoring import sick_runs
from torchcourse.lessons.monitoring.count_waits import CountWaits
from torchcourse.lessons.monitoring.diagnosis import judge_fit
from torchcourse.lessons.monitoring.run_picture import draw_curves
from torchcourse.lessons.monitoring.tensorboard_page import show_tensorboard
from torchcourse.models import mlp, small_cnn
from torchcourse.ranks import run_ranks
from torchcourse.training import Monitor, Trainer, read_run, read_scalars
from torchcourse.training.watch import Watch

# these networks are so small that threads would only wait for one another
torch.set_num_threads(1)
# begin with an empty folder when the notebook is run again
shutil.rmtree("runs", ignore_errors=True)
print(environment.hardware())

# %% [markdown]
# First a question that you will answer again at the end. It is the recorded one, in our words: you train a model and want to
# check its performance from time to time. Which of these are about *managing* that training?
#
# * **A** Save the weights regularly, and use those of the moment that performed best.
# * **B** Set the learning rate (학습률) to a fixed value that never changes.
# * **C** Chart metrics such as the loss with a tool like TensorBoard.
# * **D** Train on several GPUs with data parallelism, for speed.
# * **E** Look at how the weights change in every epoch (에포크), to see whether the model converges.

# %%
predict(
    "04-1.manage",
    "Which are about managing the training?",
    ["A and C", "A, C and D", "A, C and E", "all but B"],
)

# %% [markdown]
# ## 1 · A run that writes
#
# **TensorBoard** (텐서보드) shows what training programs write into **event files** (이벤트 파일). The simplest thing to
# write is a **scalar** (스칼라): a tag such as `loss/train`, a step, a number. The course's `Trainer` writes scalars when you give it
# a `log_dir`.

# %%
digits, validation = Subset(mnist(), range(1000)), Subset(mnist("test"), range(500))


def train(name, lr=0.1, epochs=4, **options):
    """Train a small network on 1,000 digits and log it under runs/NAME."""
    torch.manual_seed(0)
    model = mlp(784, 64, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    options = {
        "log_dir": f"runs/{name}",
        "log_every": 5,
        "watch_every": 5,
        "progress": False,
    } | options
    trainer = Trainer(model, optimizer, F.cross_entropy, **options)
    trainer.fit(
        make_loader(digits, 50),
        epochs,
        val_loader=make_loader(validation, 250, shuffle=False),
    )
    return trainer


trainer = train("lr 0.1", progress=True)
trainer.history

# %% [markdown]
# Now TensorBoard itself. The frame below is a small web server inside this kernel; it ends when the notebook ends. Look at
# SCALARS, then at HISTOGRAMS.
#
# (In a terminal: `tensorboard --logdir runs`. The kernel may be on a different machine than your browser. If the frame
# stays empty then, open the line below it: it says what to do, and has the last values.)

# %%
show_tensorboard("runs", "scalars")

# %% [markdown]
# A picture is for eyes. To compare fifty runs, or to stop one that goes wrong, you need the numbers. `read_run` reads the
# event files back.

# %%
run = read_run("runs/lr 0.1")
for tag in ("loss/train", "loss/val", "accuracy/val"):
    steps, values = run.scalars[tag]
    print(
        f"{tag:13} {len(steps):3} values, at steps {steps[0]} to {steps[-1]}: "
        f"{values[0]:.3f} … {values[-1]:.3f}"
    )
difference = max(
    abs(a - b)
    for a, b in zip(
        run.scalars["loss/val"][1], trainer.history["val_loss"], strict=True
    )
)
print(f"largest difference from the history in memory: {difference:.0e}")
assert difference < 1e-6

# %% [markdown]
# The difference is rounding: an event file keeps a scalar in 32 bits.
#
# ### What if the machine dies while it writes?
#
# Then the last value in the file is torn. Cut one off and see what is left:

# %%
shutil.copytree("runs/lr 0.1", "runs/torn")
file = next(Path("runs/torn").iterdir())
file.write_bytes(file.read_bytes()[:-100])
torn = read_run("runs/torn")
for tag, (steps, _) in torn.scalars.items():
    if len(steps) != len(run.scalars[tag][0]):
        print(f"{tag}: {len(steps)} of {len(run.scalars[tag][0])} values are left")
shutil.rmtree("runs/torn")

# %% [markdown]
# All before the cut is there, and one sentence says so. That is the good side of a file that only grows at its end.

# %% [markdown]
# ## 2 · Log without waiting
#
# A GPU works later than your program: a line of Python only queues the work
# ([asynchronous execution](https://docs.pytorch.org/docs/stable/notes/cuda.html#asynchronous-execution), 비동기 실행).
# `loss.item()` needs the number, so it waits until everything queued before it is done. `CountWaits` counts such moments, on any
# device.


# %%
batches = list(make_loader(digits, 20))


def losses_of(batches):
    """The loss of a training step on each batch, as a tensor."""
    torch.manual_seed(0)
    model = mlp(784, 64, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for images, labels in batches:
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss


with CountWaits() as each_step:
    values = [loss.item() for loss in losses_of(batches)]
with CountWaits() as once:
    mean = torch.stack([loss.detach() for loss in losses_of(batches)]).mean().item()
print(
    f"{len(values)} steps. A number each step: {each_step.count} waits;  tensors until "
    f"the end: {once.count};  both say {mean:.4f}"
)
assert abs(mean - statistics.mean(values)) < 1e-5

# %% [markdown]
# ### Exercise 1 · Log the mean at an interval
#
# ●●○ · 8 minutes · good for: every training loop that you will ever write yourself.
#
# A curve of single batches is noise. Log the *mean* of the losses since the last value, and turn tensors into a number only
# then.


# %% exercise: log_means
def log_means(
    losses: Iterable[torch.Tensor], every: int, write: Callable[[int, float], None]
) -> None:
    """Call `write(step, mean)` after every `every` steps, and once more for a rest at
    the end. The first step is step 1.

    `mean` is the mean of the losses since the last call. The losses come with their
    graphs, as from a training step.
    """
    ### BEGIN SOLUTION
    waiting = []
    for step, loss in enumerate(losses, start=1):
        waiting.append(loss.detach())
        if len(waiting) == every:
            write(step, torch.stack(waiting).mean().item())
            waiting = []
    if waiting:
        write(step, torch.stack(waiting).mean().item())
    ### END SOLUTION


# %% check: log_means
checked = check.log_means(log_means, points=3)
### BEGIN HIDDEN TESTS
for _count, _every in ((11, 3), (6, 6), (2, 4)):
    _losses = [torch.tensor(float(_n**2)) for _n in range(_count)]
    _written = {}
    with CountWaits() as _waits:
        log_means(iter(_losses), _every, _written.__setitem__)
    _starts = range(0, _count, _every)
    assert list(_written) == [min(_start + _every, _count) for _start in _starts]
    for _value, _start in zip(_written.values(), _starts, strict=True):
        assert (
            abs(
                _value
                - statistics.mean(
                    _n**2 for _n in range(_start, min(_start + _every, _count))
                )
            )
            < 1e-4
        )
    assert _waits.count <= 2 * len(_written)
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – the check counts one wait a step, and I never call item()</summary>
#
# `float(loss)`, `total += loss.item()`, `if loss > best:` and an f-string with the loss in it all need the number.
# </details>
#
# <details><summary>Help – the check says that I keep graphs</summary>
#
# A loss that comes from a training step holds all that its backward pass needs. You only want its value: PyTorch has a method
# for a tensor with the same value and no past.
# </details>

# %% [markdown]
# ## 3 · More than scalars
#
# The `Trainer` above also wrote **histograms** (히스토그램) of weights, gradients and activations: notebook 2 lives on them. Two more kinds
# help to keep many runs apart:
#
# * **images** (이미지): what the model was shown, and where it failed;
# * **hyperparameters** (하이퍼파라미터): what the run was made with, beside what came out. TensorBoard makes a table of all runs from them, the tab HPARAMS.

# %%
images, labels = validation.dataset[:500]
trainers = {0.1: trainer} | {lr: train(f"lr {lr}", lr) for lr in (0.01, 1.0)}
for lr, trainer in trainers.items():
    with torch.no_grad():
        guesses = trainer.model(images.to(trainer.device)).argmax(dim=1).cpu()
    wrong = torch.nonzero(guesses != labels).flatten()[:8]
    # back to pixels from 0 to 1
    strip = torch.cat(list(images[wrong]), dim=2) * 0.3081 + 0.1307
    with Monitor(f"runs/lr {lr}") as board:
        board.images(trainer.position.step, {"mistakes": strip})
        board.texts(0, {"mistakes": f"taken for {guesses[wrong].tolist()}"})
        board.hyperparameters(
            {"lr": lr, "layers": 2},
            {"best/accuracy": max(trainer.history["val_accuracy"])},
        )

# %%
show_tensorboard("runs", "hparams", height=450)

# %% [markdown]
# And by code, all three kinds:

# %%
for lr in (0.01, 0.1, 1.0):
    run = read_run(f"runs/lr {lr}")
    print(
        run.hyperparameters,
        f"best accuracy {run.scalars['best/accuracy'][1][-1]:.3f}",
        *run.texts["mistakes"][0][1:],
    )

# %%
figure, axes = figures.new(7, 1.3)
step, image = run.images["mistakes"][-1]
axes.imshow(image, cmap="gray")
axes.set_axis_off()
axes.set_title(f"lr {lr}: mistakes at step {step}, {run.texts['mistakes'][0][1]}")
figures.show(
    figure,
    f"Eight digits that the network with learning rate {lr} got wrong: "
    f"{run.texts['mistakes'][0][1]}.",
)

# %% [markdown]
# ## 4 · What the curves tell
#
# Three runs made on purpose. One fits. One **overfits** (과적합): it memorizes its 200 training images. One **underfits** (과소적합): it sees each
# digit as four gray spots, too little to tell ten digits apart.

# %%
predict(
    "04-1.turn",
    "The training loss of the overfitting run falls to almost 0. What does its "
    "validation loss do?",
    [
        "it falls as well, only slower",
        "it falls, then rises again",
        "it rises from the start",
    ],
)

# %%
runs = {}
for kind in ("healthy", "overfitting", "underfitting"):
    print(f"Training the {kind} run …")
    runs[kind] = sick_runs.train(kind, f"runs/{kind}")

# %%
figure, axes = figures.new(9, 2.8, ncols=3)
for axis, (kind, run) in zip(axes, runs.items(), strict=True):
    draw_curves(axis, run)
    axis.set_title(
        f"{kind}: ends at {run.scalars['loss/train'][1][-1]:.2f} / "
        f"{run.scalars['loss/val'][1][-1]:.2f}"
    )
figures.show(
    figure,
    "; ".join(f"{kind}: {judge_fit(run).evidence[0]}" for kind, run in runs.items()),
)

# %%
for run in runs.values():
    print(judge_fit(run))
steps, losses = runs["overfitting"].scalars["loss/val"]
low = losses.index(min(losses))
outcome(
    "04-1.turn",
    f"It falls to {losses[low]:.2f} at step {steps[low]} and ends at {losses[-1]:.2f}.",
    right="it falls, then rises again"
    if low > 0 and losses[-1] > losses[low]
    else None,
)

# %% [markdown]
# * **Overfitting**: the curves of training and validation move apart. Look at the *gap*.
# * **Underfitting**: both stay high, close together. Even the training data is not learned.
#
# You need *two* curves for that. One curve alone is not enough, and neither of the two comes from the weights: remember that for notebook 2.
#
# ### A curve that you smooth tells less
#
# TensorBoard's slider *Smoothing* (평활화) replaces each value by a running average. Play with it: what happens to the turn? And how
# early, going through the epochs, could you have known?


# %%
def smooth(values, weight):
    """Exponential average whose first value is not pulled toward 0,
    as TensorBoard does it.
    """
    average, smoothed = 0.0, []
    for count, value in enumerate(values, start=1):
        average = weight * average + (1 - weight) * value
        smoothed.append(average / (1 - weight**count))
    return smoothed


def smoothed_turn(epochs_seen, smoothing):
    values = losses[:epochs_seen]
    return values, smooth(values, smoothing)


# %%
def draw_turn(epochs_seen, smoothing):
    values, smoothed = smoothed_turn(epochs_seen, smoothing)
    figure, axes = figures.new(7, 3)
    epochs = range(1, len(values) + 1)
    axes.plot(
        epochs,
        values,
        "o-",
        color=figures.COLORS["gray"],
        markersize=3,
        label="as written",
    )
    axes.plot(epochs, smoothed, color=figures.COLORS["orange"], label="smoothed")
    axes.set(
        xlabel="epoch",
        ylabel="validation loss",
        xlim=(0, len(losses) + 1),
        ylim=(0.6, 2.3),
    )
    axes.legend()
    axes.set_title(describe_turn(epochs_seen, smoothing))
    return figure


def describe_turn(epochs_seen, smoothing):
    values, smoothed = smoothed_turn(epochs_seen, smoothing)
    lowest = [curve.index(min(curve)) + 1 for curve in (values, smoothed)]
    return (
        f"lowest at epoch {lowest[0]} as written, at epoch {lowest[1]} of "
        f"{epochs_seen} when smoothed"
    )


figures.explorer(
    draw_turn,
    alt=describe_turn,
    epochs_seen=(2, 40, 20),
    smoothing=(0.0, 0.95, 0.8, 0.05),
)

# %% [markdown]
# Smoothing looks calm because it looks back: it moves the turn to a later epoch, so a smoothed curve chooses a checkpoint (체크포인트) too late. The raw
# minimum has a fault of its own: among many noisy values the lowest is partly luck (lesson 03).
#
# ### Exercise 2 · Find the turn in the files
#
# ●○○ · 6 minutes · good for: choosing a checkpoint, or stopping a run, without anybody looking.


# %% exercise: turning_step
def turning_step(log_dir: str | Path) -> int | None:
    """Return the step of the lowest validation loss in a run's event files.

    None if the lowest is the last: then the curve has not turned (yet). The tag is
    "loss/val".
    """
    ### BEGIN SOLUTION
    steps, losses = read_scalars(log_dir)["loss/val"]
    lowest = losses.index(min(losses))
    return None if lowest == len(losses) - 1 else steps[lowest]
    ### END SOLUTION


# %% check: turning_step
checked = check.turning_step(turning_step, points=2)
### BEGIN HIDDEN TESTS
for _losses, _turn in (
    ([3.0, 1.0, 2.0], 14),
    ([3.0, 2.0, 1.0], None),
    ([0.5, 2.0, 1.0, 0.9], 7),
):
    shutil.rmtree("hidden", ignore_errors=True)
    with Monitor("hidden") as _board:
        for _n, _loss in enumerate(_losses, start=1):
            _board.scalars(
                7 * _n, {"loss/val": _loss, "loss/train": 1 / _n, "accuracy/val": 0.5}
            )
    assert turning_step("hidden") == _turn
shutil.rmtree("hidden")
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get <code>KeyError: 'loss/val'</code></summary>
#
# `read_scalars(log_dir)` is a dictionary by tag, and each entry is a pair: the list of steps, the list of values. Print its keys.
# </details>

# %% [markdown]
# ## 5 · What looking costs
#
# Statement E is to look at the weights in every epoch. The learner feared that this is too expensive: *모든 에포크마다 가중치 변화를 출력하면
# 성능에는 무리가 될 것* and thought of *n번에 1번*, once every n times. That is a claim about cost, so measure it.

# %%
predict(
    "04-1.cost",
    "All weights, gradients and activations of a CNN as histograms in every epoch of "
    "63 steps: what share of the time is that?",
    ["less than 2%", "2 to 10%", "more than 10%"],
)


# %%
def measure_look(make_model, images, labels, rounds=12):
    """Return the seconds of a training step, and what a look adds to one (medians
    over some rounds).
    """
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    seconds = {0: [], 1: []}
    with Monitor("runs/cost") as board:
        # in turn, so that a busy machine disturbs both alike
        for every in [0, 1] * rounds:
            start = time.process_time()  # of all threads, the writer's included
            with Watch(model, board, every).around(1):
                optimizer.zero_grad()
                F.cross_entropy(model(images), labels).backward()
                optimizer.step()
            seconds[every].append(time.process_time() - start)
    step, with_look = (statistics.median(seconds[every]) for every in (0, 1))
    return step, max(with_look - step, 0.0)


images, labels = mnist()[:64]
step_seconds, look_seconds = measure_look(small_cnn, images, labels)
print(
    f"on the CPU, a step takes {step_seconds * 1e3:.1f} ms and a look "
    f"{look_seconds * 1e3:.1f} ms of processor time"
)

# %%
share = look_seconds / (63 * step_seconds)
outcome(
    "04-1.cost",
    f"A look costs as much as {look_seconds / step_seconds:.1f} steps. Once in 63 "
    f"steps that is {share:.1%} of the time.",
    right="less than 2%"
    if share < 0.02
    else "2 to 10%"
    if share < 0.1
    else "more than 10%",
)

# %% [markdown]
# So looking at *every step* would be expensive, and at every epoch it is not. How that moves with the interval, and with a machine that takes
# its steps faster while a look costs the same:


# %%
def share_of_time(steps_between_looks, faster_steps):
    return look_seconds / (
        steps_between_looks * step_seconds / faster_steps + look_seconds
    )


# %%
def draw_price(steps_between_looks, faster_steps):
    figure, axes = figures.new(7, 3)
    intervals = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
    axes.plot(
        intervals, [100 * share_of_time(every, faster_steps) for every in intervals]
    )
    axes.plot(
        steps_between_looks,
        100 * share_of_time(steps_between_looks, faster_steps),
        "o",
        markersize=9,
    )
    axes.axhline(1, color=figures.COLORS["gray"], linestyle=":")
    axes.text(1, 1.15, "1%", color=figures.COLORS["gray"])
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="steps between two looks",
        ylabel="share of the time, %",
    )
    axes.set_title(describe_price(steps_between_looks, faster_steps))
    return figure


def describe_price(steps_between_looks, faster_steps):
    return (
        f"a look every {steps_between_looks} steps: "
        f"{share_of_time(steps_between_looks, faster_steps):.1%} of the time"
    )


figures.explorer(
    draw_price,
    alt=describe_price,
    steps_between_looks=(1, 500, 63),
    faster_steps=(1, 50, 1),
)

# %% [markdown]
# ### Exercise 3 · Choose how often to look
#
# ●○○ · 4 minutes · good for: giving the learner's *n번에 1번* a number for n.
#
# For simplicity the share is that of the training: n steps of training to one look.


# %% exercise: look_every
def look_every(look_seconds: float, step_seconds: float, budget: float) -> int:
    """Return the smallest number of steps between looks, so that looking takes at most
    this share of the training.

    `budget` is a share: 0.01 is 1%. The interval is at least 1.
    """
    ### BEGIN SOLUTION
    every = 1
    while look_seconds > budget * every * step_seconds * (1 + 1e-12):
        every += 1
    return every
    ### END SOLUTION


# %% check: look_every
checked = check.look_every(look_every, points=1)
### BEGIN HIDDEN TESTS
assert [look_every(0.007, 0.02, _budget) for _budget in (0.01, 0.05, 1.0)] == [35, 7, 1]
assert look_every(0.2, 0.03, 0.1) == 67
### END HIDDEN TESTS
checked

# %% [markdown]
# The course's `Trainer` looks every 100 steps unless told otherwise (`watch_every`). It leaves a look out where looking would take more than 1% of the time. The loss becomes a number every 50 steps (`log_every`).

# %% [markdown]
# ## 6 · Break-it lab: a dashboard that lies
#
# Two ranks validate. Rank 0 has 900 digits, of which 855 were right; rank 1 has the 100 that were hardest to read, of which 45 were right. Each
# writes what it knows into the run's folder.

# %%
predict(
    "04-1.lie",
    "What is the accuracy of the model on all 1,000 digits?",
    ["95%", "90%", "70%"],
)


# %%
def log_epoch_of_each_rank(log_dir, step, correct, seen):
    with Monitor(log_dir) as board:
        board.scalars(step, {"accuracy/val": correct / seen})


def validate(log):
    """Log ten epochs of a model that gets better."""
    for epoch in range(1, 11):
        correct, seen = [(800 + 5 * epoch + 5, 900), (30 + int(1.5 * epoch), 100)][
            dist.get_rank()
        ]
        log("runs/two ranks", epoch, correct, seen)
        dist.barrier()


run_ranks(validate, log_epoch_of_each_rank, world_size=2)
steps, values = read_scalars("runs/two ranks", every=True)["accuracy/val"]
print(
    len(list(Path("runs/two ranks").iterdir())), "event files; steps:", steps[:6], "…"
)

# %%
figure, axes = figures.new(7, 2.6)
axes.plot(steps, values, "o-", markersize=3)
axes.axhline(
    0.9,
    color=figures.COLORS["green"],
    linestyle="--",
    label="all 1,000 digits, last epoch",
)
axes.set(xlabel="epoch", ylabel="accuracy/val", ylim=(0, 1))
axes.legend(loc="lower center")
axes.set_title(
    f"One run, {len(steps)} values at {len(set(steps))} steps: from "
    f"{min(values):.2f} to {max(values):.2f}"
)
figures.show(
    figure,
    f"Two values at each step, from {min(values):.2f} to {max(values):.2f}; the "
    f"accuracy on all 1,000 digits is 0.90 in the last epoch.",
)

# %%
outcome(
    "04-1.lie",
    f"(855 + 45) / 1000 = {(855 + 45) / 1000:.0%}. The mean of the two ranks' "
    f"accuracies is {(855 / 900 + 45 / 100) / 2:.0%}.",
    right="90%",
)

# %% [markdown]
# Two things are wrong. **Two writers** share a folder, and TensorBoard joins their points to one zigzag. And even one writer would show *its own* digits
# only. The mean of the two accuracies is no remedy: 100 digits would count as much as 900.
#
# ### Exercise 4 · One writer, all samples
#
# ●●○ · 8 minutes · good for: every metric that you log from several ranks.


# %% exercise: log_epoch
def log_epoch(log_dir: str | Path, step: int, correct: int, seen: int) -> None:
    """Log the accuracy of all ranks' samples together under "accuracy/val"; runs on
    every rank, and one of them writes.

    Args:
        correct, seen: how many samples of this rank were right, and how many it had.
    """
    ### BEGIN SOLUTION
    counts = torch.tensor([correct, seen], dtype=torch.float64)
    dist.all_reduce(counts)
    accuracy = (counts[0] / counts[1]).item()
    log_dir = log_dir if dist.get_rank() == 0 else None
    ### END SOLUTION
    with Monitor(log_dir) as board:  # without a folder, a Monitor writes nothing
        board.scalars(step, {"accuracy/val": accuracy})


# %% check: log_epoch
checked = check.log_epoch(log_epoch, points=3)


### BEGIN HIDDEN TESTS
def _four_ranks():
    log_epoch(
        "hidden", 3, [5, 0, 20, 9][dist.get_rank()], [10, 1, 40, 9][dist.get_rank()]
    )


shutil.rmtree("hidden", ignore_errors=True)
run_ranks(_four_ranks, world_size=4, timeout=30)
assert len(list(Path("hidden").iterdir())) == 1
assert read_scalars("hidden")["accuracy/val"][0] == [3]
assert abs(read_scalars("hidden")["accuracy/val"][1][0] - 34 / 60) < 1e-6
shutil.rmtree("hidden")
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – the ranks wait for one another until the time is up</summary>
#
# A collective ends when *all* ranks have called it. Only the writing may be inside a condition on the rank.
# </details>
#
# <details><summary>Help – the check says that the right ones are of all ranks, the total of one</summary>
#
# Both numbers belong to this rank. Add up both, then divide.
# </details>

# %% [markdown]
# ## 7 · Scale up
#
# The `Trainer` does both for you: rank 0 writes, and loss and metrics are sums over all ranks. So the same training tells the same story on one process and on
# two. Here with its looks into the gradients as well:


# %%
def train_watched():
    train(f"{dist.get_world_size()} ranks", epochs=2)


for world_size in (1, 2):
    run_ranks(train_watched, world_size=world_size)
one, two = (read_run(f"runs/{world_size} ranks") for world_size in (1, 2))
for tag in ("loss/train", "loss/val", "accuracy/val", "gradient_norm/all"):
    pairs = list(zip(one.scalars[tag][1], two.scalars[tag][1], strict=True))
    off = max(abs(a - b) for a, b in pairs)
    print(f"{tag:18} {len(pairs):3} values, 1 against 2 ranks: at most {off:.0e} apart")
    assert off < 1e-3

# %% [markdown]
# As a script on 8 GPUs, or on two machines of 8: `torchrun --nproc-per-node=8 script.py`, `torchrun --nnodes=2 --nproc-per-node=8
# --rdzv-backend=c10d --rdzv-endpoint=HOST:29500 script.py`. One process of all of them writes.

# %% [markdown]
# ## 8 · What the log said
#
# Back to the five statements. *Performance* is 성능 in Korean, and 성능 means two things: how **good** a model is, and how **fast** something runs. The question
# is about the first. Here is what this notebook measured on each:

# %%
val = runs["overfitting"].scalars["loss/val"][1]
rates = {f"{rate:.2g}" for run in runs.values() for rate in run.scalars["lr/train"][1]}
off = max(
    abs(a - b)
    for a, b in zip(one.scalars["loss/val"][1], two.scalars["loss/val"][1], strict=True)
)
evidence = {
    "A": f"overfitting run: best validation loss {min(val):.2f}, last {val[-1]:.2f}: "
    f"the best weights are worth keeping",
    "B": f"learning rate {' or '.join(sorted(rates))} in three runs: fit, overfit, "
    f"underfit. Nothing here changed the rate, so this tests nothing about B",
    "C": "over- and underfitting were seen in two curves each, and nowhere else",
    "D": f"on 2 ranks the loss is {off:.0e} away from that of 1, at the same global "
    f"batch; the speed was not measured here",
    "E": f"a look costs {look_seconds / step_seconds:.1f} steps: in every epoch "
    f"{share:.1%} of the time. Whether it converges, the losses say",
}
for statement, sentence in evidence.items():
    print(f"{statement}  {sentence}")
outcome(
    "04-1.manage",
    "A, C and E watch the run and act on it. B fixes a value, D saves time.",
    right="A, C and E",
)

# %% [markdown]
# | The log | The evidence | Corrected |
# |---|---|---|
# | Answer A, C, **D**: *여러 GPU로 데이터 병렬처리, 학습속도 향상이 맞다고 생각했고* | Section 7: the curves of 1 and 2 ranks are the same. | D is meant to change when the training is over. At the same global batch it does not change how good the model is, and it tells you nothing about it. It is 성능 as *speed*. |
# | *모든 에포크마다 가중치 변화를 출력하면 성능에는 무리가 될 것* | Section 5: the cost of a look, counted in steps. | E in every epoch is cheap, if what you look at are histograms counted on the device. Every *step* is expensive: there the worry is right. What E can tell: whether weights still move. It cannot tell whether they have *converged*: a learning rate near 0, or a vanishing gradient (notebook 2), stops them as well. The validation loss tells. |
# | *n번에 1번 등으로 생각함* | Exercise 3. | A fair compromise: choose n by a budget. In this course n is 100 steps. |
# | *매 에포크마다 확인하고 수정하는 방법이 더 맞는 말 같다* | Section 4: the turn is visible only where validation was measured. | Yes: **A, C, E**. |

# %% [markdown]
# ## Take away
#
# * Scalars, images, histograms and hyperparameters go into event files; they come back by code, even from a torn file.
# * Keep tensors until a value is due: each number costs a wait on a GPU.
# * Overfitting is a gap between two curves; underfitting is two high curves. Smoothing moves the turn.
# * Looking has a price in steps. Choose the interval by a budget.
# * Several ranks: one writer, and sums over all ranks before you divide.
# * Managing is watching and acting on what you see. Being faster is something else.
# * The course's Trainer acts for you: `patience=3` ends a training run whose `monitor` no longer improves, and `max_steps` ends it after so many steps.
#   `after_step` and `after_epoch` call your function. `torchcourse.training.OverAll(metric)` computes what is not a mean over samples (such as F1), and `device="mps"` asks for Apple's GPU.
#
# **Next notebook:** [what weights and gradients look like when a run is sick](2_histograms.ipynb). **Questions on this lesson:** [quiz](quiz.ipynb).
#
# ### Glossary
#
# | English | 한국어 | here |
# |---|---|---|
# | TensorBoard | 텐서보드 | shows what programs wrote into event files |
# | event file | 이벤트 파일 | a file that grows at its end, a record for each value |
# | scalar | 스칼라 | a tag, a step, a number |
# | histogram | 히스토그램 | how many values lie between which limits |
# | hyperparameter | 하이퍼파라미터 | what a run was made with |
# | overfitting | 과적합 | good on training data, worse on others |
# | underfitting | 과소적합 | not good even on training data |
# | smoothing | 평활화 | running average of a curve |
# | performance | 성능 | quality, or speed: ask which |
#
# ### Further reading
#
# * PyTorch, [torch.utils.tensorboard](https://docs.pytorch.org/docs/stable/tensorboard.html): all that can be written.
# * PyTorch, [CUDA semantics](https://docs.pytorch.org/docs/stable/notes/cuda.html#asynchronous-execution): why a number makes the program wait.
# * TensorFlow, [TFRecord format](https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details): what an event file is made of.
# * Prechelt 1998, [Early Stopping – But When?](https://doi.org/10.1007/3-540-49430-8_3): when a validation curve has turned.
