# %% [markdown]
# # Features and fine-tuning: what a pretrained network saves you, and when it does not
#
# **{minutes} minutes** · one CPU is enough (two processes) · before this: lessons 01 and 03
#
# The study log has an assignment that was not begun: *심화과제 Transfer Learning*. Here you take networks that others trained, and use them
# where labels are few.
#
# **After this notebook you can**
#
# 1. train a head on frozen features, with the pixel scaling that the backbone was trained with;
# 2. fine-tune with discriminative rates, gradual unfreezing and frozen BatchNorm;
# 3. compare scratch, frozen and fine-tuned at several numbers of labels, with error bars;
# 4. say when the cheap baseline wins.

# %% setup

# %%
from torchcourse.quiz import outcome, predict, recall

recall("07_transfer_learning")

# %%
import functools

import torch
import torch.nn.functional as F
from IPython.display import display
from torch.utils.data import TensorDataset

from torchcourse import environment, figures
from torchcourse.data import mnist
from torchcourse.data.datasets import DIGITS_MEAN, DIGITS_STD, MNIST_MEAN, MNIST_STD
from torchcourse.error_bars import paired
from torchcourse.lessons.transfer import few_labels_picture as pictures
from torchcourse.lessons.transfer import solar
from torchcourse.lessons.transfer.backbones import (
    Classifier,
    efficientnet_lite0,
    mnist_cnn,
)
from torchcourse.lessons.transfer.checks import fine_tuning as check
from torchcourse.lessons.transfer.features import cached, extract, norm_gap, train_head
from torchcourse.lessons.transfer.few_labels import (
    LABELS,
    MARGIN,
    METHODS,
    WHITE,
    accuracy,
    digit_pixels,
    pick,
    results,
    run,
)
from torchcourse.lessons.transfer.finetune import (
    falling_rates,
    fine_tune,
    freeze,
    freeze_norms,
    gradually,
    trainable_bytes,
)
from torchcourse.ranks import run_ranks

torch.set_num_threads(1)
print(environment.hardware())

# %% [markdown]
# ## 1 · Frozen features
#
# **Transfer learning** (전이 학습) uses a network that was trained on one task, with many labels, for a second task with few. The **backbone** (백본) is
# that network without its last layer: it turns a picture into **features** (특징). A new last layer, the **head** (헤드), reads them.
#
# Our backbone is the course's small CNN, trained on 4,000 images of MNIST. The new task: other
# digits, by other writers, on 8×8 pixels in a dark frame (12×12 together), whose white is 16.

# %%
body = mnist_cnn()
pixels, labels = digit_pixels("train")
test_pixels, test_labels = digit_pixels("test")
print(body.scaling)
inputs, test_inputs = (
    body.scaling(pixels, top=WHITE),
    body.scaling(test_pixels, top=WHITE),
)
print(
    f"pixels {list(pixels.shape)}, 0 to {pixels.max():g}; inputs {list(inputs.shape)}",
    end=", ",
)
print(
    f"{inputs.min():.2f} to {inputs.max():.2f}; MNIST {mnist().tensors[0].min():.2f} "
    f"to {mnist().tensors[0].max():.2f}"
)

# %% [markdown]
# The **scaling** (스케일링) belongs to the weights: the training's size and range, less the training's mean, divided by the training's deviation. Section 4 shows what happens otherwise.
#
# One labeled image of each digit, ten in total. The cheapest way of all needs no training: the label of the **nearest neighbor**
# (최근접 이웃) among the ten, by distance of the raw pixels.

# %%
predict(
    "07-1.few",
    "One label per digit. Which order, from worst to best?",
    [
        "nearest neighbor, from scratch, frozen features",
        "from scratch, nearest neighbor, frozen features",
        "from scratch, frozen features, nearest neighbor",
    ],
)

# %%
few = {
    method: [run(method, per_class=1, seed=seed) for seed in range(3)]
    for method in METHODS
}
means = {}
for method, runs in few.items():
    means[method] = sum(r.accuracy for r in runs) / len(runs)
    print(
        f"{method:18} {means[method]:.3f}   "
        f"{sum(r.seconds for r in runs) / len(runs):6.3f} CPU seconds of training"
    )
order = sorted(("scratch", "nearest neighbor", "frozen"), key=means.get)
outcome(
    "07-1.few",
    f"{order[0]}, {order[1]}, {order[2]}.",
    right=", ".join(
        "from scratch" if name == "scratch" else name + " features" * (name == "frozen")
        for name in order
    ),
)

# %% [markdown]
# With one label per digit, a network that starts from random weights is worse than no network. The head on frozen features is trained in a moment: the backbone runs *once*
# over each picture, and the head trains on the numbers that came out. Three seeds are few; section 5 has more of them, and more labels.
#
# ## 2 · What "frozen" means
#
# To **freeze** (동결) a parameter is to give it no gradient. So freeze the whole body, and train the head for four epochs:

