"""A look into the model every so many steps: weights, gradients and activations as histograms, and what they tell.

    Trainer(model, optimizer, loss_fn, log_dir="runs/a", watch_every=100)

| tag | what |
|---|---|
| `weights/NAME`, `gradients/NAME` | histograms of a parameter after the step, and of the gradient that moved it |
| `activations/NAME` | histogram of what an activation function (활성화 함수) put out for the last batch of the step |
| `gradient_norm/NAME`, `gradient_norm/all` | length of the gradient of a parameter, and of all together |
| `update_ratio/NAME` | how far the step moved a parameter, as a share of the parameter's length |
| `dead/NAME` | share of a ReLU layer's units that were 0 for the whole batch |
| `saturated/NAME` | share of a tanh's or sigmoid's outputs within 1.5% of the ends of its range |

Gradients are the optimizer's: averaged over the ranks, unscaled, and clipped if there is a `clip_norm`. Activations are
those of the rank that writes.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from torchcourse.training.histograms import measure
from torchcourse.training.monitor import Monitor

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid)
CAN_DIE = (nn.ReLU, nn.ReLU6)
EDGES = {nn.Tanh: (-0.97, 0.97), nn.Sigmoid: (0.015, 0.985)}
"""Outputs beyond these are called saturated (포화): the slope there is below 6% of the steepest."""


class Watch:
    """Looks at the first step and at every `every`-th one.

    Args:
        model: without wrappers.
        board: where to write.
        every: steps from look to look; 0 never looks. None: 100, but a look that would bring the time spent on looking
            above 1% of the time so far (the first step's look apart) is left out.
    """

    def __init__(self, model: nn.Module, board: Monitor, every: int | None) -> None:
        self._model, self._board = model, board
        self._share = _SHARE if every is None else math.inf
        self._every = (_EVERY if every is None else every) if board.writes else 0
        self._began = time.perf_counter()
        self._last = self._spent = 0.0  # seconds: of the last look, and of all but the first step's

    def around(self, step: int) -> AbstractContextManager:
        """Return the context for taking step number `step` (from 1); if no look is due, it does nothing."""
        due = bool(self._every) and (step == 1 or (step % self._every == 0 and self._affordable()))
        return self._look(step) if due else _NOTHING

    def _affordable(self) -> bool:
        return self._spent + self._last <= self._share * (time.perf_counter() - self._began)

    @contextlib.contextmanager
    def _look(self, step: int) -> Iterator[None]:
        start = time.perf_counter()
        seen: dict[str, torch.Tensor] = {}
        before: dict[str, torch.Tensor] = {}
        with self._never_in_the_way():
            before |= {name: parameter.detach().clone() for name, parameter in self._trained()}

        def keep(name: str, output: torch.Tensor) -> None:
            if not torch._C._functorch.is_functorch_wrapped_tensor(output):  # of vmap: it has no numbers outside
                seen[name] = output

        hooks = [
            module.register_forward_hook(lambda _module, _inputs, output, name=name: keep(name, output))
            for name, module in self._model.named_modules()
            if isinstance(module, ACTIVATIONS)
        ]
        step_begins = time.perf_counter()
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        step_ends = time.perf_counter()
        with self._never_in_the_way():
            self._write(step, before, seen)
        self._last = time.perf_counter() - start - (step_ends - step_begins)
        self._spent += 0.0 if step == 1 else self._last

    @contextlib.contextmanager
    def _never_in_the_way(self) -> Iterator[None]:
        """Let training go on where looking fails, say so once, and look no more."""
        try:
            yield
        except Exception as error:
            self._every = 0
            reason = str(error).partition("\n")[0] or type(error).__name__
            print(f"Training goes on, but its weights and gradients are no longer looked at: {reason}")

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return (
            (name, parameter)
            for name, parameter in self._model.named_parameters()
            if parameter.requires_grad and not is_lazy(parameter)
        )

    @torch.no_grad()
    def _write(self, step: int, before: dict[str, torch.Tensor], seen: dict[str, torch.Tensor]) -> None:
        gradients = {name: parameter.grad for name, parameter in self._trained() if parameter.grad is not None}
        weights = {name: parameter for name, parameter in self._trained() if name in gradients}
        histograms = measure(
            {f"weights/{name}": weight for name, weight in weights.items()}
            | {f"gradients/{name}": gradient for name, gradient in gradients.items()}
            | {f"activations/{name}": output for name, output in seen.items()}
        )
        shares = {
            f"update_ratio/{name}": _ratio(weight - before[name], before[name])
            for name, weight in weights.items()
            if name in before
        }
        for name, output in seen.items():
            module = self._model.get_submodule(name)
            if isinstance(module, CAN_DIE):
                shares[f"dead/{name}"] = dead_units(output).float().mean()
            elif type(module) in EDGES:
                low, high = EDGES[type(module)]
                shares[f"saturated/{name}"] = ((output < low) | (output > high)).float().mean()
        norms = {f"gradient_norm/{name}": _norm(histograms, f"gradients/{name}") for name in gradients}
        norms["gradient_norm/all"] = math.hypot(*norms.values())
        values = torch.stack(list(shares.values())).tolist() if shares else []
        self._board.histograms(step, histograms)
        self._board.scalars(step, norms | dict(zip(shares, values, strict=True)))


def dead_units(output: torch.Tensor) -> torch.Tensor:
    """Return which units (유닛) of a ReLU put out 0 for the whole batch: bool [units].

    Args:
        output: [N, units], or [N, channels, height, width], where a channel is a unit; with other shapes the last
            dimension counts the units.
    """
    if output.dim() < 2:  # of one sample: each number is a unit
        return output.reshape(-1) <= 0
    units = output.movedim(1 if output.dim() == 4 else -1, 0).flatten(1)
    return (units <= 0).all(dim=1)


def _ratio(change: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """Return the length of the change over that of what was there; of a parameter that was 0, over 1e-12."""
    return (torch.linalg.vector_norm(change) / torch.linalg.vector_norm(before).clamp_min(1e-12)).float()


def _norm(histograms: dict, tag: str) -> float:
    histogram = histograms[tag]
    return math.nan if histogram.not_finite else histogram.norm


_NOTHING = contextlib.nullcontext()
_EVERY, _SHARE = 100, 0.01
