"""What happens to gradients after the backward passes: divided once, clipped, and followed by the optimizer."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from torchcourse.ranks import who
from torchcourse.training.losses import Count
from torchcourse.training.schedules import move_on


def divide_gradients(
    optimizer: torch.optim.Optimizer, count: Count, unit: int, device: torch.device, asked: bool
) -> torch.Tensor | None:
    """Turn gradients of sums over `unit` into those of the mean over everything that counts, of all ranks together.

    Every rank has to call it, after the ranks have averaged their gradients.

    Args:
        optimizer: of whose parameters.
        count: what this rank's sums are made of.
        unit: a power of two, which changes no digit; it keeps the gradients from growing too large on the way.
        device: of the gradients.
        asked: whether this rank was asked to stop, which the ranks tell each other by the way.

    Returns:
        How many ranks were asked; None in one process.
    """
    ranks_asked = None
    if who.world_size() > 1:
        sums = torch.stack([torch.as_tensor(value, dtype=torch.float64, device=device) for value in (count, asked)])
        dist.all_reduce(sums)
        count, ranks_asked = sums[0] / who.world_size(), sums[1]
    if isinstance(count, torch.Tensor) and count.device.type == "cpu":
        count = count.item()
    # Where nothing counts all gradients are 0, and stay so.
    share = unit / (count.where(count != 0, 1) if isinstance(count, torch.Tensor) else count or 1)
    if isinstance(share, float) and share == 1.0:
        return ranks_asked
    for group in optimizer.param_groups:
        gradients = [parameter.grad for parameter in group["params"] if parameter.grad is not None]
        dense = [gradient for gradient in gradients if not gradient.is_sparse]
        if dense:
            torch._foreach_mul_(dense, share if isinstance(share, float) else share.to(dense[0].dtype))
        for gradient in gradients:
            if gradient.is_sparse:
                gradient.mul_(share)
    return ranks_asked


def clip_gradients(parameters: Iterable[torch.Tensor], max_norm: float) -> torch.Tensor:
    """Scale all gradients down, if their norm together is above `max_norm`; return the norm that they had.

    Sparse gradients, which PyTorch's own function refuses, are scaled too.
    """
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


def move(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, schedule: LRScheduler | None) -> None:
    """Let the optimizer take its step, and after it the schedule, if that goes by steps.

    Raises:
        ValueError: if the schedule knows fewer groups than the optimizer has by now.
    """
    if scaler.is_enabled():
        scale = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        # A step whose gradients overflowed was left out and the scale lowered: then the schedule waits too.
        if scaler.get_scale() < scale:
            return
    else:
        optimizer.step()
    if schedule is not None:
        move_on(schedule)