# %%
predict(
    "07-1.frozen",
    "Every parameter of the body is frozen. After four epochs of training the head: "
    "does the body give the same features as before?",
    ["yes, to the bit", "no, they changed"],
)

# %%
chosen = pick(labels, per_class=5, seed=0)
data = TensorDataset(inputs[chosen], labels[chosen])
model = Classifier(mnist_cnn(), num_classes=10)
freeze(model, "body")
print(
    f"{trainable_bytes(model):,} bytes of parameters learn, of "
    f"{sum(4 * p.numel() for p in model.parameters()):,}"
)
before = extract(model.body, test_inputs)
fine_tune(model, data, {"head": 1e-2}, epochs=4, batch_size=10, device="cpu")
moved = [
    name
    for name, tensor in model.body.state_dict().items()
    if not torch.equal(tensor, mnist_cnn().state_dict()[name])
]
print("changed:", moved)
change = (extract(model.body, test_inputs) - before).abs().mean() / before.abs().mean()
outcome(
    "07-1.frozen",
    f"The features moved by {change:.0%} on average.",
    right="no, they changed" if change > 0 else "yes, to the bit",
)

# %% [markdown]
# **Batch normalization** (배치 정규화) keeps a running mean and variance of what passes through, and it collects them in training
# mode, gradients or not. There it normalizes by the batch at hand, and in evaluation mode by the running numbers. Each epoch begins with `model.train()`, so calling `eval()` once does not last; `freeze_norms` does.
#
# ### Exercise 1 · Features
#
# ●●○ · 8 minutes · good for: any pretrained network, from the first minute.
#
# You get a backbone in whatever mode it was left in. The features of a picture must depend on that picture alone, and the backbone must not change. A head
# will be trained on what you return. `body.scaling` is what you saw above.


# %% exercise: features
def features(body, pixels: torch.Tensor, top: float) -> torch.Tensor:
    """Return the features [N, F] of pixels [N, 1, H, W] whose white is `top`,
    without a graph.
    """
    ### BEGIN SOLUTION
    body.eval()
    with torch.no_grad():
        return body(body.scaling(pixels, top))
    ### END SOLUTION


# %% check: features
checked = check.features(features, points=2)
### BEGIN HIDDEN TESTS
_pixels = digit_pixels("train")[0][100:140] / 16 * 120
_body = mnist_cnn().train()
_state = {_name: _tensor.clone() for _name, _tensor in _body.state_dict().items()}
_out = features(_body, _pixels, 200)
torch.testing.assert_close(
    _out, extract(mnist_cnn(), mnist_cnn().scaling(_pixels, 200)), atol=1e-4, rtol=1e-4
)
assert not _out.requires_grad
assert all(
    torch.equal(_tensor, _state[_name]) for _name, _tensor in _body.state_dict().items()
)
train_head(_out, digit_pixels("train")[1][100:140], num_classes=10, steps=1)
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "has changed it: its BatchNorm layers …"</summary>
#
# A BatchNorm layer has two modes. `model.train()` and `model.eval()` switch between them; a block without gradients does not.
# </details>
#
# ### Exercise 2 · Really frozen
#
# ●●○ · 10 minutes · good for: feature extraction inside any training loop.
#
# `model.body` is to stay as it is, whatever the training loop does: weights, running means and variances. And its BatchNorm layers are to *use* these in
# training, too. Only `model.head` learns. You can overrule the method `train` of *this* body, and leave
# its class alone: other models have it, too.


# %% exercise: freeze_body
def freeze_body(model: Classifier) -> None:
    """Keep `model.body` as it is,
    through any number of `model.train()` and optimizer steps.
    """
    ### BEGIN SOLUTION
    model.body.requires_grad_(False)
    model.body.eval()
    model.body.train = lambda mode=True: model.body
    ### END SOLUTION


# %% check: freeze_body
checked = check.freeze_body(freeze_body, points=3)
### BEGIN HIDDEN TESTS
_model = Classifier(mnist_cnn(), num_classes=10).train()
_state = {_name: _tensor.clone() for _name, _tensor in _model.state_dict().items()}
freeze_body(_model)
_optimizer = torch.optim.SGD(_model.parameters(), lr=0.1)
for _ in range(2):
    _model.train()
    _optimizer.zero_grad()
    F.cross_entropy(_model(3 * inputs[:20]), labels[:20]).backward()
    _optimizer.step()
for _name, _tensor in _model.state_dict().items():
    assert torch.equal(_tensor, _state[_name]) == _name.startswith("body")
