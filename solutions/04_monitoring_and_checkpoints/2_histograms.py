# %% [markdown]
# # Histograms: what a sick run looks like
#
# **{minutes} minutes** · one CPU is enough · before this: notebook 1
#
# The second recorded wrong answer of the study log is about histograms. The question, in our words: TensorBoard shows how weights and biases are spread. They
# change drastically, or hardly at all; leaving the learning rate aside, what can you infer? Answer it below, before you read on.
#
# **After this notebook you can**
#
# 1. name a sick run (vanishing, exploding, dead or saturated units) from its histograms and gradient norms;
# 2. say what overfitting and underfitting do to the histograms of the weights;
# 3. predict how the scale of the initial weights reaches the gradients.

# %% setup

# %%
import math
import shutil
import statistics
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from torchcourse import environment, figures
from torchcourse.data import mnist
from torchcourse.lessons.monitoring import checks as check
from torchcourse.lessons.monitoring import sick_runs
from torchcourse.lessons.monitoring.diagnosis import (
    diagnose,
    judge_fit,
    layer_gradients,
    rms,
)
from torchcourse.lessons.monitoring.run_picture import (
    describe_card,
    draw_card,
    draw_layers,
    draw_over_time,
)
from torchcourse.lessons.monitoring.tensorboard_page import show_tensorboard
from torchcourse.models import small_cnn
from torchcourse.quiz import outcome, predict
from torchcourse.training.histograms import measure
from torchcourse.training.watch import dead_units

# these networks are so small that threads would only wait for one another
torch.set_num_threads(1)
shutil.rmtree("runs", ignore_errors=True)
print(environment.hardware())

# %%
predict(
    "04-2.infer",
    "Weights change drastically within a few steps, or hardly at all. What do you "
    "infer, the learning rate aside?",
    [
        "overfitting and underfitting",
        "exploding and vanishing gradients",
        "how much was learned, nothing else",
        "all of these",
    ],
)

# %% [markdown]
# The learner chose overfitting and underfitting. The key says exploding and
# vanishing gradients. The learner then concluded: *오로지 학습량에 대한 문제였다(?)*, only a matter of how much is learned, with a question mark. This notebook tests all
# three by experiment, the key too.
#
# ## 1 · Count where the values are
#
# A **histogram** (히스토그램) says how many values lie between which limits. A layer of a hundred thousand weights becomes some seventy numbers. On a GPU the counting should happen
# *there*: copying a million numbers to the CPU costs more than counting them.
#
# For counts that can be *added up*, over batches or over ranks, all must use the same limits. So do not take each batch's own lowest and highest value. The
# course's `measure` uses limits that fit any tensor: four for each doubling of the size, taken from the first bits of the number itself.

# %%
torch.manual_seed(0)
weight = small_cnn()[9].weight
for name, tensor in {
    "fresh weights": weight,
    "a billionth of them": weight * 1e-9,
    "after ReLU": weight.relu(),
}.items():
    histogram = measure({"x": tensor})["x"]
    print(
        f"{name:20} {histogram.number:,} values in {len(histogram.counts)} bins: std "
        f"{histogram.std:.2g}, "
        f"median {histogram.quantile(0.5):.1g}, exactly 0: {histogram.zeros:.0%}"
    )

# %% [markdown]
# ### Exercise 1 · One histogram over many batches
#
# ●●○ · 8 minutes · good for: statistics of a whole epoch, of which only one batch is in memory at a time.


# %% exercise: fixed_histogram
def fixed_histogram(
    batches: Iterable[torch.Tensor], edges: torch.Tensor
) -> torch.Tensor:
    """Return how many values of all batches lie in each bin: int64 [len(edges) - 1], on
    the device of the edges.

    Bin i begins at edges[i], itself included, and ends before edges[i + 1]. The edges
    rise; bins need not be equal. Values below the first edge count in the first bin,
    values above the last edge (or on it) in the last. Each batch is [N], of the dtype
    of the edges. Keep one batch in memory at a time, and turn no tensor into a number.
    """
    counts = torch.zeros(len(edges) - 1, dtype=torch.int64, device=edges.device)
    for batch in batches:
        ### BEGIN SOLUTION
        bins = (torch.bucketize(batch.flatten(), edges, right=True) - 1).clamp(
            0, len(counts) - 1
        )
        # not bincount: on a GPU it waits, to learn the largest number first
        counts.index_add_(0, bins, torch.ones_like(bins))
        ### END SOLUTION
    return counts


