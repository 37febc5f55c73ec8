"""Check of lesson 05 on a leak: a validation whose memory stays as it is."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import AnyOf, copies, refuse_known, same
from torchcourse.lessons.troubleshooting.leaks import LeakReport, LeakWatch
from torchcourse.units import format_bytes


@check
def mean_loss(learner: Callable) -> str:
    """Compare with the loss of all samples at once; watch the memory from batch to batch."""
    for training in (True, False):
        torch.manual_seed(0)
        norm = nn.BatchNorm1d(64)
        model = nn.Sequential(nn.Linear(8, 64), norm, nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 4))
        model(3 * torch.randn(50, 8))
        model.train(training)
        statistics = copies(norm.buffers())
        x, y = torch.randn(16 * 8 + 4, 8), torch.randint(4, (16 * 8 + 4,))
        if training:
            value, report = _watched(learner, model, x, y)
            _refuse_switched_off()
            _refuse_leaks(report)
        else:
            value = learner(model, zip(x.split(16), y.split(16), strict=True))
        if value is None:
            raise Wrong("nothing_returned", "It returned None. Return the mean loss, a Python number.")
        if not isinstance(value, float):
            raise Wrong(
                "wrong_type",
                f"It returned a {type(value).__name__}. A tensor keeps its memory, perhaps a graph too; a Python "
                "number does not.",
            )
        if not same(list(norm.buffers()), statistics):
            raise Wrong(
                "training_mode",
                "The running statistics of BatchNorm have changed: the model was evaluated in training mode, and has "
                "learned from the validation data.",
            )
        _judge_what_is_left(model)
        if model.training is not training:
            raise Wrong(
                "mode_left_changed",
                f"The model came in {_mode(training)} mode and was left in {_mode(not training)} mode.",
            )
        _judge_mean(value, model.eval(), x, y)
    return "The mean over all samples, in evaluation mode, and not a byte more with each batch."


def _refuse_switched_off() -> None:
    if not torch.is_grad_enabled():
        torch.set_grad_enabled(True)
        raise Wrong(
            "gradients_off",
            "After your validation autograd is off for everybody: the next training step has no gradients.",
        )


def _judge_what_is_left(model: nn.Module) -> None:
    if not all(parameter.requires_grad for parameter in model.parameters()):
        raise Wrong("frozen", "After your validation the parameters are frozen: the next epoch trains nothing.")
    if any(parameter.grad is not None for parameter in model.parameters()):
        raise Wrong(
            "gradient_left",
            "After your validation the parameters have gradients, which take memory and get into the next step. Who "
            "called backward()?",
        )


def _watched(learner: Callable, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[object, LeakReport]:
    with LeakWatch() as watch:

        def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            for inputs, targets in zip(x.split(16), y.split(16), strict=True):
                yield inputs.clone(), targets.clone()  # as a loader does: whoever keeps them keeps memory
                watch.step()

        value = learner(model, batches())
    return value, watch.report()


def _refuse_leaks(report: LeakReport) -> None:
    if not report.bytes_a_step and not report.leaks:
        return
    more = format_bytes(report.bytes_a_step)
    if report.bytes_a_step > 1000:
        raise Wrong(
            "graph_kept",
            f"Memory grows by {more} with each batch: what the layers put out stays. Which variable outlives a batch "
            "and knows from what it was computed?",
        )
    raise Wrong(
        "tensors_kept",
        f"After each batch a little more is alive ({more}): you collect tensors. What do you need of them?",
    )


def _judge_mean(value: float, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    with torch.no_grad():
        losses = F.cross_entropy(model(x), y, reduction="none")
    right = losses.mean().item()
    if same(value, right, 1e-5):
        return
    uneven = "The last batch is smaller, and counts as much as a whole one: a mean of means is not a mean over samples."
    refuse_known(value, {"mean_of_means": (sum(part.mean().item() for part in losses.split(16)) / 9, uneven)}, 1e-5)
    for factor, what in ((9, "batches"), (len(y), "samples")):
        hint = f"The value is off by a factor of {factor}, and there are {factor} {what}."
        refuse_known(value, {"wrong_divisor": (AnyOf((right * factor, right / factor)), hint)}, 1e-3)
    raise Wrong("wrong_value", f"The mean loss of these samples in evaluation mode is {right:.4f}, not {value:.4f}.")


def _mode(training: bool) -> str:
    return "training" if training else "evaluation"
