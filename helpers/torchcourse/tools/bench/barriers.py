"""Time on several ranks at once: all begin together, and the slowest ends it."""

from collections.abc import Callable

import torch.distributed as dist

from torchcourse.timing import seconds_of


def seconds_between_barriers(step: Callable[[], object]) -> float:
    """Return the seconds from the moment when every rank begins the step to the moment when every rank has done it."""

    def until_all_are_done() -> None:
        step()
        dist.barrier()

    dist.barrier()
    return seconds_of(until_all_are_done)