# %% check: fixed_histogram
checked = check.fixed_histogram(fixed_histogram, points=2)
### BEGIN HIDDEN TESTS
_edges = torch.tensor([0.0, 1.0, 10.0, 100.0])
_batches = [torch.tensor([0.0, 0.5, 1.0]), torch.tensor([99.0, 100.0, -5.0, 2000.0])]
assert fixed_histogram(iter(_batches), _edges).tolist() == [3, 1, 3]
assert fixed_histogram(iter(_batches[1:]), _edges).tolist() == [1, 0, 3]
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – a value on an edge lands one bin too low</summary>
#
# `torch.bucketize(values, edges)` has an argument that says to which side such a value belongs. Try it with one value and three edges.
# </details>
#
# <details><summary>Help – I get <code>index out of range</code>, one bin too many, or low values in the last bin</summary>
#
# For values outside the edges, `bucketize` gives 0 or `len(edges)`. What are the first and the last bin? Mind a place of −1: `bincount` refuses it, but as an index it means the *last*
# bin, without an error.
# </details>

# %% [markdown]
# ## 2 · Seven runs made on purpose
#
# Each trains on MNIST with the same optimizer (옵티마이저), SGD with momentum 0.9, and the same learning rate (학습률), 0.02. Only the network or the data are spoiled:
#
# | run | hidden layers | initial weights | what else |
# |---|---|---|---|
# | healthy (건강) | 4, ReLU | He's scale | |
# | vanishing (기울기 소실) | 7, sigmoid | PyTorch's own | |
# | exploding (기울기 폭주) | 8, ReLU | 1.7 times He's scale | |
# | dead units (죽은 유닛) | 4, ReLU | PyTorch's own | initial biases at −2 |
# | saturated (포화) | 4, tanh | 6 times He's scale | |
# | overfitting (과적합) | 2, ReLU | He's scale | 200 images, 40 epochs |
# | underfitting (과소적합) | 2, ReLU | He's scale | each digit averaged down to four gray spots |
#
# He's scale is that of [He et al.](https://arxiv.org/abs/1502.01852) for ReLU, about 2.4 times PyTorch's own (section 6). The output layer always starts as PyTorch does it.

# %%
predict(
    "04-2.still",
    "In the vanishing run, which layer's weights get the smallest gradient?",
    ["all layers alike", "the first", "the last"],
)

# %%
runs = {kind: sick_runs.train(kind, f"runs/{kind}") for kind in sick_runs.RECIPES}
for kind in ("healthy", "vanishing", "exploding", "dead units"):
    figures.show(draw_card(runs[kind], kind), f"{kind}: {describe_card(runs[kind])}")

# %%
for kind in ("saturated", "overfitting", "underfitting"):
    figures.show(draw_card(runs[kind], kind), f"{kind}: {describe_card(runs[kind])}")

# %%
sizes = list(layer_gradients(runs["vanishing"]).values())
ends = {sizes[0]: "the first", sizes[-1]: "the last"}
outcome(
    "04-2.still",
    f"The first layer gets a gradient of {sizes[0]:.0e}, the last one of "
    f"{sizes[-1]:.0e}: {sizes[-1] / sizes[0]:,.0f} times as much.",
    right=ends.get(min(sizes)),
)

# %% [markdown]
# Read each row from left to right.
#
# * **Weights of layer 1**, at the first and at the last look. Thrown far out: exploding. Not moved at all: vanishing or dead. (So with SGD. Adam divides each gradient by its own recent
#   size, so a layer with tiny gradients can move as far as the others there. Look at the gradients.)
# * **Gradients, layer by layer**, on a log axis (로그 축). (The *gradient norm*, 기울기 노름, is their length as one vector.) A slope over many powers of ten (sigmoid), or tiny in all layers (ReLU): vanishing. High everywhere: exploding. Exactly 0: dead.
#   What is tiny? Divide the smallest gradient of a layer's weights by the largest gradient of any parameter, biases too: below 1/1000.
# * **Units**: dead (0 for the whole batch), or saturated (at the flat ends of tanh).
# * **Loss**: the two curves of notebook 1. Only this panel shows over- and underfitting: overfitting as a gap between the curves, underfitting as two curves that stay high. (Where the training loss has come near 0, the
#   gradients get small as well. That says how low the *training* loss is, and nothing about other data.)
#
# Now the same in TensorBoard. Open HISTOGRAMS, choose a run on the left, and compare `gradients/1.weight` with the gradients of the last layer.

