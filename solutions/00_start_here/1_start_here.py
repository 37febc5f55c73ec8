# %% [markdown]
# # Lesson 00: start here
#
# **{minutes} minutes** · **Hardware**: yours, whatever it is (1 CPU → 2 CPU ranks → several GPUs) · **You need**: Python, and one PyTorch model that you have trained before
#
# After this notebook you can
#
# - **start** one function in several processes, and say what a rank is
# - **share** samples out over ranks, so that each is used exactly once
# - **order** the four calls of a training step, and compute accuracy from logits
# - **find** the rank and the line at fault when a run over several ranks fails
# - **use** the loop of this course: read → predict → do → be checked → be asked → be asked again later
#
# Press **Shift+Enter** to run a cell and go to the next one. The first four cells train a network; then we talk.

# %% setup

# %% [markdown]
# Every lesson begins with two or three questions that are due: from earlier lessons, and from your own wrong answers.
# This is your first lesson, so there is nothing to recall yet.

# %%
from torchcourse import journal
from torchcourse.lessons.start_here.daily_page import retrospective
from torchcourse.lessons.start_here.progress_report import progress
from torchcourse.quiz import card, outcome, predict, recall, review
from torchcourse.ranks import RankError, device, run_ranks

recall("00_start_here")

# %%
import os
import statistics

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import Subset

from torchcourse import environment, figures
from torchcourse.data import make_loader, mnist
from torchcourse.lessons.data_parallelism import sampling
from torchcourse.lessons.data_parallelism import sampling_picture as pictures
from torchcourse.lessons.start_here import checks as check
from torchcourse.lessons.start_here import machine_report
from torchcourse.models import small_cnn
from torchcourse.training import Trainer

print(environment.hardware())

# %% [markdown]
# ## Train a real network, over two processes
#
# The function below trains a small convolutional network (합성곱 신경망) on 4,000 images of handwritten digits: its **samples** (샘플). In each step
# it takes a **batch** (배치) of 64. `run_ranks` starts the function in two processes at once.


# %%
def train(epochs: int):
    torch.manual_seed(0)
    model = small_cnn().to(device())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Trainer(model, optimizer, nn.CrossEntropyLoss())
    to_learn, to_test = (
        make_loader(mnist("train"), 64),
        make_loader(mnist("test"), 250, shuffle=False),
    )
    history = trainer.fit(to_learn, epochs, val_loader=to_test)
    return history, {name: value.cpu() for name, value in model.state_dict().items()}


history, weights = run_ranks(train, 2, world_size=2)[0]  # what rank 0 returned
history

# %% [markdown]
# That was real training: two processes, one network. Here are ten test images that it had never seen, with its answers.

# %%
model = small_cnn().eval()
model.load_state_dict(weights)
images, labels = mnist("test").tensors
with torch.no_grad():
    logits = model(images)

guesses = logits[:10].argmax(dim=1).tolist()

# %%
figure, axes = figures.new(7.5, 1.5, ncols=10)
for axis, image, guess, label in zip(
    axes, images[:10], guesses, labels[:10].tolist(), strict=True
):
    axis.imshow(image[0], cmap="gray_r")
    axis.set_title(f"{guess}" if guess == label else f"{guess}, not {label}")
    axis.axis("off")
figure.suptitle(
    f"The network reads {sum(logits.argmax(dim=1) == labels)} of {len(labels)} test "
    f"images right"
)
figures.show(
    figure,
    alt=f"Ten handwritten digits. The network reads {guesses}; the labels are "
    f"{labels[:10].tolist()}.",
)

