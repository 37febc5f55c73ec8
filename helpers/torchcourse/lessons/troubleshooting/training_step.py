"""What happens in the steps of somebody else's training loop, written down through PyTorch's own hooks.

    with TrainingRecorder(gradients=True) as record:
        train(model, loader)                    # the loop, as it is
    record.steps[0].rates, record.steps[0].gradient, record.passes[-1].training

The recorder changes no number of the training. For memory, see `tracking`.
"""

import contextlib
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.loss import _Loss
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from torchcourse.source_lines import hide

hide(__file__)

ROWS = 4096  # samples whose inputs are kept, at most
CLASSIFYING = {F.cross_entropy, F.nll_loss}
LOGISTIC = {F.binary_cross_entropy_with_logits, F.binary_cross_entropy}
MEASURING = {F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss}
_LOSSES = CLASSIFYING | LOGISTIC | MEASURING


@dataclass(frozen=True)
class Pass:
    """One forward pass of a whole model."""

    model: nn.Module
    training: bool
    recorded: bool
    """Whether autograd recorded it: its result has a graph."""
    samples: int
    inputs: torch.Tensor | None = None
    """A copy of the first tensor that went in, if batches are kept and there was room."""
    output: torch.Tensor | None = None
    """The tensor that came out, without its graph, if batches are kept."""


@dataclass(frozen=True)
class Loss:
    """One call of a loss function of torch.nn.functional that a gradient can come from."""

    function: Any
    scores: torch.Tensor
    target: torch.Tensor
    value: float


@dataclass(frozen=True)
class Step:
    """One optimizer step, as it was about to happen; one that is given a closure, as it has just happened."""

    rates: tuple[float, ...]
    """The learning rate of each parameter group."""
    gradient: torch.Tensor
    """A copy of all gradients in one vector, those that are None left out; empty unless gradients are kept."""
    norms: dict[str, float | None]
    """The norm of each trainable parameter's gradient, None where there is none; empty unless a model is watched."""
    passes: int
    """The forward passes with a graph since the last step."""
    backwards: tuple[float, ...]
    """The losses that `backward()` was called on since the last step, if batches are kept."""
    stale: bool
    """Whether gradients of the step before were still there when this one's first backward pass began, likewise."""