# %%
show_tensorboard("runs", "histograms", height=650)

# %% [markdown]
# And drawn from the event files, at any look, on an axis of powers of ten. Choose the vanishing run and its gradients; then the run with dead units and its
# activations (활성값).


# %%
def draw_look(look, run, what):
    return draw_layers(runs[run], what, look)


def describe_look(look, run, what):
    return f"Histograms of the {what} of all layers of the run {run}, at look {look}."


figures.explorer(
    draw_look,
    alt=describe_look,
    look=(1, 6, 2),
    run=list(dict.fromkeys(["vanishing", *runs])),
    what=["gradients", "weights", "activations"],
)

# %% [markdown]
# ### Exercise 2 · Find the dead units
#
# ●●○ · 10 minutes · good for: finding out how much of a network does nothing.
#
# A ReLU puts out 0 for many samples: that is its job. Where it does, its slope is 0 as well, and no gradient reaches the unit's weights. A unit (유닛) that puts out 0 for *all* samples
# gets no gradient at all: it is **dead**.
#
# `handle = layer.register_forward_hook(note)` makes PyTorch call your `note(layer, inputs, output)` after each call of the layer. `handle.remove()` ends that.


# %% exercise: dead_share
def dead_share(model: nn.Module, batches: list[torch.Tensor]) -> dict[str, float]:
    """Return for each nn.ReLU of the model, by its name in `named_modules()`, the share
    of its units that are dead.

    Dead: 0 for every sample of all batches. Outputs are [N, units]. Remove the hooks
    that you registered, and leave the rest of the model as it was: other hooks, and
    training or evaluation mode.
    """
    outputs = {
        name: []
        for name, module in model.named_modules()
        if isinstance(module, nn.ReLU)
    }
    ### BEGIN SOLUTION
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, rows=rows: rows.append(output)
        )
        for name, rows in outputs.items()
    ]
    with torch.no_grad():
        for batch in batches:
            model(batch)
    for hook in hooks:
        hook.remove()
    return {
        name: (torch.cat(rows) == 0).all(dim=0).float().mean().item()
        for name, rows in outputs.items()
    }
    ### END SOLUTION


# %% check: dead_share
checked = check.dead_share(dead_share, points=3)
### BEGIN HIDDEN TESTS
_model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
with torch.no_grad():
    _model[0].weight.copy_(
        torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    )
    _model[0].bias.copy_(torch.tensor([0.0, 0.0, -9.0, 0.0]))
_one, _other = torch.tensor([[1.0, 0.0], [2.0, 1.0]]), torch.tensor([[-1.0, 0.0]])
assert dead_share(_model, [_one])["1"] == 0.5
assert dead_share(_model, [_one, _other]) == {"1": 0.25}
assert not _model[1]._forward_hooks
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – all my hooks write into the same list</summary>
#
# A `lambda` looks a name up when it is *called*, and by then your loop has ended. Give it the value as a default argument: `lambda m, i, o, rows=rows: …`.
# </details>
#
# <details><summary>Help – a share above what the check finds</summary>
#
# Put the outputs of all batches together first, then ask for each unit.
# </details>

# %%
image = {"healthy": mnist()[:200][0], "dead units": mnist()[:200][0]}
for kind, pixels in image.items():
    torch.manual_seed(0)
    network = sick_runs.build(sick_runs.RECIPES[kind])
    with torch.no_grad():
        first = network[:3](pixels)
    alive = (~dead_units(first)).sum().item()
    print(
        f"{kind:10} layer 1 before training: {(first == 0).float().mean():.0%} of "
        f"outputs are 0, {alive} of 64 units alive"
    )

# %% [markdown]
# In the healthy run half of the outputs are 0, and every unit is alive. So count units, not zeros.
#
# ## 3 · Name them yourself
#
# Seven new runs, A to G: other networks (convolutions, or thinner and deeper ones) and other seeds. Each of the seven names occurs once.

# %%
unknown = check.train_unknown("unknown")
for letter in "ABCD":
    figures.show(
        draw_card(unknown[letter], letter),
        f"Run {letter}: {describe_card(unknown[letter])}",
    )

# %%
for letter in "EFG":
    figures.show(
        draw_card(unknown[letter], letter),
        f"Run {letter}: {describe_card(unknown[letter])}",
    )

