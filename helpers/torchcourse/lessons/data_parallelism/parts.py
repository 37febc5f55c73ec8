"""Parts of tensors, one per rank: how sharding cuts parameters and gradients, and the norm over all parts."""

from collections.abc import Iterable

import torch
import torch.distributed as dist

from torchcourse.ranks.who import rank_and_world_size


def cut(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return N parts of a contiguous tensor as flat views, one per rank. Lengths differ by at most one number.

    Raises:
        ValueError: for a tensor that is not contiguous, whose parts would be copies.
    """
    if not tensor.is_contiguous():
        raise ValueError(
            f"A parameter of shape {list(tensor.shape)} is not contiguous, so it cannot be cut into views. Change the "
            "model first: model.to(memory_format=torch.contiguous_format), or parameter.data.contiguous()."
        )
    return tensor.view(-1).tensor_split(dist.get_world_size())


def dense(gradient: torch.Tensor) -> torch.Tensor:
    """Return a gradient that can be cut: that of a sparse embedding as a whole table."""
    return (gradient.to_dense() if gradient.is_sparse else gradient).contiguous()


def clip_grad_norm_(
    parts: Iterable[torch.Tensor], max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> torch.Tensor:
    """Scale the gradients of all ranks' parts down to the norm `max_norm`, if theirs is larger; return the norm before.

    `torch.nn.utils.clip_grad_norm_` for tensors of which each rank has a part, such as `model.parameters()` after
    `shard_parameters`: torch's own would take the norm of this rank's parts. All ranks must call it. FSDP2 does
    without: torch's own knows its parameters.

    Raises:
        RuntimeError: outside a rank; with `error_if_nonfinite`, if the norm is not finite.
    """
    rank_and_world_size()
    parts = list(parts)
    gradients = [part.grad for part in parts if part.grad is not None]
    own = torch.nn.utils.get_total_norm(gradients, norm_type).to(parts[0].device)
    own = own.to(torch.promote_types(own.dtype, torch.float32))  # squares of half precision would overflow
    if norm_type == float("inf"):
        dist.all_reduce(own, dist.ReduceOp.MAX)
        norm = own
    else:
        total = own**norm_type
        dist.all_reduce(total)
        norm = total ** (1 / norm_type)
    if error_if_nonfinite and not norm.isfinite():
        raise RuntimeError(f"The norm of the gradients is {norm.item()}, so they cannot be clipped.")
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor)
    return norm
