"""Checks of lesson 05 on numbers that are none: the layer that made one, and a distance whose gradient stays finite."""

import math
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import AnyOf, copies, refuse_known, tensor_of
from torchcourse.units import counted


class _Crossed(nn.Module):
    """Layers that are called in a different order than they are listed in, one of them inside a block."""

    def __init__(self) -> None:
        super().__init__()
        self.late = nn.Linear(4, 4)
        self.block = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
        self.end = nn.Linear(4, 2)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.end(self.late(self.block(x)))


class _Log(nn.Module):
    """A layer without weights; or a block whose own line makes the NaN, after its layer."""

    def __init__(self, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.inner(x) if self.inner else x).log()


@check
def first_bad_layer(learner: Callable) -> str:
    """Spoil one layer after another, with NaN and with infinity; then let one overflow whose weights are finite."""
    torch.manual_seed(0)
    x = torch.randn(6, 4)
    for value in (math.nan, math.inf, -math.inf):
        for name in ("block.0", "block.2", "late", "end"):
            model = _spoilt(f"{name}.bias", value)
            answer = learner(model, x.clone())
            _refuse_hooks(model)
            if model.calls != 1:
                raise Wrong(
                    "calls",
                    f"The model is to be called once, and your function called it {counted(model.calls, 'time')}.",
                )
            _judge_name(answer, name, value)
    for other, right, symptom, hint in _other_models():
        if (answer := learner(other, x.clone())) != right:
            raise Wrong(symptom, f"{hint} Your function returned {answer!r}.")
        _refuse_hooks(other)
    _judge_what_is_left(learner, x)
    return "The first layer, by NaN and by infinity, in the order of the calls, and no hook left behind."


def _other_models() -> list[tuple[nn.Module, str | None, str, str]]:
    """Models whose parameters are finite, the layer to be named, and what it means to miss it."""
    overflows, large = _spoilt("late.weight", 3e38, slice(None)), _spoilt("late.bias", 3e38, slice(None))
    large.end.weight.data.zero_()
    start, end = nn.Linear(4, 4), nn.Linear(4, 2)
    return [
        (
            overflows,
            "late",
            "overflow_missed",
            "Right where a parameter is not finite. But where all parameters are finite, some outputs of 'late' may "
            "overflow: which tensors are asked about, and all of their numbers?",
        ),
        (
            nn.Sequential(OrderedDict(start=start, log=_Log(), end=end)),
            "log",
            "layer_without_weights",
            "The NaN is made in 'log', a layer without weights. Every module without children is a layer.",
        ),
        (
            nn.Sequential(OrderedDict(block=_Log(start), end=end)),
            "end",
            "container",
            "The NaN is made in a block, between its layers: the first layer that puts one out is 'end'. Layers are "
            "modules without children.",
        ),
        (_Crossed(), None, "healthy_accused", "All outputs are finite."),
        (
            large,
            None,
            "large_accused",
            "All outputs are finite, though those of 'late' are as large as 3e38. The sum of such numbers, or of their "
            "squares, overflows: ask each number.",
        ),
    ]


def _refuse_hooks(model: nn.Module) -> None:
    for_all = torch.nn.modules.module._global_forward_hooks
    if for_all or any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        for_all.clear()
        raise Wrong("hooks_left", "Hooks are still on the model: they would run in every later forward pass.")


def _spoilt(name: str, value: float, where: int | slice = 0) -> _Crossed:
    """A model in which some numbers of a parameter have this value, and all others are the same each time."""
    torch.manual_seed(0)
    model = _Crossed()
    model.get_parameter(name).data[where] = value
    return model


def _judge_what_is_left(learner: Callable, x: torch.Tensor) -> None:
    """Ask for a model as it was: its mode, and a hook that was there before."""
    model = _Crossed()
    seen: list[torch.Tensor] = []
    model.end.register_forward_hook(lambda _module, _given, output: seen.append(output))
    before, given = [(copies([value])[0], value.requires_grad) for value in model.parameters()], x.clone()
    learner(model, x)
    model(x)
    if not torch.equal(x, given):
        raise Wrong("inputs_changed", "The inputs are different after the call. It only looks for a layer.")
    now = [(value, value.requires_grad) for value in model.parameters()]
    if any(not torch.equal(a, b) or learns != learned for (a, learned), (b, learns) in zip(before, now, strict=True)):
        raise Wrong("model_changed", "A parameter of the model, or whether it learns, is different after the call.")
    if len(seen) != 2:
        raise Wrong("others_hooks_gone", "A hook that was on the model before is gone. Remove your own hooks alone.")
    if not model.training:
        raise Wrong("mode_left_changed", "The model came in training mode and was left in evaluation mode.")


