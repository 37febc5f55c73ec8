"""How a training uses PyTorch's own tools: rarer losses, derivatives in the loss, layers made on the way, copies.

Told by `torch_calls` of each call, by PyTorch of each layer that gets a parameter.
"""

import contextlib
import inspect
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils._pytree import tree_leaves

from torchcourse.lessons.troubleshooting.torch_calls import DROPOUTS, drops, readable
from torchcourse.lessons.troubleshooting.training_records import OtherLoss
from torchcourse.source_lines import hide

hide(__file__)

LOSSES_AT_MOST = 100  # whose tensors are kept
_SUMS = {"add", "__add__", "__radd__", "sub", "__sub__", "__rsub__", "rsub", "add_", "__iadd__", "sub_", "__isub__"}
_CUTS = {"__get__": ".data", "detach": "detach()"}
_DROPOUTS = {function.__name__ for function in DROPOUTS}
_WRITES, _VIEWS = {"copy_", "lerp_"}, {"view", "reshape"}


class Usage:
    """Notes what `model`'s training does with PyTorch's tools.

    Args:
        model: the one that is watched.
        steps: says how many steps have been taken.
        inside: says whether a forward pass of the model is under way.
    """

    def __init__(self, model: nn.Module, steps: Callable[[], int], inside: Callable[[], bool]) -> None:
        self.losses: list[OtherLoss] = []
        self.onto_itself: set[int] = set()
        """The numbers of the steps before which a weight was overwritten with itself."""
        self.lost_terms: set[int] = set()
        """The numbers of the steps for which a loss had a derivative without a graph among its terms."""
        self.made: dict[str, set[int]] = {}
        """Of each kind of layer that was made within a forward pass, and is no part of the model: in which steps."""
        self.detached: dict[int, str] = {}
        """By id, the parameters whose `.data` or `detach()` was taken within a forward pass, and how."""
        self.dropped = 0.0
        """The largest share that a dropout function was told to drop, short of all."""
        self.colors_last: set[int] = set()
        """The steps in which a view of images [N, H, W, 3] was taken as [N, 3, H, W]."""
        self._computed: dict[str, tuple[weakref.ref[torch.Tensor], list[bool]]] = {}
        self._model, self._steps, self._inside = model, steps, inside
        self._derived: dict[int, weakref.ref[torch.Tensor]] = {}
        self._ids = {id(parameter) for parameter in model.parameters()}
        self._open = contextlib.ExitStack()

    def __enter__(self) -> "Usage":
        hook: Callable[..., None] = self._on_parameter
        self._open.callback(register_module_parameter_registration_hook(hook).remove)
        for name, tensor in _computed_in(self._model):
            self._computed[name] = weakref.ref(tensor), []
            hook = partial(lambda used, _gradient: used.append(True), self._computed[name][1])
            self._open.callback(tensor.register_hook(hook).remove)
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.close()

    def computed_before(self, model: nn.Module) -> dict[str, bool]:
        """Return the tensors that were computed from parameters before and are still there, and whether they were used.

        Args:
            model: the one that is watched, as it is now.
        """
        now = dict(_computed_in(model))
        return {
            name: bool(used) for name, (kept, used) in self._computed.items() if now.get(name) is kept() is not None
        }

    def on_step(self) -> None:
        """Forget the derivatives of the step that has been taken."""
        self._derived.clear()

    def on_loss(self, name: str, arguments: dict[str, Any]) -> None:
        """Note a call of a loss function."""
        if len(self.losses) < LOSSES_AT_MOST:
            copied = {
                key: value.detach().cpu().clone() if isinstance(value, torch.Tensor) else value
                for key, value in arguments.items()
            }
            self.losses.append(OtherLoss(name, copied))

    def on_grad(self, out: Any, args: tuple, kwargs: dict) -> None:
        """Note what `torch.autograd.grad` has returned; of `create_graph=False`, the numbers carry no gradient."""
        given = inspect.signature(torch.autograd.grad).bind(*args, **kwargs).arguments
        if torch.is_grad_enabled() and not given.get("create_graph", False):
            for tensor in _tensors(out):
                self._derived[id(tensor)] = weakref.ref(tensor)

    def on_call(self, name: str, args: tuple, kwargs: dict, out: Any) -> None:
        """Note that a function of torch got these arguments, and what came out."""
        if name in _DROPOUTS and drops(args, kwargs):
            self.dropped = max(self.dropped, args[1] if len(args) > 1 else kwargs.get("p", 0.5))
        first = args[0] if args else None
        if name in _VIEWS and isinstance(first, torch.Tensor) and not first.is_nested and readable(first):
            before, after = tuple(first.shape), tuple(out.shape)
            if len(before) == len(after) == 4 and before[3] == after[1] == 3 < min(before[1:3]) == min(after[2:]):
                self.colors_last.add(self._steps())
        if name in _WRITES and len(args) > 1 and self._same_weight(first, args[1]):
            self.onto_itself.add(self._steps())
        if name in _CUTS and isinstance(first, torch.Tensor) and id(first) in self._ids:
            cut = isinstance(out, torch.Tensor) and not out.requires_grad and _share_memory(out, first)
            if cut and torch.is_grad_enabled() and self._inside():
                self.detached[id(first)] = _CUTS[name]
        if self._derived and any(self._is_derived(tensor) for tensor in _tensors(args)):
            self._on_derived(name, args, out)

    def _on_derived(self, name: str, args: tuple, out: Any) -> None:
        """Follow a derivative into the loss: a sum of scalars, of which another one carries a gradient."""
        for tensor in _tensors(out):
            if not tensor.requires_grad:
                self._derived[id(tensor)] = weakref.ref(tensor)
            elif name in _SUMS and tensor.numel() == 1 and tensor.dim() == 0:
                self.lost_terms.add(self._steps())

    def _is_derived(self, tensor: torch.Tensor) -> bool:
        kept = self._derived.get(id(tensor))
        return kept is not None and kept() is tensor

    def _same_weight(self, one: Any, other: Any) -> bool:
        for tensor in (one, other):
            if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.is_nested:
                return False
        if one.shape != other.shape or one.stride() != other.stride():
            return False
        return _share_memory(one, other) and any(_share_memory(one, own) for own in self._model.parameters())

    def _on_parameter(self, module: nn.Module, _name: str, parameter: Any) -> None:
        if not self._inside() or not torch.is_grad_enabled() or parameter is None or not parameter.requires_grad:
            return
        if "Norm" not in type(module).__name__ and all(module is not own for own in self._model.modules()):
            self.made.setdefault(type(module).__name__, set()).add(self._steps())


def _computed_in(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield what modules hold as plain attributes and what has a graph, with names."""
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, torch.Tensor) and value.requires_grad and not value.is_leaf:
                yield f"{name}.{key}".lstrip("."), value


def _share_memory(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors begin at the same place of memory; sparse ones and those without numbers do not say."""
    try:
        return one.data_ptr() == other.data_ptr() != 0
    except RuntimeError:
        return False


def _tensors(parts: Any) -> Iterator[torch.Tensor]:
    return (leaf for leaf in tree_leaves(parts) if isinstance(leaf, torch.Tensor))
