"""What goes into a call of a model and comes out of it, and what can be read of that."""

from collections.abc import Iterator
from typing import Any, TypeGuard

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves

from torchcourse.lessons.troubleshooting.torch_calls import readable
from torchcourse.source_lines import hide

hide(__file__)


def tensors_of(output: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in what a model has returned: nested lists and dicts, and objects with tensors in them."""
    for leaf in tree_leaves(output):
        if isinstance(leaf, torch.Tensor):
            yield leaf
        elif hasattr(leaf, "__dict__"):
            yield from (part for part in vars(leaf).values() if isinstance(part, torch.Tensor))


def first_tensor(args: tuple, kwargs: dict) -> torch.Tensor | None:
    """Return the first tensor of some dimensions among the arguments."""
    found = [item for item in (*args, *kwargs.values()) if isinstance(item, torch.Tensor)]
    return next((item for item in found if not item.is_nested and item.dim()), None)


def has_numbers(tensor: torch.Tensor) -> bool:
    """Whether a tensor is dense, and its numbers are real and there."""
    if is_lazy(tensor) or tensor.layout != torch.strided or tensor.is_nested:
        return False
    return not tensor.is_complex() and not tensor.is_quantized and readable(tensor)


def is_plain(value: Any) -> TypeGuard[torch.Tensor]:
    """Whether this is a tensor that has numbers and is of torch's own class, which computes as one expects."""
    return type(value) in (torch.Tensor, nn.Parameter) and has_numbers(value)


def has_weights(module: nn.Module) -> bool:
    """Whether a layer has weights of its own that its input is multiplied with or looked up in."""
    if "Norm" in type(module).__name__ or isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return isinstance(module, nn.Embedding | nn.EmbeddingBag)
    return any(parameter.dim() > 1 for parameter in module.parameters(recurse=False))


def random_state(model: nn.Module) -> int:
    """Return a number for the random numbers that come next on the model's device."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    state = torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
    return hash(state.numpy().tobytes())


def can_be_kept(tensor: torch.Tensor) -> bool:
    """Whether a copy of a tensor can be compared with others: it has numbers, and does not consist of several parts."""
    return has_numbers(tensor) and not is_traceable_wrapper_subclass(tensor)
