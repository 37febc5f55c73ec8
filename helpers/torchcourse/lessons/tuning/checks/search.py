"""Checks of lesson 03, notebook 1, search by hand: a range test, random search, ASHA's rule, and fair comparisons."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import AnyOf, numbers, refuse_known, same
from torchcourse.error_bars import paired, t95
from torchcourse.lessons.tuning.comparison import METHODS, clear_share, compare
from torchcourse.lessons.tuning.digits_task import SPACE
from torchcourse.lessons.tuning.halving import asha
from torchcourse.lessons.tuning.search import random_settings

Batches = list[tuple[torch.Tensor, torch.Tensor]]


@check
def range_test(learner: Callable[..., tuple]) -> str:
    """Run it on two small models, and compare rates, losses and weights with a run step by step."""
    for seed, (low, high, steps) in enumerate(((1e-3, 1.0, 12), (1e-2, 0.5, 25))):
        model, batches = _model_and_batches(seed, steps)
        before = copy.deepcopy(model)
        result = learner(model, batches, low, high)
        if not isinstance(result, tuple) or len(result) != 2:
            raise Wrong("wrong_type", "Return two lists: the rates, and the loss at each of them.")
        rates, losses = (list(values) for values in result)
        if losses and isinstance(losses[0], torch.Tensor):
            raise Wrong("tensors", "The losses are tensors, and each keeps its graph in memory. Keep plain numbers.")
        if len(rates) != steps or len(losses) != steps:
            raise Wrong("count", f"For {steps} batches there are {len(rates)} rates and {len(losses)} losses.")
        _judge_rates(rates, low, high)
        _judge_losses(losses, before, batches, rates)
        weights = before.state_dict()
        if any(not torch.equal(weights[name], value) for name, value in model.state_dict().items()):
            raise Wrong("weights", "After the test the model has other weights than before it. The test only measures.")
    return "Rates by equal factors, each loss before its step, and the model as it was: on two models."


def _model_and_batches(seed: int, steps: int) -> tuple[nn.Module, Batches]:
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    teacher = torch.randn(5, 3, generator=generator)
    x = torch.randn(steps, 16, 5, generator=generator)
    return model, [(rows, (rows @ teacher).argmax(dim=1)) for rows in x]


def _judge_rates(rates: list, low: float, high: float) -> None:
    if same(rates, np.linspace(low, high, len(rates)).tolist(), tolerance=1e-5):
        raise Wrong(
            "linear", "The rates grow by equal sums: nearly all of them are large. They should grow by factors."
        )
    if not same(rates, np.geomspace(low, high, len(rates)).tolist(), tolerance=1e-4):
        raise Wrong(
            "rates", f"The rates go from {rates[0]:.3g} to {rates[-1]:.3g}; they should go from {low} to {high}."
        )


def _judge_losses(losses: list, before: nn.Module, batches: Batches, rates: list) -> None:
    if same(losses, _losses(before, batches, rates), tolerance=1e-3):
        return
    known = {
        "rate_not_set": (
            AnyOf(_losses(before, batches, [rate] * len(rates)) for rate in (rates[0], rates[-1])),
            "The losses are those of a run with one constant rate: the optimizer still has it.",
        ),
        "after": (
            _losses(before, batches, rates, after=True),
            "Each loss is measured after its own step. The loss before the step is the honest one.",
        ),
        "gradients": (
            _losses(before, batches, rates, zero=False),
            "Gradients of earlier batches are still in the parameters: each step adds to them.",
        ),
        "no_step": (
            _losses(before, batches, [0.0] * len(rates)),
            "The weights never change during the test: is there a step?",
        ),
    }
    refuse_known(losses, known, tolerance=1e-3)
    raise Wrong(
        "wrong_value", f"The losses begin {losses[0]:.3f}, {losses[1]:.3f}, and differ from a run step by step."
    )


def _losses(before: nn.Module, batches: Batches, rates: list, zero: bool = True, after: bool = False) -> list[float]:
    """Return the loss of each step of a run with these rates, before the step or `after` it."""
    model = copy.deepcopy(before)
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


LIMITS = {"lr": (1e-4, 1.0), "weight_decay": (1e-6, 1e-1)}
WIDTHS = {4, 8, 16, 32, 64}


@check
def random_search(learner: Callable[..., dict]) -> str:
    """Watch the settings that it asks for, over 400 trials on a planted objective."""
    asked: list[dict[str, Any]] = []
    given = learner(_recording(asked), 400, np.random.default_rng(5))
    _judge_settings(asked)
    if not isinstance(given, dict) or given.keys() != {*LIMITS, "width"}:
        raise Wrong("wrong_type", "Return the setting that was best: a dictionary of lr, weight_decay and width.")
    values = [_planted(setting) for setting in asked]
    known = {"worst": (min(values), "You return the setting with the lowest value. Here, larger is better.")}
    refuse_known(_planted(given), known)
    if not same(_planted(given), max(values)):
        raise Wrong("not_best", f"Its value is {_planted(given):.3f}; a setting with {max(values):.3f} was tried.")
    again: list[dict[str, Any]] = []
    learner(_recording(again), 20, np.random.default_rng(5))
    if [setting["lr"] for setting in again] != [setting["lr"] for setting in asked[:20]]:
        raise Wrong("not_repeatable", "A generator with the same seed gives other settings. Who else throws the dice?")
    rates = {setting["lr"] for setting in asked}
    return f"400 trials, {len(rates)} different learning rates, and the best one returned."


def _planted(setting: dict[str, Any]) -> float:
    return 1 - (math.log10(setting["lr"]) + 2) ** 2 / 10 - 0.001 * math.log10(setting["weight_decay"])


def _recording(asked: list[dict[str, Any]]) -> Callable[[dict[str, Any]], float]:
    """Return the planted objective; each setting that it is asked for is put into `asked`."""

    def objective(setting: dict[str, Any]) -> float:
        asked.append(dict(setting))
        return _planted(setting)

    return objective


def _judge_settings(asked: list[dict[str, Any]]) -> None:
    if len(asked) != 400:
        raise Wrong("count", f"400 trials were asked for, and {len(asked)} were made.")
    for setting in asked:
        if setting.keys() != {*LIMITS, "width"}:
            raise Wrong("keys", f"A setting has lr, weight_decay and width; one of yours has {', '.join(setting)}.")
    places = [_place_on_log_scale(name, np.array([setting[name] for setting in asked], float)) for name in LIMITS]
    if abs(np.corrcoef(places)[0, 1]) > 0.5:
        raise Wrong("tied", "Learning rate and weight decay go up and down together: one draw serves for both.")
    if {setting["width"] for setting in asked} != WIDTHS:
        raise Wrong("widths", "The widths 4, 8, 16, 32 and 64 should all come up, and nothing else.")


def _place_on_log_scale(name: str, values: np.ndarray) -> np.ndarray:
    """Return where the values lie between the limits, from 0 to 1 on the log scale; refuse draws that are not even."""
    low, high = LIMITS[name]
    if values.min() < low * 0.999 or values.max() > high * 1.001:
        raise Wrong("range", f"{name} goes from {values.min():.2g} to {values.max():.2g}, not {low:g} to {high:g}.")
    different = len(set(values.tolist()))
    if different < 300:
        raise Wrong("repeats", f"400 trials have {different} different values of {name}: as a grid.")
    places = (np.log(values) - np.log(low)) / np.log(high / low)
    if places.mean() > 0.7:
        upper = np.mean(places > 0.5)
        raise Wrong("not_log", f"{name} is drawn evenly on a line: {upper:.0%} lie in the upper half.")
    if not 0.4 < places.mean() < 0.6:
        raise Wrong("uneven", f"{name} is not drawn evenly on its log scale.")
    return places


Promotion = Callable[[list[dict[int, float]], list[set[int]]], tuple[int, int] | None]

BUDGET, SEEDS = 90, range(40)


@check
def promotion(learner: Promotion) -> str:
    """Ask for single decisions, then run ASHA with it on the trained table, against random search."""
    _judge_decisions(learner)
    methods = {
        "random": METHODS["random"],
        "yours": lambda search, seed: asha(search, random_settings(SPACE, seed), promote=learner),
    }
    scores = compare(methods, (BUDGET,), SEEDS)
    gain = paired(scores["yours"][0], scores["random"][0])
    if gain.low <= 0:
        raise Wrong(
            "not_better", f"With {BUDGET} epochs per search, 40 pairs: {gain.in_points()}. It should be above zero."
        )
    return f"{BUDGET} epochs, 40 pairs of searches, ASHA against random search: {gain.in_points()}."


def _judge_decisions(learner: Promotion) -> None:
    low = {0: 0.2, 1: 0.5, 2: 0.9, 3: 0.8, 4: 0.7, 5: 0.1, 6: 0.3}
    middle, last = {2: 0.91, 3: 0.95, 4: 0.2}, {2: 0.91, 3: 0.95, 4: 0.97}
    nobody: set[int] = set()

    def ask(
        rungs: list[dict[int, float]], gone: list[set[int]], right: Any, symptom: str, hint: str, **known: Any
    ) -> None:
        """Refuse a wrong decision: by its known symptom, else with the symptom and the hint for all others."""
        given = learner([dict(rung) for rung in rungs], [set(rung) for rung in gone])
        if not same(given, right):
            refuse_known(given, known)
            raise Wrong(symptom, f"{hint} You return {given!r}.")

    ask(
        [{0: 0.5, 1: 0.4}, {}, {}],
        [nobody] * 3,
        None,
        "too_early",
        "Two trials at a rung, and one is promoted: a third of two is nobody yet.",
    )
    ask(
        [low, {}, {}],
        [nobody] * 3,
        (2, 0),
        "not_the_best",
        "Trial 2 has earned it, from the rung 0: (2, 0).",
        never=(None, f"Seven trials are at the rung 0, with {low}: nobody is promoted."),
        worst=(AnyOf(((5, 0), 5)), "Trial 5 is promoted, and it has the lowest value of all."),
    )
    ask(
        [low, {}, {}],
        [{2}, nobody, nobody],
        (3, 0),
        "one_only",
        "A third of seven is two, and trial 3 is the second.",
        twice=((2, 0), "Trial 2 is promoted a second time from the same rung."),
    )
    ask(
        [low, {}, {}],
        [{2, 3}, nobody, nobody],
        None,
        "remaining",
        "Trials 2 and 3 are the third of seven, and have gone on; nobody else is among them.",
    )
    ask(
        [low, middle, {}],
        [{2}, nobody, nobody],
        (3, 1),
        "middle",
        "Trial 3 has earned it at the rung 1: (3, 1).",
        bottom_first=((3, 0), "Both rungs have somebody to promote. The higher one goes first: it is nearer the end."),
    )
    ask(
        [low, middle, last],
        [{2, 3}, {3}, nobody],
        None,
        "last_rung",
        "The last rung is the end, nobody goes on from there.",
    )


Method = Callable[[int, int], tuple[np.ndarray, np.ndarray]]


@check
def report(learner: Callable[[Method, Method, int, Sequence[int]], tuple[float, float]]) -> str:
    """Let it compare planted methods that note how they are called."""
    for budget, seeds in ((90, range(8)), (30, (11, 4, 7, 2, 9))):
        calls: dict[str, list[tuple[int, int]]] = {"ours": [], "theirs": []}
        ours, theirs = (_method(name, shift, calls[name]) for name, shift in (("ours", 0.01), ("theirs", 0.0)))
        given = numbers(learner(ours, theirs, budget, seeds))
        if given is None or len(given) != 2:
            raise Wrong("wrong_type", "Return two numbers: the mean difference, and half the width of its interval.")
        _judge_calls(calls, budget, list(seeds))
        runs = [[method(budget, seed) for seed in seeds] for method in (ours, theirs)]
        chosen = np.array([[test[val.argmax()] for val, test in side] for side in runs])
        _judge_mean(given[0], runs, chosen)
        _judge_half(given[1], chosen)
    return "Equal budgets, the same seeds, chosen on validation, every seed counted: on two planted comparisons."


def _method(name: str, shift: float, calls: list[tuple[int, int]]) -> Method:
    def run(budget: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        calls.append((budget, seed))
        common = np.random.default_rng([budget, seed]).normal(0, 0.02)
        own = np.random.default_rng([budget, seed, len(name)])
        val = own.uniform(0.8, 0.95, 12)
        return val, val + shift + common + own.normal(0, 0.02, 12)

    return run


def _judge_calls(calls: dict[str, list[tuple[int, int]]], budget: int, seeds: list[int]) -> None:
    if not all(calls.values()):
        raise Wrong("not_run", "One of the two methods was never run.")
    spent = {name: sum(epochs for epochs, _ in made) for name, made in calls.items()}
    made = [*calls["ours"], *calls["theirs"]]
    if spent["ours"] != spent["theirs"] or any(epochs != budget for epochs, _ in made):
        raise Wrong(
            "budgets", f"Ours had {spent['ours']} epochs in all, theirs {spent['theirs']}; {budget} a run was asked."
        )
    if any({seed for _, seed in made} != set(seeds) for made in calls.values()):
        raise Wrong("seeds", f"Both methods should run with each of the seeds {seeds}, and with no others.")


def _judge_mean(mean: float, runs: list, chosen: np.ndarray) -> None:
    """Compare with the mean difference of the test scores that validation chose, `chosen` [2, seeds]."""
    right = (chosen[0] - chosen[1]).mean()
    if same(mean, right, tolerance=1e-6):
        return
    by_test = np.array([[test.max() for _, test in side] for side in runs])
    by_val = np.array([[val.max() for val, _ in side] for side in runs])
    others = (*chosen.max(1), *chosen.mean(1), *by_test.max(1))
    known = {
        "test_chose": (
            AnyOf(by_test[0].mean() - other[1].mean() for other in (by_test, chosen)),
            "The test images choose the trial: each method is flattered by its luckiest one.",
        ),
        "validation": (
            by_val[0].mean() - by_val[1].mean(),
            "You compare the scores that chose. Choose on validation, then compare on test.",
        ),
        "best_of_seeds": (
            AnyOf(ours[0].max() - other for ours in (chosen, by_test) for other in others),
            "A lucky seed stands for a method. Every seed counts.",
        ),
        "sign": (-right, "The sign is turned round: ours − theirs is asked for."),
    }
    refuse_known(mean, known, tolerance=1e-6)
    raise Wrong("mean", f"The mean difference here is {right:+.4f}, and not {mean:+.4f}.")


def _judge_half(half: float, chosen: np.ndarray) -> None:
    """Compare with half the width of the 95 % interval of the pairs' mean difference."""
    gaps, count = chosen[0] - chosen[1], chosen.shape[1]
    deviation, factor, root = gaps.std(ddof=1), t95(count - 1), math.sqrt(count)
    right = factor * deviation / root
    if same(half, right, tolerance=1e-6):
        return
    apart = math.hypot(*chosen.std(axis=1, ddof=1)) / root
    known = {
        "deviation": (
            AnyOf((factor * deviation, deviation)),
            "That is how far single pairs spread. The mean of n pairs is more certain than one pair.",
        ),
        "one_error": (
            deviation / root,
            "That is one standard error: an interval that holds the truth in 68 % of cases or fewer.",
        ),
        "unpaired": (
            AnyOf((factor * apart, t95(2 * count - 2) * apart)),
            "The interval ignores the pairs. Both methods had the same seed: take differences first.",
        ),
        "ddof": (
            factor * gaps.std() / root,
            "The deviation of a sample divides by n − 1; yours divides by n and is too small.",
        ),
    }
    refuse_known(half, known, tolerance=1e-6)
    raise Wrong("half", f"Half the interval should be {right:.4f} for these {count} pairs. You return {half:.4f}.")


@check
def share_found(learner: Callable[..., float]) -> str:
    """Compare with a simulation of our own for planted runs that lie 0, 0.5 and 1 standard deviations apart."""
    first = np.random.default_rng(0).normal(90, 1, 40)
    for shift, seeds in ((0.0, 10), (1.0, 10), (0.5, 10), (1.0, 4)):
        second = first + shift
        given = float(learner(first.copy(), second.copy(), seeds, np.random.default_rng(7)))
        wanted = clear_share(first, second, seeds, 4000)
        if abs(given - wanted) > 0.07:
            _refuse_share(given, wanted, first, second, seeds)
    return "The shares agree with another simulation for four experiments, and without a difference it is about 5 %."


def _refuse_share(given: float, wanted: float, first: np.ndarray, second: np.ndarray, seeds: int) -> None:
    if given > 1:
        raise Wrong("no_share", f"{given:g} is not a share. A share goes from 0 to 1.")
    where = f"{seeds} seeds per side, runs {second.mean() - first.mean():.1f} points apart"
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
    raise Wrong(
        "too_rarely" if given < wanted else "too_often",
        f"{where}: you find it in {given:.0%}, and it should be {wanted:.0%}. How wide is the interval?",
    )
