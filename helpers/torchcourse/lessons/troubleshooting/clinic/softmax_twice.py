"""What a second softmax does to the cross entropy and to its gradient."""

import math

import torch
import torch.nn.functional as F


def floor(classes: int) -> float:
    """Return the smallest loss that the cross entropy of *probabilities* can reach: log(1 + (classes - 1) / e)."""
    return math.log(1 + (classes - 1) / math.e)


def losses(classes: int, margins: torch.Tensor, twice: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return loss and steepness for logits in which the right class leads by each of `margins`; all others are 0.

    Args:
        classes: the number of classes.
        margins: the lead of the right class's logit, of shape [N]; negative where another class leads.
        twice: whether a softmax comes before the cross entropy, which makes one of its own.

    Returns:
        Two tensors of shape [N]: the loss, and the absolute value of its derivative by the margin.
    """
    lead = margins.detach().clone().requires_grad_(True)
    logits = torch.cat([lead[:, None], torch.zeros(len(margins), classes - 1)], dim=1)
    target = torch.zeros(len(margins), dtype=torch.long)
    loss = F.cross_entropy(logits.softmax(1) if twice else logits, target, reduction="none")
    (slope,) = torch.autograd.grad(loss.sum(), lead)
    return loss.detach(), slope.abs()
