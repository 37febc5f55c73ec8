"""Checks of lesson 03, notebook 1, search by hand: a range test, random search, ASHA's rule, and fair comparisons."""

import copy
import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import AnyOf, number, refuse_known, result_of, same
from torchcourse.lessons.tuning.checks.comparisons import report, share_found
from torchcourse.lessons.tuning.checks.promoting import promotion
from torchcourse.units import counted

__all__ = ["promotion", "random_search", "range_test", "report", "share_found"]

Batches = list[tuple[torch.Tensor, torch.Tensor]]


@check
def range_test(learner: Callable[..., tuple]) -> str:
    """Run it on three small models, and compare rates, losses and weights with a run step by step."""
    for seed, (low, high, steps) in enumerate(((1e-3, 1.0, 12), (1e-2, 0.5, 25), (1e-5, 1e-3, 9))):
        model, batches = _model_and_batches(seed, steps)
        if seed == 2:
            _let_the_loss_jump(model, batches)
        before = copy.deepcopy(model)
        result = result_of(partial(learner, model), batches, low, high, what="the batches")
        if not isinstance(result, tuple | list) or len(result) != 2:
            raise Wrong("wrong_type", "Return two lists: the rates, and the loss at each of them.")
        rates, losses = (list(values) for values in result)
        if tensors := [loss for loss in losses if isinstance(loss, torch.Tensor)]:
            graph = ", and each keeps its graph in memory" if tensors[0].requires_grad else ""
            raise Wrong("tensors", f"The losses are tensors{graph}. Keep plain numbers.")
        if len(rates) != steps or len(losses) != steps:
            after = " Does it end where the loss jumps? Take one step for each batch." if seed == 2 else ""
            raise Wrong("count", f"For {steps} batches there are {len(rates)} rates and {len(losses)} losses.{after}")
        if same(losses, np.geomspace(low, high, steps).tolist(), tolerance=1e-4):
            raise Wrong("swapped", "Your second list holds the rates. Return the rates first, then the losses.")
        _judge_rates(rates, low, high)
        _judge_losses(losses, before, batches, rates)
        _judge_state(before, model)
    return "Rates by equal factors, each loss before its step, and the model as it was: on three models."


def _judge_state(before: nn.Module, after: nn.Module) -> None:
    if [module.training for module in before.modules()] != [module.training for module in after.modules()]:
        raise Wrong(
            "mode_left_changed", "The model came in training mode, and after the test it is in evaluation mode."
        )
    if not all(parameter.requires_grad for parameter in after.parameters()):
        raise Wrong(
            "frozen", "After the test the model's parameters get no gradients any more. Leave them as they were."
        )
    state, buffers = before.state_dict(), dict(before.named_buffers())
    changed = [name for name, value in after.state_dict().items() if not torch.equal(state[name], value)]
    if changed:
        raise Wrong(
            "buffers" if buffers.keys() >= set(changed) else "weights",
            f"After the test {', '.join(changed)} of the model are not as they were. The test only measures. What "
            "holds weights, and buffers such as BatchNorm's?",
        )


def _model_and_batches(seed: int, steps: int) -> tuple[nn.Module, Batches]:
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        norm = [nn.BatchNorm1d(8)] if seed else []
        model = nn.Sequential(nn.Linear(5, 8), *norm, nn.Tanh(), nn.Linear(8, 3))
    teacher = torch.randn(5, 3, generator=generator)
    x = torch.randn(steps, 16, 5, generator=generator)
    return model, [(rows, (rows @ teacher).argmax(dim=1)) for rows in x]


