"""Numbers that are none, traced to the layer and the step that made them.

    probe = NanProbe(model)
    for inputs, targets in loader:
        optimizer.zero_grad()
        loss = loss_fn(model(inputs), targets)
        loss.backward()
        probe.check(loss)  # raises NotFinite with layer, step and evidence
        optimizer.step()

With a `torch.amp.GradScaler`, whose scale makes gradients overflow on purpose, call `probe.check(loss, scaler=scaler)`.

A NaN is never alone: one step after it was made, every weight is NaN. So what counts is the *first* place. The probe
keeps one number for each layer, its largest magnitude, on the device, and looks at all of them together once a step.
"""

import sys
import warnings
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.amp import GradScaler
from torch.nn.utils import parametrize

from torchcourse.lessons.troubleshooting.nan_verdict import (
    NOT_SEEN,
    Finding,
    StepRecord,
    Value,
    fetch,
    judge,
    values_of,
)
from torchcourse.lessons.troubleshooting.own_hooks import OwnHook
from torchcourse.lessons.troubleshooting.tensor_parts import tensors_in
from torchcourse.source_lines import hide

hide(__file__)


class NotFinite(FloatingPointError):
    """A value was nan or infinite. `finding` says where first."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(str(finding))
        self.finding = finding


class NanProbe:
    """Finds the first value of a step that is nan or infinite, and the layer that made it.

    For each layer the probe records the largest magnitude of its output and, in the backward pass, of the output's
    gradient. Nothing waits for the device until `check`, and no tensor is kept. It may stay on for a whole training
    run. Values of −inf are no fault where the next layer makes finite numbers of them, as a softmax does of a mask.
    What the batch brings is no fault either, if the layers make finite numbers of it.

    Args:
        model: its layers (modules without children or with weights of their own) are watched; activation checkpointing
            runs them twice, which does no harm. Inside `torch.compile` and TorchScript no layer can be watched: then
            the probe warns, and looks at weights, loss and gradients alone.

    `close()` takes the hooks away; `with NanProbe(model) as probe:` does it at the end.
    """

    def __init__(self, model: nn.Module) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"NanProbe watches a model, an nn.Module, and got {type(model).__name__}.")
        self.model, self.step = model, 0
        self.skipped: list[Finding] = []
        """Overflows that a GradScaler answers by skipping the step and lowering its scale: no faults."""
        self._record = StepRecord()
        self._before: StepRecord | None = None
        self._evaluation: tuple[int, int] | None = None  # where in the record the last pass began, if without a graph
        self._warned = False
        self._seen: tuple[Callable, int] = _NOTHING
        self._sizes: dict[int, tuple[Callable, int, list[torch.Tensor]]] = {}  # of the model's inputs
        self._handles: list[Any] = []
        if not isinstance(model, torch.jit.ScriptModule):
            self._handles.append(model.register_forward_pre_hook(OwnHook(self._on_start), with_kwargs=True))
        for name, module in model.named_modules():
            if _is_layer(module) and not isinstance(module, torch.jit.ScriptModule):
                label = f"`{name}` ({type(module).__name__})" if name else type(module).__name__
                if module is not model or next(module.children(), None) is None:
                    hook = OwnHook(self._on_input(name, label))
                    self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
                self._handles.append(module.register_forward_hook(OwnHook(self._on_output(name, label))))
            elif module is model and not isinstance(module, torch.jit.ScriptModule):
                self._handles.append(module.register_forward_hook(OwnHook(self._on_end)))

    def __enter__(self) -> "NanProbe":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def close(self) -> None:
        """Take the hooks away from the model."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def check(self, loss: torch.Tensor | float | None = None, scaler: GradScaler | None = None) -> None:
        """End a step, after `backward()` and before the optimizer's step. Raises NotFinite.

        Args:
            loss: of this step, not scaled.
            scaler: the GradScaler that scales it. Gradients that overflow are then noted in `skipped`, as long as the
                scale is above 1; a scaler that the calling code names is found without.
        """
        if (finding := self._end_step(loss, scaler)) is not None:
            raise NotFinite(finding)

    def look(self, loss: torch.Tensor | float | None = None, scaler: GradScaler | None = None) -> Finding | None:
        """End a step as `check` does, but return what was found instead of raising it."""
        return self._end_step(loss, scaler)

    def _end_step(self, loss: torch.Tensor | float | None, scaler: GradScaler | None) -> Finding | None:
        record, before = self._record, self._before
        self._record, self._before = StepRecord(record.number + 1), record
        self._seen, self._evaluation = _NOTHING, None
        self.step = self._record.number
        record.forward += values_of("", "the loss", "loss", loss if loss is None else torch.as_tensor(loss))
        learning = {name: p.grad for name, p in self.model.named_parameters() if p.requires_grad and p.grad is not None}
        record.gradients = _gradient_norms(learning)
        if loss is not None and not record.called:
            self._warn()
        fetch(record.values)  # the only wait for the device
        if all(value.finite for value in record.values):
            return None
        if record.spoiled:  # the norm is fast, but may overflow itself
            record.gradients = [value for name, g in learning.items() for value in values_of(name, "", "gradient", g)]
            fetch(record.gradients)
        finding = judge(record, before, self.model)
        scaler = scaler or (_scaler_of_the_caller() if finding is not None and finding.phase == "backward" else None)
        if finding is None or finding.phase != "backward" or scaler is None or not scaler.is_enabled():
            return finding
        return self._excuse(finding, scaler.get_scale())

    def _excuse(self, finding: Finding, scale: float) -> Finding | None:
        """Note an overflow that comes from the scale of the loss; return one that does not."""
        if scale > 1:
            said = f"The loss is scaled (now by {scale:,.0f}): the scaler skips this step and lowers the scale."
            self.skipped.append(_with_evidence(finding, said))
            return None
        said = f"{finding.evidence} The loss is scaled by {scale:g} alone, so the scale is not to blame."
        return _with_evidence(finding, said)

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(f"NanProbe looks at weights, loss and gradients alone. {NOT_SEEN}", stacklevel=4)

    def _on_start(self, _module: nn.Module, inputs: tuple, more: dict) -> None:
        if torch.compiler.is_compiling():
            return
        given, forward = self._record.given, self._record.forward
        if self._evaluation is not None:  # it is over, nobody has asked about it, and it is no part of a step
            del given[self._evaluation[0] :], forward[self._evaluation[1] :]
        self._evaluation = None if torch.is_grad_enabled() else (len(given), len(forward))
        self._sizes.clear()
        for tensor in tensors_in((inputs, more)):
            computed = tensor.requires_grad and not tensor.is_leaf
            found = values_of("", "an input of the model", "computed" if computed else "given", tensor)
            self._sizes[id(tensor)] = weakref.ref(tensor), _version(tensor), [value.size for value in found]
            given += found

    def _on_input(self, name: str, label: str) -> Any:
        def record(_module: nn.Module, inputs: tuple, more: dict) -> None:
            if torch.compiler.is_compiling():
                return
            for tensor in tensors_in((inputs, more)):
                last, version = self._seen
                if last() is not tensor or version != _version(tensor):  # else it is the output just recorded
                    self._record.forward += self._input_values(name, f"the input of {label}", tensor)

        return record

    def _input_values(self, name: str, what: str, tensor: torch.Tensor) -> list[Value]:
        """Measure a layer's input, unless it is an input of the model, which is measured already."""
        known, version, sizes = self._sizes.get(id(tensor), (*_NOTHING, []))
        if known() is tensor and version == _version(tensor):
            return [Value(name, what, "input", size) for size in sizes]
        return values_of(name, what, "input", tensor)

    def _on_output(self, name: str, label: str) -> Any:
        def record(_module: nn.Module, _inputs: tuple, output: Any) -> None:
            if torch.compiler.is_compiling():
                return
            self._record.called = True
            for tensor in tensors_in(output):
                self._record.forward += values_of(name, f"the output of {label}", "output", tensor)
                self._seen = (weakref.ref(tensor), _version(tensor))
                if tensor.requires_grad:
                    tensor.register_hook(lambda gradient: self._on_gradient(name, label, gradient))

        return record

    def _on_end(self, _module: nn.Module, _inputs: tuple, output: Any) -> None:
        """Measure what comes out of the model, unless it is the output of its last layer."""
        if torch.compiler.is_compiling():
            return
        for tensor in tensors_in(output):
            last, version = self._seen
            if last() is not tensor or version != _version(tensor):
                self._record.forward += values_of("", "the output of the model", "end", tensor)

    def _on_gradient(self, name: str, label: str, gradient: torch.Tensor) -> None:
        what = f"the gradient of the output of {label}"
        self._record.backward += values_of(name, what, "gradient", gradient)


