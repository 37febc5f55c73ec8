"""The bytes that autograd keeps for the backward pass of a layer: counted, to check the formula of activations."""

import torch
from torch import nn


def kept_bytes(layer: nn.Module, x: torch.Tensor) -> int:
    """Return the bytes that `layer(x)` keeps for its backward pass, each storage once, without the parameters."""
    kept: dict[int, torch.UntypedStorage] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        layer(x)
    own = {parameter.untyped_storage().data_ptr() for parameter in layer.parameters()}
    return sum(storage.nbytes() for place, storage in kept.items() if place not in own)
