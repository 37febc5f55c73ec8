"""Where the time of a batch goes, from the record on the disk to the step, and what to change."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from torchcourse.lessons.datasets.waiting import best_workers

_running: dict[str, float] | None = None


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Name a part of a dataset's work, such as "decode": `profile_loader` then counts its time apart.

    Without a profile being made, it costs about a microsecond.
    """
    if _running is None:
        yield
        return
    start = time.perf_counter()
    try:
        yield
    finally:
        _running[name] = _running.get(name, 0.0) + time.perf_counter() - start


@dataclass(frozen=True)
class LoaderProfile:
    """Milliseconds per batch; `print(profile)` shows a table and what to change.

    Attributes:
        load: of making a batch in one process, by stage: "fetch" (what no `stage` claims), the stages, "collate".
        transfer: of copying a batch to the device.
        step: of the training step.
        send: of receiving a batch that a worker has made, measured from its size.
        wait: that the loop stood still for each batch, with the loader as it is set.
        workers: `num_workers` of the loader.
        cores: that the advice may count on.
        bytes: of a batch.
    """

    load: dict[str, float]
    transfer: float
    step: float
    send: float
    wait: float
    workers: int
    cores: int
    bytes: int

    def best_workers(self) -> int:
        """Return the smallest number of workers with which a batch would take the shortest time, by the model."""
        return best_workers(sum(self.load.values()), self.transfer + self.step, self.cores, self.send)

    def advice(self) -> str:
        """Return in a sentence or two what to change, and why."""
        load, loop = sum(self.load.values()), self.transfer + self.step
        share = self.wait / (self.wait + loop)
        largest = max(self.load, key=lambda stage: self.load[stage])
        best = self.best_workers()
        if share < 0.1:
            return f"The loop waits {share:.0%} of its time: leave the loader as it is."
        said = (
            f"The loop waits {share:.0%} of its time; most of the loading is {largest} ({self.load[largest]:.2f} ms)."
        )
        if load < 2 * self.send:
            return (
                f"{said} To make a batch takes hardly longer than to receive it from a worker ({self.send:.2f} ms): "
                "workers do not pay. Gather whole batches instead (MemoryLoader, or `__getitems__`)."
            )
        if best != self.workers:
            said += f" Set num_workers={best}."
        if load / max(best, 1) > loop + self.send:
            said += f" With {self.cores} cores that is not enough: make {largest} cheaper, or do it once, beforehand."
        elif best == self.workers:
            said += " The workers are enough by the model: are the cores busy with something else?"
        return said

    def __str__(self) -> str:
        parts = [*self.load.items(), ("transfer", self.transfer), ("step", self.step)]
        lines = [f"{name:>10}  {value:8.3f} ms per batch" for name, value in parts]
        lines.append(f"{'wait':>10}  {self.wait:8.3f} ms per batch, with {self.workers} workers")
        return "\n".join([*lines, self.advice()])


def profile_loader(
    loader: DataLoader,
    step: Callable[[Any], object] | None = None,
    *,
    device: torch.device | str = "cpu",
    batches: int = 20,
    cores: int = 2,
) -> LoaderProfile:
    """Measure a loader in parts: first its dataset in this process, then the loader as it is set, with your step.

    Args:
        loader: a DataLoader with a map-style dataset.
        step: called with each batch on `device`, as training would; None for a step that takes no time.
        device: where the batches go.
        batches: how many to measure; the first of each kind are not counted.
        cores: how many workers the advice may propose at most.

    Raises:
        ValueError: for an iterable dataset (its samples cannot be asked for one by one), or too few batches.
    """
    if isinstance(loader.dataset, IterableDataset):
        raise ValueError("profile_loader() asks for samples by number, and an iterable dataset has none.")
    numbers = _some_batches(loader, batches + 1)
    load, batch = _profile_loading(loader, numbers)
    wait, transfer, taken = _profile_loop(loader, step or (lambda batch: None), torch.device(device), batches)
    size = sum(tensor.numel() * tensor.element_size() for tensor in _tensors(batch))
    return LoaderProfile(load, transfer, taken, _send_time(batch), wait, loader.num_workers, cores, size)


