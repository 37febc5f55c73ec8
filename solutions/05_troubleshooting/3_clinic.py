# %% [markdown]
# # The clinic: loop, model, evaluation, memory
#
# **{minutes} minutes** · one CPU is enough · before this: [memory](1_memory.ipynb) and [faults](2_faults.ipynb)
#
# Here are nine training programs. Each is broken, and none of them ends in an error. You get what a colleague would give you: a
# complaint, a log and the program. You find the cause, and you repair it there.
#
# **After this notebook you can**
#
# 1. go from a symptom to its cause, and repair it there instead of muting it.

# %% setup

# %%
from torchcourse.quiz import outcome, predict, recall

recall("05_troubleshooting")

# %%
import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.lessons.troubleshooting import clinic
from torchcourse.lessons.troubleshooting.checks import clinic as check
from torchcourse.lessons.troubleshooting.clinic.softmax_twice_picture import (
    explore_floor,
)

print(
    f"PyTorch {torch.__version__}. The patients are small: they all run on one CPU "
    f"core."
)

# %% [markdown]
# ## 1 · The method
#
# 1. **Reproduce** (재현). Run the program and see the symptom yourself: little data, a fixed seed.
# 2. **Look at evidence** (증거) before you look at the code. What does the program *do*, from step to step?
# 3. **One hypothesis** (가설): a cause that explains *all* that you saw, and that predicts something which you have not looked at yet. Look there.
# 4. **One change**, at the cause. After two changes at once you do not know which one helped.
# 5. **Prove** that the symptom is gone and that everything else is as it was: the same steps, data and learning rate, and the same result.
#
# The fifth point is where most repairs fail. A symptom can be **muted** (증상만 가리기): a smaller learning rate, a clipped gradient, a smaller batch, a
# fixed seed, a deleted assertion. The log looks better, the fault is still there. The checks of this clinic tell the two apart.
#
# For each patient there are five things:
#
# * `clinic.admit(...)` runs the program now, and shows the complaint, the log and the code;
# * `clinic.evidence(...)` measures;
# * `clinic.hints(...)` opens three hints, one after another: where to look, what to measure, what to look for;
# * a **repair cell** with the part of the program that holds the fault. Change as little as possible. The check puts your part into the
#   whole program and examines it on other data;
# * `clinic.discharge(...)` says what it was, once the patient is healed.

# %% [markdown]
# ## 2 · Ward: the loop

# %% [markdown]
# ### Patient 1
#
# With the first patient, the text takes each step of the method with you.
#
# **Reproduce.** The next cell runs the program. Unfold the code, but read the log first.

# %%
clinic.admit("learns_then_forgets")

# %% [markdown]
# **Hypotheses.** The training loss goes *up*, so it is no overfitting. Three causes come to mind: the learning rate is too high, the gradient is
# wrong, the labels are wrong. They predict different things. With too high a learning rate the gradients of the first steps are of the usual length.
# With labels that are all wrong by chance, the first epoch would learn nothing of use.

# %%
predict(
    "05-3.norm",
    "The norm of the gradient at each of the first 60 steps: what will it look like?",
    [
        "about as long all the time",
        "shorter and shorter, as the loss falls",
        "longer and longer from the first steps on",
    ],
)

# %%
seen = clinic.evidence("learns_then_forgets")
growing = seen["first"] < seen["tenth"] < seen["largest"]
outcome(
    "05-3.norm",
    f"{seen['first']:.1f} at the first step, {seen['tenth']:.1f} at the tenth, "
    f"{seen['largest']:.0f} at most.",
    right="longer and longer from the first steps on" if growing else None,
)

# %% [markdown]
# **One hypothesis.** The gradient grows from the second step on, nearly without a pause, though all batches are alike. So it is not the gradient of its batch alone. What
# else is in it? Read the program now, with this one question.

# %%
clinic.hints("learns_then_forgets")

# %% [markdown]
# ●○○ · 5 minutes · good for: the first thing to rule out when a loss goes up again.


# %% repair: learns_then_forgets
def train_epoch(model, loader, optimizer):
    """Train on every batch once and return the mean loss over the samples."""
    model.train()
    total, count = 0.0, 0
    for images, labels in loader:
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(labels)
        count += len(labels)
    return total / count


