"""Checks of lesson 05 on invariants: what must change in a step, what must not depend on what, how a loss begins."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import copies, same


@check
def unchanged(learner: Callable) -> str:
    """Train a model in which some parameters learn, some never, some only now and then, and one must not."""
    for steps in (4, 1):
        model, step = _partly_training()
        answer = learner(model, step, steps)
        right = {"detached.weight", "detached.bias", "left_out.weight", "left_out.bias"}
        right |= {"rare.weight", "rare.bias"} if steps == 1 else set()
        if step.calls != steps:
            raise Wrong("steps_ignored", f"step() was to be called {steps} times, and was called {step.calls} times.")
        _judge_names(set(answer), right, steps)
    return "Left out of the optimizer, cut off by detach(): both found, and what is frozen on purpose is not accused."


class _Step:
    """A training step that counts its calls."""

    def __init__(self, model: nn.ModuleDict) -> None:
        self.model, self.calls = model, 0
        owned = [p for name, p in model.named_parameters() if not name.startswith("left_out")]
        self.optimizer = torch.optim.SGD([p for p in owned if p.requires_grad], lr=0.1)

    def __call__(self) -> None:
        self.calls += 1
        model, x = self.model, torch.ones(4, 3)
        self.optimizer.zero_grad()
        out = model["left_out"](model["learns"](model["detached"](model["frozen"](x)).detach()))
        out = out + (model["rare"](x) if self.calls == 3 else 0)
        out.square().mean().backward()
        self.optimizer.step()


def _partly_training() -> tuple[nn.ModuleDict, _Step]:
    torch.manual_seed(0)
    model = nn.ModuleDict({name: nn.Linear(3, 3) for name in ("frozen", "detached", "learns", "left_out", "rare")})
    model["frozen"].requires_grad_(False)
    return model, _Step(model)


def _judge_names(answer: set, right: set, steps: int) -> None:
    if answer == right:
        return
    if "learns.weight" in answer:
        raise Wrong(
            "no_copy",
            "You list parameters that did change. The optimizer changes them in place: what you kept from before is "
            "the same tensor.",
        )
    if answer - right and all(name.startswith("frozen") for name in answer - right):
        raise Wrong("frozen_listed", "Parameters that are not trainable are frozen on purpose: leave them out.")
    if any(name.startswith("rare") for name in answer - right):
        raise Wrong(
            "one_step_only", f"'rare' learnt in step 3 of {steps}: compare after the last step, and not after one."
        )
    if right - answer and all(name.startswith("left_out") for name in right - answer):
        raise Wrong(
            "gradients_only",
            "'left_out' has a gradient in every step, and never changes: no optimizer has it. Look at the values.",
        )
    raise Wrong(
        "wrong_names", f"Missing: {sorted(right - answer) or 'none'}. Too many: {sorted(answer - right) or 'none'}."
    )


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
    for what, model in healthy.items():
        before = copies(model.buffers())
        answer = learner(model, x)
        if not same(list(model.buffers()), before):
            raise Wrong("statistics_changed", "The model's running statistics have changed: it was in training mode.")
        if not model.training:
            raise Wrong("mode_left_changed", "The model came in training mode and was left in evaluation mode.")
        if answer:
            raise Wrong(
                "healthy_accused",
                f"A healthy model ({what}) is accused. In training mode, dropout and BatchNorm may do what they do; "
                "and rounding grows with the size of the outputs.",
            )
    for model in (nn.Sequential(nn.Linear(6, 3), _MixesRows()), nn.Sequential(nn.Linear(6, 3), _SumToOne())):
        if not learner(model, x):
            raise Wrong("mixing_missed", "A model that mixes the samples of a batch was called healthy.")
    last = nn.Sequential(nn.Linear(6, 3), _OnlyLast())
    if not learner(last, x):
        raise Wrong("first_sample_only", "In this model only the last sample depends on others: compare all of them.")
    return "Mixed samples are found, wherever they are, and dropout, BatchNorm and rounding are not accused."


class _OnlyLast(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:-1], x[-1:] + x[:1] - (x[-1:] if len(x) == 1 else 0)])


class _Rounds(nn.Module):
    """Rounds otherwise in a batch of another size, as matrix products do on some machines."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1 + len(x) % 5 * 2.0**-22)


def _scaled(layer: nn.Linear, factor: float) -> nn.Linear:
    layer.weight.data *= factor
    return layer


@check
def bad_start(learner: Callable) -> str:
    """Judge starts of models with few and with many classes."""
    for classes in (3, 10, 200):
        torch.manual_seed(classes)
        targets, scores = torch.randint(classes, (64,)), torch.randn(64, classes)
        large = F.one_hot((targets + 1) % classes, classes) * 40.0
        half = torch.cat([scores[:32].softmax(dim=1), scores[32:]])
        positive = scores.abs() + 1
        cases: tuple[tuple[torch.Tensor, list[str], str], ...] = (
            (0.5 * scores, [], "a fresh model"),
            (scores.softmax(dim=1), ["softmax twice"], "probabilities"),
            (scores + large, ["no guess"], "sure and wrong"),
            (half, [], "probabilities in half of the rows"),
            (0.2 * positive, [], "positive scores that do not add up to 1"),
        )
        for table, right, what in cases:
            _judge_start(list(learner(table, targets)), right, what, classes)
    return "Probabilities are told from logits, and a guess from a wrong certainty, for 3, 10 and 200 classes."


def _judge_start(answer: list, right: list[str], what: str, classes: int) -> None:
    if answer == right:
        return
    if what == "a fresh model" and "no guess" in answer:
        raise Wrong(
            "limit_without_classes",
            f"A new model of {classes} classes is accused: its loss is near log({classes}) = {math.log(classes):.2f}. "
            "The limit must depend on the number of classes.",
        )
    if "softmax twice" in answer and not right:
        raise Wrong(
            "half_looked_at",
            f"There are {what}, and you call it a softmax. All rows, none below 0, each adding up to 1.",
        )
    if right == ["softmax twice"]:
        raise Wrong(
            "softmax_missed",
            f"Rows of probabilities over {classes} classes were not recognised, or something else was found. The "
            "sum of 200 rounded numbers is not exactly 1.",
        )
    if right == ["no guess"]:
        raise Wrong("no_guess_missed", f"The loss is far above log({classes}), and you found {answer}.")
    raise Wrong("wrong_answer", f"For {what} with {classes} classes you found {answer}; right is {right}.")
