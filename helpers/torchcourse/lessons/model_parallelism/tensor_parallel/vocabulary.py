"""Cross-entropy over a vocabulary that is cut: each rank has the scores of some words, and nobody has all of them.

Source: Shoeybi et al. 2019, "Megatron-LM", section 3, https://arxiv.org/abs/1909.08053
"""

import torch
import torch.distributed as dist

from torchcourse.lessons.model_parallelism.tensor_parallel.operators import Group, leave


def cut_cross_entropy(
    scores: torch.Tensor, targets: torch.Tensor, group: Group = None, ignore_index: int = -100
) -> torch.Tensor:
    """Return the mean cross-entropy, the same on each rank, without putting the scores together.

    Three numbers per sample travel: the largest score, the sum of exponentials, the score of the target. Scores of 16
    bits are taken as 32: the sum of the exponentials of a vocabulary is more than they hold.

    Args:
        scores: of this rank's words [N, V/n], where rank r of n has the r-th part of the vocabulary. All parts are of
            one size: give words that nobody says, with scores of −inf, to the last one.
        targets: words of the whole vocabulary [N], the same on each rank.
        group: the ranks that share the vocabulary; None for all.
        ignore_index: a target that does not count, as for padding.

    Raises:
        ValueError: for scores and targets that are not [N, V/n] and [N], and for a target that is no word.
    """
    if scores.dim() != 2 or targets.shape != scores.shape[:1]:
        raise ValueError(
            f"The scores are {list(scores.shape)} and the targets {list(targets.shape)}, and have to be [N, V/n] and "
            "[N]: scores.flatten(0, -2), targets.flatten()."
        )
    words, counts = dist.get_world_size(group) * scores.size(1), targets != ignore_index
    wrong = targets[counts & ((targets < 0) | (targets >= words))]
    if len(wrong):
        raise ValueError(
            f"Target {int(wrong[0])} is no word of the {words}, of which each rank has {scores.size(1)} here."
        )
    first = dist.get_rank(group) * scores.size(1)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    largest = scores.detach().amax(dim=1)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
    scores = scores - largest[:, None]
    here = (targets >= first) & (targets < first + scores.size(1))
    place = (targets - first).clamp(0, scores.size(1) - 1)
    own = torch.where(here, scores.gather(1, place[:, None])[:, 0], 0)
    total, right = leave(torch.stack([scores.exp().sum(dim=1), own]), group)
    return ((total.log() - right) * counts).sum() / counts.sum()