# %% [markdown]
# ### Exercise 3 · Give each run its name
#
# ●●○ · 8 minutes · good for: the moment when your own run does not learn.
#
# Use `"healthy"`, `"vanishing"`, `"exploding"`, `"dead units"`, `"saturated"`, `"overfitting"`, `"underfitting"`.

# %% exercise: names_of_runs
name_of_a = "vanishing"  ### SOLUTION
name_of_b = "overfitting"  ### SOLUTION
name_of_c = "exploding"  ### SOLUTION
name_of_d = "healthy"  ### SOLUTION
name_of_e = "dead units"  ### SOLUTION
name_of_f = "underfitting"  ### SOLUTION
name_of_g = "saturated"  ### SOLUTION

# %% check: names_of_runs
names = {letter: globals()[f"name_of_{letter.lower()}"] for letter in "ABCDEFG"}
checked = check.names_of_runs(names, points=3)
### BEGIN HIDDEN TESTS
for _letter, _run in unknown.items():
    _found = [diagnose(_run).name]
    if "loss/val" in _run.scalars:
        _found.append(judge_fit(_run).name)
    assert check.spelled(names[_letter]) in _found, _letter
assert sorted(map(check.spelled, names.values())) == sorted(sick_runs.RECIPES)
### END HIDDEN TESTS
checked

# %% [markdown]
# ## 4 · Let a program look
#
# `diagnose` reads histograms and gradient norms and nothing else; `judge_fit` reads the two curves and nothing else. Each gives its evidence.

# %%
for kind in ("vanishing", "saturated", "overfitting"):
    print(f"run {kind!r}:", diagnose(runs[kind]))

# %%
for kind, run in runs.items():
    fit = (
        judge_fit(run).name
        if "loss/val" in run.scalars
        else "no validation: it stopped before"
    )
    print(f"{kind:14} histograms: {diagnose(run).name:12} curves: {fit}")
for letter, run in unknown.items():
    print(f"run {letter}          histograms: {diagnose(run).name}")

# %% [markdown]
# Look at the lines of over- and underfitting. Judged by their histograms, they are **healthy**. But the limits of `diagnose` were set on dense
# networks like these, so these lines alone prove little. The runs A to G are other networks with other seeds, and section 5 adds
# seeds that were not used for the limits.
#
# ### The name says what to change
#
# A name is of use when it leads to a remedy. So train three of the sick runs once more, for 40 steps, with three seeds each. Train them as they were, and with something changed at the place that the name
# points to. Data, optimizer, learning rate and depth stay as they are.

# %%
changes = {
    "vanishing": {
        "as it was": {},
        "ReLU instead of sigmoid": {"activation": nn.ReLU},
        "ReLU, weights at He's scale": {"activation": nn.ReLU, "scale": 1.0},
    },
    "exploding": {
        "as it was": {},
        "gradient norm clipped to 10": {"clip": 10.0},
        "weights at He's scale": {"scale": 1.0},
    },
    "dead units": {
        "as it was": {},
        "biases at 0": {"bias": 0.0},
        "biases at 0, He's scale": {"bias": 0.0, "scale": 1.0},
    },
}
for kind, tried in changes.items():
    for place, (name, change) in enumerate(tried.items()):
        recipe = replace(sick_runs.RECIPES[kind], epochs=1, every=20, **change)
        three = [
            sick_runs.train(recipe, f"treated/{kind}-{place}-{seed}", seed=seed)
            for seed in range(3)
        ]
        ends = [run.last("accuracy").get("val") for run in three]
        found = sorted({diagnose(run).name for run in three})
        accuracy = ", ".join("stopped" if end is None else f"{end:.0%}" for end in ends)
        print(f"{kind:10} {name:28} accuracy {accuracy:27} now {', '.join(found)}")

# %% [markdown]
# Look at the half remedies. ReLU from PyTorch's own start still does not learn: that start has 0.4 of He's scale, too small for seven layers (section 6). The run only gets a different name, *dead units*. With
# biases at 0 the dead units live, but from the same small start they learn slowly. Gradient clipping (lesson 01)
# leaves the cause, weights that are too large, and bounds each step: the run goes on, and learns less than from He's scale. Where the cause is gone, all three seeds learn. So prove a remedy on the run that was sick, by what it should learn, and not by a
# curve that looks calmer.

