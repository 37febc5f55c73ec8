"""A training run that survives its ranks: it saves, and each start of it goes on from the last checkpoint.

On one machine; on each of two machines, of which HOST is one. In the 13th step the last rank is killed:

    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    torchrun --nproc-per-node 2 --max-restarts 3 -m torchcourse.lessons.monitoring.elastic_digits FOLDER 13
    torchrun --nnodes 2 --nproc-per-node 2 --max-restarts 3 --rdzv-backend c10d --rdzv-id digits \\
        --rdzv-endpoint HOST:29500 -m torchcourse.lessons.monitoring.elastic_digits FOLDER 13

FOLDER is one that exists and that all machines see. The first line: `two_machines.OWN_STORE`. What torchrun does when a
rank dies: https://docs.pytorch.org/docs/stable/elastic/run.html
"""

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F

from torchcourse.data import mnist
from torchcourse.models import mlp
from torchcourse.ranks.run import run_ranks
from torchcourse.ranks.who import device
from torchcourse.training import checkpoint

SAMPLES, BATCH = 1280, 64
"""Samples in an epoch, and samples in a step over all ranks."""


def train(
    folder: str,
    steps: int = 30,
    save_every: int = 5,
    rank_dies_at: int | None = None,
    machine_dies_at: int | None = None,
) -> torch.Tensor:
    """Train from the last checkpoint in `folder`, or from the start, and return the weights as one vector on the CPU.

    Every rank calls it. The samples of a step depend on the number of the step alone, so they are the same after a
    restart, also on a different number of ranks. Each rank notes what it did in a file of its own in `folder`.

    Args:
        folder: of the checkpoint and the notes; all ranks see it.
        steps: up to which step to train.
        save_every: steps from one save to the next.
        rank_dies_at: the first time that this step begins, the last rank is killed.
        machine_dies_at: the first time that this step begins, machine B is: its agent and all its ranks.
    """
    here = Path(folder)
    torch.manual_seed(0)  # the same weights on every rank
    model = mlp(784, 32, 10).to(device(), torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    images, labels = (tensor.to(device()) for tensor in mnist()[:SAMPLES])
    step = _restore(here / "last.pt", model, optimizer)
    while step < steps:
        if dist.get_rank() == dist.get_world_size() - 1 and step + 1 == rank_dies_at:
            _once(here / "rank_died", lambda: os.kill(os.getpid(), signal.SIGKILL))
        if os.environ.get("MACHINE") == "B" and step + 1 == machine_dies_at:
            _once(here / "machine_died", lambda: os.killpg(0, signal.SIGKILL))
        mine = samples_of(step)[dist.get_rank() :: dist.get_world_size()]
        loss = F.cross_entropy(model(images[mine].double()), labels[mine], reduction="sum") / BATCH
        optimizer.zero_grad()
        loss.backward()
        for parameter in model.parameters():
            assert parameter.grad is not None  # for the type checker: backward made it
            dist.all_reduce(parameter.grad)
        optimizer.step()
        step += 1
        _note(here, step)
        if step % save_every == 0 and dist.get_rank() == 0:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            checkpoint.save(state, here / "last.pt")
    return torch.cat([parameter.detach().flatten().cpu() for parameter in model.parameters()])


def samples_of(step: int) -> torch.Tensor:
    """Return the numbers of the samples [BATCH] that all ranks together take in a step, counted from 0."""
    epoch, batch = divmod(step, SAMPLES // BATCH)
    order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(epoch))
    return order[batch * BATCH : (batch + 1) * BATCH]


def _restore(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    if not path.exists():
        return 0
    state = checkpoint.load(path)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]


def _once(mark: Path, kill: Callable[[], None]) -> None:
    """Kill, if the file `mark` does not say that it was done before."""
    with contextlib.suppress(FileExistsError):
        mark.touch(exist_ok=False)
        kill()


def _note(folder: Path, step: int) -> None:
    row = {
        "time": time.time(),
        "machine": os.environ.get("MACHINE", "A"),
        "rank": dist.get_rank(),
        "ranks": dist.get_world_size(),
        "process": os.getpid(),
        "step": step,
    }
    with open(folder / f"steps_{os.getpid()}.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    all_weights = run_ranks(train, sys.argv[1], 30, 5, int(sys.argv[2]) if len(sys.argv) > 2 else None)
    if os.environ.get("RANK", "0") == "0":  # under torchrun every rank comes here
        print(f"{len(all_weights)} ranks, length of the weights {all_weights[0].norm():.12f}")
