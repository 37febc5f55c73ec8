"""How a training uses PyTorch's own tools: rarer losses, derivatives in the loss, layers made on the way, copies."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from torchcourse.lessons.troubleshooting.model_calls import is_plain, tensors_of
from torchcourse.lessons.troubleshooting.tensor_parts import share_memory
from torchcourse.lessons.troubleshooting.torch_calls import OTHER_LOSSES, TorchCall, readable
from torchcourse.lessons.troubleshooting.training_records import OtherLoss
from torchcourse.lessons.troubleshooting.watcher import Loop, Notes, Watcher
from torchcourse.source_lines import hide

hide(__file__)

LOSSES_AT_MOST = 100  # whose tensors are kept
_SUMS = {"add", "__add__", "__radd__", "sub", "__sub__", "__rsub__", "rsub", "add_", "__iadd__", "sub_", "__isub__"}
_CUTS = {"__get__": ".data", "detach": "detach()"}
_WRITES, _VIEWS = {"copy_", "lerp_"}, {"view", "reshape"}


class Usage(Watcher):
    """Notes what a training does with PyTorch's tools. PyTorch tells it of each layer that gets a parameter."""

    def __init__(self, loop: Loop) -> None:
        super().__init__(loop)
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
        self._computed = Notes()  # and of each, whether a gradient has come to it
        self._derived = Notes()
        self._ids = {id(parameter) for parameter in loop.model.parameters()}

    def __enter__(self) -> "Usage":
        hook: Callable[..., None] = self._on_parameter
        self._open.callback(register_module_parameter_registration_hook(hook).remove)
        for _, tensor in _computed_in(self.loop.model):
            self._computed[tensor] = used = list[bool]()
            hook = partial(lambda used, _gradient: used.append(True), used)
            self._open.callback(tensor.register_hook(hook).remove)
        return self

    def computed_before(self) -> list[str]:
        """Return what was computed from parameters before, is still there, and got gradients."""
        return [name for name, tensor in _computed_in(self.loop.model) if self._computed.of(tensor)]

    def on_step(self) -> None:
        """Forget the derivatives of the step that is about to be taken."""
        self._derived.clear()

    def on_call(self, call: TorchCall) -> None:
        """Note a loss, a derivative, and what is done with weights."""
        name, first, out = call.name, call.first, call.out
        if call.function in OTHER_LOSSES and readable(out) and len(self.losses) < LOSSES_AT_MOST:
            self.losses.append(OtherLoss(name, {key: _copied(value) for key, value in call.arguments().items()}))
        if call.drops:
            self.dropped = max(self.dropped, call.get(1, "p", 0.5))
        if name in _VIEWS and isinstance(first, torch.Tensor) and not first.is_nested and readable(first):
            before, after = tuple(first.shape), tuple(out.shape)
            if len(before) == len(after) == 4 and before[3] == after[1] == 3 < min(before[1:3]) == min(after[2:]):
                self.colors_last.add(self.loop.step)
        if name in _WRITES and self._same_weight(first, call.get(1, "other")):
            self.onto_itself.add(self.loop.step)
        cut = name in _CUTS and id(first) in self._ids and self.loop.inside and torch.is_grad_enabled()
        if cut and isinstance(out, torch.Tensor) and not out.requires_grad and share_memory(out, first):
            self.detached[id(first)] = _CUTS[name]
        if self._derived and any(tensor in self._derived for tensor in tensors_of(call.args)):
            self._on_derived(name, out)
        derives = call.function is torch.autograd.grad and torch.is_grad_enabled()
        if derives and not call.arguments().get("create_graph", False):  # the numbers carry no gradient
            self._derived.add(tensors_of(out))

    def _on_derived(self, name: str, out: Any) -> None:
        """Follow a derivative into the loss: a sum of scalars, of which another one carries a gradient."""
        for tensor in tensors_of(out):
            if not tensor.requires_grad:
                self._derived.add([tensor])
            elif name in _SUMS and tensor.numel() == 1 and tensor.dim() == 0:
                self.lost_terms.add(self.loop.step)

    def _same_weight(self, one: Any, other: Any) -> bool:
        if not is_plain(one) or not is_plain(other) or (one.shape, one.stride()) != (other.shape, other.stride()):
            return False
        return share_memory(one, other) and any(share_memory(one, own) for own in self.loop.model.parameters())

    def _on_parameter(self, module: nn.Module, _name: str, parameter: Any) -> None:
        if not self.loop.inside or not torch.is_grad_enabled() or parameter is None or not parameter.requires_grad:
            return
        if "Norm" not in type(module).__name__ and all(module is not own for own in self.loop.model.modules()):
            self.made.setdefault(type(module).__name__, set()).add(self.loop.step)


def _computed_in(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield what modules hold as plain attributes and what has a graph, with names."""
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, torch.Tensor) and value.requires_grad and not value.is_leaf:
                yield f"{name}.{key}".lstrip("."), value


def _copied(value: Any) -> Any:
    return value.detach().cpu().clone() if isinstance(value, torch.Tensor) else value
