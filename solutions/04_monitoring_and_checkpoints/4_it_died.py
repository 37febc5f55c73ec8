# %% [markdown]
# # It died: what a restart costs, and what it changes
#
# **{minutes} minutes** · one CPU is enough (up to seven processes on it, all small); the commands for several machines are beside the cells ·
# before this: notebook 3 of this lesson
#
# On thousands of GPUs, something breaks every few hours (notebook 3). Then a run has to stop, start again and go on, without anybody awake. Three
# questions decide what that costs. Who starts the ranks again? How much work is lost? And is what comes out still the run that you
# wanted? Here you kill ranks and a whole (small) machine, and look.
#
# **After this notebook you can**
#
# 1. say which processes start again after a death, and test whether the result is the same;
# 2. choose how often to save from the time of a save and the number of machines;
# 3. find out which samples a restarted run repeated or left out, and deal them so that it does neither;
# 4. load a checkpoint that is saved in shares, and say what a step waits for while it is saved;
# 5. say what local steps between averages save, and what they do not.

# %% setup

# %%
import math
import shutil
from statistics import median

from torchcourse.error_bars import paired
from torchcourse.lessons.monitoring import checks as check
from torchcourse.lessons.monitoring import seen_samples, two_machines
from torchcourse.lessons.monitoring.crash_costs import (
    daly_interval,
    expected_loss,
    simulated_loss,
)
from torchcourse.lessons.monitoring.crash_costs_picture import costs_picture
from torchcourse.lessons.monitoring.local_sgd import accuracies, share_waited
from torchcourse.lessons.monitoring.local_sgd_picture import waiting_and_accuracy
from torchcourse.lessons.monitoring.resharding import (
    largest_difference,
    resume_from_shares,
    save_in_shares,
    waits,
)
from torchcourse.lessons.monitoring.seen_samples import (
    deal_by_batches,
    deal_by_samples,
    epoch,
)
from torchcourse.lessons.monitoring.seen_samples_picture import (
    losses_picture,
    seen_picture,
)
from torchcourse.lessons.monitoring.two_machines_picture import story_picture
from torchcourse.quiz import outcome, predict
from torchcourse.ranks import run_ranks


# %%
def fresh(folder):
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier run of this notebook
    return folder


# %% [markdown]
# ## 1 · A rank dies, then a machine
#
# `torchrun` is an **agent** (에이전트): one on each machine. It starts the ranks of its machine, watches them, and starts them again,
# `--max-restarts` times (if you do not say how often: never). The agents meet at a **rendezvous** (랑데부): an address where each says that it is there. With two machines, the same
# line on both:

# %%
print("export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1")
print("torchrun", *two_machines.arguments("2", "FIRST_MACHINE:29500"), "train.py")

# %% [markdown]
# The first line is there for PyTorch 2.13. Without it, ranks that were started again look for the dead ones at their old addresses. Then
# all restarts are used up with "Connection refused" (seen with gloo, also in a script without this course's package).
#
# The next cell plays two machines on yours: two agents with two ranks each. They are processes of their own with these arguments. The training
# saves every 5 steps. In step 13 the last rank is killed. In step 23 machine B dies: its agent and its ranks are killed at once, as by a power cut.
# Then machine C starts an agent with the same line, as the queue of a cluster would.

# %%
predict(
    "04-4.who",
    "Two agents watch two ranks each. One of the four ranks is killed. How many "
    "ranks are started again?",
    ["one: the one that was killed", "two: those of its agent", "all four"],
)

# %%
predict(
    "04-4.equal",
    "The run loses a rank in step 13 and a machine in step 23. At the end, how far "
    "are its weights from those of a run that nothing happened to?",
    [
        "equal, to the last bit",
        "equal to rounding",
        "further apart: some steps were done twice",
    ],
)

# %%
undisturbed = two_machines.play(fresh("nothing_happens"))
died = two_machines.play(fresh("it_died"), rank_dies_at=13, machine_dies_at=23)
story_picture(died)

