"""What a training draws by chance: noise, and actions whose log-probabilities are its loss.

Distributions have no hook, so their `log_prob` notes what it returns.
"""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import distributions
from torch.distributions import Distribution

from torchcourse.lessons.troubleshooting.model_calls import is_plain
from torchcourse.lessons.troubleshooting.torch_calls import TorchCall, readable
from torchcourse.lessons.troubleshooting.watcher import Loop, Notes, Watcher
from torchcourse.source_lines import hide

hide(__file__)

NUMBERS_AT_LEAST = 16  # in a drawn tensor; fewer can be a seed or an index
MANY = 256  # draws per step: of more, nothing is said
DRAWS = {"randn", "randn_like", "rand", "rand_like", "normal"}
_FOLLOWED = {"neg", "__neg__", "sum", "squeeze", "unsqueeze", "view", "reshape", "mean", "stack", "cat"}
_FOLLOWED |= {"sub", "__sub__"}
_CURVES = {"exp": "exp", "pow": "square", "__pow__": "square", "square": "square", "log": "log"}
PULLS_AT_MOST = 6  # steps
_TIMES = {"mul", "__mul__", "__rmul__"}

Pull = tuple[float, torch.Size]
"""A gradient, and the shape of what it is the gradient of; no shape for what was computed from a parameter itself."""
Drawn = tuple[tuple[int, ...], float, float]
"""The shape of what was drawn, its first number, and a sum that tells it from others."""


class Chance(Watcher):
    """Notes what a training draws."""

    def __init__(self, loop: Loop) -> None:
        super().__init__(loop)
        self.drawn: dict[int, list[Drawn]] = {}
        """By step, what was drawn outside the model while autograd was on."""
        self.weighed: dict[int, tuple[float, float]] = {}
        """By step, the least and the largest of the numbers with a gradient that log-probabilities were multiplied
        with."""
        self.crossed: dict[int, tuple[list[int], list[int]]] = {}
        """By step, the shapes of log-probabilities or losses, and of weights that were multiplied each with each."""
        self.ratios: dict[int, bool] = {}
        """By step, whether all ratios exp(log-probability - other) were exactly 1."""
        self.pulls: dict[int, dict[str, list[Pull]]] = {}
        """By step and function (exp, square, log), the numbers that were the gradient of all that it put out."""
        self.parts: dict[int, list[tuple[str, float, int]]] = {}
        """By step, of each loss over a batch: its reduction, what it is multiplied with, and the batch's size."""
        self._logs, self._losses = Notes(), Notes()

    def __enter__(self) -> "Chance":
        kinds = {kind for kind in vars(distributions).values() if isinstance(kind, type) and "log_prob" in vars(kind)}
        for kind in kinds:
            if issubclass(kind, Distribution):
                self._open.callback(setattr, kind, "log_prob", kind.log_prob)
                kind.log_prob = self._noting(kind.log_prob)  # type: ignore[method-assign]
        return self

    def on_step(self) -> None:
        """Forget the log-probabilities of the step that is about to be taken."""
        self._logs.clear()
        self._losses.clear()

    def on_losses(self, losses: torch.Tensor, samples: int, reduction: str) -> None:
        """Note the losses of a batch, where there is one for each sample; else what the loss is multiplied with."""
        if losses.dim() == 1 and losses.numel() > 1:
            self._losses.add([losses])
        elif losses.dim() == 0 and self.loop.step < PULLS_AT_MOST:
            losses.register_hook(partial(self._on_part, reduction, samples))

    def on_call(self, call: TorchCall) -> None:
        """Note what is drawn, what log-probabilities and losses are multiplied with, and curves that end in a loss."""
        name, args, out, step = call.name, call.args, call.out, self.loop.step
        if name in DRAWS and torch.is_grad_enabled() and not self.loop.inside:
            found = self.drawn.setdefault(step, [])
            if _is_many(out) and len(found) < MANY:
                found.append(fingerprint(out))
        if self._is_curve(name, args) and _is_many(out) and out.requires_grad:
            shape = torch.Size() if args and args[0].is_leaf else out.shape
            out.register_hook(partial(self._on_pull, _CURVES.get(name, "square"), shape))
        if name in _FOLLOWED and args:
            parts = args[0] if isinstance(args[0], list | tuple) else args[:1]
            if any(part in self._logs for part in parts):
                self._note(out)
        elif name == "exp" and args and args[0] in self._logs:
            self.ratios[step] = not args[0].detach().count_nonzero() and self.ratios.get(step, True)
        elif name in _TIMES and len(args) == 2:
            for one, weight in (args, args[::-1]):
                log = one in self._logs
                if isinstance(weight, torch.Tensor) and (log or one in self._losses):
                    if log:
                        self._note(out)
                        self._on_weight(weight)
                    if {one.dim(), weight.dim()} == {1, 2} and one.numel() == weight.numel() == len(out) > 1:
                        self.crossed[step] = list(one.shape), list(weight.shape)

    def _is_curve(self, name: str, args: tuple) -> bool:
        """Whether this is an exponential, a square or a logarithm, in one of the first steps."""
        if self.loop.step >= PULLS_AT_MOST:
            return False
        if name in _TIMES:
            return len(args) == 2 and args[0] is args[1]
        return name in _CURVES and (name != "pow" or args[1:] == (2,))

    def _on_part(self, reduction: str, samples: int, gradient: torch.Tensor) -> None:
        if readable(gradient):
            self.parts.setdefault(self.loop.step, []).append((reduction, gradient.item(), samples))

    def _on_pull(self, curve: str, shape: torch.Size, gradient: torch.Tensor) -> None:
        if not readable(gradient):
            return
        ends = gradient.flatten()[[0, -1]].tolist() if gradient.is_contiguous() else [gradient.min().item()]
        if ends[0] == ends[-1] != 0 and bool((gradient == ends[0]).all()):
            self.pulls.setdefault(self.loop.step, {}).setdefault(curve, []).append((ends[0], shape))

    def _on_weight(self, weight: torch.Tensor) -> None:
        if weight.requires_grad and weight.numel() and weight not in self._logs:
            numbers = weight.detach()
            low, high = self.weighed.get(self.loop.step, (0.0, 0.0))
            self.weighed[self.loop.step] = min(low, numbers.min().item()), max(high, numbers.max().item())

    def _noting(self, original: Callable) -> Callable:
        @functools.wraps(original)
        def log_prob(this: Distribution, value: torch.Tensor) -> torch.Tensor:
            result = original(this, value)
            # What is drawn with a gradient of its own (rsample) is weighed on purpose.
            if isinstance(result, torch.Tensor) and isinstance(value, torch.Tensor) and not value.requires_grad:
                self._note(result)
            return result

        return log_prob

    def _note(self, tensor: Any) -> None:
        if isinstance(tensor, torch.Tensor) and tensor.requires_grad:
            self._logs.add([tensor])


def _is_many(out: Any) -> bool:
    return is_plain(out) and out.numel() >= NUMBERS_AT_LEAST


def fingerprint(tensor: torch.Tensor) -> Drawn:
    """Return what tells a tensor of measured numbers from others."""
    numbers = tensor.detach().flatten().double()
    ramp = torch.linspace(0, 1, len(numbers), dtype=torch.float64, device=numbers.device)
    return tuple(tensor.shape), numbers[0].item(), (numbers * ramp).sum().item()