# %% [markdown]
# ## 5 · Only a matter of how much is learned?
#
# The learner's hypothesis deserves a test. 학습량, the amount of learning, can mean two things: how *long* a model trained, or how much a weight learns in *one step*. If
# histograms showed how well a model fits, then runs that fit differently would move their weights differently. If they showed *how long* it trained, then a longer
# training would move more, also in the vanishing run. With SGD, how much is learned in one step is the learning rate times the gradient (momentum adds a share of the earlier ones). The question leaves the learning rate aside;
# what remains is the gradient. (Adam's steps depend little on the gradient's size.)

# %%
predict(
    "04-2.growth",
    "The same network, the same 160 steps of 50 images: once on 200 images (overfits), once on "
    "4,000 (fits). Where do the weights spread more?",
    ["much more where it overfits", "about equally", "much more where it fits"],
)

# %%
over, sick = sick_runs.RECIPES["overfitting"], sick_runs.RECIPES["vanishing"]
recipes = {
    "200 images, 160 steps": over,
    "200 images, 640 steps": replace(over, epochs=160),
    "4,000 images, 160 steps": replace(over, samples=4000, batch=50, epochs=2),
    "four gray spots, 160 steps": replace(
        over, samples=4000, batch=50, epochs=2, pool=14
    ),
    "200 images, 4 steps": replace(over, epochs=1, every=1),
    "vanishing, 120 steps": sick,
    "vanishing, 480 steps": replace(sick, epochs=12),
    "10 ReLU layers at half scale": sick_runs.Recipe(depth=10, scale=0.5),
}
longer = {
    name: sick_runs.train(recipe, f"longer/{name}") for name, recipe in recipes.items()
}


# %%
def growth(run):
    """How many times wider the weights of the first and of the
    last layer are at the end.
    """
    tags = [
        tag
        for tag in run.histograms
        if tag.startswith("weights/") and tag.endswith("weight")
    ]
    return [
        run.histograms[tag][-1][1].std / run.histograms[tag][0][1].std
        for tag in (tags[0], tags[-1])
    ]


def weakest_gradient(run):
    """The smallest gradient of a layer's weights over the largest of any parameter,
    biases too, at the first look.
    """
    sizes = {
        tag: rms(looks[0][1])
        for tag, looks in run.histograms.items()
        if tag.startswith("gradients/")
    }
    return min(size for tag, size in sizes.items() if tag.endswith("weight")) / max(
        sizes.values()
    )


# %%
for name, run in longer.items():
    first, last = growth(run)
    gap = run.scalars["loss/val"][1][-1] - run.scalars["loss/train"][1][-1]
    print(
        f"{name:28} weights ×{first:.2f} first, ×{last:.2f} last layer;  gap "
        f"{gap:+.2f}  {judge_fit(run).name}"
    )
    print(
        f"{'':28} weakest gradient at the start: {weakest_gradient(run):.1g} of the "
        f"strongest"
    )

# %% [markdown]
# One run for each line proves little (lesson 03). So the three conditions that differ in their fit once more, each with ten new seeds:

# %%
compared = (
    "200 images, 160 steps",
    "4,000 images, 160 steps",
    "four gray spots, 160 steps",
)
seeds = {
    name: [
        sick_runs.train(
            replace(recipes[name], every=40), f"seeds/{place}-{seed}", seed=seed
        )
        for seed in range(1, 11)
    ]
    for place, name in enumerate(compared)
}


# %%
def first_layers_gradient(run):
    """The root mean square gradient of the first layer's weights at the last look."""
    return rms(
        next(
            looks
            for tag, looks in run.histograms.items()
            if tag.startswith("gradients/")
        )[-1][1]
    )


spread = {name: [growth(run)[1] for run in ten] for name, ten in seeds.items()}
ending = {
    name: [first_layers_gradient(run) for run in ten] for name, ten in seeds.items()
}
for name, ten in seeds.items():
    healthy = sum(diagnose(run).name == "healthy" for run in ten)
    fits = [judge_fit(run).name for run in ten]
    print(
        f"{name:26} last layer ×{statistics.mean(spread[name]):.2f} "
        f"({min(spread[name]):.2f} to {max(spread[name]):.2f}), "
        f"gradient at the end {min(ending[name]):.0e} to {max(ending[name]):.0e}\n"
        f"{'':26} histograms: {healthy} of 10 healthy; curves: "
        f"{ {fit: fits.count(fit) for fit in sorted(set(fits))} }"
    )