class TrainingRecorder:
    """Records forward passes and optimizer steps while it is entered.

    Args:
        model: whose passes to record, as the loop calls it; None: those of every outermost module but losses.
        optimizer: whose steps to record; None: those of every optimizer.
        gradients: keep a copy of each step's gradient.
        batches: keep what goes into the model, what comes out, and what loss functions and `backward()` get. Without
            gradients and batches, the record keeps no tensor alive.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        optimizer: Optimizer | None = None,
        *,
        gradients: bool = False,
        batches: bool = False,
    ) -> None:
        self.passes: list[Pass] = []
        self.steps: list[Step] = []
        self.losses: list[Loss] = []
        self._model, self._optimizer, self._gradients, self._batches = model, optimizer, gradients, batches
        self._start: dict[str, torch.Tensor] = {}
        self._open = contextlib.ExitStack()
        self._depth = self._rows = 0
        self._begin_step()

    @property
    def trained(self) -> list[Pass]:
        """The passes with a graph."""
        return [seen for seen in self.passes if seen.recorded]

    @property
    def evaluated(self) -> list[Pass]:
        """The passes without one."""
        return [seen for seen in self.passes if not seen.recorded]

    @property
    def classified(self) -> list[Loss]:
        """Losses of scores [N, C] against whole-number labels [N]."""
        return [
            loss
            for loss in self.losses
            if loss.function in CLASSIFYING and loss.scores.dim() == 2 and loss.target.dim() == 1
        ]

    def moved(self) -> float:
        """Return how far the weights of the watched model have come, as a share of their length."""
        now = dict(self._model.named_parameters()) if self._model is not None else {}
        pairs = [(now[name].detach(), start) for name, start in self._start.items() if name in now]
        way = math.sqrt(sum((end - start).double().square().sum().item() for end, start in pairs))
        return way / max(math.sqrt(sum(start.double().square().sum().item() for _, start in pairs)), 1e-12)

    def __enter__(self) -> "TrainingRecorder":
        handles = [
            register_optimizer_step_pre_hook(self._before_step),
            register_optimizer_step_post_hook(self._after_step),
        ]
        if self._model is None:
            handles.append(register_module_forward_pre_hook(self._on_call))
            handles.append(register_module_forward_hook(self._on_return, always_call=True))
        else:
            self._start = {name: p.detach().clone() for name, p in self._model.named_parameters()}
            handles.append(self._model.register_forward_hook(self._on_pass))
        for handle in handles:
            self._open.callback(handle.remove)
        if self._batches:
            self._open.enter_context(_Calls(self))
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.close()

    def _begin_step(self) -> None:
        self._backwards: list[float] = []
        self._passes, self._stale = 0, False

    def _on_call(self, *_: Any) -> None:
        self._depth += 1

    def _on_return(self, module: nn.Module, inputs: tuple, output: Any) -> None:
        self._depth -= 1
        if self._depth == 0 and not isinstance(module, _Loss):
            self._on_pass(module, inputs, output)

    def _on_pass(self, module: nn.Module, inputs: tuple, output: Any) -> None:
        first = next((item for item in inputs if isinstance(item, torch.Tensor) and item.dim()), None)
        samples = 0 if first is None else len(first)
        recorded = torch.is_grad_enabled() and any(
            isinstance(part, torch.Tensor) and part.requires_grad for part in tree_leaves(output)
        )
        seen = Pass(module, module.training, recorded, samples)
        if self._batches:
            keep = first is not None and self._rows < ROWS
            self._rows += samples if keep else 0
            seen = Pass(
                *(module, module.training, recorded, samples),
                inputs=first.detach().cpu().clone() if first is not None and keep else None,
                output=output.detach().cpu() if isinstance(output, torch.Tensor) else None,
            )
        self._passes += recorded
        self.passes.append(seen)

    def _on_loss(self, function: Any, scores: torch.Tensor, target: torch.Tensor, value: torch.Tensor) -> None:
        copies = scores.detach().cpu(), target.detach().cpu().clone()
        self.losses.append(Loss(function, *copies, value.detach().mean().item()))

    def _on_backward(self, loss: torch.Tensor) -> None:
        if not self._backwards and self._optimizer is not None:
            self._stale = any(gradient.count_nonzero() for gradient in _gradients(self._optimizer))
        self._backwards.append(loss.detach().sum().item())

    def _before_step(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        if not _has_closure(args, kwargs):
            self._on_step(optimizer)

    def _after_step(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        if _has_closure(args, kwargs):  # its gradient was made inside the step
            self._on_step(optimizer)

    def _on_step(self, optimizer: Optimizer) -> None:
        if self._optimizer is not None and optimizer is not self._optimizer:
            return
        found = [gradient.flatten() for gradient in _gradients(optimizer)] if self._gradients else []
        named = self._model.named_parameters() if self._model is not None else ()
        learning = [(name, parameter) for name, parameter in named if parameter.requires_grad]
        self.steps.append(
            Step(
                rates=tuple(float(group["lr"]) for group in optimizer.param_groups),
                gradient=torch.cat(found) if found else torch.zeros(0),
                norms={name: None if p.grad is None else p.grad.norm().item() for name, p in learning},
                passes=self._passes,
                backwards=tuple(self._backwards),
                stale=self._stale,
            )
        )
        self._begin_step()


class _Calls(TorchFunctionMode):
    """Tells a recorder of the calls that have no hook: loss functions and `backward()`."""

    def __init__(self, recorder: TrainingRecorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.backward:
            self._recorder._on_backward(args[0])
        out = func(*args, **kwargs)
        if func in _LOSSES and isinstance(out, torch.Tensor) and out.requires_grad:
            scores = args[0] if args else kwargs["input"]
            target = args[1] if len(args) > 1 else kwargs["target"]
            self._recorder._on_loss(func, scores, target, out)
        return out


def _has_closure(args: tuple, kwargs: dict) -> bool:
    """Whether `optimizer.step` was called with a closure; the optimizer itself is the first of its arguments."""
    return any(value is not None for value in (*args[1:2], kwargs.get("closure")))


def _gradients(optimizer: Optimizer) -> list[torch.Tensor]:
    owned = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return [parameter.grad for parameter in owned if parameter.grad is not None]
