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

    Three numbers per sample are all-reduced: the largest score, the sum of exponentials, the score of the target. The
    ranks first tell each other how many words they have. Scores of 16 bits are taken as 32: the sum of the exponentials
    of a vocabulary is more than they hold.

    Args:
        scores: of this rank's words [N, V/n], where rank r of n has the r-th part of the vocabulary; parts may be of
            unequal size.
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
    rank, counts = dist.get_rank(group), targets != ignore_index
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    sizes = targets.new_empty(dist.get_world_size(group), dtype=torch.long)
    dist.all_gather(list(sizes.split(1)), sizes.new_full((1,), scores.size(1)), group=group)
    parts = sizes.tolist()
    wrong = targets[counts & ((targets < 0) | (targets >= sum(parts)))]
    if len(wrong):
        raise ValueError(f"Target {int(wrong[0])} is no word of the {sum(parts)}, of which the ranks have {parts}.")
    first = sum(parts[:rank])
    largest = scores.detach().amax(dim=1)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
    scores = scores - largest[:, None]
    here = (targets >= first) & (targets < first + scores.size(1))
    place = (targets - first).clamp(0, scores.size(1) - 1)
    own = torch.where(here, scores.gather(1, place[:, None])[:, 0], 0)
    total, right = leave(torch.stack([scores.exp().sum(dim=1), own]), group)
    return ((total.log() - right) * counts).sum() / counts.sum()