# %%
figure, axes = figures.new(8, 3)
shapes = {"fitting": "o", "overfitting": "^", "underfitting": "v"}
for place, (name, run) in enumerate(longer.items()):
    for each, size in [(run, 9), *((one, 3) for one in seeds.get(name, ()))]:
        axes.plot(
            growth(each)[1],
            each.scalars["loss/val"][1][-1] - each.scalars["loss/train"][1][-1],
            shapes[judge_fit(each).name],
            color=figures.CYCLE[place % len(figures.CYCLE)],
            markersize=size,
            label=name if each is run else None,
        )
axes.set(
    xlabel="weights of the last layer: spread at the end ÷ at the start",
    ylabel="validation − training loss",
)
axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
same = [statistics.mean(spread[name]) for name in compared]
found = f"ten seeds (small): mean ×{same[0]:.2f} on 200 images, ×{same[1]:.2f} on 4,000"
axes.set_title(found)
figures.show(figure, f"Spread of the weights against the gap of the losses; {found}.")

# %%
ratio = (same[0] - 1) / (same[1] - 1)
outcome(
    "04-2.growth",
    f"×{same[0]:.2f} where it overfits, ×{same[1]:.2f} where it fits, means of ten "
    f"seeds. The network that sees four spots: ×{same[2]:.2f}.",
    right="much more where it overfits"
    if ratio > 1.5
    else "much more where it fits"
    if ratio < 1 / 1.5
    else "about equally",
)

# %% [markdown]
# * **Over- and underfitting cannot be read from the weights.** In networks like these, trained for so long, the last layer's weights spread about as much in runs that fit, overfit and underfit. The difference is in data that the weights have never seen.
# * **The gradients do differ at the end,** and by a lot: where all 200 images are memorized, almost no error is left. That shows how low the *training* loss is. It says nothing
#   about other data, so it cannot show the gap.
# * **More training is not the point either.** Four times as many steps widen the weights of the overfitting run a little, and leave the vanishing run where it was: almost
#   no gradient reaches its first layer.
# * **One half of the hypothesis holds.** After 4 steps the weights of the first and the last layer are spread almost as before, and the loss is high. So a histogram that stands
#   still *can* mean that too little was trained. *Where* it stands still does not tell the two apart: with ten ReLU layers at half scale, the first and the last stand still, and the gradients vanish.
#   Apply the rule of section 2 at the start: the smallest gradient of a layer's weights over the largest of any parameter. Trained too little: ordinary. Vanishing: below 1/1000.
# * **If 학습량 meant how much is learned in one step,** then the learner was nearly right: with SGD and a given learning rate that is the size of the gradient.
#
# There are models in which overfitting *does* show in the weights. The textbook case is a polynomial (다항식) through noisy points (Bishop 2006, table 1.1):

# %%
noise = np.random.default_rng(0)
places = np.linspace(0, 1, 10)
heights = np.sin(2 * np.pi * places) + 0.3 * noise.standard_normal(10)
for degree in (3, 9):
    print(
        f"degree {degree}: largest coefficient "
        f"{abs(np.polyfit(places, heights, degree)).max():,.0f}"
    )

# %% [markdown]
# So the learner's guess has a reason: in such a fit extreme weights and overfitting come together, and weight decay works against both. In the networks
# above, overfitting came without extreme weights.
#
# This is the run that overfits, look by look, as TensorBoard draws it:

# %%
tag = "weights/5.weight"
looks = runs["overfitting"].histograms[tag]
figures.show(
    draw_over_time(runs["overfitting"], tag),
    f"{len(looks)} histograms of {tag}, widening from {looks[0][1].std:.2g} to "
    f"{looks[-1][1].std:.2g}, without an extreme.",
)

# %% [markdown]
# ## 6 · The scale of the start
#
# *weight bias 분포는 너무 분포도가 커도 작아도 안 된다! grad에 직접적인 영향을 준다*: a distribution too wide or too narrow acts directly on the gradient. Test it by the start (**initialization**, 초기화) alone, before
# any training. Take $L$ hidden layers with ReLU, their initial weights *s* times the scale of
# [He et al.](https://arxiv.org/abs/1502.01852), which keeps a signal the same size through a layer.

# %%
predict(
    "04-2.scale",
    "10 hidden layers, weights at half the right scale. By what factor does the "
    "gradient of the first layer change?",
    ["by 0.5", "by about 0.05", "by about 0.002"],
)


# %%
images, labels = mnist()[:200]


