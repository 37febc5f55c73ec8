"""Checks by measured speed: a ratio in one run, with proof that no work was left out.

What is measured is the processor's time, on one thread: what else the machine does takes no part in it. With other work
on both cores, the same good loop was 1.9 to 4.1 times as fast by this measure, 1.9 to 12 times by the clock on the
wall, and 0.6 to 19 times by that clock on two threads (24 pairs each).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import one_thread, refuse_known, result_of, same, tensor_of
from torchcourse.lessons.performance import slow_loop
from torchcourse.lessons.performance.class_means import class_means_loop, drawn
from torchcourse.lessons.performance.speed import Comparison, compare
from torchcourse.units import counted

FASTER_MEANS, FASTER_LOOP = 5.0, 2.0
"""How many times as fast as the given one a function has to be."""


@check
def class_means(learner: Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]) -> str:
    """Compare the values with the loop's, then the times: pairs in turn, each with inputs that were never seen."""
    cases = [drawn(rows, rows) for rows in (60, 7, 1)]  # in one row, mistakes look alike
    features, labels, _ = drawn(61, 60)
    cases.append((features[:, :7].contiguous(), labels % 5, 5))  # fewer features and classes, each with rows
    for features, labels, classes in cases:
        out = result_of(learner, features, labels, classes, what="a tensor that it was given")
        _judge_means(out, (features, labels, classes), class_means_loop(features, labels, classes))
    features, labels, classes = drawn(9, 9)
    _judge_type(learner(features.float(), labels, classes), torch.float32)
    with one_thread():
        comparison = compare(
            learner,
            class_means_loop,
            lambda pair: drawn(1000 + pair),
            _judge_means,
            FASTER_MEANS,
            clock=time.process_time,
        )
    hint = "A loop over rows in Python is what costs. Which operations add up by label?"
    return f"The same values, {judged_speed(comparison, FASTER_MEANS, hint)}."


def _judge_means(out: Any, arguments: tuple[Any, ...], right: torch.Tensor) -> None:
    features, labels, classes = arguments
    out = tensor_of(out, right.shape, f"The result has one row per class: {list(right.shape)}.")
    _judge_type(out, right.dtype)
    if same(out, right, tolerance=1e-8):
        return
    counts = torch.bincount(labels, minlength=classes).to(right.dtype)
    if out.isnan().any():
        raise Wrong("nan", "A class without rows has the mean 0 here. Yours is NaN: 0 divided by 0.")
    if out[counts == 0].any() and same(out[counts > 0], right[counts > 0], tolerance=1e-8):
        raise Wrong(
            "empty_class", "A class without rows has the mean 0 here. Yours is different; all others are right."
        )
    last = torch.zeros_like(right)
    for row, label in zip(features, labels, strict=True):
        last[label] = row
    known = {
        "sum_not_mean": (right * counts[:, None], "Your values are sums. How many rows has each class?"),
        "divided_by_all": (
            right * counts[:, None] / max(1, len(features)),
            "You divided by the number of all rows, not by that of the class.",
        ),
        "one_row_more": (
            right * (counts / (counts + 1))[:, None],
            "You divided by one row more than a class has. `scatter_reduce` and `index_reduce` count the value that "
            "was there before, too, unless `include_self=False`.",
        ),
        "one_row_each": (
            last / counts.clamp_min(1)[:, None],
            "Only one row of each class is in your sums. `sums[labels] += features` writes each label once; "
            "`index_add_` adds them all.",
        ),
    }
    refuse_known(out, known)
    rows, off = counted(len(features), "row"), (out - right).abs().max()
    why = "Do you compute in a smaller type?" if off < 0.02 else "Each call gets new inputs."
    raise Wrong("wrong_value", f"For {rows} your means differ by up to {off:.2g}. {why}")


def _judge_type(out: torch.Tensor, dtype: torch.dtype) -> None:
    if type(out) is not torch.Tensor:  # a subclass may put its work off until the clock has stopped
        raise Wrong("wrong_type", f"Return a plain tensor. Yours is a {type(out).__name__}.")
    if out.dtype != dtype:
        raise Wrong("dtype", f"The features are {dtype}, and your means are {out.dtype}. Keep their type.")


@check
def quick_loop(learner: Callable[..., dict[str, Any]]) -> str:
    """Compare report, weights and steps with the slow loop's, then the times, in pairs."""
    for pair, steps in ((1, 10), (2, 31), (3, 4)):
        _judge_run(
            _done(learner, _Given(pair, steps)), (_Given(pair, steps),), _done(slow_loop.train, _Given(pair, steps))
        )
    with one_thread():
        comparison = compare(
            lambda given: _done(learner, given),
            lambda given: _done(slow_loop.train, given),
            lambda pair: (_Given(100 + pair, 20),),
            _judge_run,
            FASTER_LOOP,
            pairs=5,
            most=25,
            clock=time.process_time,
        )
    hint = "What does your loop still do in every step, and the report never shows?"
    return f"The same report and weights, {judged_speed(comparison, FASTER_LOOP, hint)}."


class _Counting(nn.Sequential):
    """Counts its forward passes, in training mode and in evaluation mode. A copy counts its own."""

    in_training = in_evaluation = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.in_training += self.training
        self.in_evaluation += not self.training
        return super().forward(x)


