"""What happens in the steps of somebody else's training loop: a witness that changes nothing and writes it down."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode

ROWS = 4096  # samples that are kept, at most
CLASSIFYING = {F.cross_entropy, F.nll_loss}
LOGISTIC = {F.binary_cross_entropy_with_logits, F.binary_cross_entropy}
MEASURING = {F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss}


@dataclass
class Forward:
    """One call of the model."""

    training: bool
    with_gradient: bool
    inputs: torch.Tensor | None
    output: torch.Tensor | None


@dataclass
class Loss:
    """One call of a loss function of torch.nn.functional that a gradient can come from."""

    function: Any
    scores: torch.Tensor
    target: torch.Tensor
    value: float


@dataclass
class Step:
    """What led to one step of the optimizer."""

    rates: list[float]
    stale: bool
    """Whether the optimizer's parameters had gradients of the step before when this one's first backward pass began."""
    backwards: list[float]
    forwards: int
    norms: dict[str, float | None]
    """The norm of each trainable parameter's gradient; None where there is none."""


@dataclass
class Record:
    """All that the witness saw."""

    forwards: list[Forward] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    backwards: int = 0

    @property
    def trained(self) -> list[Forward]:
        return [forward for forward in self.forwards if forward.with_gradient]

    @property
    def evaluated(self) -> list[Forward]:
        return [forward for forward in self.forwards if not forward.with_gradient]

    @property
    def values(self) -> list[float]:
        return [loss.value for loss in self.losses]

    @property
    def classified(self) -> list[Loss]:
        """Losses of scores [N, C] against whole-number labels [N]."""
        return [
            loss
            for loss in self.losses
            if loss.function in CLASSIFYING and loss.scores.dim() == 2 and loss.target.dim() == 1
        ]


class Witness(TorchFunctionMode):
    """Enter it round a training loop. It sees the model's calls, the loss functions, `backward()` and the optimizer."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        super().__init__()
        self.model, self.optimizer, self.record = model, optimizer, Record()
        self._backwards: list[float] = []
        self._forwards, self._stale, self._rows = 0, False, 0
        self._start: dict[str, torch.Tensor] = {}

    def __enter__(self) -> "Witness":
        self._start = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self._handles = [
            self.model.register_forward_hook(self._on_forward),
            self.optimizer.register_step_pre_hook(self._before_step),
        ]
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for handle in self._handles:
            handle.remove()

    def moved(self) -> float:
        """How far the trainable weights have come, as a share of their length."""
        pairs = [(p.detach(), self._start[name]) for name, p in self.model.named_parameters() if name in self._start]
        way = math.sqrt(sum((now - start).double().square().sum().item() for now, start in pairs))
        return way / max(math.sqrt(sum(start.double().square().sum().item() for _, start in pairs)), 1e-12)

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.backward:
            self._before_backward(args[0])
        out = func(*args, **kwargs)
        if func in CLASSIFYING | LOGISTIC | MEASURING and isinstance(out, torch.Tensor) and out.requires_grad:
            scores = args[0] if args else kwargs["input"]
            target = args[1] if len(args) > 1 else kwargs["target"]
            value = out.detach().mean().item()
            self.record.losses.append(Loss(func, scores.detach().cpu(), target.detach().cpu().clone(), value))
        return out

    def _on_forward(self, model: nn.Module, args: tuple, output: Any) -> None:
        inputs = next((item for item in args if isinstance(item, torch.Tensor) and item.dim()), None)
        keep = inputs is not None and self._rows < ROWS
        self._rows += len(inputs) if keep else 0
        out = output if isinstance(output, torch.Tensor) else None
        gradient = torch.is_grad_enabled() and out is not None and out.requires_grad
        self._forwards += gradient
        self.record.forwards.append(
            Forward(
                model.training,
                gradient,
                inputs.detach().cpu().clone() if keep else None,
                None if out is None else out.detach().cpu(),
            )
        )

    def _before_backward(self, loss: torch.Tensor) -> None:
        if not self._backwards:
            owned = (p for group in self.optimizer.param_groups for p in group["params"])
            gradients = [p.grad for p in owned if p.grad is not None]
            self._stale = any(gradient.count_nonzero() for gradient in gradients)
        self._backwards.append(loss.detach().sum().item())
        self.record.backwards += 1

    def _before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        norms = {
            name: None if p.grad is None else p.grad.norm().item()
            for name, p in self.model.named_parameters()
            if p.requires_grad
        }
        rates = [float(group["lr"]) for group in optimizer.param_groups]
        self.record.steps.append(Step(rates, self._stale, self._backwards, self._forwards, norms))
        self._backwards, self._forwards, self._stale = [], 0, False


def mode_dependent(model: nn.Module) -> list[str]:
    """Return the names of the layers that work differently in training and in evaluation."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        or (isinstance(module, _DropoutNd) and module.p > 0)
        or (isinstance(module, nn.RNNBase | nn.MultiheadAttention) and module.dropout > 0)
    ]


def hashes(rows: torch.Tensor) -> list[float]:
    """Return a number for each row of a batch that tells it from others: a sum with fixed random weights."""
    flat = rows.flatten(1).double()
    weights = torch.randn(flat.size(1), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (flat @ weights).tolist()
