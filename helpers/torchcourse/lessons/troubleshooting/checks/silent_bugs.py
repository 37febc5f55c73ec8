"""Checks of lesson 05 on invariants: what must change in a step, what must not depend on what, how a loss begins."""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import copies, same
from torchcourse.units import counted


@check
def unchanged(learner: Callable) -> str:
    """Train a model in which parameters learn fast, slowly, in part, now and then, never, or must not."""
    for steps in (4, 1):
        model, step = _partly_training(steps)
        frozen = [name for name, value in model.named_parameters() if not value.requires_grad]
        answer = learner(model, step, steps)
        right = {"detached.weight", "detached.bias", "left_out.weight", "left_out.bias"}
        right |= {"zeroed.weight", "zeroed.bias"}
        right |= {"rare.weight", "rare.bias"} if steps == 1 else set()
        if any(model.get_parameter(name).requires_grad for name in frozen):
            raise Wrong("thawed", "A parameter that was frozen before your question learns after it. Only look.")
        if step.calls != steps:
            raise Wrong(
                "steps_ignored", f"step() was to be called {steps} times, and was called {counted(step.calls, 'time')}."
            )
        _judge_names(_names_in(answer), right, steps)
    return "Left out of the optimizer, cut off by detach(): both found, and what is frozen on purpose is not accused."


def _names_in(answer: Any) -> set[str]:
    if isinstance(answer, str) or not isinstance(answer, Iterable):
        raise Wrong("wrong_type", f"Return a list of names. You returned {answer!r}.")
    found = list(answer)
    others = [type(name).__name__ for name in found if not isinstance(name, str)]
    if others:
        raise Wrong("wrong_type", f"Return the names as texts. Your list holds values of type {others[0]}.")
    return set(found)


class _Step:
    """A training step that counts its calls."""

    def __init__(self, model: nn.ModuleDict) -> None:
        self.model, self.calls = model, 0
        out = ("left_out", "slow", "mirrored")
        owned = [p for name, p in model.named_parameters() if p.requires_grad and not name.startswith(out)]
        groups: list[dict[str, Any]] = [
            {"params": owned},
            {"params": list(model["slow"].parameters()), "lr": 1e-9},
            {"params": list(model["mirrored"].parameters()), "lr": 0.125},
        ]
        self.optimizer = torch.optim.SGD(groups, lr=0.1)

    def __call__(self) -> None:
        self.calls += 1
        model, x = self.model, torch.ones(4, 3)
        self.optimizer.zero_grad()
        out = model["left_out"](model["learns"](model["detached"](model["frozen"](x)).detach()))
        out = out + model["slow"](x) + model["table"](torch.ones(4, dtype=torch.long))
        out = out + (model["rare"](x) if self.calls == 3 else 0) + 0 * model["zeroed"](x)
        (balanced,), (mirrored,) = model["balanced"].parameters(), model["mirrored"].parameters()
        (out.square().mean() + (balanced * torch.tensor([1.0, -1.0])).sum() + mirrored.sum()).backward()
        self.optimizer.step()


def _partly_training(steps: int) -> tuple[nn.ModuleDict, _Step]:
    torch.manual_seed(0)
    names = ("frozen", "detached", "learns", "left_out", "rare", "slow", "zeroed")
    model = nn.ModuleDict({name: nn.Linear(3, 3) for name in names})
    model["table"] = nn.Embedding(4, 3)  # one row of it is used
    model["balanced"] = nn.Linear(2, 3, bias=False)  # its sum never changes
    model["mirrored"] = nn.Linear(2, 3, bias=False)  # after so many steps each number is its opposite
    nn.init.constant_(model["mirrored"].get_parameter("weight"), steps * 0.125 / 2)
    for value in (*model["balanced"].parameters(), *model["slow"].parameters()):
        nn.init.zeros_(value)
    model["frozen"].requires_grad_(False)
    model["left_out"].register_buffer("scale", torch.ones(3))
    return model, _Step(model)


def _judge_names(answer: set, right: set, steps: int) -> None:
    wrongly, missing = answer - right, right - answer
    for part, (symptom, hint) in _WRONGLY_LISTED.items():
        if any(name.startswith(part) for name in wrongly):
            raise Wrong(symptom, hint.format(steps=steps))
    for part, (symptom, hint) in _NOT_LISTED.items():
        if missing and all(name.startswith(part) for name in missing):
            raise Wrong(symptom, hint)
    if missing or wrongly:
        raise Wrong("wrong_names", f"Missing: {sorted(missing) or 'none'}. Too many: {sorted(wrongly) or 'none'}.")


