"""What tensor parallelism exchanges, as four functions that autograd can go back through.

    name      forward                     backward
    enter     nothing                     all-reduce the gradient         (f in the Megatron paper)
    leave     all-reduce                  nothing                         (g in the Megatron paper)
    cut       keep this rank's part       all-gather the gradient
    join      all-gather                  keep this rank's part

They come in pairs: what one does on the way forward, its partner does on the way back. All of them take the loss to be
*the same on each rank*, computed by each for itself. That is what tells them from
`torch.distributed.nn.functional.all_reduce`, whose backward pass sums over ranks that have losses of their own.

Source: Shoeybi et al. 2019, "Megatron-LM", section 3, https://arxiv.org/abs/1909.08053
"""

from typing import Any

import torch
import torch.distributed as dist

from torchcourse.ranks.who import rank_and_world_size

Group = dist.ProcessGroup | None
"""The ranks that share a layer; None for all ranks."""


def enter(x: torch.Tensor, group: Group = None) -> torch.Tensor:
    """Begin a split region: `x` (any shape, the same on each rank) goes on unchanged.

    Each rank's part of the layer gives a part of the gradient of `x`; on the way back they are summed.

    Raises:
        RuntimeError: outside a rank.
    """
    rank_and_world_size()
    return _Enter.apply(x, group)


def leave(part: torch.Tensor, group: Group = None) -> torch.Tensor:
    """End a split region: return the sum of the ranks' `part` (the same shape on each), the same on each rank.

    Raises:
        RuntimeError: outside a rank.
    """
    rank_and_world_size()
    return _Leave.apply(part, group)


def cut(x: torch.Tensor, group: Group = None) -> torch.Tensor:
    """Return this rank's part of the last dimension of `x` (the same on each rank): [..., D] → [..., D/N].

    Raises:
        RuntimeError: outside a rank.
        ValueError: if the ranks cannot share the last dimension equally.
    """
    rank_and_world_size()
    return _Cut.apply(x, group)


def join(part: torch.Tensor, group: Group = None) -> torch.Tensor:
    """Return the ranks' parts side by side, the same on each rank: [..., D/N] → [..., D].

    Raises:
        RuntimeError: outside a rank.
    """
    rank_and_world_size()
    return _Join.apply(part, group)


def share(count: int, group: Group = None, what: str = "features") -> int:
    """Return how many of `count` things one rank of the group holds.

    Raises:
        ValueError: if they cannot be shared equally.
    """
    ranks = dist.get_world_size(group)
    if count % ranks:
        raise ValueError(
            f"{ranks} ranks cannot share {count} {what} equally. Take a number of ranks that divides them."
        )
    return count // ranks


def gather(part: torch.Tensor, group: Group = None) -> list[torch.Tensor]:
    """Return the `part` (the same shape on each) of every rank of the group, in order; autograd does not see it."""
    parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, part.contiguous(), group=group)
    return parts


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: Group) -> torch.Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _sum(gradient, ctx.group), None


class _Leave(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: torch.Tensor, group: Group) -> torch.Tensor:
        return _sum(part, group)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient, None


class _Cut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: Group) -> torch.Tensor:
        ctx.group = group
        return _mine(x, group)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _side_by_side(gradient, ctx.group), None


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: torch.Tensor, group: Group) -> torch.Tensor:
        ctx.group = group
        return _side_by_side(part, group)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _mine(gradient, ctx.group), None


def _sum(tensor: torch.Tensor, group: Group) -> torch.Tensor:
    # all_reduce writes into its tensor, and this one may still be somebody else's.
    total = tensor.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=group)
    return total


def _mine(tensor: torch.Tensor, group: Group) -> torch.Tensor:
    return tensor.split(share(tensor.shape[-1], group), dim=-1)[dist.get_rank(group)].contiguous()


def _side_by_side(part: torch.Tensor, group: Group) -> torch.Tensor:
    return torch.cat(gather(part, group), dim=-1)
