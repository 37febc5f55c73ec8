"""A transformer block split by this package's layers and by DTensor, on two and four CPU ranks: bytes and time."""

from collections.abc import Callable
from functools import partial

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from torchcourse.lessons.model_parallelism.tensor_parallel import Traffic, split
from torchcourse.lessons.model_parallelism.tensor_parallel.cost import block_bytes
from torchcourse.lessons.model_parallelism.tensor_parallel.with_dtensor import split_block
from torchcourse.models import TransformerBlock
from torchcourse.ranks.run import run_ranks
from torchcourse.timing import measured_in_turn, ratio, spread
from torchcourse.tools.bench.barriers import seconds_between_barriers
from torchcourse.tools.bench.report import Table

ROUNDS = 15
_SAMPLES, _TOKENS, _HEADS = 8, 64, 8
_WAYS = ("own", "DTensor", "DTensor, sequence parallel")


def table() -> Table:
    rows = []
    for ranks in (2, 4):
        for width in (64, 512):
            seconds, traffic = run_ranks(_measure, width, world_size=ranks, timeout=300)[0]
            formula = block_bytes(_SAMPLES * _TOKENS, width, ranks)
            for name in _WAYS:
                collectives, sent = traffic[name]
                row = [str(ranks), str(width), name, spread(seconds[name], "ms", 1e3)]
                rows.append([*row, ratio(seconds[name], seconds["own"]), collectives, f"{sent / formula:.3f}"])
    return Table(
        "Tensor parallelism: own layers against DTensor",
        ["ranks", "width", "way", "forward and backward", "÷ own", "collectives", "bytes sent a rank ÷ formula"],
        rows,
        f"One transformer block, {_SAMPLES} samples of {_TOKENS} tokens, {_HEADS} heads, float32 on gloo, the three in "
        f"turn, {ROUNDS} rounds, rank 0 from barrier to barrier. The formula is 4 · 2(N−1)/N · samples · tokens · "
        "width · 4 bytes.",
    )


def _measure(width: int) -> tuple[dict[str, list[float]], dict[str, tuple[str, float]]]:
    steps = {name: _step(name, width) for name in _WAYS}
    traffic = {}
    for name, step in steps.items():
        with Traffic() as seen:
            step()
        traffic[name] = " + ".join(f"{count} {kind}" for kind, count in seen.counts().items()), seen.bytes_sent
    timed = {name: partial(seconds_between_barriers, step) for name, step in steps.items()}
    return measured_in_turn(timed, ROUNDS), traffic


def _step(name: str, width: int) -> Callable[[], object]:
    torch.manual_seed(0)
    block = TransformerBlock(width, _HEADS)
    sequence = name.endswith("sequence parallel")
    ranks = dist.get_world_size()
    mesh = init_device_mesh("cpu", (ranks,))
    parts = split(block) if name == "own" else split_block(block, mesh, sequence=sequence)
    x = torch.randn(_SAMPLES, _TOKENS // ranks if sequence else _TOKENS, width, requires_grad=True)
    return lambda: parts(x).sum().backward()
