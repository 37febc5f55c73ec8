"""Checks of lesson 03, notebook 1: search by hand. Each names the symptom of a mistake.

In the notebook's order: `range_test`, `random_search`, `promotion`, `report`, `share_found`.
"""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.error_bars import paired, t95
from torchcourse.lessons.tuning.compare import METHODS, clear_share, compare
from torchcourse.lessons.tuning.digits_task import SPACE
from torchcourse.lessons.tuning.halving import asha
from torchcourse.lessons.tuning.search import random_settings

BUDGET, SEEDS = 90, range(40)


@check
def range_test(learner: Callable[..., tuple]) -> str:
    """Run it on two small models, and compare rates, losses and weights with a run step by step."""
    for seed, (low, high, steps) in enumerate(((1e-3, 1.0, 12), (1e-2, 0.5, 25))):
        model, batches = _model_and_batches(seed, steps)
        before = copy.deepcopy(model.state_dict())
        result = learner(model, batches, low, high)
        if not isinstance(result, tuple) or len(result) != 2:
            raise Wrong("no_pair", "Return two lists: the rates, and the loss at each of them.")
        rates, losses = (list(values) for values in result)
        if losses and isinstance(losses[0], torch.Tensor):
            raise Wrong("tensors", "The losses are tensors, and each keeps its graph in memory. Keep plain numbers.")
        _judge_rates(rates, losses, low, high, steps)
        wanted = _losses(model, before, batches, rates)
        if not np.allclose(losses, wanted, rtol=1e-3):
            _judge_losses(losses, model, before, batches, rates)
        if any(not torch.equal(before[name], value) for name, value in model.state_dict().items()):
            raise Wrong("weights", "After the test the model has other weights than before it. The test only measures.")
    return "Rates by equal factors, each loss before its step, and the model as it was: on two models."


@check
def random_search(learner: Callable[..., dict]) -> str:
    """Watch the settings that it asks for, over 400 trials on a planted objective."""
    asked: list[dict[str, Any]] = []
    given = learner(lambda setting: _planted(setting, asked), 400, np.random.default_rng(5))
    if len(asked) != 400:
        raise Wrong("count", f"400 trials were asked for, and {len(asked)} were made.")
    names = {"lr", "weight_decay", "width"}
    if any(set(setting) != names for setting in asked):
        raise Wrong("keys", f"A setting has lr, weight_decay and width; one of yours has {', '.join(asked[0])}.")
    _judge_draws(asked)
    values = [_planted(setting, []) for setting in asked]
    if not isinstance(given, dict) or set(given) != names:
        raise Wrong("no_setting", "Return the setting that was best: a dictionary of lr, weight_decay and width.")
    if math.isclose(_planted(given, []), min(values)):
        raise Wrong("worst", "You return the setting with the lowest value. Here, larger is better.")
    if not math.isclose(_planted(given, []), max(values)):
        raise Wrong("not_best", f"Its value is {_planted(given, []):.3f}; a setting with {max(values):.3f} was tried.")
    again: list[dict[str, Any]] = []
    learner(lambda setting: _planted(setting, again), 20, np.random.default_rng(5))
    if [setting["lr"] for setting in again] != [setting["lr"] for setting in asked[:20]]:
        raise Wrong("not_repeatable", "A generator with the same seed gives other settings. Who else throws the dice?")
    return (
        f"400 trials, {len({setting['lr'] for setting in asked})} different learning rates, and the best one returned."
    )


@check
def promotion(learner: Callable[..., tuple[int, int] | None]) -> str:
    """Ask for single decisions, then run ASHA with it on the trained table, against random search."""
    low = {0: 0.2, 1: 0.5, 2: 0.9, 3: 0.8, 4: 0.7, 5: 0.1, 6: 0.3}
    _judge_promotion(learner, low)
    methods = {
        "random": METHODS["random"],
        "yours": lambda search, seed: asha(search, random_settings(SPACE, seed), promote=learner),
    }
    scores = compare(methods, (BUDGET,), SEEDS)
    gain = paired(scores["yours"][0], scores["random"][0])
    if gain.low <= 0:
        raise Wrong(
            "not_better", f"With {BUDGET} epochs a search, over 40 pairs: {gain.in_points()}. It should be above zero."
        )
    return f"{BUDGET} epochs, 40 pairs of searches, ASHA against random search: {gain.in_points()}."


