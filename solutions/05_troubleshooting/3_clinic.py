# %% [markdown]
# # The clinic: model, loop, evaluation, memory
#
# **60 minutes** · one CPU is enough · before this: the notebooks on memory and on faults
#
# Here are broken training programs, and each has a real symptom. None of them ends in an error. You get what a colleague would
# give you: a complaint, a log and the program. You find the cause and repair it there.
#
# **After this notebook you can**
#
# 1. go from a symptom to its cause, and repair it there instead of muting it.

# %% setup

# %%
from torchcourse.quiz import recall

recall("05_troubleshooting")

# %%
import torch
import torch.nn.functional as F

from torchcourse.checks import lesson05_clinic as check
from torchcourse.troubleshooting import clinic

print(f"PyTorch {torch.__version__}; the clinic computes on the CPU.")

# %% [markdown]
# ## 1 · The method
#
# 1. **Reproduce** (재현): run the program and see the symptom yourself, on little data, with a fixed seed.
# 2. **Look** at evidence, not at the code: what does the program do, step by step?
# 3. **One hypothesis** (가설): a cause that explains *all* that you saw, and predicts something that you have not seen yet.
# 4. **One change**, at the cause. Two changes at once prove nothing.
# 5. **Prove**: the symptom is gone, and everything else is as it was.
#
# ## 2 · Ward: the loop
#
# ### Patient 1

# %%
clinic.admit("learns_then_forgets")

# %%
clinic.evidence("learns_then_forgets")

# %%
clinic.hints("learns_then_forgets")

# %% [markdown]
# ●○○ · 5 minutes · The next cell holds the part of the program with the fault. Repair it there. The check puts it into the program and
# examines it on other data.


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


# %% check: learns_then_forgets
checked = check.repair("learns_then_forgets", train_epoch, points=1)
### BEGIN HIDDEN TESTS
assert clinic.symptom("learns_then_forgets", train_epoch, seed=7) is None
### END HIDDEN TESTS
checked

# %% [markdown]
# ## Take away

# %%
clinic.board()