# %% [markdown]
# <details><summary>Help – I get "the gradient is zero or gone"</summary>
#
# Then it was wiped after `backward()` and before `step()`. Which of the two needs it?
# </details>
#
# <details><summary>Help – I get "what earlier batches left is still in it"</summary>
#
# How often does your call run: once an epoch, or once a batch?
# </details>

# %% [markdown]
# **Prove it.** The check did, on other data. To see it, run the whole program with your part in it and compare with the log above:

# %%
clinic.run("learns_then_forgets", train_epoch)

# %% [markdown]
# ### Patient 2
#
# From here on the order is yours: look at the log, form a hypothesis, then look at the evidence. The hints wait.

# %% patient: big_batch_diverges

# %% [markdown]
# ●●○ · 6 minutes · good for: every training run whose batch does not fit.


# %% repair: big_batch_diverges
def accumulated_epoch(model, loader, optimizer, accumulate):
    """One epoch in which every `accumulate` batches make up one step; return the
    mean loss of a batch.
    """
    assert len(loader) % accumulate == 0, "the last step would be made of fewer batches"
    model.train()
    total = 0.0
    optimizer.zero_grad()
    for number, (images, labels) in enumerate(loader, start=1):
        loss = F.cross_entropy(model(images), labels)
        (loss / accumulate).backward()
        total += loss.item()
        if number % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
    return total / len(loader)


# %% [markdown]
# <details><summary>Help – I get "For plain SGD that comes to the same"</summary>
#
# Right, it does, for plain SGD. Which number is wrong *before* the learning rate touches it?
# </details>
#
# <details><summary>Help – I get "The reported loss"</summary>
#
# Two things are computed from the loss: a gradient and a line in the log. Only one of them was wrong.
# </details>

# %% [markdown]
# ## 3 · Ward: model and optimizer

# %% [markdown]
# ### Patient 3

# %% patient: loss_with_a_floor

# %% [markdown]
# ●●○ · 6 minutes · good for: telling what a function expects: logits (로짓), probabilities or their logarithms.


# %% repair: loss_with_a_floor
class DigitNet(nn.Module):
    def __init__(self, inputs=784, hidden=64, classes=10):
        super().__init__()
        self.hidden = nn.Linear(inputs, hidden)
        self.output = nn.Linear(hidden, classes)

    def forward(self, images):
        features = self.hidden(images.flatten(1)).relu()
        return self.output(features)


def loss_of(outputs, labels):
    return F.cross_entropy(outputs, labels)


def probabilities(model, images):
    """Return how probable the model takes each class to be; each row sums to one."""
    with torch.no_grad():
        return model(images).softmax(dim=1)


# %% [markdown]
# <details><summary>Help – I get "what probabilities() returns adds up to"</summary>
#
# Somebody else relied on what you took away. Who still needs probabilities?
# </details>
#
# <details><summary>Help – I get "The logarithm of a rounded probability"</summary>
#
# A probability of 1e-50 is zero in float32, and its logarithm is not a number to learn from. PyTorch has a function that goes from logits to log-probabilities in one.
# </details>

# %% [markdown]
# ### Patient 4

# %% patient: head_that_sleeps

# %% [markdown]
# ●●○ · 6 minutes · good for: learning rates by **parameter group** (파라미터 그룹), as in every fine-tuning.


# %% repair: head_that_sleeps
def make_optimizer(model, lr):
    """The backbone learns at a tenth of the rate; whatever is not the backbone is
    new and learns at the full rate.
    """
    groups = {"backbone": [], "new": []}
    for name, parameter in model.named_parameters():
        groups["backbone" if name.startswith("backbone.") else "new"].append(parameter)
    settings = [
        {"params": groups["backbone"], "lr": lr / 10},
        {"params": groups["new"], "lr": lr},
    ]
    return torch.optim.SGD(settings, lr=lr, momentum=0.9)


# %% [markdown]
# <details><summary>Help – I get "What if the next model has other names?"</summary>
#
# You mended this model. The docstring promises more: which parameters are new, whatever they are called?
# </details>

# %% [markdown]
# ### Patient 5

# %% patient: loss_that_stands_still

# %% [markdown]
# ●○○ · 4 minutes · good for: every time that a layer is replaced, a model wrapped or copied.


