# %% [markdown]
# # Search: which settings, how long, and how sure is the answer?
#
# **{minutes} minutes** · one CPU is enough, and GPUs are not used: the networks are small · before this: lesson 00
#
# Learning rate, size, optimizer: each training run begins with numbers that nobody has learned, its **hyperparameters** (하이퍼파라미터). This notebook looks for
# good ones by hand, in a few lines per method. Then it asks the harder question: is one setting really better than
# another, or was it luck?
#
# **After this notebook you can**
#
# 1. find a learning rate with a range test;
# 2. say why random search beats a grid where few axes matter;
# 3. stop bad trials early by successive halving, and say when it pays;
# 4. compare methods at equal budgets with several seeds and error bars;
# 5. say how many seeds a difference needs;
# 6. answer from measurements whether hyperparameters still matter.

# %% setup

# %%
from torchcourse.quiz import outcome, predict, recall

recall("03_hyperparameter_tuning")

# %%
import copy
import math

import numpy as np
import torch
import torch.nn.functional as F

from torchcourse import figures
from torchcourse.error_bars import paired, t95
from torchcourse.lessons.tuning import (
    comparison_picture,
    lr_range,
    lr_range_picture,
    random_or_grid,
    random_or_grid_picture,
    replay,
    search_picture,
)
from torchcourse.lessons.tuning.checks import search as check
from torchcourse.lessons.tuning.comparison import METHODS, clear_share, compare
from torchcourse.lessons.tuning.digits_task import (
    IMAGES,
    SPACE,
    digits_cnn,
    parts,
)
from torchcourse.lessons.tuning.halving import asha, successive_halving
from torchcourse.lessons.tuning.search import Search, random_search, random_settings

torch.set_num_threads(1)  # small networks train no faster on more
print(f"one process on the CPU, PyTorch {torch.__version__}")

# %% [markdown]
# ## 1 · One short run for the learning rate
#
# A **learning-rate range test** (학습률 범위 테스트) is one run of about a hundred steps. The rate begins far too small and grows by the same factor at
# each step, until it is far too large. At first the loss does not move, then it falls, then it jumps. The test is
# [Smith's](https://arxiv.org/abs/1506.01186), who raises the rate by equal *steps*. Equal factors, and the rule that you will see below, are
# [fast.ai's](https://sgugger.github.io/how-do-you-find-a-good-learning-rate.html). The task: a small network that reads digits, 500 images.
#
# `batches` below is a **generator** (제너레이터), a function with `yield`. It computes a value when the loop asks for one, and then waits where it is.


# %%
def batches(seed=0):
    """Yield batches of 32 images without end."""
    images, labels = parts()["train"]
    generator = torch.Generator().manual_seed(seed)
    while True:
        for rows in torch.randperm(len(images), generator=generator).split(32):
            yield images[rows], labels[rows]


predict(
    "03-1.range",
    "The loss of the range test is lowest at some rate. With which rate do you train?",
    ["with that one", "with about a tenth of it", "with about ten times as much"],
)

# %%
torch.manual_seed(0)
model = digits_cnn(width=16)
optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
curve = lr_range.range_test(model, optimizer, batches(), F.cross_entropy)
rates = np.array(SPACE["lr"])
final = replay.accuracies()[
    :, SPACE["width"].index(16), SPACE["optimizer"].index("adamw"), 0, -1
]
good = rates[final >= 0.9]
figures.show(
    lr_range_picture.draw_range_test(curve, (good[0], good[-1])),
    f"Range test. {lr_range_picture.range_finding(curve)}.",
)

# %% [markdown]
# How do we know the green range? All 780 settings of a space were trained once, by `python -m torchcourse.tools.make_data.tuning_table`. A table keeps their accuracies after each of nine
# epochs. You can look up in microseconds what a training run would give:

# %%
found = {}
for name, factor in (("lowest", 1), ("a tenth", 0.1), ("ten times", 10)):
    place = abs(np.log(rates / (factor * curve.lowest))).argmin()
    found[name] = final[place]
    print(
        f"{name:10s} rate {rates[place]:.4f}: {100 * final[place]:.1f}% after 9 epochs"
    )
