"""The ring all-reduce written by hand against gloo's own, on two and four CPU ranks."""

from collections.abc import Callable
from functools import partial

import torch
import torch.distributed as dist

from torchcourse.lessons.data_parallelism.collectives import ring_all_reduce
from torchcourse.ranks.run import run_ranks
from torchcourse.timing import measured_in_turn, ratio, seconds_of, spread
from torchcourse.tools.bench.report import Table

SIZES_MIB = (0.004, 0.25, 4.0, 32.0)
ROUNDS = 7


def table() -> Table:
    rows = []
    for world_size in (2, 4):
        for size, seconds, sent in run_ranks(_measure, world_size=world_size, timeout=300)[0]:
            own, gloo = seconds["ring"], seconds["gloo"]
            rows.append(
                [str(world_size), f"{size:g} MiB", spread(own, "ms", 1e3), spread(gloo, "ms", 1e3), ratio(own, gloo)]
            )
            rows[-1].append(f"{sent / (size * 2**20):.3f}")
    return Table(
        "All-reduce: the ring by hand against gloo",
        ["ranks", "tensor", "ring by hand", "gloo", "ring ÷ gloo", "bytes sent a rank ÷ size of the tensor"],
        rows,
        f"float32 on the CPU, the two in turn, {ROUNDS} rounds, seconds of rank 0. "
        "The formula for the bytes is 2(N−1)/N: 1 for two ranks, 1.5 for four.",
    )


def _measure() -> list[tuple[float, dict[str, list[float]], int]]:
    results = []
    for size in SIZES_MIB:
        tensor = torch.ones(int(size * 2**20) // 4)
        ways = {"ring": ring_all_reduce, "gloo": dist.all_reduce}
        seconds = measured_in_turn({name: partial(_seconds, reduce, tensor) for name, reduce in ways.items()}, ROUNDS)
        results.append((size, seconds, ring_all_reduce(tensor.clone())))
    return results


def _seconds(reduce: Callable[[torch.Tensor], object], tensor: torch.Tensor) -> float:
    dist.barrier()
    return seconds_of(lambda: reduce(tensor.clone()))