assert all(
    _module.training
    for _module in Classifier(mnist_cnn(), num_classes=10).train().modules()
)
_model.train()
torch.testing.assert_close(
    _model.body(3 * inputs[:20]),
    extract(mnist_cnn(), 3 * inputs[:20]),
    atol=1e-4,
    rtol=1e-4,
)
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "its BatchNorm layers normalize with the mean and variance of the batch"</summary>
#
# A momentum of 0 keeps the running numbers as they are, but in training mode they are not used.
# </details>
#
# <details><summary>Help – I get "calls itself without end", or "a BatchNorm layer is still in training mode"</summary>
#
# `eval()` of a module is `train(False)`: it calls the method that you overrule.
# </details>
#
# <details><summary>Help – may I call `freeze` and `freeze_norms`?</summary>
#
# Yes, the check accepts them. You learn more without.
# </details>
#
# ## 3 · Fine-tuning
#
# **Fine-tuning** (미세 조정) trains the body further. Its weights are good already and the head's are not. So **discriminative rates** (차등 학습률)
# give the head a high learning rate and the body a low one ([Howard and Ruder 2018](https://arxiv.org/abs/1801.06146)). What are they worth against the best of
# several single rates?

# %%
predict(
    "07-1.rates",
    "One label per digit, 12 seeds. The head at 0.01 and the body at 0.001, against "
    "the best of three single rates: what do two rates bring?",
    ["nothing that 12 seeds show", "a few points of accuracy", "more than ten points"],
)


# %%
def tuned(rates, seed, per_class=1, **options):
    """Fine-tune the pretrained network on a seed's choice of images; return its
    accuracy on the test images, with `validate` also on 20 images of the pool.
    """
    chosen = pick(labels, per_class, seed)
    model = Classifier(mnist_cnn(), num_classes=10)
    if options.get("norms_frozen"):
        freeze_norms(model)
    fine_tune(
        model,
        TensorDataset(inputs[chosen], labels[chosen]),
        rates,
        epochs=options.get("epochs", 10),
        batch_size=10,
        seed=seed,
    )
    score = accuracy(model, test_inputs, test_labels)
    if not options.get("validate"):
        return score
    more = pick(labels, per_class + 2, seed)
    held_out = more[~torch.isin(more, chosen)]
    return score, accuracy(model, inputs[held_out], labels[held_out])


# %%
def points(difference):
    """Say a difference of accuracies in percentage points, with its interval."""
    low, high = 100 * difference.low, 100 * difference.high
    return f"{100 * difference.mean:+.1f} points [{low:+.1f}, {high:+.1f}]".replace(
        "-", "−"
    )


two = [tuned({"head": 1e-2, "body": 1e-3}, seed) for seed in range(12)]
tried = {
    rate: [
        tuned({"head": rate, "body": rate}, seed, validate=True) for seed in range(12)
    ]
    for rate in (1e-3, 3e-3, 1e-2)
}
single = {rate: [test for test, _ in pairs] for rate, pairs in tried.items()}
for rate, scores in single.items():
    print(f"two rates − one rate {rate:5}: {points(paired(two, scores))}")
best = max(single, key=lambda rate: sum(single[rate]))
gain = paired(two, single[best])
answers = [
    "nothing that 12 seeds show",
    "a few points of accuracy",
    "more than ten points",
]
right = answers[0]
if gain.clear:
    right = answers[1 if gain.mean <= 0.1 else 2] if gain.mean > 0 else None
outcome(
    "07-1.rates",
    f"The best single rate is {best}. Against it: {points(gain)}, 12 pairs.",
    right=right,
)

# %% [markdown]
# The differences are **paired** (짝지은): both ways got the same images in each seed. The brackets are the 95% interval of the *mean* difference: t95(n − 1)
# **standard errors** (표준 오차) to each side, as in lesson 03. A difference is *clear* where
# they leave out zero. And the rival decides: two rates gain over ten points against a badly chosen single rate, and little against the best one. What they
# save is the search for it.
#
# And who chose "the best" rate? The test images did, which flatters the rival. Honestly chosen, it takes a **validation set** (검증 집합): labels that you do not train on.
# Here are 20, twice as many as the training images. Now each seed chooses for itself:


# %%
def by_held_out(pairs):
    top = max(held_out for _, held_out in pairs)
    tied = [test for test, held_out in pairs if held_out == top]
    return sum(tied) / len(tied)


runs = list(zip(*tried.values(), strict=True))
choices = {
    "two rates, set beforehand": two,
    "one rate, chosen by test images": [max(pairs)[0] for pairs in runs],
    "one rate, chosen by 20 held out": [by_held_out(pairs) for pairs in runs],
}
for name, scores in choices.items():
    print(f"{name:32s} {sum(scores) / len(scores):.1%}")

