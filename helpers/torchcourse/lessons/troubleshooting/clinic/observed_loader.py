"""A loader through which a judge looks in between the steps of somebody else's loop."""

from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader


class ObservedLoader:
    """A loader that calls `on_batch()` whenever a batch is asked for, and once more after the last."""

    def __init__(self, loader: DataLoader, on_batch: Callable[[], Any]) -> None:
        self.loader, self.on_batch = loader, on_batch

    def __getattr__(self, name: str) -> Any:
        """Return what else a loop asks its loader for, such as `dataset` or `batch_size`."""
        if name == "loader":  # a copy that is being made has none yet
            raise AttributeError(name)
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            self.on_batch()
            yield batch
            del batch
        self.on_batch()