_WRONGLY_LISTED = {
    "learns": (
        "no_copy",
        "You list parameters that have changed, and the others are asked for. The optimizer changes them in place: is "
        "what you kept from before a copy, or the same tensor?",
    ),
    "frozen": ("frozen_listed", "Parameters that are not trainable are frozen on purpose: leave them out."),
    "rare": ("one_step_only", "'rare' learned in step 3 of {steps}: compare after the last step, and not after one."),
    "slow": (
        "small_changes",
        "'slow' learns at a rate of 1e-9: it has changed by little, and you list it. As it was means equal.",
    ),
    "balanced": (
        "sums_compared",
        "Each number of 'balanced' has changed, and not their sum. Compare number by number.",
    ),
    "mirrored": (
        "sizes_compared",
        "Each number of 'mirrored' has changed, and not their size. Compare number by number.",
    ),
    "table": (
        "partly_changed",
        "One row of 'table' has changed, and you list it. Unchanged is a parameter of which every number is.",
    ),
    "left_out.scale": (
        "buffer_listed",
        "'left_out.scale' is a buffer: nobody means to train it. Asked for are parameters.",
    ),
}
_NOT_LISTED = {
    "left_out": (
        "gradients_only",
        "'left_out' has a gradient in every step, and never changes: no optimizer has it. Look at the values.",
    ),
    "zeroed": (
        "zero_gradients",
        "'zeroed' has a gradient in every step, which is 0: it never changes. Look at the values.",
    ),
}


class _MixesRows(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(dim=0)


class _SumToOne(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.softmax(dim=0)


@check
def mixes_samples(learner: Callable) -> str:
    """Judge models that mix their samples and models that do not, one of them with BatchNorm and dropout."""
    torch.manual_seed(0)
    x = torch.randn(12, 6)
    healthy = {
        "dropout": nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3)),
        "BatchNorm": nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)),
        "large numbers": nn.Sequential(nn.Linear(6, 64), nn.Tanh(), _scaled(nn.Linear(64, 3), 1e5), _Rounds()),
    }
    for (what, model), mode in itertools.product(healthy.items(), ("training", "evaluation")):
        before, given = copies(model.train(mode == "training").buffers()), x.clone()
        answer = _yes_or_no(learner(model, given))
        if not torch.equal(given, x):
            raise Wrong("inputs_changed", "The batch is different after the call. Try other neighbors on a copy.")
        if not same(list(model.buffers()), before):
            raise Wrong("statistics_changed", "The model's running statistics have changed: it was in training mode.")
        if any(module.training != (mode == "training") for module in model.modules()):
            raise Wrong(
                "mode_left_changed", f"The model came in {mode} mode, and it or parts of it were left in the other."
            )
        if not all(parameter.requires_grad for parameter in model.parameters()):
            raise Wrong("gradients_off", "Its parameters learned before your question, and none of them does after it.")
        if answer:
            raise Wrong(
                "healthy_accused",
                f"A healthy model ({what}) is accused. In training mode, dropout and BatchNorm may do what they do; "
                "and rounding grows with the size of the outputs.",
            )
    for symptom, hint, mixing, samples in (
        ("mixing_missed", _MISSED, _MixesRows(), 11),  # an odd number of samples
        ("mixing_missed", _MISSED, _SumToOne(), 11),
        ("mixing_missed", _MISSED, _Shifts(), 11),
        ("mixing_missed", _MISSED, _MixesRows(), 4),
        ("first_sample_only", _FIRST, _OnlyLast(), 11),
        ("last_sample_only", _LAST, _OnlyFirst(), 11),
    ):
        if not _yes_or_no(learner(nn.Sequential(nn.Linear(6, 3), mixing), x[:samples])):
            raise Wrong(symptom, hint.format(samples))
    return "Mixed samples are found, wherever they are, and dropout, BatchNorm and rounding are not accused."


_MISSED = "A model that mixes the samples of a batch of {} was called healthy."
_FIRST = "In this model only the last sample depends on others: compare all of them."
_LAST = "In this model only the first sample depends on others: compare all of them."


def _yes_or_no(answer: Any) -> bool:
    """What was answered; a truth value of NumPy or a tensor of one counts."""
    with contextlib.suppress(AttributeError, RuntimeError, TypeError, ValueError):  # it has none, or several
        answer = answer.item()
    if not isinstance(answer, bool):
        raise Wrong(
            "wrong_type",
            f"Return True or False, one answer for the model. You returned a value of type {type(answer).__name__}.",
        )
    return answer


class _Shifts(nn.Module):
    """Adds as much to one output as it takes from another: no sum of a row changes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + x.mean() * torch.tensor([1.0, -1.0, 0.0])


class _OnlyFirst(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:1] + (x[-1:] if len(x) > 1 else 0), x[1:]])


class _OnlyLast(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:-1], x[-1:] + x[:1] - (x[-1:] if len(x) == 1 else 0)])


class _Rounds(nn.Module):
    """Rounds otherwise in a batch of a different size, as matrix products do on some machines. One output is near 0."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.tensor([0.0, 1.0, 1.0]) + x.abs().amax(1, keepdim=True) * (len(x) % 5 * 2.0**-22)


