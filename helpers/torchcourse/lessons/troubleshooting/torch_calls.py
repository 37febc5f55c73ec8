"""Calls of torch, which have no hook, told to whoever watches; and which of them are losses and dropouts."""

import contextlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from torchcourse.lessons.troubleshooting.tensor_parts import is_fake
from torchcourse.source_lines import hide

hide(__file__)

CLASSIFYING: set[Callable] = {F.cross_entropy, F.nll_loss}
LOGISTIC: set[Callable] = {F.binary_cross_entropy_with_logits, F.binary_cross_entropy}
MEASURING: set[Callable] = {F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss}
LOSSES = CLASSIFYING | LOGISTIC | MEASURING | {F.kl_div}
OTHER_LOSSES = {F.ctc_loss, F.poisson_nll_loss, F.cosine_embedding_loss, F.hinge_embedding_loss, F.soft_margin_loss}
OTHER_LOSSES |= {F.margin_ranking_loss}
_DROPOUTS = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"}
_BACKWARD = {torch.Tensor.backward, torch.autograd.backward}


@dataclass(slots=True)
class TorchCall:
    """One call of a function of torch."""

    function: Any
    args: tuple
    kwargs: dict
    out: Any = None
    """What came out, once it is over."""
    name: str = ""

    def __post_init__(self) -> None:
        self.name = getattr(self.function, "__name__", "")

    @property
    def first(self) -> Any:
        return self.get(0, "input")

    def get(self, place: int, name: str, default: Any = None) -> Any:
        """Return an argument that was given by its place or by its name."""
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)

    def arguments(self) -> dict[str, Any]:
        """Return those that were given, by name, of a function that is written in Python."""
        return inspect.signature(self.function).bind(*self.args, **self.kwargs).arguments

    @property
    def drops(self) -> bool:
        """Whether this is a call of a dropout function, of torch or torch.nn.functional, that drops something."""
        if self.name not in _DROPOUTS:
            return False
        trains = self.get(2, "training", self.kwargs.get("train", True))  # torch.dropout has the shorter name
        return trains and self.get(1, "p", 0.5) > 0


class TorchCalls(TorchFunctionMode):
    """While it is entered, tells `watch` of the calls of torch, and does what they would do."""

    def __init__(self, watch: Any) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        call = TorchCall(func, args, kwargs or {})
        if transforming():
            return func(*args, **call.kwargs)
        if func in _BACKWARD:
            roots = call.get(0, "tensors")
            roots = [roots] if isinstance(roots, torch.Tensor) else list(roots)
            with self._watch.on_backward(roots) if all(map(readable, roots)) else contextlib.nullcontext():
                return func(*args, **call.kwargs)
        if call.name == "_amp_foreach_non_finite_check_and_unscale_":
            self._watch.on_unscale()
        call.out = func(*args, **call.kwargs)
        self._watch.on_call(call)
        return call.out


def transforming() -> bool:
    """Whether this runs inside a transform of torch.func, such as vmap or grad: its tensors have no numbers to read."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def readable(tensor: torch.Tensor) -> bool:
    """Whether a tensor has numbers: it is neither meta nor fake, and not many at once, as with `is_grads_batched`."""
    if transforming() or torch._C._functorch.is_legacy_batchedtensor(tensor):
        return False
    return not tensor.is_meta and not is_fake(tensor)


def why_unseen() -> str:
    """Return why nothing can be read of a call of the model: "compiled" or "transformed"; "" if it can."""
    if torch.compiler.is_compiling():
        return "compiled"
    return "transformed" if transforming() else ""