# %%
not_played = "(not played on this machine)"
starts = died.starts() if died else not_played
print("ranks, first and last step of each start:", starts)
outcome(
    "04-4.who",
    f"Processes that took part in three starts of four ranks: "
    f"{died.processes() if died else not_played}. Nobody of the first start goes on. "
    "The other ranks wait for the dead one in their next collective, and get an error. "
    "So all ranks are started again, on all machines.",
    right="all four",
)

# %%
gap = not_played
if died and undisturbed:
    gap = (died.weights - undisturbed.weights).abs().max().item()
    assert gap == 0
outcome(
    "04-4.equal",
    f"The largest difference of a weight: {gap}. What was done after the last save "
    "died with the ranks; its second time begins from the same weights with the same "
    "samples.",
    right="equal, to the last bit",
)

# %% [markdown]
# Four things make that true. Every rank loads the same last checkpoint. The checkpoint has all pieces (notebook 3). The samples of a
# step depend on the number of the step alone. And there are as many ranks as before, so sums are taken in the same order.
#
# **Without a replacement.** With `--nnodes=1:2` the job is **elastic** (탄력적): it needs one machine and takes up to two. Machine B dies, and A goes on with its two ranks.
# (If a machine joins later, all ranks start again too. PyTorch's [documentation](https://docs.pytorch.org/docs/stable/elastic/quickstart.html) counts that in `--max-restarts`;
# the agent of PyTorch 2.13 counts deaths alone.)
# The step still takes the same 64 samples, so only the order of a sum is different:

# %%
alone = two_machines.play(fresh("one_is_left"), machine_dies_at=23, replace=False)
if alone and undisturbed:
    print("ranks, first and last step of each start:", alone.starts())
    gap = (alone.weights - undisturbed.weights).abs().max().item()
    print(f"largest difference to four ranks all the way: {gap:.1e}")
    assert gap < 1e-12  # float64

# %% [markdown]
# What no agent can replace here is the rendezvous: machine A has it. If A dies, the job is over, and starts again from its checkpoint
# when somebody submits it again. Clusters put the address on a machine that does not train.

# %% [markdown]
# ## 2 · What a lost hour costs
#
# Each of those deaths cost the steps since the last save. Save more often, and each crash costs less; but each save costs as well. Notebook 3
# had the rule for the best **save interval** (저장 간격), √(2 · C · M). C is the seconds per save; M is the mean time between failures (평균 고장 간격). It is an approximation, so test
# it. The points are simulated runs of 2,000 saves whose crashes are drawn at random; eight runs for each point. The loss is the extra time (saves, repeated work),
# in percent of the time of useful work.

# %%
costs_picture([(30, 3 * 3600), (600, 3600)])

# %%
for save, between in ((30, 3 * 3600), (600, 3600)):
    best = math.sqrt(2 * save * between)
    runs = [simulated_loss(best, save, between, seed=seed) for seed in range(8)]
    print(
        f"C {save} s, M {between} s: simulated {sum(runs) / 8:.1%}, exact "
        f"{expected_loss(best, save, between):.1%}, at Daly's "
        f"{daly_interval(save, between) / 60:.0f} min "
        f"{expected_loss(daly_interval(save, between), save, between):.1%}"
    )

# %% [markdown]
# Left, a save is short against the time between crashes, and the simple formula (dashed) is right. The curve is flat at its lowest point: twice or half the interval
# costs little more. Right, a save takes a sixth of that time: crashes come during saves and repeated work, so the simple formula says far too little. Its
# interval is still near the best; [Daly](https://doi.org/10.1016/j.future.2004.11.016) has the further terms.
#
# ### Exercise 1 · After how many steps?
#
# ●○○ · 8 minutes · good for: `save_every=` of a run on many machines.
#
# Return after how many steps to save, by √(2 · C · M). A machine crashes once in `hours_per_machine` hours on average. The job stops when any
# of its machines does. Round as you like; the smallest answer is 1.