# %% [markdown]
# With few labels, each that validates is missing in training: take known rates, or choose on a related task.
#
# ### Exercise 3 · Two rates
#
# ●●○ · 8 minutes · good for: any fine-tuning with more than one rate.
#
# An optimizer takes a list of groups, `[{"params": [...], "lr": 0.1}, ...]`. Each parameter that gets gradients belongs in exactly one of them, frozen ones in
# none. Names from `model.named_parameters()` begin with `head.` or `body.`. The check then fine-tunes with your groups, and compares with training from scratch.


# %% exercise: two_rates
def two_rates(model: Classifier, body_rate: float, head_rate: float) -> list[dict]:
    """Return parameter groups: the body's parameters at one rate,
    the head's at another.
    """
    ### BEGIN SOLUTION
    groups = {
        "body": {"params": [], "lr": body_rate},
        "head": {"params": [], "lr": head_rate},
    }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[name.split(".")[0]]["params"].append(parameter)
    return list(groups.values())
    ### END SOLUTION


# %% check: two_rates
checked = check.two_rates(two_rates, points=3)
### BEGIN HIDDEN TESTS
_model = Classifier(mnist_cnn(), num_classes=4)
freeze(_model, "body.conv2", "head.bias")
# it refuses a parameter that comes twice
_groups = torch.optim.SGD(two_rates(_model, 0.25, 0.5)).param_groups
_rates = {id(_p): _group["lr"] for _group in _groups for _p in _group["params"]}
for _name, _parameter in _model.named_parameters():
    _right = (
        None
        if _name.startswith("body.conv2") or _name == "head.bias"
        else 0.5
        if _name == "head.weight"
        else 0.25
    )
    assert _rates.get(id(_parameter)) == _right
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "is in two groups"</summary>
#
# `model.parameters()` are all of them, the head's included.
# </details>
#
# The package's `rate_groups` takes any names, and `falling_rates` makes a rate for each depth. **Gradual unfreezing** (점진적 동결 해제) is the second idea of that
# paper: first the head alone, then one more layer at a time. A head that is still random should not spoil good weights. Here: the head, the body's
# last layer (`body.dense`), the rest of the body.

# %%
chosen = pick(labels, per_class=5, seed=0)
data = TensorDataset(inputs[chosen], labels[chosen])
rates = falling_rates(["head", "body.dense", "body"], top=1e-2)
model = Classifier(mnist_cnn(), num_classes=10)
for stage in gradually(model, list(rates)):
    fine_tune(model, data, rates, epochs=4, batch_size=10)
    score = accuracy(model, test_inputs, test_labels)
    print(
        f"{stage:11} at {rates[stage]:.4f}: {trainable_bytes(model):8,} bytes learn, "
        f"accuracy {score:.3f}"
    )

# %% [markdown]
# With so few labels the head alone does most of it. One seed tells no more than that.
#
# And BatchNorm? The usual advice is to keep it frozen when batches are small. Test it:

# %%
rates = {"head": 1e-2, "body": 1e-3}
short = {"per_class": 5, "epochs": 5}
moving = [tuned(rates, seed, **short) for seed in range(7)]
kept = [tuned(rates, seed, **short, norms_frozen=True) for seed in range(7)]
effect = paired(kept, moving)
print(
    f"statistics frozen {sum(kept) / 7:.3f}, moving {sum(moving) / 7:.3f}: "
    f"{points(effect)}"
)
print("clear" if effect.clear else "open", "at seven seeds")
print(
    "the new digits, beside what the network saw in training:", norm_gap(body, inputs)
)

# %% [markdown]
# The advice does not hold here, though a batch has ten pictures only. Each channel of the first layer has 10 × 784 values per batch, enough for a stable mean.
# And the new pictures differ from the old ones (the last line), which moving statistics can follow. A large network whose last maps are 3×3 pixels has fewer
# values per batch. So measure it, in your case.
#
# ## 4 · Break-it lab: a backbone that sees in the dark
#
# A colleague's program gets the digits through this function.


# %%
def colleagues_prepare(pixels):
    """Return digits [N, 1, 12, 12] as the network wants them: [N, 1, 28, 28]."""
    pixels = F.interpolate(pixels, size=(28, 28), mode="bilinear", align_corners=False)
    return (pixels / 255 - MNIST_MEAN) / MNIST_STD


predict(
    "07-1.scaling",
    "White is 16 in these pictures, and the function divides by 255. What happens to "
    "the accuracy of a head on frozen features (five labels per digit)?",
    [
        "an error message",
        "chance: 10%",
        "a plausible number, too low by some twenty points",
    ],
)


# %%
def head_accuracies(prepare, per_class=5, seeds=4):
    """Train a head on the frozen features of prepared pictures, for some seeds;
    return accuracies on the test images.
    """
    features, test_features = (
        extract(body, prepare(pixels)),
        extract(body, prepare(test_pixels)),
    )
    scores = []
    for seed in range(seeds):
        chosen = pick(labels, per_class, seed)
        head = train_head(features[chosen], labels[chosen], num_classes=10)
        scores.append(accuracy(head, test_features, test_labels))
    return scores


