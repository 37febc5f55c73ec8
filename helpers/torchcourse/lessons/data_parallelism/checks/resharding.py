"""Check of lesson 01 on shards that were saved on one number of ranks and are loaded on a different one."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import pad

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import refuse_known, same
from torchcourse.lessons.data_parallelism import flat_shards
from torchcourse.lessons.data_parallelism.checks.flat_shards import must_be_flat

Tensors = list[torch.Tensor]

_CASES = (
    *((2, 12, 4), (2, 10, 1), (2, 10, 4), (4, 10, 2), (3, 7, 2)),
    *((2, 11, 3), (1, 9, 4), (2, 3, 5), (5, 3, 2), (3, 8, 3)),
)
"""Ranks that saved, numbers in the unit, ranks that load."""


@check
def reshard(learner: Callable[..., Any]) -> str:
    """Compare every rank's shard with a fresh cut of the whole unit, and note which files each rank opens."""
    opened = [_judge_case(learner, *case) for case in _CASES]
    for (saved_ranks, length, world_size), files in zip(_CASES, opened, strict=True):
        _judge_files(files, saved_ranks, length, world_size)
    return f"The shards of a fresh cut, for {len(_CASES)} pairs of old and new ranks, and no file opened in vain."


def _judge_case(learner: Callable, saved_ranks: int, length: int, world_size: int) -> list[Counter[int]]:
    """Raise what is wrong with the shards; return the files that each rank opened, once or several times."""
    unit = torch.arange(1.0, length + 1, dtype=torch.float64)
    saved = [flat_shards.own_shard([unit], rank, saved_ranks) for rank in range(saved_ranks)]
    where = _case(saved_ranks, length, world_size)
    found: list[Any] = []
    opened: list[Counter[int]] = []
    for rank in range(world_size):
        files: Counter[int] = Counter()

        def open_shard(source: int, files: Counter[int] = files) -> torch.Tensor:
            if not 0 <= source < saved_ranks:
                raise Wrong(
                    "no_such_file",
                    f"{where}your function opens the file of rank {source}, and the saved files are those of ranks 0 "
                    f"to {saved_ranks - 1}.",
                )
            files[int(source)] += 1
            return saved[source].clone()

        found.append(learner(open_shard, saved_ranks, length, rank, world_size))
        opened.append(files)
    _judge_values(found, unit, saved, world_size, where)
    return opened


def _case(saved_ranks: int, length: int, world_size: int) -> str:
    return f"{length} numbers, saved on {_ranks(saved_ranks)}, loaded on {_ranks(world_size)}: "


def _ranks(count: int) -> str:
    return f"{count} rank{'s' if count > 1 else ''}"


def _judge_values(found: list[Any], unit: torch.Tensor, saved: Tensors, world_size: int, where: str) -> None:
    right = [flat_shards.own_shard([unit], rank, world_size) for rank in range(world_size)]
    for rank, shard in enumerate(found):
        must_be_flat(shard, f"{where}return a flat tensor. Rank {rank} returns")
    if not same(found, right):
        _refuse_values(found, right, unit, saved, where)
    for rank, shard in enumerate(found):
        if shard.dtype != unit.dtype:
            raise Wrong(
                "dtype",
                f"{where}the saved shards are {unit.dtype}, and that of rank {rank} is {shard.dtype}. Keep their type.",
            )


def _refuse_values(found: Tensors, right: Tensors, unit: torch.Tensor, saved: Tensors, where: str) -> None:
    n, length, together = len(right), len(unit), torch.cat(saved)
    from_old = -(-len(together) // n)
    known = {
        "old_shards": (
            [saved[rank % len(saved)] for rank in range(n)],
            "each rank takes a saved shard as it is. With a different number of ranks the cuts lie elsewhere.",
        ),
        "old_zeros": (
            [flat_shards.own_shard([together], rank, n) for rank in range(n)],
            f"you cut {len(together)} numbers, and the unit has {length}: zeros that were added when it was saved are "
            "not part of it.",
        ),
        "from_the_old_length": (
            [pad(unit, (0, from_old * n - length))[rank * from_old : (rank + 1) * from_old] for rank in range(n)],
            "you work out the new length from the saved shards with their zeros. It follows from `length`.",
        ),
    }
    refuse_known(found, known, where=where)
    rank = next(rank for rank, shard in enumerate(found) if not same(shard, right[rank]))
    ours, wanted = found[rank], right[rank]
    where += f"rank {rank} should get {_listed(wanted)}, and gets {_listed(ours)}. "
    if len(ours) != len(wanted):
        raise Wrong("wrong_length", f"{where}Every shard has the length ⌈length/N⌉: zeros fill up the last ones.")
    missing = wanted.ne(0) & ours.eq(0)
    if missing.any() and same(ours[~missing], wanted[~missing]):
        raise Wrong(
            "one_file_only",
            f"{where}The missing numbers are in a different file. From which old rank to which do your numbers reach?",
        )
    if set(ours.tolist()) - {0.0} <= set(unit.tolist()):
        raise Wrong(
            "wrong_place",
            f"{where}They come from elsewhere in the unit. `start` counts from the beginning of the unit: where does "
            "what you opened begin?",
        )
    raise Wrong("wrong_value", where.rstrip())


def _listed(shard: torch.Tensor) -> str:
    return f"[{', '.join(f'{number:g}' for number in shard.tolist())}]"


def _judge_files(opened: list[Counter[int]], saved_ranks: int, length: int, world_size: int) -> None:
    old, new, where = -(-length // saved_ranks), -(-length // world_size), _case(saved_ranks, length, world_size)
    for rank, files in enumerate(opened):
        needed = {number // old for number in range(rank * new, min((rank + 1) * new, length))}
        if len(files) > max(len(needed), 1):
            raise Wrong(
                "opens_too_much",
                f"{where}the values are right, but rank {rank} opens the files of ranks {sorted(files)}, and its "
                f"numbers are in {len(needed)} of them. With a thousand files of gigabytes, that is the time to load.",
            )
        source, times = max(files.items(), key=lambda pair: pair[1], default=(0, 0))
        if times > 1:
            raise Wrong(
                "opens_again",
                f"{where}the values are right, but rank {rank} opens the file of rank {source} {times} times. A file "
                "of gigabytes is read each time: keep what you opened.",
            )