# %% exercise: steps_between_saves
def steps_between_saves(
    save_seconds: float, step_seconds: float, hours_per_machine: float, machines: int
) -> int:
    """Return how many steps to take from one save to the next."""
    ### BEGIN SOLUTION
    between_crashes = 3600 * hours_per_machine / machines
    interval = math.sqrt(2 * save_seconds * between_crashes)
    return max(1, round(interval / step_seconds))
    ### END SOLUTION


# %% check: steps_between_saves
checked = check.steps_between_saves(steps_between_saves, points=2)


### BEGIN HIDDEN TESTS
from torchcourse.checks.values import judged


@judged(steps_between_saves)
def _on_drawn_jobs(steps_between_saves, draw):
    for _ in range(20):
        save, step = draw.uniform(1, 200), draw.uniform(0.1, 5)
        hours, machines = draw.uniform(5000, 60000), draw.randrange(1, 3000)
        interval = (2 * save * 3600 * hours / machines) ** 0.5
        answer = steps_between_saves(save, step, hours, machines)
        assert (interval - save) / step - 1 <= answer <= interval / step + 1.01
        assert answer >= 1


### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "The job stops when any of them does"</summary>
#
# One machine crashes once in 6,000 hours; how many crashes do 2,048 machines have in 6,000 hours, together? So how many hours lie between two of them?
# </details>
#
# <details><summary>Help – I get "In which units are the two times under the root?"</summary>
#
# The save is given in seconds, the time between crashes in hours. An hour has 3,600 seconds.
# </details>

# %% [markdown]
# ## 3 · Which samples are in the weights?
#
# After a restart the loss goes on falling. Does that show that all is well? A record of what each rank took shows more. It has rows *(start, step,
# taken)*: in start 0, step 3, a rank took the samples *taken*. When ranks die, the next start goes on after the last checkpoint.
#
# ### Exercise 2 · Read the records
#
# ●●○ · 12 minutes · good for: trusting a run that was started again.
#
# Return two lists: the samples that are in the weights **more than once**, and those that are in there **never**. What was done
# after the checkpoint from which a later start went on is *not* in the weights: it died with the ranks. So of a start, only the steps *before
# the first step of every later start* count. Each rank has a row of its own.


# %% exercise: audit
def audit(
    rows: list[tuple[int, int, list[int]]], samples: int
) -> tuple[list[int], list[int]]:
    """Return the samples that are in the weights more than once, and those that are
    there never, of the samples 0, 1, …, samples - 1.

    The rows (start, step, taken) come in any order. Each list may be in any order too,
    and names a sample once.
    """
    ### BEGIN SOLUTION
    first = {}
    for start, step, _ in rows:
        first[start] = min(step, first.get(start, step))
    counts = [0] * samples
    for start, step, taken in rows:
        if all(step < first[later] for later in first if later > start):
            for sample in taken:
                counts[sample] += 1
    more_than_once = [sample for sample in range(samples) if counts[sample] > 1]
    never = [sample for sample in range(samples) if counts[sample] == 0]
    return more_than_once, never
    ### END SOLUTION


# %% check: audit
checked = check.audit(audit, points=3)


### BEGIN HIDDEN TESTS
from torchcourse.checks.values import judged


@judged(audit)
def _on_drawn_histories(audit, draw):
    for _ in range(10):
        rows, kept, begin = [], {}, 1
        for start in range(draw.randrange(1, 4)):
            end = begin + draw.randrange(2, 7)
            for step in list(kept):
                if step >= begin:
                    del kept[step]
            for step in range(begin, end):
                kept[step] = []
                for _rank in range(2):
                    taken = [draw.randrange(30) for _ in range(2)]
                    kept[step] += taken
                    rows.append((start, step, taken))
            begin = draw.randrange(max(1, begin - 2), end + 1)
        draw.shuffle(rows)
        seen = [sample for taken in kept.values() for sample in taken]
        twice, never = audit(rows, 30)
        assert sorted(twice) == [n for n in range(30) if seen.count(n) > 1]
        assert sorted(never) == [n for n in range(30) if n not in seen]


### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "was lost with the crash: it is in the weights only where …"</summary>
#
# Start 1 begins with step 3. Then what start 0 did in step 3 and later is gone. Find the first step of each start before you count.
# </details>
#
# <details><summary>Help – I get "Steps after the checkpoint are undone also where …"</summary>
#
# Start 0 did 4 steps, and start 1 went on with step 2 and was finished after step 3, since its steps took more samples. Step 4 of start 0 is gone as well.
# </details>
#
# ### Break-it lab: the loss looks fine
#
# A colleague's run takes 16 samples per rank and step. Its checkpoint has the position in the epoch: how many batches each rank has done. It dies after 10 steps on four ranks
# (the last save was after step 8). With the machines that are left, it goes on with **two** ranks. There is no error. The loss:

# %%
fewer = epoch(fresh("fewer_ranks"), deal_by_batches, ranks=(4, 2), stop_after=(10,))
losses_picture(fewer)

# %% [markdown]
# Nothing to see; with half as many samples per step the loss is only noisier. Now the same from two ranks to **four**, and the records of both. Here `audit` of the package counts:

# %%
more = epoch(fresh("more_ranks"), deal_by_batches, ranks=(2, 4), stop_after=(10,))
seen_picture({"4 → 2 ranks": fewer, "2 → 4 ranks": more})

# %% [markdown]
# In silence, one run repeated samples, and the other left some out. Read the colleague's code: how far is the epoch after 8 batches on four ranks, and where does it go on with two?

# %%
import inspect

print(inspect.getsource(deal_by_batches))

# %% [markdown]
# On four ranks, 8 batches of 16 are 512 samples of the epoch. On two ranks, the same 8 batches are only 256: so 256 samples come again. From two ranks
# to four, 256 are left out.
#
# ### Exercise 3 · Deal for any number of ranks
#
# ●●○ · 10 minutes · good for: jobs that go on with the machines that are left.
#
# Write the repair. The position `done` counts samples of *all* ranks. A step takes the next 64 samples of `order`, however many ranks there are. Each rank
# takes its part of them. Each sample goes to one rank, and the parts differ by at most one sample. At the end of the epoch a step has fewer
# samples, or none.


# %% exercise: deal
def deal(order: list[int], done: int, rank: int, ranks: int) -> list[int]:
    """Return the samples that this rank takes in the step after `done` samples: its
    part of the next 64 of `order`, however it is cut.
    """
    ### BEGIN SOLUTION
    return order[done : done + 64][rank::ranks]
    ### END SOLUTION


# %% check: deal
checked = check.deal(deal, points=3)


### BEGIN HIDDEN TESTS
from torchcourse.checks.values import judged


@judged(deal)
def _on_drawn_positions(deal, draw):
    for _ in range(12):
        size, ranks = draw.randrange(100, 400), draw.randrange(1, 8)
        order, done = draw.sample(range(1000), size), draw.randrange(size + 1)
        parts = [list(deal(order, done, rank, ranks)) for rank in range(ranks)]
        taken = sorted(sample for part in parts for sample in part)
        assert taken == sorted(order[done : done + 64])
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "of the next … samples … to no rank"</summary>
#
# 64 divided by 3 is no whole number. Cut the step out of `order` first, and deal the cut: every third sample of it, beginning with the first, second, third.
# </details>
#
# <details><summary>Help – I get "no rank takes a sample, and … are left"</summary>
#
# `done` is a place in `order`, before it is dealt to ranks. In the part of one rank the same place is much further on.
# </details>
#
# ### The proof
#
# The same epoch on four ranks, then two, then three. It dies after 10 steps, and again after 6.

# %%
repaired = epoch(
    fresh("repaired"),
    deal_by_samples,
    (4, 2, 3),
    stop_after=(10, 6),
    counts_samples=True,
)
seen_picture({"4 → 2 → 3 ranks, repaired": repaired})
rows = [row for part in repaired for row in part.rows]
assert seen_samples.audit(rows, seen_samples.SAMPLES) == ([], [])