# %% [markdown]
# ## How this course works
#
# Every lesson is one loop, and this notebook takes you through each of its steps once:
#
# | step | what it looks like |
# |---|---|
# | **read** | a short text, a short cell, and what came out |
# | **predict** | you choose before you look |
# | **do** | an exercise: a function with a hole, for you to fill |
# | **be checked** | a check runs your function and names the symptom of a mistake |
# | **be asked** | a card asks one question, and explains the very answer that you gave |
# | **be asked again** | days later, at the start of another lesson, often in other words |
#
# ## What is a rank?
#
# A **process** (프로세스) is a running program with memory of its own. When several processes train one network, each is called
# a **rank** (랭크), and has a number: 0, 1, 2 … Their number is the **world size** (월드 크기). Ranks share no variables.
# What one rank knows of another came in a message.


# %%
def who_am_i() -> str:
    return (
        f"I am rank {dist.get_rank()} of {dist.get_world_size()}: process "
        f"{os.getpid()}, on {device()}."
    )


print(f"This notebook is process {os.getpid()}.")
for answer in run_ranks(who_am_i, world_size=4):
    print(answer)

# %% [markdown]
# Four ranks, however many cores you have: the number is your choice. In `train` above, each of the two ranks worked on its own half
# of the images, its **shard** (샤드). In each step they averaged their gradients (기울기) before the weights moved. Lesson 01 shows how and why.
#
# ## Predict: are two ranks twice as fast?
#
# Two ranks do half of the work each. Before you measure it, say what you expect. A prediction (예측) is not graded. Write it
# down: only then can the result surprise you.

# %%
speeds = [
    "1.8 times as fast, or more",
    "between 1.1 and 1.8 times",
    "no faster: less than 1.1 times",
]
predict(
    "00-1.speed",
    "One epoch on the CPU of this machine: how fast are 2 ranks, compared with 1?",
    speeds,
)

# %% [markdown]
# Now measure: four epochs over 1,280 images, with one rank and with two. All use the CPU here, so that the comparison is also fair on a
# machine with a GPU.


# %%
def seconds_an_epoch() -> list[float]:
    model = small_cnn()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Trainer(model, optimizer, nn.CrossEntropyLoss(), progress=False)
    some_images = Subset(mnist("train"), range(1280))
    history = trainer.fit(make_loader(some_images, 64), epochs=5)
    return history["seconds"][1:]  # without the first, in which things are loaded


no_gpu = {"CUDA_VISIBLE_DEVICES": ""}
seconds = {
    ranks: run_ranks(seconds_an_epoch, world_size=ranks, env=no_gpu)[0]
    for ranks in (1, 2)
}
speed_up = statistics.median(seconds[1]) / statistics.median(seconds[2])
right = speeds[0] if speed_up >= 1.8 else speeds[1] if speed_up >= 1.1 else speeds[2]
outcome("00-1.speed", f"Measured just now: {speed_up:.2f} times as fast.", right=right)

# %%
figure, axis = figures.new(7, 2.2)
for ranks, measured in seconds.items():
    axis.plot(measured, [ranks] * len(measured), "o", markersize=9, alpha=0.7)
title = (
    f"2 ranks were {speed_up:.2f} times as fast as 1; equal epochs differ from dot "
    f"to dot"
)
axis.set(
    xlim=(0, None),
    ylim=(0.5, 2.5),
    yticks=[1, 2],
    yticklabels=["1 rank", "2 ranks"],
    title=title,
)
axis.set_xlabel("seconds for one epoch")
figures.show(
    figure,
    alt=f"{title}. Seconds with 1 rank: {seconds[1]}. With 2 ranks: {seconds[2]}.",
)

# %% [markdown]
# Read your own picture: it differs from machine to machine, and from day to day.
#
# - **Two is what you may hope for**. On the CPU each rank of this course computes with one thread, so 1 rank uses one core and 2 ranks use two. (PyTorch
#   without ranks uses all cores.) But the two ranks wait for each other at every step to exchange gradients. A small network computes little between
#   two exchanges, so their share of the time is large. Where an exchange takes longer than the second rank saves, two ranks are slower than one, on
#   any number of cores.
# - **Two ranks need two cores.** If other programs keep yours busy, or if you have only one, little is gained, or time is lost.
# - **The dots of one row show the noise.** They are the same work, again and again. A difference smaller than their spread says
#   nothing. More than 2 is possible, because half of the data may fit a cache better. But measure again first: a different program may have kept the
#   machine busy while one rank worked.
#
# Lesson 01 measures the price of an exchange and predicts this number.