right_way = functools.partial(body.scaling, top=WHITE)
bad, good = head_accuracies(colleagues_prepare), head_accuracies(right_way)
loss = paired(good, bad)
outcome(
    "07-1.scaling",
    f"{sum(bad) / 4:.3f}, and nothing complains. In the right scaling "
    f"{sum(good) / 4:.3f}: {loss}.",
    right="a plausible number, too low by some twenty points"
    if 0.1 < loss.mean < 0.35
    else None,
)

# %% [markdown]
# How could you have noticed? Look at what the network gets. And ask the network: its first BatchNorm layer remembers mean and variance of its training.
# `norm_gap` says how far your batch is from them: by how many deviations the mean is shifted, and how many times the deviation is stretched.

# %%
ways = {
    "right": right_way,
    "by 255": colleagues_prepare,
    "0 to 1": lambda p: F.interpolate(p / WHITE, size=(28, 28), mode="bilinear"),
    "the digits' own": lambda p: F.interpolate(
        (p - DIGITS_MEAN) / DIGITS_STD, size=(28, 28), mode="bilinear"
    ),
}
print("MNIST itself".ljust(16), norm_gap(body, mnist("test").tensors[0]))
scores = {"right": good, "by 255": bad}  # measured above
for name, way in ways.items():
    score = sum(scores.get(name) or head_accuracies(way)) / 4
    print(name.ljust(16), norm_gap(body, way(test_pixels)), f"accuracy {score:.3f}")

# %%
seen = {"MNIST": mnist("test").tensors[0][1, 0]} | {
    name: way(test_pixels[:1])[0, 0] for name, way in ways.items()
}
spreads = {name: picture.std().item() for name, picture in seen.items()}
title = (
    f"The colleague's digits have {spreads['right'] / spreads['by 255']:.0f} times "
    f"less contrast"
)
figures.show(
    pictures.draw_scalings(seen, title),
    f"Five pictures: MNIST, and one digit in four scalings. {title}.",
)

# %% [markdown]
# The gap tells *gross* mistakes without a single label: divided by 255, or left between 0 and 1. It does not tell small ones. The new digits differ from MNIST in the right scaling as
# well, and a slightly wrong one can bring them nearer. The accuracy tells only the worst one: a new head makes up for a lot. So this bug stays unnoticed for a long time.
#
# ### Exercise 4 · Repair it
#
# ●○○ · 5 minutes · good for: the first thing to check on any pretrained network.


# %% exercise: prepare
def prepare(pixels: torch.Tensor) -> torch.Tensor:
    """Return digits [N, 1, 12, 12] from 0 to 16 as the network was trained:
    [N, 1, 28, 28].
    """
    pixels = F.interpolate(pixels, size=(28, 28), mode="bilinear", align_corners=False)
    ### BEGIN SOLUTION
    return (pixels / WHITE - MNIST_MEAN) / MNIST_STD
    ### END SOLUTION


# %% check: prepare
checked = check.prepare(prepare, points=2)
### BEGIN HIDDEN TESTS
for _part in (pixels[500:520], pixels[7:8] / 3, torch.full((2, 1, 12, 12), 5.0)):
    assert (
        prepare(_part.clone())
        - (F.interpolate(_part, size=(28, 28), mode="bilinear") / 16 - 0.1307) / 0.3081
    ).abs().max() < 0.01
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "you measure them again each time"</summary>
#
# Mean and deviation are constants of the *training*. `MNIST_MEAN` and `MNIST_STD` hold them.
# </details>
#
# The package's `scaling` asks for the value of white, and refuses pixels that cannot be meant:

# %%
for top in (255, 1):
    try:
        body.scaling(pixels, top)
    except ValueError as error:
        print(error)

# %% [markdown]
# ## 5 · How many labels does it take?
#
# One number of labels proves little. This table holds four methods at seven numbers of labels: 40 seeds of the two that cost little, ten of the two others.
# `python -m torchcourse.tools.make_data.few_labels` trained it, and section 1 trained some of its entries again. The comparison is meant to be fair:
#
# * The head on frozen features is trained to the end. The problem is convex, and L-BFGS finds its one minimum.
# * Fine-tuning and scratch were tuned alike. Each has the best of four recipes (rates and epochs), chosen at 1, 5 and 20 labels with other seeds, on images that
#   neither train nor test. In real life those labels would be missing. Then you tune less well, or on a related task.
#
# A difference of less than one point would not matter here. That is the **margin** (허용 차이): two methods are *level* if the whole 95% interval of their difference lies within it, clear or not.

