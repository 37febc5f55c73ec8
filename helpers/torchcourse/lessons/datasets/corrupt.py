"""Corrupt records (손상된 레코드): they end the run, or they are counted and reported by name. Never a silent skip."""

import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from PIL import Image
from torch.utils.data import DataLoader, Dataset

from torchcourse.data.loaders import length

# What readers raise for a damaged file: NumPy, Pillow (which has no common class for it), unpacking, decompressing.
DAMAGE: tuple[type[Exception], ...] = (
    ValueError,
    OSError,
    EOFError,
    SyntaxError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class CorruptRecord(ValueError):
    """A record could not be read, or too many could not."""


@dataclass(frozen=True)
class Corrupt:
    """What a dataset gives instead of a record that it could not read."""

    index: int
    name: str
    reason: str


@dataclass
class CorruptReport:
    """Which records of an epoch could not be read. `print(report)` names them.

    Attributes:
        seen: records asked for so far in this epoch, on this rank.
        records: the corrupt ones among them.
    """

    seen: int = 0
    records: list[Corrupt] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.records)

    def share(self) -> float:
        """Return the share of corrupt records, from 0 to 1."""
        return len(self.records) / self.seen if self.seen else 0.0

    def __str__(self) -> str:
        if not self.records:
            return f"{self.seen:,} records, none of them corrupt."
        lines = [f"{len(self)} of {self.seen:,} records are corrupt ({self.share():.1%}):"]
        for reason, times in Counter(record.reason for record in self.records).most_common():
            names = [record.name for record in self.records if record.reason == reason]
            more = f" and {times - 3} more" if times > 3 else ""
            lines.append(f"  {times} × {reason}: {', '.join(names[:3])}{more}")
        return "\n".join(lines)


class Guarded(Dataset):
    """A map-style dataset that gives `Corrupt` instead of a record that cannot be read.

    Args:
        dataset: with a length.
        names: of the records, such as file names; "record 17" if None.
        errors: which exceptions mean that a *record* is bad. Others are bugs of the program and go through.

    Raises:
        ValueError: for more or fewer names than records.
    """

    def __init__(
        self,
        dataset: Any,  # a map-style dataset: torch declares no length for its Dataset
        names: Sequence[str] | None = None,
        errors: tuple[type[Exception], ...] = DAMAGE,
    ) -> None:
        if names is not None and len(names) != len(dataset):
            raise ValueError(f"There are {len(dataset)} records and {len(names)} names. Give each record its name.")
        self.dataset, self.names, self.errors = dataset, names, errors

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        try:
            return self.dataset[index]
        except self.errors as error:
            name = f"record {index}" if self.names is None else self.names[index]
            # The name is not repeated in the reason, so that equal reasons can be counted together.
            reason = str(error).removeprefix(name).lstrip(": ") or type(error).__name__
            return Corrupt(int(index), name, reason)


class CheckedLoader:
    """A loader over records of which some may be corrupt.

        loader = CheckedLoader(make_loader(Guarded(images, names), 64), on_corrupt="report")

    A batch lacks its corrupt records: it is smaller, no other record takes their place, and `report` has them by name.
    They travel from the workers to this process inside the batch, so nothing is lost with a worker.

    Args:
        loader: over a `Guarded` dataset; its `collate_fn` is wrapped, so give it to nobody else.
        on_corrupt: "raise" ends at the first corrupt record; "report" goes on and counts.
        most: with "report", the share of an epoch's records that may be corrupt (on each rank) before it raises.

    Raises:
        CorruptRecord: while iterating: at a corrupt record, when there are too many, or if a batch has no whole one
            (a rank that left the batch out would take fewer steps than the others).
        ValueError: for an unknown `on_corrupt`, or a loader without a `Guarded` dataset or without batches.
    """

    def __init__(
        self, loader: DataLoader, *, on_corrupt: Literal["raise", "report"] = "raise", most: float = 0.01
    ) -> None:
        if on_corrupt not in ("raise", "report"):
            raise ValueError(f"on_corrupt is 'raise' or 'report', but not {on_corrupt!r}.")
        if not isinstance(loader.dataset, Guarded):
            raise ValueError(
                f"The loader's dataset is a {type(loader.dataset).__name__}. Put it into Guarded(dataset, names), so "
                "that a record which cannot be read gets here with its name."
            )
        if loader.batch_sampler is None:
            raise ValueError(
                "The loader has batch_size=None: it makes no batches that corrupt records could be left out of."
            )
        loader.collate_fn = _Sort(loader.collate_fn)
        self.loader, self.dataset, self.sampler = loader, loader.dataset, loader.sampler
        self.on_corrupt, self.most = on_corrupt, most
        self.report = CorruptReport()

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        self.report = report = CorruptReport()
        planned = _records_of_an_epoch(self.loader)
        for batch, seen, corrupt in self.loader:
            report.seen += seen
            report.records += corrupt
            if corrupt and self.on_corrupt == "raise":
                raise CorruptRecord(f"{corrupt[0].name}: {corrupt[0].reason}")
            if planned is not None and len(report) > self.most * planned:
                raise self._too_many()
            if batch is None:
                raise CorruptRecord(f"A batch of {seen} has no whole record. {report}")
            yield batch
        if planned is None and len(report) > self.most * report.seen:
            raise self._too_many()

    def _too_many(self) -> CorruptRecord:
        return CorruptRecord(f"More than {self.most:.1%} of the epoch's records are corrupt. {self.report}")


def _records_of_an_epoch(loader: DataLoader) -> int | None:
    """Return how many records this rank asks for in an epoch, or None where only the end of the epoch tells."""
    if loader.batch_size is not None:
        return len(cast(Sized, loader.sampler))
    # With a batch sampler of the user's, `loader.sampler` is one that torch makes for the whole dataset, of which this
    # rank may get a part.
    size = getattr(loader.batch_sampler, "batch_size", None)
    batches = length(loader)
    return None if size is None or batches is None else size * batches


@dataclass
class _Sort:
    """Collates the whole records, and hands on the corrupt ones beside them."""

    collate_fn: Callable[[list], Any]

    def __call__(self, records: list) -> tuple[Any, int, list[Corrupt]]:
        whole = [record for record in records if not isinstance(record, Corrupt)]
        corrupt = [record for record in records if isinstance(record, Corrupt)]
        return (self.collate_fn(whole) if whole else None), len(records), corrupt