@check
def report(learner: Callable[..., tuple[float, float]]) -> str:
    """Let it compare planted methods that note how they are called."""
    for budget, seeds in ((90, range(8)), (30, (11, 4, 7, 2, 9))):
        calls: dict[str, list[tuple[int, int]]] = {"ours": [], "theirs": []}
        ours, theirs = (_method(name, shift, calls[name]) for name, shift in (("ours", 0.01), ("theirs", 0.0)))
        given = learner(ours, theirs, budget, seeds)
        if not isinstance(given, tuple) or len(given) != 2:
            raise Wrong("no_pair", "Return two numbers: the mean difference, and half the width of its interval.")
        _judge_calls(calls, budget, list(seeds))
        _judge_report(float(given[0]), float(given[1]), ours, theirs, budget, list(seeds))
    return "Equal budgets, the same seeds, chosen on validation, every seed counted: on two planted comparisons."


@check
def share_found(learner: Callable[..., float]) -> str:
    """Compare with a simulation of our own for planted runs that lie 0, 0.5 and 1 standard deviations apart."""
    generator = np.random.default_rng(0)
    first = generator.normal(90, 1, 40)
    for shift, seeds in ((0.0, 10), (1.0, 10), (0.5, 10), (1.0, 4)):
        second = first + shift
        given = float(learner(first.copy(), second.copy(), seeds, np.random.default_rng(7)))
        wanted = clear_share(first, second, seeds, 4000)
        if abs(given - wanted) > 0.07:
            _judge_share(given, wanted, first, second, seeds)
    return "The shares agree with another simulation for four experiments, and without a difference it is about 5 %."


def _model_and_batches(seed: int, steps: int) -> tuple[nn.Module, list]:
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    teacher = torch.randn(5, 3, generator=generator)
    x = torch.randn(steps, 16, 5, generator=generator)
    return model, [(rows, (rows @ teacher).argmax(dim=1)) for rows in x]


def _losses(model: nn.Module, before: dict, batches: list, rates: list, zero: bool = True, after: bool = False) -> list:
    model = copy.deepcopy(model)
    model.load_state_dict(before)
    model.zero_grad()
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=1.0), []
    for rate, (x, y) in zip(rates, batches, strict=True):
        optimizer.param_groups[0]["lr"] = float(rate)
        loss = F.cross_entropy(model(x), y)
        if zero:
            optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(F.cross_entropy(model(x), y).item() if after else loss.item())
    return losses


def _judge_rates(rates: list, losses: list, low: float, high: float, steps: int) -> None:
    if len(rates) != steps or len(losses) != steps:
        raise Wrong("count", f"For {steps} batches there are {len(rates)} rates and {len(losses)} losses.")
    if np.allclose(rates, np.linspace(low, high, steps)):
        raise Wrong(
            "linear", "The rates grow by equal sums: nearly all of them are large. They should grow by factors."
        )
    if not np.allclose(rates, np.geomspace(low, high, steps), rtol=1e-4):
        raise Wrong(
            "rates", f"The rates go from {rates[0]:.3g} to {rates[-1]:.3g}; they should go from {low} to {high}."
        )


def _judge_losses(losses: list, model: nn.Module, before: dict, batches: list, rates: list) -> None:
    def near(other: list) -> bool:
        return bool(np.allclose(losses, other, rtol=1e-3))

    if any(near(_losses(model, before, batches, [rate] * len(rates))) for rate in (rates[0], rates[-1])):
        raise Wrong("rate_not_set", "The losses are those of a run with one constant rate: the optimizer still has it.")
    if near(_losses(model, before, batches, rates, after=True)):
        raise Wrong("after", "Each loss is measured after its own step. The loss before the step is the honest one.")
    if near(_losses(model, before, batches, rates, zero=False)):
        raise Wrong("gradients", "Gradients of earlier batches are still in the parameters: each step adds to them.")
    if len(set(losses)) == len(losses) and near([F.cross_entropy(model(x), y).item() for x, y in batches]):
        raise Wrong("no_step", "The weights never change during the test: is there a step?")
    raise Wrong("losses", f"The losses begin {losses[0]:.3f}, {losses[1]:.3f}, and differ from a run step by step.")


def _planted(setting: dict[str, Any], seen: list) -> float:
    seen.append(dict(setting))
    return 1 - (math.log10(setting["lr"]) + 2) ** 2 / 10 - 0.001 * math.log10(setting["weight_decay"])


