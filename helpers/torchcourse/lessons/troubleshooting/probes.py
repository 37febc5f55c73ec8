"""Numbers that are none, traced to the layer and the step that made them.

    probe = NanProbe(model)
    for inputs, targets in loader:
        optimizer.zero_grad()
        loss = loss_fn(model(inputs), targets)
        loss.backward()
        probe.check(loss)  # raises NotFinite with layer, step and evidence
        optimizer.step()

A NaN is never alone: one step after it was made, every weight is NaN. So what counts is the *first* place. The probe
keeps one number for each layer, its largest magnitude, on the device, and looks at all of them together once a step.
"""

import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from torchcourse.lessons.troubleshooting.tensor_parts import magnitudes, tensors_in
from torchcourse.source_lines import hide

hide(__file__)


@dataclass(frozen=True)
class Finding:
    """The first place that was not finite.

    Attributes:
        step: counted from 0, one for each `check`.
        phase: "data", "weights", "forward", "loss" or "backward".
        layer: the module's name, or "" for the whole model, the data or the loss.
        what: "input", "output", "weight `name`", "gradient of the output" …
        kind: "nan" or "inf".
        evidence: the sentence with the magnitudes before it.
    """

    step: int
    phase: str
    layer: str
    what: str
    kind: str
    evidence: str

    def __str__(self) -> str:
        return f"Step {self.step}, {self.phase}: {self.what} is the first to be {self.kind}. {self.evidence}"


class NotFinite(FloatingPointError):
    """A value was nan or infinite. `finding` says where first."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(str(finding))
        self.finding = finding


@dataclass
class _Value:
    """One recorded magnitude: of an input, an output, or a gradient of an output."""

    layer: str
    what: str
    kind: str
    size: torch.Tensor


class NanProbe:
    """Finds the first value of a step that is nan or infinite, and the layer that made it.

    For each layer the probe records the largest magnitude of its output and, in the backward pass, of the output's
    gradient. Nothing waits for the device until `check`, and no tensor is kept. It may stay on for a whole training.
    Values of −inf are no fault where the next layer makes finite numbers of them, as a softmax does of a mask.

    Args:
        model: its layers (modules without children) are watched; activation checkpointing runs them twice, which does
            no harm.

    `close()` takes the hooks away; `with NanProbe(model) as probe:` does it at the end.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model, self.step = model, 0
        self._forward: list[_Value] = []
        self._backward: list[_Value] = []
        self._seen: tuple[Callable, int] = _NOTHING
        self._handles = []
        for name, module in model.named_modules():
            if next(module.children(), None) is None:
                label = f"`{name}` ({type(module).__name__})" if name else type(module).__name__
                self._handles.append(module.register_forward_pre_hook(self._on_input(name, label)))
                self._handles.append(module.register_forward_hook(self._on_output(name, label)))

    def __enter__(self) -> "NanProbe":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def close(self) -> None:
        """Take the hooks away from the model."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def check(self, loss: torch.Tensor | None = None) -> None:
        """End a step, after `backward()` and before the optimizer's step. Raises NotFinite."""
        if (finding := self.look(loss)) is not None:
            raise NotFinite(finding)

    def look(self, loss: torch.Tensor | None = None) -> Finding | None:
        """End a step as `check` does, but return what was found in place of raising it."""
        forward, backward = self._forward, self._backward
        self._forward, self._backward, self._seen = [], [], _NOTHING
        step, self.step = self.step, self.step + 1
        if loss is not None:
            forward = [*forward, *_values("", "the loss", "loss", loss)]
        parameters = dict(self.model.named_parameters())
        gradients = _gradient_norms(parameters)
        found = _fetch([value.size for value in forward + backward + gradients])  # the only wait for the device
        if all(map(math.isfinite, found)):
            return None
        norms = slice(len(forward + backward), None)
        if not all(map(math.isfinite, found[norms])):  # the norm is fast, but may overflow itself
            gradients = [value for name, p in parameters.items() for value in _values(name, "", "gradient", p.grad)]
            found[norms] = _fetch([value.size for value in gradients])
        return self._judge(step, forward, backward, gradients, parameters, found)

    def _on_input(self, name: str, label: str) -> Any:
        def record(_module: nn.Module, inputs: tuple) -> None:
            for tensor in tensors_in(inputs):
                last, version = self._seen
                if last() is not tensor or version != _version(tensor):  # else it is the output just recorded
                    self._forward += _values(name, f"the input of {label}", "input", tensor)

        return record

    def _on_output(self, name: str, label: str) -> Any:
        def record(_module: nn.Module, _inputs: tuple, output: Any) -> None:
            for tensor in tensors_in(output):
                self._forward += _values(name, f"the output of {label}", "output", tensor)
                self._seen = (weakref.ref(tensor), _version(tensor))
                if tensor.requires_grad:
                    tensor.register_hook(lambda gradient: self._on_gradient(name, label, gradient))

        return record

    def _on_gradient(self, name: str, label: str, gradient: torch.Tensor) -> None:
        self._backward += _values(name, f"the gradient of the output of {label}", "gradient", gradient)

    def _judge(
        self,
        step: int,
        forward: list[_Value],
        backward: list[_Value],
        gradients: list[_Value],
        parameters: dict[str, nn.Parameter],
        found: list[float],
    ) -> Finding | None:
        """Name the first culprit: in the order of the step, and weights before the outputs that they spoil."""
        sizes = iter(found)
        values = [(value, next(sizes)) for value in forward]
        masks = _masks([size for _, size in values])
        before: list[tuple[_Value, float]] = []
        for (value, size), mask in zip(values, masks, strict=True):
            if mask:
                continue
            if not math.isfinite(size):
                return self._forward_finding(step, value, size, before, parameters)
            before.append((value, size))
        before = []
        for value, size in ((value, next(sizes)) for value in backward):
            if not math.isfinite(size):
                return Finding(step, "backward", value.layer, value.what, _kind(size), _backward_evidence(before))
            before.append((value, size))
        spoiled = [(value.layer, size) for value, size in zip(gradients, sizes, strict=True) if not math.isfinite(size)]
        if not spoiled:
            return None
        name, size = spoiled[0]
        evidence = "All outputs and their gradients are finite, so it was made in this layer's own backward pass."
        return Finding(step, "backward", name.rpartition(".")[0], f"the gradient of `{name}`", _kind(size), evidence)

    def _forward_finding(
        self,
        step: int,
        value: _Value,
        size: float,
        before: list[tuple[_Value, float]],
        parameters: dict[str, nn.Parameter],
    ) -> Finding:
        kind = _kind(size)
        if value.kind == "loss":
            last = f"The model's last output is finite (at most {before[-1][1]:.3g}). " if before else ""
            return Finding(step, "loss", "", "the loss", kind, f"{last}So the loss function made it: log(0), x/0, exp?")
        if value.kind == "input" and not before:
            return Finding(
                step, "data", value.layer, value.what, kind, "It is the first thing that the model was given."
            )
        if value.kind == "input":
            evidence = f"The layers before put out finite values (the last: {_said(before[-1])}). {_BETWEEN}"
            return Finding(step, "forward", value.layer, value.what, kind, evidence)
        own = {name: p for name, p in parameters.items() if name.rpartition(".")[0] == value.layer}
        for name, parameter in own.items():
            if not math.isfinite(weight := _worst(parameter)):
                evidence = (
                    f"So the layer's output is {kind} too. An earlier step, or whoever wrote the weights, made it."
                )
                return Finding(step, "weights", value.layer, f"the weight `{name}`", _kind(weight), evidence)
        weights = max((_worst(parameter) for parameter in own.values()), default=None)
        said = f"Before it: {_said(before[-1])}. " if before else ""
        said += f"Its weights are finite (at most {weights:.3g}). " if weights is not None else "It has no weights. "
        if value.size.dtype == torch.float16:
            said += f"It computes in float16, which ends at {torch.finfo(torch.float16).max:.0f}. "
        return Finding(step, "forward", value.layer, value.what, kind, said + "So this layer made it.")


