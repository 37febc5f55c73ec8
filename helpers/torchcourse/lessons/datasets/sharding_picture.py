"""Who reads which record of a stream: a row for each reader, a column for each record."""

from collections.abc import Iterator
from typing import Literal

from matplotlib.figure import Figure

from torchcourse import figures
from torchcourse.lessons.datasets.sharding import ShardedStream

SHARDS = [6, 2, 5, 3, 4]
"""Records in each of five files."""


def _read(shard: int) -> Iterator[int]:
    first = sum(SHARDS[:shard])
    return iter(range(first, first + SHARDS[shard]))


def shares(ranks: int, workers: int, by: Literal["record", "shard"]) -> list[list[int]]:
    """Return the records of each reader, for 20 records in five files."""
    stream, readers = ShardedStream(range(len(SHARDS)), _read, by=by), ranks * workers
    return [list(stream.part(reader, readers)) for reader in range(readers)]


def draw_shares(ranks: int = 2, workers: int = 2, by: Literal["record", "shard"] = "record") -> Figure:
    """Draw which reader takes which of the 20 records; the color is the file that a record lies in."""
    parts = shares(ranks, workers, by)
    figure, axes = figures.new(7.5, 1.4 + 0.27 * len(parts))
    for reader, records in enumerate(parts):
        for record in records:
            shard = next(number for number in range(len(SHARDS)) if record < sum(SHARDS[: number + 1]))
            axes.barh(reader, 0.9, 0.75, left=record - 0.45, color=figures.CYCLE[shard])
    axes.set_yticks(range(len(parts)), [f"rank {n // workers}, worker {n % workers}" for n in range(len(parts))])
    axes.set_ylim(len(parts) - 0.4, -0.6)
    axes.set_xlim(-0.7, sum(SHARDS) - 0.3)
    axes.set_xticks(range(0, sum(SHARDS), 2))
    axes.set_xlabel("record; a color is a file")
    axes.set_title(shares_finding(ranks, workers, by))
    return figure


def shares_finding(ranks: int = 2, workers: int = 2, by: Literal["record", "shard"] = "record") -> str:
    """Say what the picture shows."""
    sizes = [len(part) for part in shares(ranks, workers, by)]
    range_of = f"{sizes[0]}" if len(set(sizes)) == 1 else f"{min(sizes)} to {max(sizes)}"
    return (
        f"{len(sizes)} reader{'s' if len(sizes) > 1 else ''}, by {by}: {range_of} records each, {sum(sizes)} in total"
    )
