"""Gradient clipping (기울기 자르기) that also knows sparse gradients, which PyTorch's own refuses."""

from collections.abc import Iterable

import torch
from torch import nn


def clip_gradients(parameters: Iterable[torch.Tensor], max_norm: float) -> torch.Tensor:
    """Scale all gradients down, if their norm together is above `max_norm`; return the norm that they had."""
    parameters = list(parameters)
    if not any(parameter.grad is not None and parameter.grad.is_sparse for parameter in parameters):
        return nn.utils.clip_grad_norm_(parameters, max_norm)
    gradients = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()  # rows that stand in it twice are added up
        gradients.append(parameter.grad)
    values = [gradient._values() if gradient.is_sparse else gradient for gradient in gradients]
    norm = nn.utils.get_total_norm(values)
    share = (max_norm / (norm + 1e-6)).clamp(max=1.0)  # as clip_grad_norm_ does
    for gradient in gradients:
        gradient.mul_(share.to(gradient.device))
    return norm
