"""Who made the first value that is not finite: a judgment on what NanProbe has recorded of a step."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import nn

from torchcourse.lessons.troubleshooting.tensor_parts import magnitudes


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


@dataclass
class Value:
    """One recorded magnitude: of an input, an output, the loss, or a gradient."""

    layer: str
    what: str
    kind: str
    size: torch.Tensor
    number: float = 0.0
    """The size, once it has come from the device."""

    @property
    def finite(self) -> bool:
        return math.isfinite(self.number)

    @property
    def fault(self) -> str:
        return "nan" if math.isnan(self.number) else "inf"

    def __str__(self) -> str:
        return f"{self.what}, at most {self.number:.3g}"


@dataclass
class StepRecord:
    """What was recorded of a step, in order."""

    number: int = 0
    given: list[Value] = field(default_factory=list)
    """Inputs of the model."""
    forward: list[Value] = field(default_factory=list)
    """Inputs and outputs of layers, and the loss."""
    backward: list[Value] = field(default_factory=list)
    """Gradients of outputs."""
    gradients: list[Value] = field(default_factory=list)
    """Gradients of parameters; the layer is the parameter's name."""
    called: bool = False
    """Whether any hook of the probe ran."""

    @property
    def values(self) -> list[Value]:
        return [*self.given, *self.forward, *self.backward, *self.gradients]

    @property
    def spoiled(self) -> set[str]:
        return {value.layer for value in self.gradients if not value.finite}


def values_of(layer: str, what: str, kind: str, tensor: torch.Tensor | None) -> list[Value]:
    """Return a value for each dense part of a tensor that has numbers to look at."""
    return [] if tensor is None else [Value(layer, what, kind, size) for size in magnitudes(tensor)]


def fetch(values: list[Value]) -> None:
    """Bring the numbers from the device by one transfer, in the widest format that it has."""
    if not values:
        return
    sizes = [value.size for value in values]
    device, kinds = sizes[0].device, {(size.device, size.dtype) for size in sizes}
    widest = torch.float32 if device.type == "mps" else torch.float64
    if len(kinds) > 1:
        sizes = [size.to(device, widest) for size in sizes]
    for value, number in zip(values, torch.stack(sizes).detach().to(widest).tolist(), strict=True):
        value.number = number


def judge(record: StepRecord, before: StepRecord | None, model: nn.Module) -> Finding | None:
    """Name the first culprit: in the order of the step, and weights before the outputs that they spoil.

    Args:
        record: the step, with its numbers.
        before: the step before, if there was one.
        model: as it is now.
    """
    healthy: list[Value] = []
    for value, mask in zip(record.forward, _masks(record.forward), strict=True):
        if mask:
            continue
        if not value.finite:
            return _Forward(record, before, model, value, healthy).finding()
        healthy.append(value)
    return _backward_finding(record, before)


def _masks(values: list[Value]) -> list[bool]:
    """Say of each forward value whether it is a mask: −inf, of which what comes next makes finite numbers.

    A last output of −inf is one too, such as scores of actions that are not allowed: the loss has the last word. So it
    has on all that comes out of the model after its last layer.
    """
    masks = [False] * len(values)
    fine = any(value.kind == "loss" for value in values) and all(v.finite for v in values if v.kind == "loss")
    for place in reversed(range(len(values))):
        value = values[place]
        last = place == len(values) - 1
        accepted = value.kind in ("output", "end") if last else values[place + 1].finite or masks[place + 1]
        masks[place] = (value.number == -math.inf and accepted) or (value.kind == "end" and not value.finite and fine)
    return masks