def _let_the_loss_jump(model: nn.Module, batches: Batches) -> None:
    """Change the labels so that the loss is near 0 at first, and ten or more in the second half."""
    with torch.no_grad():
        model[-1].weight.mul_(30)  # type: ignore[index]  # a Sequential
        for place, (x, _) in enumerate(batches):
            guess = copy.deepcopy(model)(x)  # a copy: a pass changes BatchNorm's statistics
            batches[place] = (x, guess.argmax(dim=1) if place < len(batches) / 2 else guess.argmin(dim=1))


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
    right = _losses(before, batches, rates)
    if same(losses, right, tolerance=1e-3):
        return
    known = {
        "rate_not_set": (
            AnyOf(_losses(before, batches, [rate] * len(rates)) for rate in (rates[0], rates[-1])),
            "The losses are those of a run with one constant rate: the optimizer still has it.",
        ),
        "rate_set_late": (
            _losses(before, batches, [rates[0], *rates[:-1]]),
            "Each step takes the rate of the step before. Set the rate, then take the step.",
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
            "From batch to batch the weights are the same: is there a step, and does what it did stay?",
        ),
        "momentum": (
            _losses(before, batches, rates, momentum=0.9),
            "Each step goes on where the steps before went. Plain SGD has no momentum.",
        ),
        "evaluation": (
            _losses(copy.deepcopy(before).eval(), batches, rates),
            "The losses are those of a model in evaluation mode. A range test trains, so it runs in training mode.",
        ),
    }
    refuse_known(losses, known, tolerance=1e-3)
    raise Wrong(
        "wrong_value",
        f"The losses begin {losses[0]:.3f}, {losses[1]:.3f}. Those of plain SGD, step by step, begin {right[0]:.3f}, "
        f"{right[1]:.3f}.",
    )


def _losses(
    before: nn.Module, batches: Batches, rates: list, zero: bool = True, after: bool = False, momentum: float = 0.0
) -> list[float]:
    """Return the loss of each step of a run with these rates, before the step or `after` it."""
    model = copy.deepcopy(before)
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=1.0, momentum=momentum), []
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
    dice = np.random.default_rng(5)
    given = learner(_recording(asked), 400, dice)
    _judge_settings(asked)
    if given is None:
        raise Wrong(
            "nothing_returned",
            "You return None. The values of these settings are all below 0: what does the best one so far begin with?",
        )
    if not isinstance(given, dict) or given.keys() != {*LIMITS, "width"}:
        raise Wrong("wrong_type", "Return the setting that was best: a dictionary of lr, weight_decay and width.")
    values = [_planted(setting) for setting in asked]
    known = {"worst": (min(values), "You return the setting with the lowest value. Here, larger is better.")}
    refuse_known(_planted(given), known)
    if given == asked[-1] and not same(_planted(given), max(values)):
        raise Wrong(
            "last",
            "You return the setting that was tried last. If you kept the best one: is it the same dictionary, filled "
            "again for each trial?",
        )
    if not same(_planted(given), max(values)):
        raise Wrong("not_best", f"Its value is {_planted(given):.3f}; a setting with {max(values):.3f} was tried.")
    again, repeat, other = (
        _settings(learner, np.random.default_rng(seed), more) for seed, more in ((5, 100), (5, 99), (6, 98))
    )
    if repeat != again:
        raise Wrong(
            "not_repeatable", "A generator with the same seed gives other settings. What else draws random numbers?"
        )
    for name in (*LIMITS, "width"):
        if [setting[name] for setting in other] == [setting[name] for setting in again]:
            raise Wrong(
                "not_drawn",
                f"Generators with different seeds give the same values of {name}: it is not drawn from them.",
            )
    if _settings(learner, dice, 97) == again:
        raise Wrong(
            "not_used_up",
            "A second search with the same generator tries the same settings again. Draw from the generator itself, "
            "not from a copy of it.",
        )
    rates = {setting["lr"] for setting in asked}
    return f"400 trials, {len(rates)} different learning rates, and the best one returned."