# %% [markdown]
# With parts of different sizes, the mean of the ranks' means would be wrong (lesson 01). This loop adds up the losses and divides by the number of samples of the whole step.

# %% [markdown]
# ## 4 · A checkpoint in shares
#
# With FSDP each rank has a share of the weights and of the optimizer's state (lesson 01). `torch.distributed.checkpoint` (**DCP**, imported as `dcp`) has each rank write its own share. Who can go on from
# that?

# %%
predict(
    "04-4.shards",
    "Two ranks have saved their shares with DCP. How many ranks can load them and "
    "train on?",
    [
        "two: each takes the share that it wrote",
        "one or two: shares can be put together, and not cut",
        "any number",
    ],
)

# %%
at_save, two_steps_on = run_ranks(save_in_shares, fresh("shares_of_2"), world_size=2)[0]
for ranks in (4, 1):
    loaded, further = run_ranks(resume_from_shares, "shares_of_2", world_size=ranks)[0]
    print(
        f"{ranks} rank{'s' * (ranks > 1)}: loaded weights differ by "
        f"{largest_difference(at_save, loaded):g}, and two AdamW steps later by "
        f"{largest_difference(two_steps_on, further):.1g}"
    )
    assert largest_difference(at_save, loaded) == 0
    assert largest_difference(two_steps_on, further) < 1e-5

# %%
outcome(
    "04-4.shards",
    "Four ranks and one have loaded them, with weights that are equal to the last "
    "bit. The folder says which part of each tensor lies where, and each rank "
    "reads the parts that it needs. The two steps show that the optimizer's state "
    "came along.",
    right="any number",
)

# %% [markdown]
# **What does the step wait for?** While `dcp.save` writes, training stands still. `dcp.async_save` is an **asynchronous save** (비동기 저장): it copies the share into the memory of the CPU and returns. A thread writes the copy
# while training goes on. So the step waits for a copy, and not for the disk; the copy needs as much CPU memory as the share. What `async_save` returns is a *future*
# (퓨처): its `result()` waits until the copy is written. Three saves of each kind, 13 MB on two ranks; the first
# asynchronous one also starts the thread.

# %%
seconds = run_ranks(waits, fresh("saved_twice"), world_size=2)[0]
for kind in ("sync", "async", "written"):
    print(f"{kind:8}", " ".join(f"{1000 * second:6.0f} ms" for second in seconds[kind]))
ratio = median(seconds["sync"]) / median(seconds["async"])
print(f"the step waits {ratio:.0f} times as long for dcp.save as for dcp.async_save")

# %% [markdown]
# A copy that is not yet written is no checkpoint: a crash costs the work since the last save that *is* written. Ask for `result()` before you delete an older one, and before the next save.
# By √(2 · C · M), a C that is so much smaller also means to save more often, but not more often than a write takes.

# %% [markdown]
# ## 5 · A slow rank is not a dead one
#
# A slow rank ends no run, but all wait for it: after each backward pass, DDP needs every gradient. **Local SGD** (로컬 SGD) averages less often: each rank takes H steps on its own,
# then all average their weights. Measured on four ranks whose steps only sleep: 4 ms, and 20 ms for a slow one. In one case each step of each rank is slow with a chance of 20%, now and then; in the other,
# rank 0 always is. The share of the time spent waiting is the mean over the four ranks.

# %%
predict(
    "04-4.slow",
    "Rank 0 is always five times as slow as the others. They average after every "
    "48th step instead of after each one. What becomes of the share of the time "
    "spent waiting?",
    ["about 1/48 of it is left", "about half of it is left", "hardly anything changes"],
)


# %%
def waiting():
    return {
        slow: {every: share_waited(every, slow) for every in (1, 8, 48)}
        for slow in ("now and then", "always rank 0")
    }


def accuracy():
    return {every: accuracies(every, seeds=range(16)) for every in (1, 8, 48, 192)}


waited = run_ranks(waiting, world_size=4)[0]
correct = run_ranks(accuracy, world_size=1, timeout=None)[0]
waiting_and_accuracy(waited, correct)