# %%
predict(
    "07-1.many",
    "50 labels of each digit. How do frozen features and the nearest neighbor on raw "
    "pixels compare?",
    [
        "frozen features are clearly better",
        "they are level: less than a point apart",
        "the nearest neighbor is clearly better",
    ],
)

# %%
table = results()
difference = table.paired("frozen", "nearest neighbor", labels=50)
answers = {
    "clearly above": "frozen features are clearly better",
    "level": "they are level: less than a point apart",
    "clearly below": "the nearest neighbor is clearly better",
}
outcome(
    "07-1.many",
    f"Frozen − nearest neighbor: {points(difference)}, {difference.pairs} pairs: "
    f"{difference.verdict(MARGIN)}.",
    right=answers.get(difference.verdict(MARGIN)),
)

# %% [markdown]
# Move the slider. On the right the same methods are laid out by what their training costs. Where does training from
# scratch catch up? Where do frozen features fall behind?


# %%
def draw_labels(position):
    return pictures.draw_labels(LABELS[position - 1], table)


def describe_labels(position):
    rest = ", ".join(
        f"{method} {table.accuracy[method][position - 1].mean():.1%}"
        for method in METHODS
    )
    return f"{pictures.describe_labels(LABELS[position - 1], table)}. {rest}."


figures.explorer(draw_labels, alt=describe_labels, position=(1, len(LABELS), 1))

# %% [markdown]
# The differences themselves, 28 of them. Of 20 comparisons without any difference, one is clear by luck on average. So a line says at its end where a difference would not be clear
# as one of 28 (Bonferroni's correction, lesson 03).

# %%
rivals = (
    ("scratch", "nearest neighbor"),
    ("frozen", "nearest neighbor"),
    ("fine-tuned", "frozen"),
    ("fine-tuned", "scratch"),
)
looks = len(rivals) * len(LABELS)
for name, other in rivals:
    print(f"{name} − {other}, by labels per digit")
    for count in LABELS:
        row = table.paired(name, other, count)
        verdict = row.verdict(MARGIN)
        alone = (
            ""
            if "clearly" not in verdict or row.clear_among(looks)
            else f", but not among {looks}"
        )
        print(f"   {count:3d}: {points(row)}, {row.pairs} pairs: {verdict}{alone}")

# %% [markdown]
# What holds:
#
# * **Fine-tuning** is above frozen features at every number of labels, by one to four points. Against scratch it gains 19 points at one label per digit, and nothing at 100.
# * **Frozen features** are 12 points above the nearest neighbor at one label per digit, and level with it from 50 on.
# * **Scratch** against the nearest neighbor is open at five and ten per digit. It is clearly above it at 50.
# * The **baseline** (기준선) that trains nothing is within a point of the best at 100 per digit.
#
# Do frozen features stop at what the backbone learned to see? Careful: a head that was stopped too early looks like features that are not good enough.
#
# ### Exercise 5 · Choose
#
# ●●● · 12 minutes · good for: not paying for a difference that is not there.
#
# Each method was run with the same seeds, in the same order. Take the method with the best mean. Another one is *good enough* if it is less than a margin below
# it, with 95% confidence. That is: the interval of the mean paired difference, best − other, ends below the margin; `paired(best, other).high` is that end.
# Of the best one and all that are good enough, return the cheapest.
#
# "Not clearly worse" would be the wrong rule: the fewer seeds you run, the less is clear.


# %% exercise: choose
def choose(
    accuracies: dict[str, list[float]], seconds: dict[str, float], margin: float
) -> str:
    """Return the cheapest of the methods that are, with 95% confidence, less than
    the margin below the best one.
    """
    ### BEGIN SOLUTION
    best = max(accuracies, key=lambda name: sum(accuracies[name]))
    enough = [
        name
        for name, values in accuracies.items()
        if paired(accuracies[best], values).high < margin
    ]
    return min(enough, key=lambda name: seconds[name])
    ### END SOLUTION