_NOTHING = (lambda: None, 0)


def _is_layer(module: nn.Module) -> bool:
    """Whether a module computes something itself: it has no children, or weights of its own beside them."""
    inside = [child for child in module.children() if child is not getattr(module, "parametrizations", None)]
    own = next(module.parameters(recurse=False), None) is not None
    return not inside or own or parametrize.is_parametrized(module)


def _gradient_norms(gradients: dict[str, torch.Tensor]) -> list[Value]:
    """The norms of the dense gradients, all at once, which is fast; of others the largest magnitude."""
    dense = {name: gradient for name, gradient in gradients.items() if _is_dense(gradient)}
    norms = torch._foreach_norm(list(dense.values())) if dense else []
    values = [Value(name, "", "gradient", norm) for name, norm in zip(dense, norms, strict=True)]
    others = [name for name in gradients if name not in dense]
    return values + [value for name in others for value in values_of(name, "", "gradient", gradients[name])]


def _is_dense(gradient: torch.Tensor) -> bool:
    plain = type(gradient) is torch.Tensor and gradient.layout == torch.strided and not gradient.is_nested
    return plain and gradient.numel() > 0 and gradient.device.type != "meta"


def _scaler_of_the_caller() -> GradScaler | None:
    """Return the GradScaler that the code which called the probe names, if it is in use.

    Only what this code itself names counts: in a notebook, scalers of earlier cells lie about.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        names = {*frame.f_code.co_names, *frame.f_code.co_varnames, *frame.f_code.co_freevars}
        owner = getattr(frame.f_locals.get("self"), "__dict__", {})
        for space in (frame.f_locals, frame.f_globals, owner):
            for name in names.intersection(space):
                found = space[name]
                if isinstance(found, GradScaler) and found.is_enabled() and found._scale is not None:
                    return found
        frame = frame.f_back
    return None


def _with_evidence(finding: Finding, evidence: str) -> Finding:
    return Finding(finding.step, finding.phase, finding.layer, finding.what, finding.kind, evidence)


def _version(tensor: torch.Tensor) -> int:
    """How often the tensor has been changed in place."""
    return 0 if tensor.is_inference() else tensor._version
