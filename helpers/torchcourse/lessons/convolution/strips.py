"""One picture over several ranks: each has a strip of rows, and borrows its neighbors' edge rows (halo, 경계 영역).

It is spatial parallelism, for pictures too large for one device. Source: Dryden et al. 2019, "Improving Strong-Scaling
of CNN Training by Exploiting Finer-Grained Parallelism", https://arxiv.org/abs/1903.06681
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F


def with_halo(strip: torch.Tensor, rows: int) -> torch.Tensor:
    """Return this rank's strip [N, C, h, W] with `rows` rows of each neighbor: [N, C, h + 2·rows, W].

    The picture goes from rank 0 at the top to the last rank at the bottom. Beyond its edges are zeros. It runs on every
    rank, and carries no gradients.

    Raises:
        ValueError: if the strip has fewer rows than the neighbors need.
    """
    if strip.shape[2] < rows:
        raise ValueError(
            f"Rank {dist.get_rank()} has {strip.shape[2]} rows, but its neighbors need {rows}. Use fewer ranks."
        )
    if rows == 0:
        return strip
    rank, last = dist.get_rank(), dist.get_world_size() - 1
    above, below = (strip.new_zeros(strip[:, :, :rows].shape) for _ in range(2))  # zeros_like would copy the strides
    exchanges = []
    if rank > 0:
        first_rows = strip[:, :, :rows].contiguous()
        exchanges += [dist.P2POp(dist.isend, first_rows, rank - 1), dist.P2POp(dist.irecv, above, rank - 1)]
    if rank < last:
        last_rows = strip[:, :, -rows:].contiguous()
        exchanges += [dist.P2POp(dist.isend, last_rows, rank + 1), dist.P2POp(dist.irecv, below, rank + 1)]
    if exchanges:
        for request in dist.batch_isend_irecv(exchanges):
            request.wait()
    return torch.cat([above, strip, below], dim=2)


def conv2d_strip(strip: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return this rank's rows of `F.conv2d(picture, weight, padding="same")`.

    Args:
        strip: [N, C, h, W] on this rank.
        weight: [O, C, kH, kW], the same on every rank, kH and kW odd.

    Raises:
        ValueError: for an even kernel, whose middle lies between two pixels, or a strip that is too thin.
    """
    rows, columns = weight.shape[2:]
    if rows % 2 == 0 or columns % 2 == 0:
        raise ValueError(f"A kernel of {rows}×{columns} has no middle pixel; make both sizes odd.")
    return F.conv2d(with_halo(strip, rows // 2), weight, padding=(0, columns // 2))