def _settings(learner: Callable[..., dict], dice: np.random.Generator, more: float) -> list[dict[str, Any]]:
    """The settings that it tries in 20 trials with this generator, where all values are above 90."""
    asked: list[dict[str, Any]] = []
    given = learner(_recording(asked, more), 20, dice)
    if len(asked) != 20:
        raise Wrong(
            "ended_early",
            f"20 trials were asked for, and {counted(len(asked), 'trial')} made, where all values are above 90. Does "
            "it end at a value that is good enough?",
        )
    if not isinstance(given, dict) or _planted(given) not in map(_planted, asked):
        raise Wrong(
            "of_another_search",
            "In a further search you return a setting that it has not tried. What is kept from one call to the next?",
        )
    return asked


def _planted(setting: dict[str, Any]) -> float:
    rate, decay = (math.log10(max(setting[name], 1e-99)) for name in LIMITS)  # what is 0 is refused afterwards
    return -1 - (rate + 2) ** 2 / 10 - 0.001 * decay


def _recording(asked: list[dict[str, Any]], more: float = 0.0) -> Callable[[dict[str, Any]], float]:
    """Return the planted objective, `more` added; each setting that it is asked for is put into `asked`."""

    def objective(setting: dict[str, Any]) -> float:
        if not isinstance(setting, dict) or setting.keys() != {*LIMITS, "width"}:
            raise Wrong("keys", f"A setting is a dictionary of lr, weight_decay and width. You try {setting!r}.")
        for name, value in setting.items():
            if number(value) is None:
                raise Wrong("no_number", f"A setting holds one number of each name. Your {name} is {value!r}.")
        asked.append(dict(setting))
        return _planted(setting) + more

    return objective


def _judge_settings(asked: list[dict[str, Any]]) -> None:
    if len(asked) != 400:
        raise Wrong("count", f"400 trials were asked for, and {len(asked)} were made.")
    places = [_place_on_log_scale(name, np.array([setting[name] for setting in asked], float)) for name in LIMITS]
    times = Counter(setting["width"] for setting in asked)
    if times.keys() != WIDTHS:
        raise Wrong("widths", "The widths 4, 8, 16, 32 and 64 should all come up, and nothing else.")
    (often, most), *_, (rare, fewest) = times.most_common()
    if fewest < 30:
        raise Wrong(
            "uneven_widths", f"The width {rare} comes up {fewest} times in 400, and {often} {most} times: draw evenly."
        )
    places.append(np.log2([setting["width"] for setting in asked]))
    tied = np.abs(np.corrcoef(places)) > 0.5
    for one, other, names in (
        (0, 1, "Learning rate and weight decay"),
        (0, 2, "Learning rate and width"),
        (1, 2, "Weight decay and width"),
    ):
        if tied[one, other]:
            raise Wrong("tied", f"{names} go up and down together: one draw serves for both.")


def _place_on_log_scale(name: str, values: np.ndarray) -> np.ndarray:
    """Return where the values lie between the limits, from 0 to 1 on the log scale; refuse draws that are not even."""
    low, high = LIMITS[name]
    places = np.log(np.maximum(values, 1e-99) / low) / np.log(high / low)  # a value of 0 is out of range
    if _distance_from_even((values - low) / (high - low)) < 0.12:
        upper = np.mean(places > 0.5)
        raise Wrong("not_log", f"{name} is drawn evenly on a line: {upper:.0%} lie in the upper half.")
    inside, different = places.min() > -1e-3 and places.max() < 1.001, len(set(values.tolist()))
    if inside and different < 390:
        raise Wrong("repeats", f"400 trials have only {counted(different, 'different value')} of {name}.")
    if not inside or places.min() > 0.05 or places.max() < 0.95:
        raise Wrong("range", f"{name} goes from {values.min():.2g} to {values.max():.2g}, not {low:g} to {high:g}.")
    if _distance_from_even(places) > 0.12:
        raise Wrong("uneven", f"{name} is not drawn evenly on its log scale.")
    return places


def _distance_from_even(places: np.ndarray) -> float:
    """How far the shares of values below each one are from those of an even draw from 0 to 1: Kolmogorov's distance.

    400 even draws are more than 0.12 away once in 50,000 times.
    """
    return float(np.abs(np.sort(places) - (np.arange(len(places)) + 0.5) / len(places)).max())