# %% check: choose
checked = check.choose(choose, points=3)
### BEGIN HIDDEN TESTS
for _row in range(len(LABELS)):
    _accuracies = {
        _name: _values.tolist() for _name, _values in table.shared(LABELS[_row]).items()
    }
    _seconds = {_name: float(table.seconds[_name][_row].mean()) for _name in METHODS}
    _best = max(_accuracies, key=lambda _name, _a=_accuracies: sum(_a[_name]))
    for _margin in (0.005, 0.02, 0.1):
        _enough = [
            _name
            for _name in METHODS
            if paired(_accuracies[_best], _accuracies[_name]).high < _margin
        ]
        assert choose(_accuracies, _seconds, _margin) == min(_enough, key=_seconds.get)
        _turned = {_name: -_cost for _name, _cost in _seconds.items()}
        assert choose(_accuracies, _turned, _margin) == max(_enough, key=_seconds.get)
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – how do I compute that end by hand?</summary>
#
# It is `t95(n - 1)` standard errors above the mean of the n differences. The standard error is `std(ddof=1) / sqrt(n)` of a NumPy array, and `t95` is in
# `torchcourse.error_bars`.
# </details>
#
# <details><summary>Help – I get "Seed by seed, one is above the other by the same amount"</summary>
#
# Two error bars that overlap say little when both methods had the same seeds. Subtract first, seed by seed.
# </details>
#
# ## 6 · Real photos, a real backbone
#
# [EfficientNet-Lite0](https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite) learned from 1.3 million photos of ImageNet. Here it looks at
# solar cells, photographed in the light that they give off under current; some are broken
# ([Deitsch et al. 2019](https://doi.org/10.1016/j.solener.2019.02.067)). The pictures may **not be used commercially** (CC BY-NC-SA 4.0). Both come with `make lab`.
#
# The cheap rival: 13 numbers about brightness (mean, deviation, quantiles, steps between neighbors), and the same linear head.

# %%
photos = solar.installed()
if photos:
    cells, broken = solar.solar_cells(per_class=125)
    network = efficientnet_lite0().to(memory_format=torch.channels_last)
    print(solar.LICENCE, list(cells.shape), network.scaling, sep="\n")
    small = network.scaling(cells, top=255, side=96).contiguous(
        memory_format=torch.channels_last
    )
    cell_features = cached("cells.safetensors", network, small)
    brightness = solar.brightness(cells)
    brightness = (brightness - brightness.mean(dim=0)) / brightness.std(dim=0)
else:
    print(
        "The solar cells are not installed here (they come with the extra [lab]), so "
        "this section has no numbers."
    )

# %%
predict(
    "07-1.solar",
    "25 labeled cells of each kind. A linear head on EfficientNet's 1,280 features, "
    "or on 13 numbers about brightness?",
    [
        "EfficientNet is clearly better",
        "no clear difference",
        "brightness is clearly better",
    ],
)


# %%
def cell_accuracy(numbers, per_class, seed, penalty):
    """Train a head on some cells of each kind, and test it on the other ones."""
    kinds = broken[: len(numbers)]
    chosen = pick(kinds, per_class, seed)
    rest = torch.ones(len(kinds), dtype=torch.bool).index_fill(0, chosen, False)
    head = train_head(numbers[chosen], kinds[chosen], num_classes=2, penalty=penalty)
    return accuracy(head, numbers[rest], kinds[rest])


def best_penalty(numbers):
    """Return the penalty on the head's weights that is best at 25 of each kind, from
    seeds that the comparison does not use.
    """
    return max(
        (0.1, 1, 10, 100),
        key=lambda p: sum(
            cell_accuracy(numbers, 25, seed, p) for seed in range(100, 105)
        ),
    )


# %%
if photos:
    deep_penalty, plain_penalty = best_penalty(cell_features), best_penalty(brightness)
    print(
        f"penalty on the weights: EfficientNet {deep_penalty}, brightness "
        f"{plain_penalty}"
    )
    for per_class in (5, 25, 75):
        deep = [
            cell_accuracy(cell_features, per_class, seed, deep_penalty)
            for seed in range(20)
        ]
        plain = [
            cell_accuracy(brightness, per_class, seed, plain_penalty)
            for seed in range(20)
        ]
        gain = paired(deep, plain)
        print(
            f"{per_class:3} per kind: EfficientNet {sum(deep) / 20:.3f}, brightness "
            f"{sum(plain) / 20:.3f}; {points(gain)}"
        )
        if per_class == 25:
            clear = 0 if not gain.clear else 1 if gain.mean > 0 else -1
            answer = {
                1: "EfficientNet is clearly better",
                0: "no clear difference",
                -1: "brightness is clearly better",
            }[clear]
            compared = f"EfficientNet − brightness: {points(gain)}."
            display(outcome("07-1.solar", compared, right=answer))

# %% [markdown]
# Both heads have a knob, the penalty on their weights, and both are tuned alike: 1,280 features ask for a stronger one than 13 do. One penalty
# for both would favor one of them. (The network gets 96 × 96 pixels here to save time, and was trained with 224 × 224.)
#
# Note what is compared: 20 choices of training cells out of the same 250. So the error is that of the choice of labels, not that of the choice of cells. The penalties
# were chosen on these cells, too, which flatters both sides. And
# EfficientNet wants `(pixel − 127) / 128`, while most ImageNet networks want a different mean and deviation. Is that mix-up as bad as the colleague's?