class _Given:
    """A small network, its optimizer, and batches: equal for equal seeds."""

    def __init__(self, seed: int, steps: int) -> None:
        torch.manual_seed(seed)
        self.seed = seed
        self.model = _Counting(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.2), nn.BatchNorm1d(128), nn.Linear(128, 10))
        self.batches = [(torch.randn(16, 64), torch.randint(10, (16,))) for _ in range(steps)]
        self.held_out = torch.randn(2048, 64), torch.randint(10, (2048,))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1 / (1 + seed % 3), momentum=0.9)

    def tensors(self) -> list[torch.Tensor]:
        return [tensor for batch in (*self.batches, self.held_out) for tensor in batch]


@dataclass(frozen=True)
class _Done:
    """What a loop left of what it was given, and its report."""

    given: _Given
    report: Any


def _done(train: Callable[..., dict[str, Any]], given: _Given) -> _Done:
    torch.manual_seed(given.seed)
    return _Done(given, train(given.model, given.optimizer, given.batches, given.held_out))


def _judge_run(ours: _Done, untouched: tuple[_Given], right: _Done) -> None:
    now, before = ours.given.tensors(), untouched[0].tensors()
    if len(now) != len(before) or not all(map(torch.equal, now, before)):
        raise Wrong("inputs_changed", "Your loop changed images or labels that it was given. The caller needs them.")
    report, as_before, steps = ours.report, right.report, len(untouched[0].batches)
    model, trained = ours.given.model, right.given.model
    _judge_form(report, as_before)
    if model.in_training != steps:
        passes = f"Your loop made {model.in_training} in training mode and {model.in_evaluation} in evaluation mode."
        if not model.in_training + model.in_evaluation:
            passes = "The model that your loop was given made none. Was it a copy that you trained?"
        raise Wrong("steps", f"{steps} batches are {steps} passes in training mode, one each. {passes}")
    if not same(list(report["losses"]), as_before["losses"], tolerance=1e-6):
        if same(list(report["losses"])[:1], as_before["losses"][:1], tolerance=1e-6):
            raise Wrong(
                "training_changed",
                "The first loss is the same, a later one is not. What happens between the two?",
            )
        raise Wrong("losses", "The losses are not those of the slow loop: one number per step, in order.")
    if len(report["accuracies"]) != len(as_before["accuracies"]):
        raise Wrong(
            "count",
            f"{steps} steps give {len(as_before['accuracies'])} accuracies: after every tenth step. Yours are "
            f"{len(report['accuracies'])}.",
        )
    if not same(list(report["accuracies"]), as_before["accuracies"], tolerance=1e-9):
        raise Wrong(
            "wrong_accuracy",
            "An accuracy differs. All held-out rows count, in evaluation mode, after steps 10, 20 and so on. It is a "
            "share from 0 to 1.",
        )
    if not same(dict(model.state_dict()), dict(trained.state_dict()), tolerance=1e-6):
        raise Wrong("weights_changed", "The model's weights after training are not those of the slow loop.")
    if not all(parameter.requires_grad for parameter in model.parameters()):
        raise Wrong("frozen", "Your loop leaves weights that no longer learn: requires_grad is False afterwards.")
    _judge_weights(report["weights"], as_before["weights"], model)


def _judge_form(report: Any, as_before: dict[str, Any]) -> None:
    """Refuse what is no report: without its three entries, without lists, or with the graphs of the steps."""
    if not isinstance(report, dict) or set(report) != set(as_before):
        raise Wrong("wrong_type", f"The report is a dictionary with {', '.join(map(repr, as_before))}.")
    for name in ("losses", "accuracies"):
        row = isinstance(report[name], torch.Tensor | np.ndarray) and report[name].ndim == 1
        if not row and (isinstance(report[name], str) or not isinstance(report[name], Sequence)):
            raise Wrong("wrong_type", f'report["{name}"] is a list. Yours is a {type(report[name]).__name__}.')
    if any(isinstance(loss, torch.Tensor) and loss.requires_grad for loss in report["losses"]):
        raise Wrong(
            "losses_with_graphs",
            "Each loss of your report is a tensor that still holds the graph of its step. A report has numbers.",
        )


def _judge_weights(weights: Any, right: dict[str, torch.Tensor], model: nn.Module) -> None:
    if not isinstance(weights, dict):
        raise Wrong("wrong_weights", f'report["weights"] is a dictionary. Yours is a {type(weights).__name__}.')
    if missing := sorted(set(right) - set(weights)):
        raise Wrong(
            "wrong_weights",
            f'report["weights"] lacks {", ".join(missing)}: a model\'s state has more than its parameters.',
        )
    if not same(dict(weights), dict(right), tolerance=1e-6):
        raise Wrong("wrong_weights", 'report["weights"] are not the weights after the last step.')
    mine = {value.data_ptr() for value in model.state_dict().values()}
    if any(value.data_ptr() in mine for value in weights.values()):
        raise Wrong("no_copy", 'report["weights"] is no copy: further training would change it.')


def judged_speed(comparison: Comparison, target: float, hint: str) -> str:
    """Return the measured speed in words. Where noise hides on which side of the target it is, it counts as reached.

    Raises:
        Wrong: "too_slow" where the middle half of the pairs is below the target.
    """
    low, high = comparison.quarters
    if high < target:
        raise Wrong(
            "too_slow",
            f"The values are right. By the processor's time, in turn with the given function, yours is {comparison}; "
            f"asked are {target:g} times. {hint}",
        )
    if low < target:
        return f"{comparison}; this machine is too busy to decide on {target:g} times, so it counts as reached"
    return str(comparison)
