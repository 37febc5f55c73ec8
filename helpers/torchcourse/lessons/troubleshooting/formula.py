"""The bytes of a training step by formula, before anything runs.

Parameters, gradients and the optimizer's numbers follow from the number of parameters. Activations (활성값) are what
the layers keep of the forward pass for the backward pass: for each layer its input, its output, or something smaller.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class StepBytes:
    """Bytes of a training step, by kind."""

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    working: int
    """What the optimizer needs for a moment, while it changes the largest parameter."""

    @property
    def peak(self) -> int:
        """The most at one time: at the end of the forward pass, or in the optimizer's step, whichever needs more.

        Too low by the gradients of activations, which come on top a layer at a time: little in a deep network, much in
        a shallow one.
        """
        return self.parameters + self.optimizer + max(self.activations, self.gradients + self.working)


def step_bytes(model: nn.Module, input_shape: Sequence[int]) -> StepBytes:
    """Return the bytes of a training step with Adam of a model that puts out logits for a cross-entropy loss.

    The batch itself, and the optimizer's one counter for each tensor, are left out.

    Args:
        model: made of the layers in `kept_by_layers`; its parameters give the bytes a number.
        input_shape: the shape of a batch, such as (64, 1, 28, 28).

    Raises:
        ValueError: for a layer without a rule.
    """
    trained = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    return StepBytes(
        parameters=sum(parameter.nbytes for parameter in model.parameters()),
        gradients=trained,
        optimizer=2 * trained,
        activations=sum(size for _, size in kept_by_layers(model, input_shape)),
        # The root of the second average, and what it divides by (with foreach=False; else that of all parameters).
        working=2 * max(parameter.nbytes for parameter in model.parameters()),
    )


def kept_by_layers(model: nn.Module, input_shape: Sequence[int]) -> list[tuple[str, int]]:
    """Return the bytes that each layer keeps for the backward pass, by name, and last those of a cross-entropy loss.

    What two layers keep (the output of a ReLU is the input of the next layer) counts once, for the first of them.
    Functions that are no layers, such as `F.gelu`, are not seen.

    Raises:
        ValueError: for a layer without a rule.
    """
    shadow = copy.deepcopy(model).to("meta")  # shapes without memory
    dtype = next((parameter.dtype for parameter in shadow.parameters()), torch.float32)
    batch = torch.empty(input_shape, dtype=dtype, device="meta")
    counted = {batch.untyped_storage()._cdata}
    kept, alive = [], [batch]  # alive: so that no storage's address is used twice

    def look(name: str, layer: nn.Module, given: torch.Tensor, output: torch.Tensor) -> None:
        what, more = _rule(name, layer, output)
        size = more
        for tensor in {"input": [given], "output": [output], "": []}[what]:
            alive.append(tensor)
            if tensor.untyped_storage()._cdata not in counted:
                counted.add(tensor.untyped_storage()._cdata)
                size += tensor.untyped_storage().nbytes()
        kept.append((name, size))

    for name, layer in shadow.named_modules():
        if not any(True for _ in layer.children()) and not isinstance(layer, nn.Sequential):
            layer.register_forward_hook(lambda layer, inputs, output, name=name: look(name, layer, inputs[0], output))
    logits = shadow.train()(batch)
    kept.append(("loss", logits.nbytes))  # cross-entropy keeps the logarithms of its probabilities
    return kept


def _rule(name: str, layer: nn.Module, output: torch.Tensor) -> tuple[str, int]:
    """Whether a layer keeps its "input", its "output" or neither, and the bytes that it keeps besides."""
    match layer:
        case nn.Linear() | nn.Conv1d() | nn.Conv2d() | nn.GELU() | nn.SiLU() | nn.Embedding():
            return "input", 0
        case nn.ReLU() | nn.Sigmoid() | nn.Tanh():
            return "output", 0
        case nn.BatchNorm1d() | nn.BatchNorm2d():
            return "input", 2 * output.element_size() * layer.num_features  # mean and 1/deviation of each channel
        case nn.LayerNorm():
            rows = output.numel() // math.prod(layer.normalized_shape)
            return "input", 2 * output.element_size() * rows
        case nn.MaxPool2d():
            return "input", 8 * output.numel()  # where each maximum was, as an int64
        case nn.Dropout():
            return "", output.nbytes  # what each number is multiplied by (on a GPU a byte each: whether it stays)
        case nn.AvgPool2d():
            return "input", 0
        case nn.AdaptiveAvgPool2d(output_size=1) | nn.Flatten() | nn.Identity():
            return "", 0
    raise ValueError(
        f"There is no rule for what the layer {name!r} ({type(layer).__name__}) keeps. Measure it instead."
    )