# %% [markdown]
# ## What this machine has
#
# You have seen that ranks work here. What else will the lessons find? Each line says what it means for you, and what to do where
# something is missing.

# %%
machine_report.report()

# %% [markdown]
# ## Exercises and checks
#
# An exercise (연습문제) is a function with a hole. You fill the hole, run the cell, and run the **check** (확인) below it. The check calls
# your function on inputs of its own and tells you the symptom that it sees. It never tells the solution, and you may run it as
# often as you like. ●○○ is easy, ●●● is hard; the minutes are a guess; points count only when a teacher grades a class.
#
# ### Share out samples
#
# To train over ranks, each rank needs samples of its own. Ten samples do not divide by four ranks. PyTorch's own
# `DistributedSampler` has to do something about that: what?

# %%
predict(
    "00-1.share",
    "DistributedSampler shares out 10 samples over 4 ranks, as it does by default. "
    "How many does each rank get?",
    [
        "2 or 3, whatever is left",
        "2 each: two samples are left out",
        "3 each: two samples are used twice",
    ],
)

# %%
sizes = [len(share) for share in sampling.shares(10, 4, "repeat some samples")]
outcome(
    "00-1.share",
    f"The four ranks got {sizes} samples.",
    right="3 each: two samples are used twice",
)

# %% [markdown]
# All ranks take the same number of steps, because they meet at the end of each one to exchange gradients. Equal shares have a
# price: some samples count twice, or some not at all. Move the sliders (by mouse, or with Tab and the arrow keys). When is nothing
# lost, repeated or waited for?

# %%
figures.explorer(
    pictures.draw_shares,
    alt=pictures.describe_shares,
    samples=(1, 20, 10),
    ranks=(1, 6, 4),
    rest=["repeat some samples", "drop some samples", "leave shares uneven"],
)

# %% [markdown]
# ### Exercise 1 · My share
#
# ●○○ · 4 minutes · good for: evaluation (평가), where every sample should count exactly once. Training repeats a few; a test score should not.
#
# Return the indices that belong to one rank. Over all ranks, each index goes out exactly once, and the longest share has at most
# one more than the shortest. Which rank gets which index is up to you.


# %% exercise: my_share
def my_share(indices: list[int], rank: int, world_size: int) -> list[int]:
    """Return the part of `indices` that belongs to `rank`,
    one of 0 … world_size - 1.
    """
    ### BEGIN SOLUTION
    return indices[rank::world_size]
    ### END SOLUTION


# %% check: my_share
checked = check.my_share(my_share, points=2)
### BEGIN HIDDEN TESTS
shares = [my_share(list(range(50, 63)), rank, 5) for rank in range(5)]
assert sorted(index for share in shares for index in share) == list(range(50, 63))
assert sorted(len(share) for share in shares) == [2, 2, 3, 3, 3]
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "the last 2 of the list went to no rank"</summary>
# Whole-number division forgets the rest: 10 // 4 is 2, and 4 × 2 is only 8. Think of ten cards dealt to four players: nobody
# computes how many each will get.
# </details>
# <details><summary>Help – I get "the shares have the sizes [3, 3, 3, 1]"</summary>
# You cut blocks of the rounded-up size, so the last rank gets what is left. One sample more or less is allowed, two are not.
# </details>
# <details><summary>Help – I get "which is not in the list"</summary>
# You handed out positions 0, 1, 2 … The list may hold the indices 107, 104, 101 … because a dataset is shuffled first.
# </details>