outcome(
    "03-1.range",
    f"The test needed {len(curve.rates)} steps, about {len(curve.rates) / 16:.0f} "
    f"epochs. At the lowest loss you stand on the "
    "edge: all the smaller rates before have helped, and the next larger one throws "
    "the weights away.",
    right="with about a tenth of it"
    if found["a tenth"] == max(found.values())
    else None,
)

# %% [markdown]
# With a different seed the edge lies elsewhere. A tenth of it keeps a margin.
#
# ### Exercise 1 · Your own range test
#
# ●●○ · 10 minutes · good for: the first hour with any new model.
#
# One step for each batch with plain SGD. The rates go from `low` to `high`, each the same factor times the one before (`np.geomspace`). The loss of a step
# is the one *before* its update, as a plain number. `optimizer.param_groups[0]["lr"]` is the rate of the next step. At the end the model must be as
# it was. The loss is `F.cross_entropy`.


# %% exercise: range_test
def range_test(
    model, batches: list, low: float, high: float
) -> tuple[list[float], list[float]]:
    """Take one step for each (x, y) of `batches`, with growing rates; return the
    rates and the losses.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=low)
    rates, losses = [], []
    ### BEGIN SOLUTION
    before = copy.deepcopy(model.state_dict())
    for rate, (x, y) in zip(
        np.geomspace(low, high, len(batches)), batches, strict=True
    ):
        optimizer.param_groups[0]["lr"] = rate
        loss = F.cross_entropy(model(x), y)
        rates.append(float(rate))
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.load_state_dict(before)
    ### END SOLUTION
    return rates, losses


# %% check: range_test
checked = check.range_test(range_test, points=2)
### BEGIN HIDDEN TESTS
torch.manual_seed(4)
_model = torch.nn.Linear(3, 2)
_weight = _model.weight.detach().clone()
_batches = [(torch.randn(4, 3), torch.tensor([0, 1, 1, 0])) for _ in range(9)]
_rates, _losses = range_test(_model, _batches, 0.01, 2.56)
assert np.allclose(_rates, [0.01 * 2**n for n in range(9)])
assert torch.equal(_model.weight, _weight)
assert (
    abs(_losses[0] - F.cross_entropy(_model(_batches[0][0]), _batches[0][1]).item())
    < 1e-6
)
_twin = copy.deepcopy(_model)
for (_x, _y), _rate, _loss in zip(_batches, _rates, _losses, strict=True):
    _value = F.cross_entropy(_twin(_x), _y)
    assert abs(_value.item() - _loss) < 1e-4
    for _p, _g in zip(
        _twin.parameters(),
        torch.autograd.grad(_value, tuple(_twin.parameters())),
        strict=True,
    ):
        _p.data -= _rate * _g
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "of the model are not as they were"</summary>
#
# `model.state_dict()` holds the very tensors that the steps change. Keep a copy (`copy.deepcopy`) and load it at the end.
# </details>
#
# ## 2 · Grid or random?
#
# With two hyperparameters or more you search. A **trial** (시행) is one training run with one setting. A **grid search** (격자 탐색, 그리드 서치) tries all combinations of a few values each. **Random search**
# (무작위 탐색, 랜덤 서치) draws every value of every trial again. Below, only the horizontal axis matters, and the search does not know it.

# %%
predict(
    "03-1.grid",
    "16 trials on two axes of which one matters. How many different values of that "
    "axis do grid and random search try?",
    ["16 and 16", "4 and 16", "4 and 4"],
)

# %%
figures.explorer(
    random_or_grid_picture.draw,
    alt=lambda side: (
        f"Grid and random search over a space where one axis matters. "
        f"{random_or_grid_picture.finding(side)}."
    ),
    side=(2, 8, 4),
)

# %%
grid_tries = len(set(random_or_grid.grid_points(4)[:, 0]))
random_tries = len(set(random_or_grid.random_points(4, np.random.default_rng(0))[:, 0]))
outcome(
    "03-1.grid",
    f"{grid_tries} and {random_tries}: look at the marks below.",
    right=f"{grid_tries} and {random_tries}",
)

# %% [markdown]
# That is the argument of [Bergstra and Bengio 2012](https://jmlr.org/papers/v13/bergstra12a.html). Section 4 checks it on the real table.
#
# ### Exercise 2 · Random search
#
# ●●○ · 8 minutes · good for: a baseline that every cleverer method has to beat.
#
# Draw `lr` from 1e-4 to 1 and `weight_decay` from 1e-6 to 1e-1, each evenly on a **log scale** (로그 척도), and `width` from 4, 8, 16, 32, 64. All
# random numbers come from `generator`. `objective(setting)` returns a value; larger is better.


# %% exercise: random_search
def search_randomly(objective, trials: int, generator: np.random.Generator) -> dict:
    """Try random settings, dictionaries of lr,
    weight_decay and width; return the best one.
    """
    ### BEGIN SOLUTION
    tried = []
    for _ in range(trials):
        setting = {
            "lr": 10 ** generator.uniform(-4, 0),
            "weight_decay": 10 ** generator.uniform(-6, -1),
            "width": int(generator.choice([4, 8, 16, 32, 64])),
        }
        tried.append((objective(setting), setting))
    return max(tried, key=lambda pair: pair[0])[1]
    ### END SOLUTION


# %% check: random_search
checked = check.random_search(search_randomly, points=2)
### BEGIN HIDDEN TESTS
for _seed in (1, 2):
    _asked = []

    def _objective(setting, _asked=_asked):
        _asked.append(dict(setting))
        return -abs(math.log10(setting["weight_decay"]) + 3) - 0.01 * setting["width"]

    _best = search_randomly(_objective, 300, np.random.default_rng(_seed))
    assert len(_asked) == 300
    assert _objective(_best) == max(_objective(setting) for setting in _asked[:300])
    assert 0.35 < sum(setting["lr"] < 1e-2 for setting in _asked[:300]) / 300 < 0.65
    assert (
        0.25
        < sum(setting["weight_decay"] < 1e-4 for setting in _asked[:300]) / 300
        < 0.55
    )
    assert len({setting["lr"] for setting in _asked[:300]}) > 290
    assert {setting["width"] for setting in _asked} == {4, 8, 16, 32, 64}
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "drawn evenly on a line"</summary>
#
# Nine of ten numbers between 0 and 1 are above 0.1. Draw the *exponent* evenly, and raise 10 to it.
# </details>
#
# ## 3 · Stop early
#
# Most settings of our space stay below 90%, and many of them show it soon. **Successive halving** (연속 반감법) trains all trials for one epoch, the best third of them for
# three, and the best third of those to the end. The epochs at which it compares are **rungs** (단).
#
# The **budget** (예산) is counted in epochs. `Search` counts them, pauses trials and lets them go on:

# %%
BUDGET = 90
whole, halved = Search(replay.replayed, BUDGET), Search(replay.replayed, BUDGET)
random_search(whole, random_settings(SPACE, seed=0), epochs=9)
successive_halving(halved, random_settings(SPACE, seed=0))
for name, search in (("random", whole), ("successive halving", halved)):
    best = search.best
    print(
        f"{name:18s} {len(search.trials):2d} trials, {search.spent} epochs, best "
        f"{100 * best.values[-1]:.1f}%: {best.settings}"
    )

# %% [markdown]
# The second has looked at four times as many.
#
# Synchronous halving waits at each rung for the last trial. With many workers most of them idle. **ASHA** ([Li et al. 2020](https://arxiv.org/abs/1810.05934)) never waits:
# whenever a worker is free, it promotes a trial that has earned it *so far*, and else starts a new one.

# %%
predict(
    "03-1.asha",
    "90 epochs for each search, 400 seeds, the chosen trial judged on test images. "
    "ASHA against random search, on average:",
    ["about equal", "ASHA is 1 to 3 points better", "ASHA is 5 to 10 points better"],
)

# %%
search = Search(replay.replayed, BUDGET)
asha(search, random_settings(SPACE, seed=0))
figures.show(
    search_picture.draw_curves(search),
    f"Trials of ASHA. {search_picture.curves_finding(search)}.",
)

# %% [markdown]
# ### Exercise 3 · The rule of ASHA
#
# ●●● · 12 minutes · good for: reading the log of any early-stopping scheduler.
#
# `values[k]` says what each trial had at rung k (trial → accuracy). `promoted[k]` are the trials that went on from rung k already. Return `(trial, k)` for a trial
# that goes on from rung k, or `None` where a new one should start.
#
# * A trial may go on if it is in the best third of **all** that reached its rung: of seven trials, the best two.
# * No trial goes on twice from one rung, and none from the last rung.
# * Where several may, the highest rung first, and there the best one.
#
# The check runs a whole ASHA with your rule, 40 times, against random search with the same seeds.


# %% exercise: promotion
def promotion(
    values: list[dict[int, float]], promoted: list[set[int]]
) -> tuple[int, int] | None:
    """Return (trial, the rung it leaves), or None where a new trial should start."""
    ### BEGIN SOLUTION
    for rung in reversed(range(len(values) - 1)):
        ranked = sorted(values[rung], key=values[rung].get, reverse=True)
        for trial in ranked[: len(ranked) // 3]:
            if trial not in promoted[rung]:
                return trial, rung
    return None
    ### END SOLUTION


# %% check: promotion
checked = check.promotion(promotion, points=3)
### BEGIN HIDDEN TESTS
_random = np.random.default_rng(6)
for _ in range(60):
    _values = [{}, {}, {}, {}]
    _names = _random.permutation(40)[: _random.integers(1, 30)].tolist()
    for _rung in range(4):
        _values[_rung] = {name: float(_random.random()) for name in _names}
        _names = _names[: len(_names) // 2]
    _gone = [set(_values[_rung + 1]) if _rung < 3 else set() for _rung in range(4)]
    _wanted = None
    for _rung in (2, 1, 0):
        _third = sorted(
            _values[_rung], key=lambda name, rung=_rung: -_values[rung][name]
        )[: len(_values[_rung]) // 3]
        _free = [name for name in _third if name not in _gone[_rung]]
        if _free:
            _wanted = (_free[0], _rung)
            break
    _given = promotion([dict(rung) for rung in _values], [set(rung) for rung in _gone])
    assert (None if _given is None else tuple(_given)) == _wanted, (_given, _wanted)
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "are the third of seven, and have gone on"</summary>
#
# Take the best third of all trials at the rung first. Then leave out those that have gone on already. In the other order, every trial is promoted in the end.
# </details>
#
# ### When the objective breaks
#
# A search runs for hours. One trial that raises, or whose loss is NaN, must not take the others with it:


# %%
def fragile(settings):
    """A training run that falls apart at large rates."""
    for accuracy in replay.replayed(settings):
        yield math.nan if settings["lr"] > 0.5 else accuracy


search = Search(fragile, BUDGET)
asha(search, random_settings(SPACE, seed=1))
print(
    f"{len(search.failures)} of {len(search.trials)} trials failed. "
    f"{search.failures[0]}"
)
print("best:", search.best.settings)

# %% [markdown]
# ## 4 · Which method is better? Equal budgets, many seeds
#
# One search proves nothing. Replayed from the table, 400 searches of each method take seconds. Each method gets the same number of epochs and the same
# seeds. It sees validation accuracy only. What counts is the *test* accuracy of the trial that it hands over.
#
# A fifth method is a rival for both grid and random search. A **Latin hypercube** (라틴 하이퍼큐브) spreads the values of each axis evenly over the trials, as a
# grid does. But it combines them at random, so that no value is repeated as long as others are left.

# %%
BUDGETS = (27, 54, 90, 135, 270, 540)
scores = compare(METHODS, BUDGETS, seeds=range(400))
print(f"{len(METHODS) * len(BUDGETS) * 400} searches")

# %% [markdown]
# Gray dots are searches, diamonds are means, and each bar is a 95% **confidence interval** (신뢰 구간) of the mean.

# %%
figures.explorer(
    lambda budget: comparison_picture.draw_methods(scores, BUDGETS, budget),
    alt=lambda budget: (
        f"Test accuracy of five methods. "
        f"{comparison_picture.methods_finding(scores, BUDGETS, budget)}."
    ),
    budget=[90, *(budget for budget in BUDGETS if budget != 90)],
)

# %%
RIVALRIES = (
    ("successive halving", "random"),
    ("ASHA", "successive halving"),
    ("random", "grid"),
    ("evenly drawn", "random"),
    ("evenly drawn", "grid"),
)
looks = len(RIVALRIES) * len(BUDGETS)
for one, other in RIVALRIES:
    print(f"{one} − {other}")
    for row, budget in enumerate(BUDGETS):
        gap = paired(scores[one][row], scores[other][row])
        verdict = (
            f"clear among {looks}"
            if gap.clear_among(looks)
            else "clear alone"
            if gap.clear
            else "open"
        )
        print(f"   {budget:3d} epochs  {gap.in_points()}: {verdict}")
gain = paired(scores["ASHA"][2], scores["random"][2])
outcome(
    "03-1.asha",
    f"{gain.in_points()}.",
    right="about equal"
    if not gain.clear
    else "ASHA is 1 to 3 points better"
    if gain.mean < 4
    else "ASHA is 5 to 10 points better",
)

# %% [markdown]
# Of 20 comparisons *without* any difference, one is clear by luck. Here are 30, so "clear among 30" asks for more: an interval of
# 99.8% that leaves out zero (Bonferroni's correction: 5% divided by the number of comparisons). "Open" is not "equal".
#
# What holds:
#
# * Stopping early pays most where the budget is small: ten points at 27 epochs, more than one and a half at 90, a tenth of a point at 540.
# * ASHA is no better than successive halving here, and below 100 epochs it is a little worse: it promotes before all trials are in. What it saves is the
#   waiting of many workers, and these searches have one worker.
# * With three trials random search is *worse* than the grid, by five points. It may draw three hopeless rates, which a grid of three rates cannot. With 30 trials
#   it is better, by 0.3 points.
# * Evenly drawn values have both advantages. With three trials they are not clearly below the grid, and from 10 to 30 trials they are better than it. They are
#   never clearly below random search.
#
# Stopping early is a bet that the early order of the trials predicts their order at the end. How well does it?

# %%
table = replay.accuracies().reshape(780, 9)
alive = table[table[:, -1] > 0.9]
for epochs in (1, 3):
    ranks = [
        np.argsort(np.argsort(values))
        for values in (alive[:, epochs - 1], alive[:, -1])
    ]
    print(
        f"rank after {epochs} epochs against rank after 9: correlation "
        f"{np.corrcoef(*ranks)[0, 1]:.2f}, of {len(alive)} good settings"
    )

# %% [markdown]
# ### Break-it lab: the method that beats itself
#
# A colleague shows that their method is better than yours. The report:


# %%
def flattering(ours, theirs, budget, seeds):
    """Compare two methods; each returns validation and test
    accuracies of its trials.
    """
    best = max(test.max() for val, test in (ours(budget, seed) for seed in seeds))
    others = [theirs(budget // 2, seed) for seed in seeds]
    return best - np.mean([test[val.argmax()] for val, test in others])


# %%
def searching(name):
    """Return a method that gives the last accuracies [trials] of its finished
    trials, on validation and on test.
    """

    def run(budget, seed):
        search = Search(replay.replayed, budget)
        METHODS[name](search, seed)
        places = [
            replay.position(trial.settings)
            for trial in search.trials
            if trial.epochs == search.best.epochs
        ]
        return tuple(
            np.array(
                [
                    replay.accuracies("space", part)[(*place, search.best.epochs - 1)]
                    for place in places
                ]
            )
            for part in ("val", "test")
        )

    return run


same = 100 * flattering(searching("random"), searching("random"), BUDGET, range(20))
print(f"random search beats random search by {same:.1f} points")

# %% [markdown]
# A comparison of a method with itself must give zero, up to noise. So the report is wrong. Now read it: there are three faults.
#
# ### Exercise 4 · A fair report
#
# ●●○ · 10 minutes · good for: reading a paper, and writing one.
#
# Run each method with the same `budget` and each of the `seeds`. Choose on validation, report on test. Return the mean of the differences `ours − theirs`, pair
# by pair, and half the width of its 95% interval: `t95(n - 1)` standard errors for n pairs. The **standard error** (표준 오차) of a mean is the standard deviation of a sample (`ddof=1`) over √n.


# %% exercise: report
def report(ours, theirs, budget: int, seeds) -> tuple[float, float]:
    """Return the mean difference of the two methods and half the
    width of its 95% interval.
    """
    ### BEGIN SOLUTION
    gaps = []
    for seed in seeds:
        (val, test), (other_val, other_test) = ours(budget, seed), theirs(budget, seed)
        gaps.append(test[val.argmax()] - other_test[other_val.argmax()])
    return float(np.mean(gaps)), float(
        t95(len(gaps) - 1) * np.std(gaps, ddof=1) / math.sqrt(len(gaps))
    )
    ### END SOLUTION


# %% check: report
checked = check.report(report, points=2)
### BEGIN HIDDEN TESTS
for _budget, _seeds in ((90, range(12)), (135, [3, 1, 8])):
    _pairs = [
        (searching("ASHA")(_budget, _s), searching("grid")(_budget, _s))
        for _s in _seeds
    ]
    _gaps = np.array([a[1][a[0].argmax()] - b[1][b[0].argmax()] for a, b in _pairs])
    _mean, _half = report(searching("ASHA"), searching("grid"), _budget, _seeds)
    assert abs(_mean - _gaps.mean()) < 1e-9
    assert (
        abs(_half - t95(len(_gaps) - 1) * _gaps.std(ddof=1) / len(_gaps) ** 0.5) < 1e-9
    )
_mean, _half = report(searching("random"), searching("random"), 54, range(6))
assert _mean == _half == 0
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "The interval ignores the pairs"</summary>
#
# Both methods drew the same first settings from the same seed. Where one was lucky, so was the other. Take the difference seed by seed, then mean and deviation of the differences.
# </details>
#
# ## 5 · How many seeds does a difference need?
#
# Settings are compared in the same way. The table has three good settings, each trained with 40 seeds:

# %%
RIVALS = ("AdamW, width 16", "AdamW, width 32", "SGD, width 16")
runs = 100 * replay.accuracies("seeds", "test")[..., -1]
for name, values in zip(RIVALS, runs, strict=True):
    print(
        f"{name:16s} {values.mean():.2f}% on average; single runs {values.min():.1f} "
        f"to {values.max():.1f}%"
    )
predict(
    "03-1.seeds",
    "Width 32 is about one point better than width 16. How often does an experiment "
    "with 3 seeds for each make sure of it?",
    ["about 9 times in 10", "about 2 times in 3", "less than half of the time"],
)

# %% [markdown]
# ### Exercise 5 · How often is it found?
#
# ●●○ · 10 minutes · good for: planning an experiment before you pay for it.
#
# Simulate 1,000 experiments. Each draws `seeds` runs of each side (`generator.choice`, with replacement). It *finds* the difference if the 95% interval of the difference of the two means leaves out zero. That is so if the difference is larger than `t95(2 * seeds - 2)` standard errors. We leave the pairs aside here, so the error of the difference is √((s₁² + s₂²) / seeds), with the
# sample deviations s₁ and s₂. The share that finds it is the **power** (검정력) of the experiment.


# %% exercise: share_found
def share_found(
    first: np.ndarray, second: np.ndarray, seeds: int, generator: np.random.Generator
) -> float:
    """Return the share, from 0 to 1, of 1,000 experiments that find the difference."""
    ### BEGIN SOLUTION
    one, two = (generator.choice(side, (1000, seeds)) for side in (first, second))
    gaps = one.mean(axis=1) - two.mean(axis=1)
    errors = np.sqrt((one.var(axis=1, ddof=1) + two.var(axis=1, ddof=1)) / seeds)
    return float(np.mean(abs(gaps) > t95(2 * seeds - 2) * errors))
    ### END SOLUTION


# %% check: share_found
checked = check.share_found(share_found, points=2)
### BEGIN HIDDEN TESTS
_runs = np.random.default_rng(3).normal(50, 2, 60)
_shares = [
    share_found(_runs, _runs + _shift, 8, np.random.default_rng(2))
    for _shift in (0, 1, 2, 3, 8)
]
assert _shares == sorted(_shares)
assert _shares[0] < 0.12
assert 0.3 < _shares[2] < 0.75
assert _shares[4] > 0.97
assert share_found(_runs, _runs + 2, 25, np.random.default_rng(2)) > _shares[2] + 0.2
assert share_found(_runs + 2, _runs, 8, np.random.default_rng(2)) > 0.3
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "Both means are uncertain"</summary>
#
# The variances of two independent means add up. Then take the root.
# </details>

# %%
pairs = {
    "1.0 points": (runs[0], runs[1]),
    "0.8 points": (runs[1], runs[2]),
    "0.1 points": (runs[0], runs[2]),
}
counts = (2, 3, 5, 10, 20, 40)
finding = comparison_picture.clear_share_finding(pairs, counts)
figures.show(
    comparison_picture.draw_clear_share(pairs, counts),
    f"Experiments that find a difference, over the seeds. {finding}.",
)

# %%
three = clear_share(runs[0], runs[1], 3)
outcome(
    "03-1.seeds",
    f"In {100 * three:.0f}% of experiments. {finding}.",
    right="less than half of the time" if three < 0.5 else "about 2 times in 3",
)

# %% [markdown]
# Half the difference needs four times the seeds: errors fall with √n. (And all of these runs share the same 797 test images.
# What more seeds cannot average out is the subject of the next notebook.)
#
# Fix the number beforehand, and look *once*. Here somebody compares a setting with itself, looks after each new pair of runs, and stops when the interval leaves out zero:

# %%
generator = np.random.default_rng(0)
found = {"one look at 20 pairs": 0, "a look after each, from 3 to 20": 0}
for _ in range(500):
    first, second = generator.choice(runs[0], (2, 20))
    looks = [paired(first[:count], second[:count]).clear for count in range(3, 21)]
    found["one look at 20 pairs"] += looks[-1] / 500
    found["a look after each, from 3 to 20"] += any(looks) / 500
for how, share in found.items():
    print(
        f"{how}: a difference is found in {100 * share:.0f}% of experiments, and "
        f"there is none"
    )

# %% [markdown]
# ## 6 · Do hyperparameters still matter?
#
# "AdamW and good defaults: nobody has to tune any more." The table has 260 settings with each optimizer, trained for nine epochs.

# %%
predict(
    "03-1.matter",
    "Of the 260 settings with AdamW, how many reach 95% on the test images?",
    ["more than half", "about a third", "one in five or fewer"],
)

# %%
last = 100 * replay.accuracies("space", "test")[..., -1]
for number, name in enumerate(SPACE["optimizer"]):
    part = last[:, :, number]
    spread = ", ".join(
        f"{value:.0f}" for value in np.quantile(part, (0.1, 0.25, 0.5, 0.75, 0.9))
    )
    print(
        f"{name:8s} 10, 25, 50, 75, 90% of settings: below {spread}%; "
        f"{np.mean(part >= 95):.0%} reach 95%"
    )
reach = float(np.mean(last[:, :, SPACE["optimizer"].index("adamw")] >= 95))
outcome(
    "03-1.matter",
    f"{100 * reach:.0f}% of them.",
    right="more than half"
    if reach > 0.5
    else "about a third"
    if reach > 0.25
    else "one in five or fewer",
)

# %% [markdown]
# That share belongs to this space, which goes up to a rate of 1. A fairer question: what do PyTorch's defaults for AdamW (rate 0.001,
# decay 0.01) lose against settings that were chosen on validation, *at the same width*?

# %%
validated = replay.accuracies()[..., -1]
for place, width in enumerate(SPACE["width"]):
    default = last[
        SPACE["lr"].index(0.001),
        place,
        SPACE["optimizer"].index("adamw"),
        SPACE["weight_decay"].index(0.01),
    ]
    tuned = last[:, place].ravel()[validated[:, place].argmax()]
    print(f"width {width:2d}: defaults {default:.1f}%, chosen {tuned:.1f}%")
# [defaults or rate 0.01, seeds, epochs], width 16
longer = 100 * replay.accuracies("longer", "test")
print("width 16, ten seeds, rate 0.01 without decay − defaults:")
for epochs in (9, 20, 40, 60):
    gap = paired(longer[1, :, epochs - 1], longer[0, :, epochs - 1])
    print(f"   after {epochs:2d} epochs {gap.in_points()}: {gap.verdict(margin=1.0)}")

# %% [markdown]
# After nine epochs, 144 steps, the defaults are five points behind. From 40 epochs on they are level with the tuned rate, within a
# margin of one point. So what tuning brings here is mostly time.
#
# And model size, the log's second word? Five widths, trained on 15 to 500 images, at one rate:

# %%
# [widths, numbers of images]
size = 100 * replay.accuracies("scaling", "test")[..., -1].mean(axis=-1)
print(
    "test accuracy, %, means of three seeds; images:",
    "".join(f"{count:6d}" for count in IMAGES),
)
for width, row in zip(SPACE["width"], size, strict=True):
    print(f"width {width:2d}:".rjust(47), "".join(f"{value:6.1f}" for value in row))

# %% [markdown]
# The wide networks are ahead where images are few: width 64 gains 37 to 57 points on width 4 with up to 125 images, and 9 with 500. So a larger network does not have to
# overfit more. But nine epochs of 15 images are nine steps, and a wide network gets further in a step: part of the gain is speed.
#
# ## 7 · What the log said
#
# | The log | The evidence | Corrected |
# |---|---|---|
# | Learning rate, model size, optimizer | Section 1: between a tenth of the edge and ten times the edge, accuracies go from 95% to chance. | These three, and weight decay, batch size and schedule. Begin with the rate. |
# | used to have a great influence | Section 6: in this space four of five settings with AdamW stay below 95% after nine epochs. PyTorch's defaults are then five points behind a tuned rate, and level with it after 40. | They have it now, above all where training is short. Whether the influence was larger *then* was not measured here. |
# | matters when one goes into the details | Section 5: one point needs about ten seeds, a tenth of a point more than 40. | In the details the differences are smaller than the noise of one run. |
#
# ## Take away
#
# * A range test costs a hundred steps. Take a tenth of the rate at the lowest loss, and the weights from before the test.
# * Random search tries a new value of each axis in each trial. Draw rates on a log scale.
# * Stopping early pays most at small budgets. It bets that the early order of the trials predicts the late one.
# * A fair comparison: equal epochs, equal width, the same seeds, chosen on validation, judged on test, with an interval. Compare a method with itself first.
# * Half the difference needs four times the seeds.
#
# ### Glossary
#
# | English | 한국어 | here |
# |---|---|---|
# | hyperparameter | 하이퍼파라미터 | a number of a training run that is not learned |
# | range test | 범위 테스트 | a short run with a growing learning rate |
# | trial | 시행 | one training run with one setting |
# | grid search | 격자 탐색(그리드 서치) | all combinations of a few values |
# | random search | 무작위 탐색(랜덤 서치) | each value drawn again in each trial |
# | Latin hypercube | 라틴 하이퍼큐브 | values spread evenly over each axis, combined at random |
# | log scale | 로그 척도 | equal factors take equal room |
# | successive halving | 연속 반감법 | after each rung the best third goes on |
# | rung | 단 | an epoch at which trials are compared |
# | budget | 예산 | the epochs that a search may take |
# | confidence interval | 신뢰 구간 | holds the true value in 95 of 100 experiments |
# | standard error | 표준 오차 | how uncertain a mean is |
# | power | 검정력 | how often an experiment finds a difference that is there |
#
# ### Further reading
#
# * Smith 2017, [Cyclical learning rates](https://arxiv.org/abs/1506.01186): the range test.
# * McKay, Beckman and Conover 1979, [A comparison of three methods for selecting values of input variables](https://doi.org/10.1080/00401706.1979.10489755): the Latin hypercube.
# * Bergstra and Bengio 2012, [Random search for hyper-parameter optimization](https://jmlr.org/papers/v13/bergstra12a.html).
# * Li et al. 2020, [A system for massively parallel hyperparameter tuning](https://arxiv.org/abs/1810.05934): ASHA.
# * Bouthillier et al. 2021, [Accounting for variance in machine learning benchmarks](https://arxiv.org/abs/2103.03098).
#
# **Next notebook:** [studies](2_studies.ipynb). **Questions on this lesson:** [quiz](quiz.ipynb).
