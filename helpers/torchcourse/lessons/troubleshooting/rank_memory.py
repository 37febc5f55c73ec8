"""The memory of a data-parallel training step on each rank, from a notebook or from a terminal:

torchrun --standalone --nproc-per-node 2 -m torchcourse.lessons.troubleshooting.rank_memory
"""

import os

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from torchcourse.lessons.troubleshooting.tracking import MemoryTracker
from torchcourse.models import small_cnn
from torchcourse.ranks.run import run_ranks
from torchcourse.ranks.who import device
from torchcourse.units import format_bytes


def memory_of_a_step(batch_size: int = 256) -> dict[str, int]:
    """Return the bytes at the peak of this rank's second step, by kind. The ranks share out the batch.

    In DistributedDataParallel's buckets the gradients are there twice, of which one copy counts as others.
    """
    size = len(torch.arange(batch_size).tensor_split(dist.get_world_size())[dist.get_rank()])
    images = torch.randn(size, 1, 28, 28, device=device())
    labels = torch.zeros(size, dtype=torch.long, device=device())
    with MemoryTracker() as tracker:
        model = small_cnn().to(device())
        ddp = DistributedDataParallel(model)
        optimizer = torch.optim.Adam(model.parameters())
        tracker.watch(model, optimizer, images, labels)
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(ddp(images), labels).backward()
            optimizer.step()
    return tracker.peak_by_kind()


if __name__ == "__main__":
    for rank, kinds in enumerate(run_ranks(memory_of_a_step)):
        if os.environ.get("RANK", "0") == "0":  # under torchrun every rank comes here
            print(f"rank {rank}: " + ", ".join(f"{kind} {format_bytes(size)}" for kind, size in kinds.items()))
