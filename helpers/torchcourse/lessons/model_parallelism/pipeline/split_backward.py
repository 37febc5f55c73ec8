"""The backward pass in two halves: first the gradients of inputs, later the gradients of weights.

For y = x Wᵀ, the stage before needs ∂L/∂x = ∂L/∂y · W at once, but nobody needs ∂L/∂W = (∂L/∂y)ᵀ · x before the
optimizer's step. `split(stage)` makes the stage's dense layers put off the second product; under `collecting()` it goes
into a list, to be done when the rank has time. Outside, it is done at once, as usual.

Source: `WeightGradStore` of Qi et al. 2023, https://arxiv.org/abs/2401.10241
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Later = list[Callable[[], None]]


def split(stage: nn.Module) -> nn.Module:
    """Make every `nn.Linear` in a stage put off its weights' gradients; return the same stage.

    Layers of other kinds (norms, embeddings) still compute theirs at once: they are cheap. So does a layer whose weight
    is computed from others (weight normalization, pruning), or has hooks, which autograd has to call.
    """
    for module in stage.modules():
        if type(module) is nn.Linear:
            module.__class__ = _SplitLinear
    return stage


@contextlib.contextmanager
def collecting() -> Iterator[Later]:
    """Yield a list that gets what is put off meanwhile: call each entry to do it."""
    global _later
    before, _later = _later, []
    try:
        yield _later
    finally:
        _later = before


def put_off(work: Callable[[], None]) -> None:
    """Do `work` later if somebody is collecting, else now. For the backward pass of an `autograd.Function`."""
    if _later is None:
        work()
    else:
        _later.append(work)


# Not a context variable: autograd runs the backward pass of a GPU in a thread of its own.
_later: Later | None = None


class _SplitLinear(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if all(map(_is_plain, (self.weight, self.bias))):
            return _Dense.apply(x, self.weight, self.bias)
        return super().forward(x)


def _is_plain(parameter: torch.Tensor | None) -> bool:
    if parameter is None:
        return True
    return parameter.is_leaf and not (parameter._backward_hooks or parameter._post_accumulate_grad_hooks)


class _Dense(torch.autograd.Function):
    """x [..., inputs], weight [outputs, inputs], bias [outputs] or None → [..., outputs]."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: nn.Parameter, bias: nn.Parameter | None) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.parameters = (weight, bias)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        parameters = ctx.parameters
        put_off(lambda: _add_gradients(parameters, x, gradient))
        if not ctx.needs_input_grad[0]:
            return None, None, None
        return (gradient @ weight.to(gradient.dtype)).to(x.dtype), None, None  # under autocast, gradients have 16 bits


def _add_gradients(
    parameters: tuple[nn.Parameter, nn.Parameter | None], x: torch.Tensor, gradient: torch.Tensor
) -> None:
    weight, bias = parameters
    rows = gradient.reshape(-1, gradient.shape[-1])
    if weight.requires_grad:
        _add(weight, rows.T @ x.reshape(-1, x.shape[-1]).to(rows.dtype))
    if bias is not None and bias.requires_grad:
        _add(bias, rows.sum(0))


def _add(parameter: nn.Parameter, gradient: torch.Tensor) -> None:
    gradient = gradient.to(parameter.dtype)
    with torch.no_grad():
        parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