def _some_batches(loader: DataLoader, count: int) -> list[list[int]]:
    batches = [list(batch) for _, batch in zip(range(count), loader.batch_sampler or (), strict=False)]
    if len(batches) < 3:
        raise ValueError(f"A profile needs 3 batches or more, and this loader has {len(batches)}.")
    return batches


def _profile_loading(loader: DataLoader, numbers: list[list[int]]) -> tuple[dict[str, float], Any]:
    """Milliseconds per batch by stage, in this process; and the last batch."""
    global _running
    dataset: Any = loader.dataset
    totals = {"fetch": 0.0, "collate": 0.0}
    for number, batch_numbers in enumerate(numbers):
        _running = {}
        start = time.perf_counter()
        try:
            whole = hasattr(dataset, "__getitems__")
            samples = dataset.__getitems__(batch_numbers) if whole else [dataset[index] for index in batch_numbers]
        finally:
            stages, _running = _running, None
        fetched = time.perf_counter()
        batch = loader.collate_fn(samples)
        done = time.perf_counter()
        if number:  # the first one warms up
            for name, seconds in stages.items():
                totals[name] = totals.get(name, 0.0) + seconds
            totals["fetch"] += fetched - start - sum(stages.values())
            totals["collate"] += done - fetched
    order = ["fetch", *(name for name in totals if name not in ("fetch", "collate")), "collate"]
    return {name: 1000 * totals[name] / (len(numbers) - 1) for name in order}, batch


def _profile_loop(
    loader: DataLoader, step: Callable[[Any], object], device: torch.device, batches: int
) -> tuple[float, float, float]:
    """Milliseconds a batch of waiting, transfer and step, once the batches made before the start are used up."""
    ahead = 1 + loader.num_workers * (loader.prefetch_factor or 0)
    times, iterator = [], iter(loader)
    for _ in range(ahead + batches):
        start = time.perf_counter()
        batch = next(iterator, None)
        if batch is None:
            break
        loaded = time.perf_counter()
        batch = _to(batch, device)
        _finish(device)
        copied = time.perf_counter()
        step(batch)
        _finish(device)
        times.append((loaded - start, copied - loaded, time.perf_counter() - copied))
    counted = times[min(ahead, len(times) // 2) :]
    wait, transfer, taken = (1000 * sum(part) / len(counted) for part in zip(*counted, strict=True))
    return wait, transfer, taken


def _send_time(batch: Any, rounds: int = 20) -> float:
    """Milliseconds to receive a batch from a worker: measured with a process that has its batch ready at once."""
    iterator = iter(DataLoader(_Ready(batch, rounds + 4), batch_size=None, num_workers=1))
    for _ in range(4):
        next(iterator)
    start = time.perf_counter()
    for _ in iterator:
        pass
    return 1000 * (time.perf_counter() - start) / rounds


class _Ready(torch.utils.data.Dataset):
    """The same batch again and again, copied as a worker would have to make it."""

    def __init__(self, batch: Any, count: int) -> None:
        self.batch, self.count = batch, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return _map(torch.Tensor.clone, self.batch)


def _to(batch: Any, device: torch.device) -> Any:
    return _map(lambda tensor: tensor.to(device, non_blocking=True), batch)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _map(fn: Callable[[torch.Tensor], torch.Tensor], batch: Any) -> Any:
    if isinstance(batch, torch.Tensor):
        return fn(batch)
    if isinstance(batch, dict):
        return {name: _map(fn, part) for name, part in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_map(fn, part) for part in batch))
    return type(batch)(_map(fn, part) for part in batch) if isinstance(batch, list | tuple) else batch


def _tensors(batch: Any) -> Iterable[torch.Tensor]:
    found: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        found.append(tensor)
        return tensor

    _map(keep, batch)
    return found