def _scaled(layer: nn.Linear, factor: float) -> nn.Linear:
    layer.weight.data *= factor
    return layer


@check
def bad_start(learner: Callable) -> str:
    """Judge starts of models with few and with many classes."""
    for classes in (3, 10, 200):
        torch.manual_seed(classes)
        targets, scores = torch.randint(2, (64,)), torch.randn(64, classes)  # not every class occurs
        large = F.one_hot((targets + 1) % classes, classes) * 40.0
        half = torch.cat([scores[:32].softmax(dim=1), scores[32:]])
        positive = scores.abs() + 1
        cases: tuple[tuple[torch.Tensor, list[str], str], ...] = (
            (0.5 * scores, [], _FRESH),
            (scores.softmax(dim=1), ["softmax twice"], "probabilities"),
            ((200 * scores).softmax(dim=1), ["softmax twice"], "probabilities, some of them 0"),
            (scores + large, ["no guess"], _SURE),
            (half, [], "probabilities in half of the rows"),
            (scores.log_softmax(dim=1), [], "logarithms of probabilities"),
            (1.01 * scores.softmax(dim=1), [], "positive rows that add up to 1.01"),
            (0.5 * scores.softmax(dim=1), [], "positive rows that add up to 0.5"),
            (0.2 * positive, [], "positive scores that do not add up to 1"),
            (scores - scores.mean(dim=1, keepdim=True) + 1 / classes, [], "rows that add up to 1 with scores below 0"),
            (scores.softmax(dim=1) * scores.sign(), [], "scores whose sizes add up to 1, some of them below 0"),
            (scores.softmax(dim=1) * _ROWS, [], "positive rows that add up to 0.5 or 1.5, to 1 on average"),
            (_starting(targets, classes, 1.4), [], _BELOW),
            (_starting(targets, classes, 1.6), ["no guess"], _ABOVE),
            (40.0 * F.one_hot(targets, classes), [], _KNOWS),
        )
        for table, right, what in cases:
            given = table.clone()
            _judge_start(_found_in(learner(given, targets)), right, what, classes)
            if not torch.equal(given, table):
                raise Wrong("inputs_changed", "The scores are different after the call. A judge of them only reads.")
    return "Probabilities are told from logits, and a guess from a wrong certainty, for 3, 10 and 200 classes."


_ROWS = torch.tensor([0.5, 1.5]).repeat(32)[:, None]
_BELOW, _ABOVE = "a loss of 1.4 above log C", "a loss of 1.6 above log C"
_FRESH, _SURE, _KNOWS = "a fresh model", "scores that are sure and wrong", "a loss near 0"


def _starting(targets: torch.Tensor, classes: int, above: float) -> torch.Tensor:
    """Scores [N, C] whose loss is so far above log C: one wrong class is preferred in each row."""
    lead = math.log(classes * math.exp(above) - classes + 1)
    return lead * F.one_hot((targets + 1) % classes, classes)


def _found_in(answer: Any) -> list[str]:
    names = "softmax twice", "no guess"
    found = None if isinstance(answer, str) or not isinstance(answer, Iterable) else list(answer)
    if found is None or any(found.count(name) > (name in names) for name in found):
        raise Wrong(
            "wrong_type", f"Return a list with some of {names}, each once, or an empty one. You returned {answer!r}."
        )
    return sorted(found)


def _judge_start(answer: list, right: list[str], what: str, classes: int) -> None:
    if answer == right:
        return
    if "softmax twice" in answer and "softmax twice" not in right:
        raise Wrong(
            "half_looked_at",
            f"Given {what}, you find 'softmax twice'. Does your list begin empty in each call, and do you ask whether "
            "each row adds up to 1, with no number below 0?",
        )
    if "softmax twice" in right and "softmax twice" not in answer:
        raise Wrong(
            "softmax_missed",
            f"For rows of probabilities over {classes} classes you found {answer}. A probability is 0 or more, and "
            "the sum of a row, as rounded as it is, differs from 1 by less than 0.001.",
        )
    start = f"log({classes}) = {math.log(classes):.2f}"
    if what == _SURE:
        raise Wrong("no_guess_missed", f"The loss is far above {start}, and you found {answer}.")
    if what == _FRESH:
        raise Wrong(
            "fresh_accused",
            f"A new model of {classes} classes is accused: its loss is near {start}. For {classes} classes the limit "
            f"is {math.log(classes) + 1.5:.2f}. Which is yours?",
        )
    if what == _KNOWS:
        raise Wrong(
            "below_accused", "The loss is near 0, far below log C, and you found 'no guess'. Above is asked for."
        )
    raise Wrong(
        "wrong_limit",
        f"Of {classes} classes, {what}: you found {answer}, and right is {right}. The limit is 1.5 above the natural "
        "logarithm of the number of classes, whichever of them occur in the batch.",
    )