_NOTHING = (lambda: None, 0)
_BETWEEN = "So it was made between the layers, in a line of forward() that is no module."


def _masks(sizes: list[float]) -> list[bool]:
    """Say of each forward value whether it is a mask: −inf, of which what comes next makes finite numbers."""
    masks = [False] * len(sizes)
    for place in reversed(range(len(sizes) - 1)):
        masks[place] = sizes[place] == -math.inf and (math.isfinite(sizes[place + 1]) or masks[place + 1])
    return masks


def _said(pair: tuple[_Value, float]) -> str:
    return f"{pair[0].what}, at most {pair[1]:.3g}"


def _backward_evidence(before: list[tuple[_Value, float]]) -> str:
    if not before:
        return (
            "The forward pass was finite. It came from the loss function's backward pass, or a scaled loss overflowed."
        )
    return f"The forward pass was finite. The gradient before it: {_said(before[-1])}. It was made on the way between."


def _kind(size: float) -> str:
    return "nan" if math.isnan(size) else "inf"


def _values(layer: str, what: str, kind: str, tensor: torch.Tensor | None) -> list[_Value]:
    return [] if tensor is None else [_Value(layer, what, kind, size) for size in magnitudes(tensor)]


def _gradient_norms(parameters: dict[str, nn.Parameter]) -> list[_Value]:
    """The norms of the dense gradients, all at once, which is fast; of others the largest magnitude."""
    gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    dense = {name: gradient for name, gradient in gradients.items() if _is_dense(gradient)}
    norms = torch._foreach_norm(list(dense.values())) if dense else []
    values = [_Value(name, "", "gradient", norm) for name, norm in zip(dense, norms, strict=True)]
    return values + [
        value for name, grad in gradients.items() if name not in dense for value in _values(name, "", "gradient", grad)
    ]


def _is_dense(gradient: torch.Tensor) -> bool:
    plain = type(gradient) is torch.Tensor and gradient.layout == torch.strided and not gradient.is_nested
    return plain and gradient.numel() > 0 and gradient.device.type != "meta"


def _fetch(sizes: list[torch.Tensor]) -> list[float]:
    """The numbers, by one transfer; in the widest format that the device has."""
    if not sizes:
        return []
    device = sizes[0].device
    dtype = torch.float32 if device.type == "mps" else torch.float64
    return torch.stack([size.detach().to(device, dtype) for size in sizes]).tolist()


def _worst(tensor: torch.Tensor) -> float:
    """The largest magnitude; of several parts the first that is not finite."""
    found = _fetch(magnitudes(tensor))
    return next((size for size in found if not math.isfinite(size)), max(found, default=0.0))


def _version(tensor: torch.Tensor) -> int:
    """How often the tensor has been changed in place."""
    return 0 if tensor.is_inference() else tensor._version