# %% repair: loss_that_stands_still
def prepare(model, classes, lr):
    """Freeze the features, put a new last layer of `classes` outputs on them, and
    return model and optimizer.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model[-1] = nn.Linear(model[-1].in_features, classes)
    trainable = [
        parameter for parameter in model.parameters() if parameter.requires_grad
    ]
    optimizer = torch.optim.SGD(trainable, lr=lr, momentum=0.9)
    return model, optimizer


# %% [markdown]
# <details><summary>Help – I get "tensors that belong to no model any more"</summary>
#
# It works, and it leaves something behind. In which order would nothing be left behind?
# </details>

# %% [markdown]
# ### Rounds: one softmax or two
#
# Patient 3 again, now as a picture. One image, and the right class leads by some distance, its *logit* minus that of the others. Move the
# lead from −10 (sure and wrong) to +10 (sure and right).
#
# * Left: how small can the loss get? Try 100 classes.
# * Right: how steep is it where the network is sure and wrong? That is where it should learn most.

# %%
explore_floor()

# %% [markdown]
# With one softmax the steepness is one where the network is sure and wrong: it learns most there. With two it is almost zero there: the
# worst mistakes move next to nothing. Is the sick loss only a wrong number in the log, or does the network learn less with it too? Run the repaired
# program, and compare its accuracy with that of the log.

# %%
clinic.run("loss_with_a_floor", DigitNet, loss_of, probabilities)

# %% [markdown]
# ## 4 · Ward: evaluation

# %% [markdown]
# ### Patient 6

# %%
clinic.admit("moody_score")

# %%
predict(
    "05-3.batch",
    "The same model is scored on the same test set in batches of 4, 20, 100 and 600. "
    "Which batch size gives the lowest scores?",
    ["4", "600", "all alike, up to chance"],
)

# %%
seen = clinic.evidence("moody_score")
ends = {4: "4", 600: "600"}
outcome(
    "05-3.batch",
    f"From {seen['low']:.1f}% to {seen['high']:.1f}%, and batches of {seen['worst']} "
    f"score lowest.",
    right=ends.get(seen["worst"]),
)

# %%
clinic.hints("moody_score")

# %% [markdown]
# ●○○ · 5 minutes · good for: numbers that you can compare from run to run.


# %% repair: moody_score
def evaluate(model, loader):
    """Return the share of samples that the model answers correctly."""
    was_training = model.training
    model.eval()
    right = count = 0
    with torch.no_grad():
        for images, labels in loader:
            right += (model(images).argmax(1) == labels).sum().item()
            count += len(labels)
    model.train(was_training)
    return right / count


# %% [markdown]
# <details><summary>Help – I get "the training loop calls model.train() once"</summary>
#
# Your evaluation is right, and it leaves the model in a different mode than it found it in.
# </details>

# %% [markdown]
# ### Patient 7

# %% patient: hungry_validation

# %% [markdown]
# ●○○ · 4 minutes · good for: validating in batches as large as the memory allows.


# %% repair: hungry_validation
def validation_loss(model, loader):
    """Return the mean loss over the samples."""
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for images, labels in loader:
            loss = F.cross_entropy(model(images), labels, reduction="sum")
            total += loss.item()
            count += len(labels)
    model.train(was_training)
    return total / count


# %% [markdown]
# <details><summary>Help – I get "the peak is in the pass"</summary>
#
# `del`, `item()` and the garbage collector come when the forward pass is over. What would keep it from storing anything at all?
# </details>
#
# <details><summary>Help – I get "autograd is off for everybody"</summary>
#
# There is a switch that stays where you put it, and there is a block that puts it back.
# </details>

# %% [markdown]
# ## 5 · Ward: memory

# %% [markdown]
# ### Patient 8

# %% patient: swelling_run

# %% [markdown]
# ●●○ · 6 minutes · good for: runs that end after many hours, out of memory.


# %% repair: swelling_run
def denoise_epoch(model, loader, optimizer, probe, generator):
    """Train one epoch; return the mean training loss of a batch, and the mean loss
    on the clean probe.
    """
    running, probed = 0.0, 0.0
    for images, _ in loader:
        images = images.flatten(1)
        optimizer.zero_grad()
        loss = F.mse_loss(model(add_noise(images, generator)), images)
        loss.backward()
        optimizer.step()
        running += loss.item()
        with torch.no_grad():
            probed += F.mse_loss(model(probe), probe).item()
    return running / len(loader), probed / len(loader)


# %% [markdown]
# <details><summary>Help – I get "the graph still grows by a few nodes per step"</summary>
#
# The large part is gone. There are *two* sums in this function.
# </details>
#
# <details><summary>Help – I get "the repair has changed the training"</summary>
#
# Is there a second `backward()`, or did the random numbers change?
# </details>

# %% [markdown]
# ### Patient 9

# %% patient: sawtooth

# %% [markdown]
# ●●● · 8 minutes · good for: metrics over data that are larger than the memory.


# %% repair: sawtooth
def reconstruction_epoch(model, loader, optimizer, near=0.5):
    """Train one epoch; return the mean squared error of all pixels and the share
    that is off by less than `near`.
    """
    squares, close, count = 0.0, 0, 0
    for images, _ in loader:
        images = images.flatten(1)
        optimizer.zero_grad()
        output = model(images)
        F.mse_loss(output, images).backward()
        optimizer.step()
        off = (output.detach() - images).abs()
        squares += off.square().sum().item()
        close += (off < near).sum().item()
        count += off.numel()
    return squares / count, close / count


# %% [markdown]
# <details><summary>Help – I get "Less is kept, but each step still leaves"</summary>
#
# Half of a pile is a pile. What is the smallest thing that you need of a batch for the two numbers?
# </details>
#
# <details><summary>Help – I get "the mean over the batches"</summary>
#
# Sum up, count, divide once at the end.
# </details>

# %% [markdown]
# ## 6 · Who is healed
#
# The board reads your journal. A patient who was healed once stays healed.

# %%
clinic.board("loop", "model and optimizer", "evaluation", "memory")

# %% [markdown]
# ## What the log said
#
# | The log | The evidence | Corrected |
# |---|---|---|
# | OOM: batch size를 줄이고 확인해본다, shrink the batch and look | Patient 7: with a smaller batch it gets through, and every pass still keeps what nobody needs. | Shrinking the batch is a *test*: it tells that memory grows with the batch. It is no repair while the cause is another. |
# | cache 삭제하기, clear the cache | Patient 8: somebody holds the tensors, and what is held is in no cache. | Find the holder. Only what nobody holds can be freed. |
# | loop연산 시 tensor variables는 gpu 메모리 사용, tensors in loops use memory | Patients 8 and 9: a **running sum** (누적합) and a list, both outliving the step. | Right, if they live longer than a step; a sum of losses keeps their graphs too. |

# %% [markdown]
# ## Take away
#
# * Reproduce, look, one hypothesis, one change, prove. Write the hypothesis down *before* you look at the evidence.
# * Most faults make no error, and some hardly change the accuracy. Patient 3 had a good one.
# * A muted symptom comes back elsewhere. Ask of every repair: does it explain the symptom, and would the symptom return if I took the repair out?
# * Look at what the program does: the gradient's norm, what moved in ten steps, the mode of the model, what is alive between two steps.
# * What you repair must leave everything else as it was: steps, rate, data, mode, result.
#
# **Next notebook:** [the second half of the clinic](4_clinic_ranks.ipynb). **Questions on this lesson:** [quiz](quiz.ipynb).
#
# ### Glossary
#
# | English | 한국어 | here |
# |---|---|---|
# | reproduce | 재현 | make the symptom appear again, small and on purpose |
# | evidence | 증거 | what was measured, not what was supposed |
# | hypothesis | 가설 | a cause that explains all evidence and predicts more |
# | mute a symptom | 증상만 가리기 | make the log look better and leave the cause |
# | gradient accumulation | 기울기 누적 | several batches make up one step |
# | logits | 로짓 | what goes into a softmax |
# | parameter group | 파라미터 그룹 | parameters of an optimizer that share their settings |
# | running sum | 누적합 | a sum that grows from batch to batch |
#
# ### Further reading
#
# * PyTorch, [Frequently Asked Questions](https://docs.pytorch.org/docs/stable/notes/faq.html): running losses and out-of-memory.
# * PyTorch, [Autograd mechanics](https://docs.pytorch.org/docs/stable/notes/autograd.html): the difference between `no_grad`, inference mode and `eval()`.
# * PyTorch, [CrossEntropyLoss](https://docs.pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html): what it expects.
# * Karpathy 2019, [A Recipe for Training Neural Networks](https://karpathy.github.io/2019/04/25/recipe/): "neural net training fails silently".
# * Zeller 2009, *Why Programs Fail*: the scientific method for debugging, as a book.