# %%
always, at_random = waited["always rank 0"], waited["now and then"]
outcome(
    "04-4.slow",
    f"{always[1]:.0%} with H = 1, and {always[48]:.0%} with H = 48. After 48 steps "
    "the slow rank is 48 delays behind, and all wait for it there. Where ranks are "
    "slow now and then, at random, their delays partly even out: "
    f"{at_random[1]:.0%} become {at_random[48]:.0%}.",
    right="hardly anything changes"
    if always[48] > 0.8 * always[1]
    else "about half of it is left",
)

# %%
for every in (8, 48, 192):
    gain = paired(correct[every], correct[1])
    in_points = paired([100 * c for c in correct[every]], [100 * c for c in correct[1]])
    print(f"H = {every:3}: {in_points.in_points()}, {gain.verdict(margin=0.01)}")

# %% [markdown]
# The accuracy is that of 16 training runs on the digits for each H, with four ranks, 192 steps and the same seeds. (One process computes what the four ranks would.) One point is the margin within which two are "level". "Level" with averaging after each step means
# that so many local steps cost nothing that matters here; H = 192 averages once, at the end. All of it holds for this small network on samples that each rank draws from the whole.
# [Stich](https://arxiv.org/abs/1805.09767) has the theory.
#
# So: local steps help against ranks that are slow *now and then*, and against a slow network, since they send 1/H as much. Against one machine that is always slow, replace the machine, or give it fewer samples.

# %% [markdown]
# ## What the log said
#
# The third recorded question asks how to manage a model that is being trained. The study log is sure of answer A: weights are kept regularly, and the best restored. This notebook adds two things. *How* regularly follows from two times that you can measure. And a restored run is the same run only if its position in
# the data is right on as many ranks as are left.
#
# ## Take away
#
# * One rank dies, and all start again from the last checkpoint. `--max-restarts` counts such starts.
# * Equal weights at the end are the proof. They take the same checkpoint, all pieces, samples by the number of the step, and as many ranks as before.
# * M of a job is M of one machine divided by the number of machines. Save every √(2·C·M) seconds.
# * A falling loss does not show which samples were taken. Count them.
# * The position in the data counts samples of all ranks, not batches of one.
# * DCP: any number of ranks can go on. `async_save` waits for a copy, not for the disk.
# * Local steps partly even out delays that come now and then, at random, and send 1/H as much. A machine that is always slow stays the slowest.
#
# **Questions on this lesson:** [quiz](quiz.ipynb). **Next lesson:** [memory](../05_troubleshooting/1_memory.ipynb).
#
# ### Glossary
#
# | English | 한국어 | here |
# |---|---|---|
# | agent | 에이전트 | what `torchrun` is on each machine: it starts ranks and watches them |
# | rendezvous | 랑데부 | the address at which the agents meet |
# | save interval | 저장 간격 | the time from one save to the next |
# | mean time between failures | 평균 고장 간격 | M, how long it is from crash to crash |
# | elastic | 탄력적 | able to go on with more or fewer ranks |
# | asynchronous save | 비동기 저장 | training goes on while a copy is written |
# | local SGD | 로컬 SGD | steps of one's own between two averages of the weights |
#
# ### Further reading
#
# * PyTorch, [torchrun](https://docs.pytorch.org/docs/stable/elastic/run.html): restarts, `--nnodes=MIN:MAX`, and what a script has to do.
# * Young 1974, [A first order approximation to the optimum checkpoint interval](https://doi.org/10.1145/361147.361115).
# * Daly 2006, [A higher order estimate of the optimum checkpoint interval for restart dumps](https://doi.org/10.1016/j.future.2004.11.016).
# * PyTorch, [torch.distributed.checkpoint](https://docs.pytorch.org/docs/stable/distributed.checkpoint.html): shares, and `async_save`.
# * Stich 2019, [Local SGD Converges Fast and Communicates Little](https://arxiv.org/abs/1805.09767).
# * Douillard et al. 2023, [DiLoCo](https://arxiv.org/abs/2311.08105): hundreds of local steps for language models.
