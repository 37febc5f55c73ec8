"""Local SGD: each rank takes H steps of its own, then all average their weights. What it waits for, and what it costs.

Source: Stich, "Local SGD converges fast and communicates little", ICLR 2019, https://arxiv.org/abs/1805.09767. For
large language models, with a momentum of the averages: Douillard and others, DiLoCo, https://arxiv.org/abs/2311.08105.
"""

import time
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

from torchcourse.data import mnist

Slow = Literal["now and then", "always rank 0"]
STEPS = 48
QUICK, SLOW = 0.004, 0.020
"""Steps of a measurement of waiting, and the seconds of a usual and of a slow step."""
PIXELS = 196
"""Of an image for the networks: 14 × 14."""


def share_waited(every: int, slow: Slow, chance: float = 0.2, seed: int = 0) -> float:
    """Take 48 steps that only sleep, average after every H of them, and return the share of the time spent waiting.

    Every rank calls it; the share is that of all ranks together.

    Args:
        every: H, the local steps between two averages.
        slow: `"now and then"`: each step of each rank is slow with the given chance. `"always rank 0"`: all of rank 0's
            are.
        chance: of a slow step.
        seed: of the draws.
    """
    rank = dist.get_rank()
    draws = np.random.default_rng([seed, rank]).random(STEPS) < chance
    weight = torch.zeros(1)
    dist.all_reduce(weight)  # begin together
    waited, begin = 0.0, time.perf_counter()
    for step in range(1, STEPS + 1):
        is_slow = rank == 0 if slow == "always rank 0" else draws[step - 1]
        time.sleep(SLOW if is_slow else QUICK)
        if step % every == 0:
            start = time.perf_counter()
            dist.all_reduce(weight)
            waited += time.perf_counter() - start
    totals = torch.tensor([waited, time.perf_counter() - begin], dtype=torch.float64)
    dist.all_reduce(totals)
    return float(totals[0] / totals[1])


def accuracies(every: int, seeds: Sequence[int], ranks: int = 4, steps: int = 192, rate: float = 0.25) -> list[float]:
    """Train a network per seed and rank on the digits, average after every H steps; return the test accuracies.

    All networks are trained at once in this process, as one batch of matrices: what each rank computes is the same as
    in a process of its own. Four pixels are averaged to one, which makes the matrices a quarter as large.

    Args:
        every: H, the local steps between two averages; 1 is what DistributedDataParallel computes, with plain SGD.
        seeds: one training each; the seed draws the first weights and the order of the samples.
        ranks: how many share the work, with 16 samples each per step.
        steps: how many; the last average is taken at the end.
        rate: the learning rate.
    """
    images, labels = _small_digits("train")
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    first = torch.stack([torch.randn(PIXELS, 32, generator=g) / PIXELS**0.5 for g in generators])
    second = torch.stack([torch.randn(32, 10, generator=g) / 32**0.5 for g in generators])
    # [seeds · ranks, …]: every rank of a seed begins with the same weights
    weights = [tensor.repeat_interleave(ranks, 0).requires_grad_() for tensor in (first, second)]
    for step in range(1, steps + 1):
        chosen = torch.cat([torch.randint(len(images), (ranks, 16), generator=g) for g in generators])
        scores = torch.relu(images[chosen] @ weights[0]) @ weights[1]
        # a sum over the networks: each gets the gradient of its own mean
        loss = F.cross_entropy(scores.flatten(0, 1), labels[chosen].flatten(), reduction="sum") / 16
        gradients = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.sub_(gradient, alpha=rate)
                if step % every == 0 or step == steps:
                    mean = weight.unflatten(0, (-1, ranks)).mean(1, keepdim=True)
                    weight.unflatten(0, (-1, ranks)).copy_(mean.expand(-1, ranks, -1, -1))
    test, right = _small_digits("test")
    with torch.no_grad():
        scores = torch.relu(test @ weights[0][::ranks]) @ weights[1][::ranks]
    return (scores.argmax(-1) == right).float().mean(-1).tolist()


def _small_digits(split: Literal["train", "test"]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the digits with half as many pixels along each side, [N, 196], and their labels [N]."""
    images, labels = mnist(split).tensors
    return F.avg_pool2d(images, 2).flatten(1), labels