def gradients_at_start(scale, hidden_layers, seed=0):
    """The root mean square gradient of each hidden layer's weights,
    before any training.
    """
    torch.manual_seed(seed)
    model = sick_runs.build(sick_runs.Recipe(depth=hidden_layers, scale=scale))
    F.cross_entropy(model(images), labels).backward()
    layers = [layer for layer in model if isinstance(layer, nn.Linear)][:-1]
    return [layer.weight.grad.square().mean().sqrt().item() for layer in layers]


factor = gradients_at_start(0.5, 10)[0] / gradients_at_start(1.0, 10)[0]
outcome(
    "04-2.scale",
    f"It is {factor:.4f} times as large. How this number comes about is exercise 4.",
    right="by about 0.002",
)

# %% [markdown]
# ### Exercise 4 · The product law
#
# ●○○ · 4 minutes · good for: knowing why depth and scale belong together.
#
# The gradient of a layer's weights is a product. One factor is the signal that came in from below, through the layers below it. The other is the error that came in from above, through
# those above it. A hidden layer whose weights are *s* times as large multiplies what passes through it by *s*.


# %% exercise: gradient_factor
def gradient_factor(scale: float, hidden_layers: int) -> float:
    """Return by what factor the gradients of hidden layers' weights change when all
    their weights start `scale` times larger. The output layer stays as it is.
    """
    ### BEGIN SOLUTION
    return scale ** (hidden_layers - 1)
    ### END SOLUTION


# %% check: gradient_factor
checked = check.gradient_factor(gradient_factor, points=1)
### BEGIN HIDDEN TESTS
from torchcourse.checks.values import judged

assert abs(gradient_factor(3.0, 4) / 27 - 1) < 1e-6
assert abs(gradient_factor(0.1, 3) / 0.01 - 1) < 1e-6


@judged(gradient_factor)
def _at_drawn_scales(gradient_factor, draw):
    scale, layers = draw.uniform(0.2, 4), draw.randint(2, 9)
    assert abs(gradient_factor(scale, layers) / scale ** (layers - 1) - 1) < 1e-6


### END HIDDEN TESTS
checked

# %% [markdown]
# For each layer, the $L-1$ remaining hidden layers multiply by *s*: those below it through the signal, those above it through the error. So with ReLU the gradients of all hidden layers'
# weights shrink alike. Sigmoid's outputs stay between 0 and 1 at any scale, so the signal is kept, and only the error shrinks on its way down. That is the slope from layer to layer in section 2.
#
# Now let the law meet the measurement. Move the scale a little away from 1, then the depth. Call a factor below 1/1000 too small and one above 1,000 too large: which scales are left with 8 layers, and with 20?


# %%
def at_start(scale, hidden_layers):
    """Scales around the chosen one, their measured factors for the first layer,
    and the law's.
    """
    scales = sorted({0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, scale})
    reference = gradients_at_start(1.0, hidden_layers)[0]
    measured = {
        each: gradients_at_start(each, hidden_layers)[0] / reference for each in scales
    }
    return measured, {each: each ** (hidden_layers - 1) for each in scales}


# %%
def draw_start(scale, hidden_layers):
    measured, law = at_start(scale, hidden_layers)
    figure, axes = figures.new(7, 3.2)
    axes.plot(
        list(law),
        list(law.values()),
        color=figures.COLORS["gray"],
        label="law: scale to the power of (layers − 1)",
    )
    axes.plot(
        list(measured), list(measured.values()), "o", label="measured, first layer"
    )
    axes.plot(
        scale, measured[scale], "o", markersize=11, color=figures.COLORS["vermillion"]
    )
    axes.set(
        xscale="log", yscale="log", ylim=(1e-11, 1e11), ylabel="gradient, 1 at scale 1"
    )
    axes.set_xlabel("scale of the initial weights, 1 = He")
    axes.legend(loc="upper left")
    axes.set_title(
        f"{hidden_layers} layers at scale {scale:g}: gradient "
        f"×{measured[scale]:.1e}, by the law ×{law[scale]:.1e}"
    )
    return figure


def describe_start(scale, hidden_layers):
    measured, law = at_start(scale, hidden_layers)
    return (
        f"Gradient at scale {scale:g} with {hidden_layers} layers: "
        f"{measured[scale]:.1e} measured, {law[scale]:.1e} by the law."
    )


figures.explorer(
    draw_start, alt=describe_start, scale=(0.3, 3.0, 1.5, 0.1), hidden_layers=(1, 20, 8)
)

