"""A loader through which a judge looks in between the steps of somebody else's loop."""

from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader


class ObservedLoader:
    """A loader that calls `on_batch()` whenever a batch is asked for, and once more after the last."""

    def __init__(self, loader: DataLoader, on_batch: Callable[[], Any]) -> None:
        self.loader, self.on_batch = loader, on_batch
        self.dataset = loader.dataset

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            self.on_batch()
            yield batch
            del batch
        self.on_batch()
