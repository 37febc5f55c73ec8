"""Calls of torch that have no hook, told to whoever watches: losses, dropout, `backward()`, differences, scalers."""

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from torchcourse.lessons.troubleshooting.tensor_parts import is_fake
from torchcourse.source_lines import hide

hide(__file__)

CLASSIFYING = {F.cross_entropy, F.nll_loss}
LOGISTIC = {F.binary_cross_entropy_with_logits, F.binary_cross_entropy}
MEASURING = {F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss}
LOSSES = CLASSIFYING | LOGISTIC | MEASURING | {F.kl_div}
OTHER_LOSSES = {F.ctc_loss, F.poisson_nll_loss, F.cosine_embedding_loss, F.hinge_embedding_loss, F.soft_margin_loss}
OTHER_LOSSES |= {F.margin_ranking_loss}
DROPOUTS = {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout}
_BACKWARD = {torch.Tensor.backward, torch.autograd.backward}
_DIFFERENCES = {"sub", "__sub__", "rsub", "__rsub__", "subtract"}


class TorchCalls(TorchFunctionMode):
    """While it is entered, tells `watch` of these calls, and does what they would do."""

    def __init__(self, watch: Any) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if transforming():
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if func in _BACKWARD:
            roots = args[0] if args else kwargs["tensors"]
            roots = [roots] if isinstance(roots, torch.Tensor) else list(roots)
            if not all(map(readable, roots)):
                return func(*args, **kwargs)
            with self._watch.on_backward(roots):
                return func(*args, **kwargs)
        if func in DROPOUTS and drops(args, kwargs):
            self._watch.on_dropout()
        if name == "_amp_foreach_non_finite_check_and_unscale_":
            self._watch.on_unscale()
        out = func(*args, **kwargs)
        self._watch.on_call(name, args, kwargs, out)
        if func in LOSSES and isinstance(out, torch.Tensor) and out.requires_grad and readable(out):
            scores = args[0] if args else kwargs["input"]
            self._watch.on_loss(func, scores, args[1] if len(args) > 1 else kwargs["target"], out, kwargs)
        if func in OTHER_LOSSES and readable(out):
            self._watch.usage.on_loss(name, inspect.signature(func).bind(*args, **kwargs).arguments)
        if func is torch.autograd.grad:
            self._watch.usage.on_grad(out, args, kwargs)
        if name in _DIFFERENCES:
            sides = [side for side in args[:2] if isinstance(side, torch.Tensor)]
            if len(sides) == 2:
                self._watch.on_difference(*sides)
        return out


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


def drops(args: tuple, kwargs: dict) -> bool:
    """Whether a call of a dropout function drops anything, by its arguments."""
    probability = args[1] if len(args) > 1 else kwargs.get("p", 0.5)
    return bool(args[2] if len(args) > 2 else kwargs.get("training", True)) and probability > 0
