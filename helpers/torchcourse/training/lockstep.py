"""Ranks that have to take the same steps: they stop together, and notice together when one has no batch left."""

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist

from torchcourse.ranks import who


def together(windows: Iterator[Sequence], device: torch.device) -> Iterator[Sequence]:
    """Yield windows of batches as long as every rank has one. Every rank has to call it.

    For streams, whose lengths nobody knows beforehand: it asks the other ranks before each step.

    Raises:
        ValueError: on every rank, if some have a window left and others have none.
    """
    steps = 0
    while True:
        window = next(windows, None)
        going = torch.tensor([float(window is not None)], device=device)
        dist.all_reduce(going)
        if not going.item():
            return
        if window is None or going.item() < who.world_size():
            raise ValueError(
                f"The ranks' streams are of unequal length: after {steps} steps of this epoch {int(going.item())} of "
                f"{who.world_size()} ranks had a batch left, and a step takes all ranks. Let every rank's stream yield "
                "equally many batches, or cut all after as many as the shortest has."
            )
        steps += 1
        yield window