def _judge_draws(asked: list[dict[str, Any]]) -> None:
    limits = {"lr": (1e-4, 1.0), "weight_decay": (1e-6, 1e-1)}
    logs = {}
    for name, (low, high) in limits.items():
        values = np.array([setting[name] for setting in asked], dtype=float)
        if values.min() < low * 0.999 or values.max() > high * 1.001:
            raise Wrong("range", f"{name} goes from {values.min():.2g} to {values.max():.2g}, not {low:g} to {high:g}.")
        if len(set(values.tolist())) < 300:
            raise Wrong(
                "repeats", f"400 trials have {len(set(values.tolist()))} different values of {name}: as a grid."
            )
        logs[name] = (np.log(values) - np.log(low)) / np.log(high / low)
        if logs[name].mean() > 0.7:
            raise Wrong(
                "not_log", f"{name} is drawn evenly on a line: {np.mean(logs[name] > 0.5):.0%} lie in the upper half."
            )
        if not 0.4 < logs[name].mean() < 0.6:
            raise Wrong("uneven", f"{name} is not drawn evenly on its log scale.")
    if abs(np.corrcoef(logs["lr"], logs["weight_decay"])[0, 1]) > 0.5:
        raise Wrong("tied", "Learning rate and weight decay go up and down together: one draw serves for both.")
    if {setting["width"] for setting in asked} != {4, 8, 16, 32, 64}:
        raise Wrong("widths", "The widths 4, 8, 16, 32 and 64 should all come up, and nothing else.")


def _judge_promotion(learner: Callable[..., tuple[int, int] | None], low: dict[int, float]) -> None:
    def ask(values: list[dict[int, float]], promoted: list[set[int]]) -> Any:
        return learner([dict(rung) for rung in values], [set(rung) for rung in promoted])

    if (given := ask([{0: 0.5, 1: 0.4}, {}, {}], [set(), set(), set()])) is not None:
        raise Wrong("too_early", f"Two trials at a rung, and {given} is promoted: a third of two is nobody yet.")
    given = ask([low, {}, {}], [set(), set(), set()])
    if given is None:
        raise Wrong("never", f"Seven trials are at the rung 0, with {low}: nobody is promoted.")
    if given in ((5, 0), 5):
        raise Wrong("worst", "Trial 5 is promoted, and it has the lowest value of all.")
    if given != (2, 0):
        raise Wrong("not_the_best", f"Trial 2 has earned it, from the rung 0: (2, 0). You return {given!r}.")
    if (given := ask([low, {}, {}], [{2}, set(), set()])) == (2, 0):
        raise Wrong("twice", "Trial 2 is promoted a second time from the same rung.")
    if given != (3, 0):
        raise Wrong("one_only", f"A third of seven is two, and trial 3 is the second. You return {given!r}.")
    if (given := ask([low, {}, {}], [{2, 3}, set(), set()])) is not None:
        raise Wrong("remaining", f"Trials 2 and 3 are the third of seven, and have gone on; {given} is not among them.")
    middle = {2: 0.91, 3: 0.95, 4: 0.2}
    if (given := ask([low, middle, {}], [{2}, set(), set()])) == (3, 0):
        raise Wrong(
            "bottom_first", "Both rungs have somebody to promote. The higher one goes first: it is nearer the end."
        )
    if given != (3, 1):
        raise Wrong("middle", f"Trial 3 has earned it at the rung 1: (3, 1). You return {given!r}.")
    last = {2: 0.91, 3: 0.95, 4: 0.97}
    if (given := ask([low, middle, last], [{2, 3}, {3}, set()])) is not None:
        raise Wrong("last_rung", f"The last rung is the end, nobody goes on from there. You return {given!r}.")


