"""Cross-entropy over a vocabulary that is cut: each rank has the scores of some words, and nobody has all of them.

Source: Shoeybi et al. 2019, "Megatron-LM", section 3, https://arxiv.org/abs/1909.08053
"""

import torch
import torch.distributed as dist

from torchcourse.lessons.model_parallelism.tensor_parallel.operators import Group, leave


def cut_cross_entropy(scores: torch.Tensor, targets: torch.Tensor, group: Group = None) -> torch.Tensor:
    """Return the mean cross-entropy, the same on each rank, without putting the scores together.

    Three numbers per sample travel: the largest score, the sum of exponentials, the score of the target.

    Args:
        scores: of this rank's words [N, V/n], where rank r of n has the r-th part of the vocabulary.
        targets: words of the whole vocabulary [N], the same on each rank.
        group: the ranks that share the vocabulary; None for all.
    """
    first = dist.get_rank(group) * scores.size(1)
    largest = scores.detach().amax(dim=1)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
    scores = scores - largest[:, None]
    here = (targets >= first) & (targets < first + scores.size(1))
    place = (targets - first).clamp(0, scores.size(1) - 1)
    own = torch.where(here, scores.gather(1, place[:, None])[:, 0], 0)
    total, right = leave(torch.stack([scores.exp().sum(dim=1), own]), group)
    return (total.log() - right).mean()
