"""Collectives with known answers on the ranks that this machine has, and one training run on ranks against one process.

With as many GPUs as ranks these are NCCL's. Two gloo ranks on CPU tensors run on every machine: what a notebook on a
machine with one GPU does.
"""

import time
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from torchcourse.models import row_transformer
from torchcourse.ranks.run import run_ranks
from torchcourse.ranks.who import ON_CPU, device
from torchcourse.tools.gpu_check.parts import Case, Finding, NotRun, Part, require
from torchcourse.tools.gpu_check.wrapped import wrap

WORLD_SIZES = (1, 2, 4, 8)
MIB = 64


def part() -> Part:
    gpus = torch.cuda.device_count()
    cases = [Case("2 gloo ranks, CPU tensors", partial(collectives, 2, "gloo"))]
    cases += [Case("2 gloo ranks: DDP and FSDP2 against one process", partial(same_training, 2, "gloo"))]
    for size in WORLD_SIZES:
        ranks = "1 NCCL rank" if size == 1 else f"{size} NCCL ranks"
        cases.append(Case(f"{ranks}, GPU tensors", partial(collectives, size, "nccl")))
        cases.append(Case(f"{ranks}: DDP and FSDP2 against one process", partial(same_training, size, "nccl")))
    return Part(
        "Ranks",
        f"This machine has {gpus} GPU{'s' * (gpus != 1)}. All_reduce, all_gather, reduce_scatter, broadcast and a "
        "message around the ring give the numbers that they must. The rate is that of an all_reduce of "
        f"{MIB} MiB: the tensor's bytes "
        "times 2(N-1)/N, per second. Three SGD steps in float64 on N ranks end in the weights of one "
        "process.",
        cases,
    )


def needs_gpus(count: int) -> None:
    """Leave a case out on a machine with fewer GPUs.

    Raises:
        NotRun: this machine has fewer.
    """
    found = torch.cuda.device_count()
    if found < count:
        raise NotRun(f"needs {count} GPU{'s' * (count > 1)}; this machine has {found}")


def collectives(world_size: int, backend: str) -> Finding:
    """Run the collectives on so many ranks of this backend, "nccl" or "gloo"."""
    if backend == "nccl":
        needs_gpus(world_size)
    found = run_ranks(
        _collectives_of_a_rank, world_size=world_size, timeout=120, env=ON_CPU if backend == "gloo" else None
    )
    where = {backend_used for _, backend_used in found}
    require(where == {backend}, f"The ranks used {', '.join(sorted(where))} instead of {backend}.")
    rate = min(rate for rate, _ in found)
    if world_size == 1:
        return Finding("right; one rank sends nothing")
    return Finding(f"right; all_reduce {rate / 1e9:.2f} GB/s per rank", {"ranks": world_size, "rate": rate})


def same_training(world_size: int, backend: str) -> Finding:
    """Train with DDP and with FSDP2 on so many ranks, and compare the weights with those of one process."""
    if backend == "nccl":
        needs_gpus(world_size)
    env = ON_CPU if backend == "gloo" else None
    differences = run_ranks(_differences, world_size=world_size, timeout=180, env=env)
    largest = {way: max(each[way] for each in differences) for way in differences[0]}
    for way, difference in largest.items():
        require(
            difference < 1e-9, f"{way} on {world_size} ranks ends in other weights: {difference:.1e} of their size."
        )
    return Finding("; ".join(f"{way} differs by {difference:.0e}" for way, difference in largest.items()))


def _collectives_of_a_rank() -> tuple[float, str]:
    """Return bytes per second of an all_reduce, and the backend of this rank's tensors."""
    rank, size, place = dist.get_rank(), dist.get_world_size(), device()
    total = size * (size + 1) / 2
    mine = torch.full((4 * size,), rank + 1.0, device=place)

    summed = mine.clone()
    dist.all_reduce(summed)
    _expect("all_reduce", summed, [total] * (4 * size))

    everyones = [torch.empty(4, device=place) for _ in range(size)]
    dist.all_gather(everyones, mine[:4].contiguous())
    _expect("all_gather", torch.cat(everyones), [owner + 1.0 for owner in range(size) for _ in range(4)])

    part_of_sum = torch.empty(4, device=place)
    dist.reduce_scatter(part_of_sum, [piece.contiguous() for piece in mine.chunk(size)])
    _expect("reduce_scatter", part_of_sum, [total] * 4)

    sent = mine[:4].clone()
    dist.broadcast(sent, src=size - 1)
    _expect("broadcast", sent, [float(size)] * 4)

    if size > 1:
        received = torch.empty(4, device=place)
        operations = [
            dist.P2POp(dist.isend, mine[:4].contiguous(), (rank + 1) % size),
            dist.P2POp(dist.irecv, received, (rank - 1) % size),
        ]
        for work in dist.batch_isend_irecv(operations):
            work.wait()
        _expect("a message around the ring", received, [(rank - 1) % size + 1.0] * 4)
    return _rate(place), dist.get_backend_config().split(f"{place.type}:")[-1].split(",")[0]


def _expect(what: str, found: torch.Tensor, expected: list[float]) -> None:
    require(found.tolist() == expected, f"{what} gave {found.tolist()} instead of {expected}.")


def _rate(place: torch.device, rounds: int = 5) -> float:
    """Bytes per second that a rank sends in an all_reduce by the ring's count: the best of some rounds."""
    size = dist.get_world_size()
    tensor = torch.ones(MIB * 2**18, device=place)
    best = 0.0
    for _ in range(rounds):
        synchronize(place)
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(tensor)
        synchronize(place)
        sent = 2 * (size - 1) / size * tensor.nbytes
        best = max(best, sent / (time.perf_counter() - start))
    return best


def synchronize(place: torch.device) -> None:
    """Wait until a GPU has done what it was told. A CPU has, by then."""
    if place.type == "cuda":
        torch.cuda.synchronize(place)


def _differences() -> dict[str, float]:
    """Return by how much the weights differ from those of one process, relative to their norm, for each way."""
    rank, size, place = dist.get_rank(), dist.get_world_size(), device()
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, 8, 1, 8, 8, generator=generator, dtype=torch.float64).to(place)
    labels = torch.randint(10, (3, 8), generator=generator).to(place)

    def trained(way: str | None) -> torch.Tensor:
        torch.manual_seed(0)
        model: Any = row_transformer(blocks=2).double().to(place)
        if way is not None:
            model = wrap(model, way)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for x, y in zip(images, labels, strict=True):
            if way is not None:
                x, y = x.chunk(size)[rank], y.chunk(size)[rank]
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        return _whole_weights(model)

    alone = trained(None)
    return {way: float((trained(way) - alone).norm() / alone.norm()) for way in ("DDP", "FSDP2")}


def _whole_weights(model: nn.Module) -> torch.Tensor:
    whole = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in (q.detach() for q in model.parameters())]
    return torch.cat([parameter.flatten() for parameter in whole])
