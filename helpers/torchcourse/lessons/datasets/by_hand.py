"""A DataLoader by hand: sampler, fetch, collate, prefetch. What `torch.utils.data.DataLoader` does with workers."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from torch.utils.data import Dataset


def batches(
    dataset: Dataset,
    sampler: Iterable[int],
    batch_size: int,
    collate: Callable[[list], Any],
    submit: Callable[..., Any],
    ahead: int = 2,
) -> Iterator[Any]:
    """Yield the batches of an epoch; while one is used, the next `ahead` are being fetched elsewhere.

    Args:
        dataset: map-style.
        sampler: the numbers of the samples, in order.
        batch_size: samples per batch; the last may have fewer.
        collate: makes a batch of a list of samples.
        submit: `submit(function, *args)` starts the work and returns a future at once, as that of an executor of
            `concurrent.futures` does. One thread or process hands the batches back in order, and so do several.
        ahead: how many batches wait or are under way while one is used. Their memory is the price.
    """

    def fetch(numbers: list[int]) -> Any:
        return collate([dataset[number] for number in numbers])

    numbers = iter(sampler)
    futures: deque[Any] = deque()
    while True:
        while len(futures) <= ahead and (part := list(islice(numbers, batch_size))):
            futures.append(submit(fetch, part))
        if not futures:
            return
        yield futures.popleft().result()