def _judge_name(answer: object, name: str, value: float) -> None:
    if answer == name:
        return
    if math.isinf(value):  # all is right with NaN
        raise Wrong("infinity_missed", f"Right for NaN. An infinity made in {name!r} is missed: isnan() alone?")
    if answer == "late" and name.startswith("block"):
        raise Wrong(
            "order_of_listing",
            f"The NaN is made in {name!r} and passes through 'late'. 'late' is listed first and called later: go by "
            "the order of the calls.",
        )
    known = {
        "nothing_found": (None, f"Layer {name!r} puts out a NaN, and your function returned None."),
        "container": (
            AnyOf(("", "block")),
            f"{answer!r} is a module with children: the layer inside it is what is asked for.",
        ),
        "inputs_looked_at": (
            "block.1",
            f"The NaN is made in {name!r}, and you name 'block.1', the layer that gets it. What goes in was made by "
            "the layer before: look at what comes out.",
        ),
        "one_is_enough": (
            "block.2",
            f"The NaN is made in {name!r}, in one column of its output, and you name 'block.2', where all numbers are "
            "NaN. One is enough.",
        ),
        "last_not_first": (
            "end",
            f"You returned 'end', the last layer; the NaN was made in {name!r}. Does each hook know its own name, and "
            "do you keep the first?",
        ),
    }
    refuse_known(answer, known)
    if isinstance(answer, str):
        raise Wrong("wrong_layer", f"The NaN is made in {name!r}, and your function returned {answer!r}.")
    raise Wrong("wrong_type", f"Return a name as in named_modules(), or None; this is a {type(answer).__name__}.")


@check
def safe_distance(learner: Callable) -> str:
    """Compare values and gradients with the exact ones, where a row is 0 too."""
    torch.manual_seed(0)
    target = torch.randn(6, 4)
    output = (target + torch.randn(6, 4)).detach()
    output[2], output[4] = target[2], target[4] + torch.tensor([0.0, 0.02, 0.0, 0.0])  # equal, and nearly
    output.requires_grad_()
    target.requires_grad_()
    value = tensor_of(learner(output, target), (6,), "Six rows have six distances: return a tensor of shape [6].")
    exact = (output - target).detach().norm(dim=1)
    if not value.requires_grad:
        raise Wrong("no_gradient", "No gradient flows through your distance, so nothing can be learned from it.")
    if not value.isfinite().all():
        raise Wrong("value_not_finite", "A distance itself is not finite now.")
    far = exact > 0
    off = (value.detach() - exact).abs() * far
    if off.max() > 1e-3:
        row = int(off.argmax())
        raise Wrong(
            "distance_changed",
            f"For a distance of {exact[row]:.4f} you return {value[row].item():.4f}. Change as little as is needed: "
            "0.001.",
        )
    if value[2].abs() > 1e-3:
        raise Wrong("zero_changed", f"For two equal rows you return {value[2].item():.3g}; at most 0.001 is asked for.")
    gradients = torch.autograd.grad(value.sum(), (output, target), allow_unused=True, materialize_grads=True)
    gradient, _ = gradients
    if not all(each[2].isfinite().all() for each in gradients):
        raise Wrong(
            "gradient_not_finite",
            "The values are right, and the gradient of the row at distance 0 is not finite. The root must not be taken "
            "of 0, whatever you do with the result afterwards.",
        )
    unit = (output - target).detach()[far] / exact[far, None]
    if (gradient[far] - unit).abs().max() > 1e-2:
        raise Wrong(
            "gradient_changed",
            "The gradients of the other rows have changed: each should have length 1 and point away from the target.",
        )
    return "The same distances, and a finite gradient everywhere."