# %% [markdown]
# ### Exercise 2 · Accuracy
#
# ●○○ · 2 minutes · good for: the number that every training run is judged by.
#
# A classifier returns **logits** (로짓): one score for each class, of the shape `[samples, classes]`. Its answer is the class with the
# largest one. **Accuracy** (정확도) is the part of the samples where the answer is the label, as a plain number from 0 to 1.
# The last line runs your function on the network that you trained.


# %% exercise: accuracy_of
def accuracy_of(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the accuracy of logits of the shape [samples, classes] for labels of
    the shape [samples].
    """
    ### BEGIN SOLUTION
    return (logits.argmax(dim=1) == labels).float().mean().item()
    ### END SOLUTION


print(f"Your network reads {accuracy_of(logits, labels):.1%} of the test images right.")

# %% check: accuracy_of
checked = check.accuracy_of(accuracy_of, points=1)
### BEGIN HIDDEN TESTS
from torchcourse.checks.values import judged

assert accuracy_of(torch.eye(4) - 5, torch.tensor([0, 1, 2, 0])) == 0.75
assert not isinstance(accuracy_of(torch.eye(3), torch.tensor([1, 2, 0])), torch.Tensor)


@judged(accuracy_of)
def _on_drawn_scores(accuracy_of, draw):
    import torch

    rows = [[draw.random() for _ in range(5)] for _ in range(16)]
    labels = [draw.randrange(5) for _ in range(16)]
    right = sum(
        row.index(max(row)) == label for row, label in zip(rows, labels, strict=True)
    )
    assert (
        abs(accuracy_of(torch.tensor(rows), torch.tensor(labels)) - right / 16) < 1e-6
    )


### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "The size of tensor a (10) must match the size of tensor b (1000)"</summary>
# You compare one value per class with one value per sample. Along which dimension of `[samples, classes]` did you look for the largest?
# </details>
# <details><summary>Help – I get "You returned a tensor"</summary>
# A tensor of one element knows its number; see <a href="https://docs.pytorch.org/docs/stable/generated/torch.Tensor.item.html">Tensor.item</a>.
# </details>

# %% [markdown]
# ### Exercise 3 · One training step
#
# ●○○ · 3 minutes · good for: every training loop that you will ever read. The `Trainer` above does the same, plus what real runs need.
#
# A training step computes the loss (손실) of a batch, computes its gradients, and lets the optimizer (옵티마이저) move the weights
# (가중치) a little. `backward` *adds* to the gradients that are there already, so somebody has to clear them.


# %% exercise: training_step
def training_step(
    model, optimizer, loss_fn, images: torch.Tensor, labels: torch.Tensor
) -> float:
    """Do one training step on one batch.

    Return the loss of the batch, as a plain number.
    """
    ### BEGIN SOLUTION
    optimizer.zero_grad()
    loss = loss_fn(model(images), labels)
    loss.backward()
    optimizer.step()
    return loss.item()
    ### END SOLUTION


# %% check: training_step
checked = check.training_step(training_step, points=2)
### BEGIN HIDDEN TESTS
line = nn.Linear(1, 1, bias=False)
line.weight.data.fill_(1.0)
descent = torch.optim.SGD(line.parameters(), lr=0.25)
losses = [
    training_step(line, descent, nn.MSELoss(), torch.ones(1, 1), torch.zeros(1, 1))
    for _ in range(2)
]
assert losses == [1.0, 0.25]
assert line.weight.item() == 0.25
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "The first step is right, the second is not"</summary>
# Print <code>model.weight.grad</code> before and after each of your lines, for two batches in a row.
# </details>
# <details><summary>Help – I get "The weights did not move"</summary>
# The optimizer follows what is in <code>.grad</code> at the moment of <code>step</code>. Is it still there then?
# </details>

# %% [markdown]
# ## Break it: one rank fails
#
# A colleague computes the mean pixel of a dataset over two ranks. Each rank adds up the means of its images, batch by batch. Then
# `all_reduce` (올리듀스) adds the totals of all ranks. This ran for months. Today 191 images came, and it stops.
#
# `try` and `except` let this notebook run on; without them you would see the same text in red.


# %%
def mean_pixel_of_old(images: torch.Tensor) -> float:
    mine = images.tensor_split(dist.get_world_size())[dist.get_rank()].to(device())
    total = torch.zeros(1, device=device())
    for batch in mine.split(32):
        total += batch.reshape(32, 784).mean(dim=1).sum()
    dist.all_reduce(total)
    return total.item() / len(images)


todays_images = mnist("train").tensors[0][:191]
try:
    run_ranks(mean_pixel_of_old, todays_images, world_size=2)
except RankError as error:
    print(error)

# %% [markdown]
# Read an error of several ranks in this order: **which rank**, **what** it says (both in the first line), and **which
# line of yours** (the last lines that show your own code). The other rank had no fault: it was waiting in
# `all_reduce` for a message that never came. `run_ranks` shows the cause and leaves out the victims.
#
# ### Exercise 4 · Read the evidence
#
# ●○○ · 2 minutes · good for: every run over several ranks that ever failed. An image has 28 × 28 = 784 pixels.

# %% exercise: evidence
failing_rank = 1  ### SOLUTION
images_in_its_last_batch = 31  ### SOLUTION

# %% check: evidence
checked = check.evidence((failing_rank, images_in_its_last_batch), points=1)
### BEGIN HIDDEN TESTS
assert (failing_rank, images_in_its_last_batch) == (1, 31)
### END HIDDEN TESTS
checked

# %% [markdown]
# ### Exercise 5 · Repair it
#
# ●○○ · 3 minutes · good for: any dataset whose size you do not choose. The line that failed is missing here; write one that works for
# a batch of any size.


# %% exercise: mean_pixel
def mean_pixel(images: torch.Tensor) -> float:
    """Return the mean pixel of all images, of the shape [N, 1, 28, 28].

    Runs in every rank.
    """
    mine = images.tensor_split(dist.get_world_size())[dist.get_rank()].to(device())
    total = torch.zeros(1, device=device())
    for batch in mine.split(32):
        ### BEGIN SOLUTION
        total += batch.flatten(start_dim=1).mean(dim=1).sum()
        ### END SOLUTION
    dist.all_reduce(total)
    return total.item() / len(images)


# %% check: mean_pixel
checked = check.mean_pixel(mean_pixel, points=2)
### BEGIN HIDDEN TESTS
bright = torch.arange(77.0).reshape(77, 1, 1, 1).expand(77, 1, 28, 28)
assert all(
    abs(mean - 38) < 1e-3 for mean in run_ranks(mean_pixel, bright, world_size=2)
)
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "the images of short batches are not counted"</summary>
# The run no longer stops, and the answer is wrong: worse than before. Count every image of the short batch too.
# </details>
# <details><summary>Help – I get "each batch added as much as one image"</summary>
# A batch of 32 images must add 32 means. Which part of the old line did that?
# </details>
# <details><summary>Help – I get "times too large, and an image has 784 pixels"</summary>
# You added pixels. The old line took the mean of each image first.
# </details>

# %% [markdown]
# ## Be asked, and asked again
#
# Reading something again feels like learning; being asked is what makes it stay
# ([Roediger and Karpicke 2006](https://doi.org/10.1111/j.1467-9280.2006.01693.x)). So each lesson ends with a quiz. Here is one of its
# questions as a **card** (문제 카드). Choose, say how sure you are, then check. Try a wrong answer too: the card asks what you thought.

# %%
card("00_start_here", "what-a-rank-is", grade_line=False)

# %% [markdown]
# Where did your answer go? Into your **journal** (학습 기록), together with your predictions and the answers of all checks. It is a
# text file with one line for each. It lies on this machine, next to your notebooks, and nothing in the course sends it anywhere. You can
# read it, copy it or delete it. This is the newest line:

# %%
print(journal.path())
print(journal.path().read_text(encoding="utf-8").splitlines()[-1])

# %% [markdown]
# **On a lent machine** (Colab, Kaggle, some JupyterHubs) the files go when the session ends. Keep the journal in a folder that stays, with one call at the
# beginning of each session. The call joins the answers in that folder and those of this session, each of them once. Each later answer goes there at once.
#
# - **Colab**: `from google.colab import drive`, `drive.mount("/content/drive")`, then `from torchcourse import journal_copies`,
#   `journal_copies.keep_in("/content/drive/MyDrive/torchcourse")`.
# - **Kaggle**: the journal lies in `/kaggle/working`. Choose *Files only* under *Persistence* in the settings of the notebook. Then there is nothing to call.
# - **JupyterHub**: your home folder usually stays, and then there is nothing to call either.
#
# From the journal comes the rest of the loop:
#
# - `review()` brings back what is due: wrong answers soon, right ones later and later, often in other words
# - `progress()` shows what is done, and which misconceptions (오개념) are still open
# - `retrospective()` writes the page of a day (일일 회고): what you did, what you learned, what you answered wrongly and why

# %%
review()

# %%
progress()

# %%
retrospective(language="ko")  # or "en"

# %% [markdown]
# ## Survive in JupyterLab
#
# Press **Esc** to leave the text of a cell; then single keys are commands. **Enter** goes back into the text.
#
# | keys | what happens |
# |---|---|
# | **Shift+Enter** | run the cell and go to the next |
# | **Esc**, then **A** or **B** | a new cell above or below |
# | **Esc**, then **D** **D** · **Z** | delete the cell · bring it back |
# | **Esc**, then **I** **I** | *interrupt*: stop the cell that runs, keep all variables |
# | **Esc**, then **0** **0** | *restart*: stop everything, forget all variables; the text stays |
# | **Ctrl+S** | save |
#
# (Colab has keys of its own; **Ctrl+M**, then **H** lists them.)
#
# Cells that only import, ask, check or show an outcome are folded: you see their title. They run as the others do. To
# read one, click the three dots behind its title, or choose *View → Expand All Code*. (In VS Code they stand open: it
# does not know this fold.)
# In a question, the letters **A**, **B**, … choose, and the arrow keys move; no such key reaches the notebook.
# **Tab** leads into a question or a slider, and out of it; **Esc** goes back to the cell.
# With the notebook's own keys, the arrows pass over folded cells; **Shift+Enter** in the cell above leads into one.
#
# Try an interrupt now. Make a new cell below (**Esc**, **B**, **Enter**), type
# `import time; run_ranks(lambda: time.sleep(50))`, run it, then press **Esc**, **I**, **I**. Both ranks stop within a second or two,
# and you are shown at which line each of them was. And when a cell behaves strangely: restart, then
# *Run → Run All Above Selected Cell*.

# %% [markdown]
# ## Scale up
#
# The same function runs on 1 process, 2 ranks or many GPUs, and gives the same mean, except for rounding. That is the promise of this course: what you
# learn on two CPU ranks is what runs on eight GPUs.


# %%
def mean_of_all(images: torch.Tensor) -> float:
    mine = images[dist.get_rank() :: dist.get_world_size()].to(device())
    total = mine.mean(dim=(1, 2, 3)).sum()
    dist.all_reduce(total)
    return total.item() / len(images)


means = {
    ranks: run_ranks(mean_of_all, todays_images, world_size=ranks)[0]
    for ranks in (1, 2, 4)
}
assert max(means.values()) - min(means.values()) < 1e-5
means

# %% [markdown]
# On a machine with eight GPUs, `run_ranks(train, 2)` without a `world_size` starts eight ranks, one for each GPU. They talk over NCCL, the library for
# GPUs, instead of gloo, the one for CPUs. The function does not change. From a terminal, the same code as a file starts like this; lesson 01 makes such a
# file:
#
# ```
# # One machine with eight GPUs:
# torchrun --nproc-per-node 8 train.py
#
# # Two such machines, the same line on both:
# torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint first-machine:29500 train.py
# ```
#
# `docs/REAL_MACHINES.md` in the course's folder has the commands for several machines, Slurm and Ray, and `make gpu-check` runs
# the course on the GPUs of a machine.

# %% [markdown]
# ## What the log said
#
# This course grew out of a page of one learner's study log (학습 일지). It has short notes, three quiz questions answered wrongly with the
# reasoning behind each answer, and a question left open. The lessons take each note as a claim and test it. You met two of them today:
#
# | The log | What you saw | So |
# |---|---|---|
# | One way to use several GPUs is to split the data and average the results. It is listed under "model parallel". | Two ranks trained one network on two halves of the data; each held the *whole* model. | Splitting data is **data parallelism** (데이터 병렬화), not model parallelism. What is averaged, you will see in lesson 01. |
# | `DistributedDataParallel` makes a process for each CPU. | You started 4 ranks, with the cores that you have. | One process for each **rank**, as many as you ask for; with GPUs, usually one for each GPU. |
#
# The log also shows how to learn from a wrong answer. Beside each one the learner wrote what they had thought, then the correction, and
# once a question mark: "only a matter of how much is learned (?)". The card asks for the same, and a later lesson answers the question mark
# with an experiment.

# %% [markdown]
# ## Take away
#
# - A rank is a process with a number. Ranks share nothing but messages, and they wait for each other.
# - Samples that do not divide by the ranks are repeated, dropped or waited for. You choose, so know which.
# - One step: clear the gradients, forward, backward, step. Twice the ranks is rarely twice the speed: measure it.
# - A run fails in one rank first. Find that rank, then what it says, then the line of yours.
# - Read → predict → do → be checked → be asked → be asked again. Your journal keeps it, on your machine.
#
# ### Glossary
#
# | English | 한국어 | here |
# |---|---|---|
# | process | 프로세스 | a running program with memory of its own |
# | rank | 랭크 | one of the processes of a run, and its number |
# | world size | 월드 크기 | how many ranks a run has |
# | sample | 샘플 | one example |
# | batch | 배치 | the examples of one step |
# | shard | 샤드 | the part of the data that one rank works on |
# | all-reduce | 올리듀스 | every rank gives a tensor, and gets the sum of all |
# | logits | 로짓 | the scores of the classes before softmax |
# | accuracy | 정확도 | the part of the samples that are right |
# | gradient | 기울기 | how the loss changes with each weight |
# | journal | 학습 기록 | the file of your answers, on your machine |
#
# ### Further reading
#
# * PyTorch, [torch.distributed](https://docs.pytorch.org/docs/stable/distributed.html): process groups and backends.
# * PyTorch, [DistributedSampler](https://docs.pytorch.org/docs/stable/data.html#torch.utils.data.distributed.DistributedSampler) and
#   [torchrun](https://docs.pytorch.org/docs/stable/elastic/run.html).
# * Li et al. 2020, [PyTorch Distributed](https://arxiv.org/abs/2006.15704): how PyTorch's data parallelism was built.
# * Roediger and Karpicke 2006, [Test-enhanced learning](https://doi.org/10.1111/j.1467-9280.2006.01693.x): why you are asked.
# * JupyterLab, [the interface](https://jupyterlab.readthedocs.io/en/stable/user/interface.html): its keys.
#
# **Next**: the [quiz of this lesson](quiz.ipynb), fifteen questions. Then [lesson 01](../01_data_parallelism/1_averaging.ipynb), or, if you know some of the course already, the
# lessons that the questions below name. There are one or two per lesson; whoever is new here skips them.

# %%
from torchcourse.lessons.start_here.placement_quiz import placement

placement()