@dataclass(frozen=True)
class _Forward:
    """The first forward value that is not finite, and what is known beside it."""

    record: StepRecord
    before: StepRecord | None
    model: nn.Module
    value: Value
    healthy: list[Value]

    def finding(self) -> Finding:
        value = self.value
        if value.kind == "output":
            return self._of_weights(value.layer) or self._say("forward", self._output_evidence())
        # Made in no layer that the probe has seen: handed over, by weights of an unseen layer, or by a line between.
        given = next((item for item in self.record.given if not item.finite and item.number != -math.inf), None)
        if given is not None and given.kind == "computed" and value.kind in ("input", "end"):
            said = f"{given.what} is {given.fault}, and a line outside the model has computed it: it has a graph."
            return self._say("forward", said[0].upper() + said[1:])
        if given is not None and (value.kind in ("input", "end") or not self.record.called):
            return self._say("data", f"It came with the batch: {given.what} is {given.fault}.")
        ran = {item.layer for item in self.record.forward if item.kind != "loss"}
        for name, module in self.model.named_modules():
            around = next(module.children(), None) is not None  # its own lines run between its layers
            masked = name == value.layer and value.number == -math.inf  # a mask, and a layer that spoils all the same
            if (around or masked or name not in ran) and (finding := self._of_weights(name)):
                return finding
        if value.kind == "loss":
            also = f" Also, {given.what} is {given.fault}: does it reach the loss?" if given is not None else ""
            return self._say("loss", self._loss_evidence() + also)
        if not self.healthy and not self.record.given:
            return self._say("data", "It is the first thing that the model was given.")
        where = f"The layers before put out finite values (the last: {self.healthy[-1]})" if self.healthy else ""
        where = where or f"The model was given finite values (at most {self.record.given[0].number:.3g})"
        place = "after the last layer" if value.kind == "end" else "between the layers"
        evidence = f"{where}. It was made {place}, in a line of forward() that is not a module."
        return self._say("forward", evidence)

    def _say(self, phase: str, evidence: str) -> Finding:
        return Finding(self.record.number, phase, self.value.layer, self.value.what, self.value.fault, evidence)

    def _of_weights(self, layer: str) -> Finding | None:
        """Blame a weight or a buffer of this layer's own, if one is not finite (masks of −inf are)."""
        for what, name, tensor in _own_tensors(self.model, layer):
            number = worst(tensor)
            if math.isfinite(number) or (what == "buffer" and number == -math.inf):
                continue
            if self.before is None:
                since = "It was so before the first step that the probe saw."
            elif not tensor.requires_grad and what == "weight":
                since = "It is frozen, so no optimizer's step has made it: somebody has written it."
            elif what == "buffer":
                since = "An earlier batch has spoiled what the layer keeps, or somebody has written it."
            else:
                since = "The step before was checked and fine, so the optimizer's step made it, or a line that writes."
                since = since if not self.before.spoiled else "The gradients of an earlier step were not finite."
            fault = "nan" if math.isnan(number) else "inf"
            evidence = f"So what the layer puts out is not finite either. {since}"
            return Finding(self.record.number, "weights", layer, f"the {what} `{name}`", fault, evidence)
        return None

    def _output_evidence(self) -> str:
        weights = [worst(tensor) for what, _, tensor in _own_tensors(self.model, self.value.layer) if what == "weight"]
        said = f"Before it: {self.healthy[-1]}. " if self.healthy else ""
        said += f"Its weights are finite (at most {max(weights):.3g}). " if weights else "It has no weights. "
        if self.value.size.dtype == torch.float16:
            said += f"It computes in float16, which ends at {torch.finfo(torch.float16).max:.0f}. "
        return said + "So this layer made it."

    def _loss_evidence(self) -> str:
        if not self.record.called:
            return NOT_SEEN
        if not self.healthy and all(value.kind == "loss" for value in self.record.forward):
            return "Layers ran, but their numbers could not be read (inside vmap or jvp), so it cannot be told where."
        last = f"The model's last output is finite (at most {self.healthy[-1].number:.3g}). " if self.healthy else ""
        return f"{last}So the loss function made it (log(0), x/0, exp?), or its targets are not finite."


NOT_SEEN = (
    "The probe saw no layer in this step, so it cannot tell where. Is its model still the one that is trained, and the "
    "probe not closed? torch.compile and TorchScript run a model past its hooks: check a step with "
    "torch.compiler.set_stance('force_eager'), or without the script."
)


def _backward_finding(record: StepRecord, before: StepRecord | None) -> Finding | None:
    if record.gradients and not record.spoiled:
        return None  # an overflow on the way that reaches no weight, such as one that ReLU puts to 0
    for place, value in enumerate(record.backward):
        if not value.finite:
            so_far = f"The gradient before it: {record.backward[place - 1]}. It was made on the way between."
            first = "It came from the loss function's backward pass, or a scaled loss overflowed: with a GradScaler, "
            first += "call check(loss, scaler=scaler)."
            evidence = f"The forward pass was finite. {so_far if place else first}"
            return Finding(record.number, "backward", value.layer, value.what, value.fault, evidence)
    first_bad = next((value for value in record.gradients if not value.finite), None)
    if first_bad is None:
        return None
    name = first_bad.layer
    if before is not None and name in before.spoiled and record.backward:
        evidence = "It was so after the step before, and this step's own gradients are finite: zero_grad() is missing?"
    elif not record.called:
        evidence = NOT_SEEN
    elif len(record.gradients) > 1 and len(record.spoiled) == len(record.gradients):
        evidence = "All gradients of outputs are finite, and no gradient of a weight is: clipping spreads one to all. "
        evidence += "Check before clip_grad_norm_()."
    else:
        evidence = "All outputs and their gradients are finite, so it was made in this layer's own backward pass."
    layer = name.rpartition(".")[0]
    return Finding(record.number, "backward", layer, f"the gradient of `{name}`", first_bad.fault, evidence)


def _own_tensors(model: nn.Module, layer: str) -> Iterator[tuple[str, str, torch.Tensor]]:
    """Yield the weights and buffers of one module, tied ones among them: what each is, its whole name, and itself."""
    module = dict(model.named_modules())[layer]  # a ScriptModule has no get_submodule
    prefix = f"{layer}." if layer else ""
    for name, parameter in module.named_parameters(recurse=False):
        yield "weight", prefix + name, parameter
    for name, buffer in module.named_buffers(recurse=False):
        yield "buffer", prefix + name, buffer


def worst(tensor: torch.Tensor) -> float:
    """Return the largest magnitude; of several parts the first that is not finite."""
    values = values_of("", "", "", tensor)
    fetch(values)
    numbers = [value.number for value in values]
    return next((number for number in numbers if not math.isfinite(number)), max(numbers, default=0.0))