# %%
if photos:
    usual = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(
        2, 1, 3, 1, 1
    )
    some = small[:160]
    zero_to_one = some * 128 / 255 + 127 / 255
    wrongs = {
        "another network's mean": (zero_to_one - usual[0]) / usual[1],
        "0 to 1, not 0 to 255": (zero_to_one - 127) / 128,
    }
    right_ones = [
        cell_accuracy(cell_features[:160], 50, seed, deep_penalty) for seed in range(10)
    ]
    print("right".ljust(24), norm_gap(network, some[:64]))
    for name, wrong in wrongs.items():
        numbers = extract(network, wrong)
        change = paired(
            [cell_accuracy(numbers, 50, seed, deep_penalty) for seed in range(10)],
            right_ones,
        )
        print(
            name.ljust(24), norm_gap(network, wrong[:64]), f"accuracy {points(change)}"
        )

# %% [markdown]
# Compare each change with its interval. A nearly right scaling costs little or nothing that these cells could show. So accuracy warns of gross mistakes only.
#
# ## 7 · Scale up
#
# Frozen parts, two rates and frozen statistics in the Trainer, on one process and on two ranks: the same weights come out, up to rounding. `batch_size` counts all ranks together. Freeze *before* the Trainer is made.
# DistributedDataParallel asks each parameter once whether it has gradients, and averages those.


# %%
def fine_tune_on_ranks(data):
    torch.manual_seed(0)
    model = Classifier(mnist_cnn(), num_classes=10)
    freeze(model, "body.conv1", "body.norm1")
    freeze_norms(model)
    fine_tune(model, data, {"head": 1e-2, "body": 1e-3}, epochs=4, batch_size=10)
    return {name: tensor.cpu() for name, tensor in model.state_dict().items()}


(alone,) = run_ranks(fine_tune_on_ranks, data, world_size=1)
for weights in run_ranks(fine_tune_on_ranks, data, world_size=2):
    off = max((weights[name] - alone[name]).abs().max().item() for name in alone)
    print(f"largest difference between one process and two ranks: {off:.0e}")
    assert off < 1e-2
    assert torch.equal(
        weights["body.norm2.running_mean"],
        mnist_cnn().state_dict()["norm2.running_mean"],
    )

# %% [markdown]
# With statistics that move, each rank would collect those of its own share, and DistributedDataParallel would spread rank 0's. On 8 GPUs or on two machines the same function runs as a script:
# `torchrun --nproc-per-node=8 script.py`, `torchrun --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-endpoint=HOST:29500 script.py`.
#
# ## 8 · What the log said
#
# | The log | The evidence | What holds |
# |---|---|---|
# | *심화과제 Transfer Learning …* (not begun) | Sections 1 and 3: frozen and fine-tuned against scratch. | With few labels, pretrained weights beat random ones by far more than the error. |
# | | Section 2: features of a frozen body moved. | Frozen means: no gradients *and* statistics that stay. |
# | | Section 4: a plausible accuracy. | The scaling belongs to the weights. No error tells you. |
#
# ## Take away
#
# * Run the backbone once, keep its features, train a head: seconds, and often enough.
# * Fine-tune with a low rate for what is good already and a high one for what is new.
# * Freezing has two halves: gradients and running statistics.
# * Pixels get the scaling of the *backbone's* training. `norm_gap` tells without labels.
# * Compare seed by seed, with the interval of the mean difference. "Level" means within a margin that was set beforehand. Choose rates on validation images.
# * Compare every network with something cheap: there are numbers of labels where that is level or ahead.
#
# **Next notebook:** [LoRA and forgetting](2_lora_and_forgetting.ipynb). **Questions on this lesson:** [quiz](quiz.ipynb).
#
# ### Glossary
#
# | English | 한국어 | here |
# |---|---|---|
# | transfer learning | 전이 학습 | weights from one task, used for another |
# | backbone | 백본 | a pretrained network without its last layer |
# | head | 헤드 | the new last layer |
# | feature | 특징 | what the backbone makes of a picture |
# | to freeze | 동결 | to give no gradient, and keep statistics |
# | fine-tuning | 미세 조정 | to train pretrained weights further |
# | discriminative rates | 차등 학습률 | a learning rate for each part |
# | gradual unfreezing | 점진적 동결 해제 | the head first, then layer by layer |
# | batch normalization | 배치 정규화 | a layer with a running mean and variance |
# | baseline | 기준선 | the cheap way to compare with |
# | standard error | 표준 오차 | how sure a mean is: deviation / √n |
# | margin | 허용 차이 | a difference that would not matter |
#
# ### Further reading
#
# * Yosinski et al. 2014, [How transferable are features in deep neural networks?](https://arxiv.org/abs/1411.1792)
# * Kornblith, Shlens and Le 2019, [Do better ImageNet models transfer better?](https://arxiv.org/abs/1805.08974)
# * Howard and Ruder 2018, [Universal language model fine-tuning](https://arxiv.org/abs/1801.06146): rates and gradual unfreezing.
# * PyTorch, [BatchNorm2d](https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html): what changes in training mode.