# %%
ratios = [at_start(scale, layers) for scale in (0.3, 3.0) for layers in (5, 10, 20)]
off = [
    math.log10(measured[scale] / law[scale])
    for measured, law in ratios
    for scale in (0.3, 3.0)
]
print(
    f"law against measurement, scales 0.3 and 3, 5 to 20 layers: off by a factor of "
    f"{10 ** max(map(abs, off)):.1f} at most"
)
assert 10 ** max(map(abs, off)) < 10

# %% [markdown]
# The law is off by a small factor (large outputs make a larger error at the top) where the gradient itself changes by nine or ten powers of ten. By the law, the scales 0.37 to 2.7 are left with 8 layers, and 0.70 to
# 1.44 with 20. So the learner's sentence holds, and more sharply than it
# was put: the width acts on the gradient **once for each of the remaining hidden layers**. By the law, a width that is 1.5 times too large doubles the gradient in 3 layers, and makes it 2,000 times as
# large in 20.

# %% [markdown]
# ## 7 · What the log said
#
# | The log | The evidence | Corrected |
# |---|---|---|
# | *overfitting이나 underfitting의 경우도 분포의 극단적 변화나 변화가 없음에 문제라 생각했는데*: chose over- and underfitting | Sections 4 and 5: judged by their histograms these runs are healthy; over ten seeds about the same spread occurs with and without a gap. | Not in these networks' weights (in a polynomial fit, yes). Look at the two curves. What you *can* infer: **exploding** (extremes within a few steps) and **vanishing** gradients (with SGD, weights stand still, and a gradient is tiny from the start). |
# | *그게 아니라 오로지 학습량에 대한 문제였다(?)* | Section 5: four times the training leaves the vanishing run where it was; 4 steps leave the spread of the first and the last layer almost as it was. | Half right. Too little training does look like standing still. But vanishing and exploding are about the **size of the signal through the layers**, and more training did not cure the vanishing run. If you meant the size of the *steps*: yes, with SGD that is the gradient. |
# | *너무 분포도가 커도 작아도 안 된다! grad에 직접적인 영향을 준다* | Section 6: the product law. | Right: by one factor for each of the remaining hidden layers. |

# %%
outcome(
    "04-2.infer",
    f"Overfitting: {diagnose(runs['overfitting']).name} by its histograms. "
    f"Exploding: {diagnose(runs['exploding']).evidence[0]}.",
    right="exploding and vanishing gradients",
)

# %% [markdown]
# ## Take away
#
# * Count on the device, in bins that are the same for all batches.
# * Four questions to a run. How far did the weights move? How large is the gradient in each layer? Do the units live? What do the two curves say?
# * Exploding: extremes within a few steps. Vanishing: some layer's gradient, or every layer's, is tiny from the start; with sigmoid as a slope from layer to layer. Dead: exact zeros. Saturated: outputs at the ends.
# * Over- and underfitting: ordinary weights. Only training *and* validation loss tell.
# * Scale to the power of the hidden layers less one: that is how the start reaches the gradients.
#
# **Next notebook:** [checkpoints](3_checkpoints.ipynb): what to keep of a run, and how to go on from it. **Questions on this lesson:** [quiz](quiz.ipynb).
#
# ### Glossary
#
# | English | 한국어 | here |
# |---|---|---|
# | vanishing gradient | 기울기 소실 | too small to train with, since many layers multiply it by less than 1 |
# | exploding gradient | 기울기 폭주 | too large to train with, since many layers multiply it by more than 1 |
# | dead unit | 죽은 유닛 | a ReLU that is 0 for all samples |
# | saturated | 포화 | at the flat end of tanh or sigmoid |
# | activations | 활성값 | what the units put out |
# | initialization | 초기화 | how the initial weights are drawn |
# | gradient norm | 기울기 노름 | length of the gradient as one vector |
#
# ### Further reading
#
# * Glorot and Bengio 2010, [Understanding the difficulty of training deep feedforward neural networks](https://proceedings.mlr.press/v9/glorot10a.html): histograms of activations and gradients, layer by layer.
# * He et al. 2015, [Delving Deep into Rectifiers](https://arxiv.org/abs/1502.01852): the scale for ReLU, and the product over layers (section 2.2).
# * Pascanu, Mikolov and Bengio 2013, [On the difficulty of training recurrent neural networks](https://arxiv.org/abs/1211.5063): vanishing, exploding, and clipping.
# * PyTorch, [torch.nn.init](https://docs.pytorch.org/docs/stable/nn.init.html): the ways to start.