def _method(name: str, shift: float, calls: list) -> Callable[[int, int], tuple[np.ndarray, np.ndarray]]:
    def run(budget: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        calls.append((budget, seed))
        common = np.random.default_rng([budget, seed]).normal(0, 0.02)
        own = np.random.default_rng([budget, seed, len(name)])
        val = own.uniform(0.8, 0.95, 12)
        return val, val + shift + common + own.normal(0, 0.02, 12)

    return run


def _judge_calls(calls: dict[str, list[tuple[int, int]]], budget: int, seeds: list[int]) -> None:
    if not calls["ours"] or not calls["theirs"]:
        raise Wrong("not_run", "One of the two methods was never run.")
    spent = {name: sum(call[0] for call in made) for name, made in calls.items()}
    if spent["ours"] != spent["theirs"] or any(call[0] != budget for made in calls.values() for call in made):
        raise Wrong(
            "budgets", f"Ours had {spent['ours']} epochs in all, theirs {spent['theirs']}; {budget} a run was asked."
        )
    if any(sorted({call[1] for call in made}) != sorted(seeds) for made in calls.values()):
        raise Wrong("seeds", f"Both methods should run with each of the seeds {seeds}, and with no others.")


def _judge_report(mean: float, half: float, ours: Any, theirs: Any, budget: int, seeds: list[int]) -> None:
    runs = [[method(budget, seed) for seed in seeds] for method in (ours, theirs)]
    chosen = np.array([[test[val.argmax()] for val, test in side] for side in runs])
    by_test = np.array([[test.max() for _, test in side] for side in runs])
    by_val = np.array([[val.max() for val, _ in side] for side in runs])
    gaps = chosen[0] - chosen[1]

    def near(value: float, other: float) -> bool:
        return math.isclose(value, other, rel_tol=1e-6, abs_tol=1e-9)

    if not near(mean, gaps.mean()):
        if near(mean, by_test[0].mean() - by_test[1].mean()) or near(mean, by_test[0].mean() - chosen[1].mean()):
            raise Wrong("test_chose", "The test images choose the trial: each method is flattered by its luckiest one.")
        if near(mean, by_val[0].mean() - by_val[1].mean()):
            raise Wrong("validation", "You compare the scores that chose. Choose on validation, then compare on test.")
        if any(
            near(mean, table[0].max() - other)
            for table in (chosen, by_test)
            for other in (*chosen.max(1), *chosen.mean(1), *by_test.max(1))
        ):
            raise Wrong("best_of_seeds", "A lucky seed stands for a method. Every seed counts.")
        if near(mean, -gaps.mean()):
            raise Wrong("sign", "The sign is turned round: ours − theirs is asked for.")
        raise Wrong("mean", f"The mean difference here is {gaps.mean():+.4f}, and not {mean:+.4f}.")
    deviation, count = gaps.std(ddof=1), len(seeds)
    apart = chosen.std(axis=1, ddof=1)
    if near(half, t95(count - 1) * deviation) or near(half, deviation):
        raise Wrong(
            "deviation", "That is how far single pairs spread. The mean of n pairs is more certain than one pair."
        )
    if near(half, deviation / math.sqrt(count)):
        raise Wrong(
            "one_error", "That is one standard error: an interval that holds the truth in 68 % of cases or fewer."
        )
    if any(near(half, t95(n) * math.hypot(*apart) / math.sqrt(count)) for n in (count - 1, 2 * count - 2)):
        raise Wrong(
            "unpaired", "The interval ignores the pairs. Both methods had the same seed: take differences first."
        )
    if near(half, t95(count - 1) * gaps.std() / math.sqrt(count)):
        raise Wrong("ddof", "The deviation of a sample divides by n − 1; yours divides by n and is too small.")
    if not near(half, t95(count - 1) * deviation / math.sqrt(count)):
        wanted = t95(count - 1) * deviation / math.sqrt(count)
        raise Wrong("half", f"Half the interval should be {wanted:.4f} for these {count} pairs. You return {half:.4f}.")


def _judge_share(given: float, wanted: float, first: np.ndarray, second: np.ndarray, seeds: int) -> None:
    if given > 1:
        raise Wrong("no_share", f"{given:g} is no share. It goes from 0 to 1.")
    where = f"{seeds} seeds a side, runs {second.mean() - first.mean():.1f} points apart"
    if given in (0.0, 1.0):
        raise Wrong("always_the_same", f"{where}: found in {given:.0%} of the repeats. Does each repeat draw anew?")
    generator = np.random.default_rng(1)
    draws = [generator.choice(side, (4000, seeds)) for side in (first, second)]
    gaps = draws[1].mean(axis=1) - draws[0].mean(axis=1)
    one = draws[0].std(axis=1, ddof=1) / math.sqrt(seeds)
    if abs(given - np.mean(gaps > 0)) < 0.05:
        raise Wrong("sign", f"{where}: you count {given:.0%}, as often as one mean is merely above the other.")
    if abs(given - np.mean(abs(gaps) > t95(2 * seeds - 2) * one)) < 0.05:
        raise Wrong("one_error", f"{where}: you find it in {given:.0%}. Both means are uncertain, not one of them.")
    if given < wanted:
        raise Wrong(
            "too_rarely",
            f"{where}: you find it in {given:.0%}, and it should be {wanted:.0%}. How wide is the interval?",
        )
    raise Wrong(
        "too_often", f"{where}: you find it in {given:.0%}, and it should be {wanted:.0%}. How wide is the interval?"
    )
