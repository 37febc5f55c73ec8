"""Are weights and the optimizer's state still numbers? Looked at before anything is saved."""

import torch
from torch import nn
from torch.nn.parameter import is_lazy


@torch.no_grad()
def not_finite(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Return the names of parameters and buffers that hold nan or inf, and of the optimizer's state for parameters."""
    named = {
        name: tensor for name, tensor in (*model.named_parameters(), *model.named_buffers()) if not is_lazy(tensor)
    }
    for name, parameter in model.named_parameters():
        for key, value in (optimizer.state.get(parameter) or {}).items():  # None: a different rank has it
            if isinstance(value, torch.Tensor):
                named[f"the optimizer's {key} of {name}"] = value
    bad = []
    for device in {tensor.device for tensor in named.values()}:
        good = {}
        for name, tensor in named.items():
            values = tensor._values() if tensor.layout == torch.sparse_coo else tensor
            if tensor.device == device and values.dtype in _DTYPES and values.numel():
                # The largest size: one pass, without a copy, and nan wins.
                good[name] = torch.linalg.vector_norm(values, ord=float("inf")).isfinite()
        answers = torch.stack(list(good.values())).tolist() if good else []  # waits for the device once
        bad += [name for name, answer in zip(good, answers, strict=True) if not answer]
    return bad


def shapes_of_buffers(model: nn.Module) -> dict[str, torch.Size]:
    return {name: buffer.shape for name, buffer in model.named_buffers() if not is_lazy(buffer)}


def masks_made_since(model: nn.Module, shapes: dict[str, torch.Size]) -> set[str]:
    """Return the buffers that the model has made on the way, such as a mask of -inf: these hold inf by intention.

    Args:
        model: after some steps.
        shapes: of its buffers before these.
    """
    new = {name: buffer for name, buffer in model.named_buffers() if not is_lazy(buffer)}
    return {name for name, buffer in new.items() if shapes.get(name) != buffer.shape and not buffer.isnan().any()}


_DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128}
