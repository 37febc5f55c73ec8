"""Where a step's time goes, by the clock: name the parts of the loop, and add up the seconds of each.

    clock = StepClock()
    for images, labels in clock.waiting_for(loader):    # counted as "data"
        with clock.part("forward"):
            loss = loss_fn(model(images), labels)
        ...
        clock.step()

`clock.per_step()` are milliseconds per step, by part. What no part covers is called "rest".
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch

Batch = TypeVar("Batch")


def operations(profiler: torch.profiler.profile, rows: int = 6) -> str:
    """Return the operations of a profile with the most time of their own: calls, own time, and time with all they call.

    Times are those of the CPU, in milliseconds. `profiler.key_averages().table()` has many more columns.
    """
    most = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)[:rows]
    lines = [f"{'operation':38} {'calls':>6} {'self, ms':>9} {'total, ms':>9}"]
    for event in most:
        own, whole = event.self_cpu_time_total / 1e3, event.cpu_time_total / 1e3
        lines.append(f"{event.key:38.38} {event.count:6} {own:9.2f} {whole:9.2f}")
    return "\n".join(lines)


class StepClock:
    """Adds up the wall-clock seconds of named parts of a training loop.

    A GPU works on while Python goes on: so with `device` a part ends only when the GPU is done. That makes the parts
    true, and the loop slower than it is without a clock.

    Args:
        device: on which the loop computes.
        clock: what tells the time, in seconds.
    """

    def __init__(self, device: torch.device | str = "cpu", clock: Callable[[], float] = time.perf_counter) -> None:
        self.device, self._clock = torch.device(device), clock
        self.seconds: dict[str, float] = {}
        self.steps = 0
        self._began: float | None = None
        self._ended = 0.0

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time inside `with` as this part's."""
        start = self._now()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self._now() - start

    def waiting_for(self, batches: Iterable[Batch], name: str = "data") -> Iterator[Batch]:
        """Return the batches; the time until each comes is a part of its own. The whole loop's time starts here."""
        iterator = iter(batches)
        self._began = self._now() if self._began is None else self._began
        while True:
            with self.part(name):
                try:
                    batch = next(iterator)
                except StopIteration:
                    return
            yield batch

    def step(self) -> None:
        """Say that a step is over."""
        self.steps += 1
        self._ended = self._now()

    def per_step(self) -> dict[str, float]:
        """Return milliseconds per step, by part in the order of their first use, and "rest" for what no part covers.

        Raises:
            ValueError: before the first step is over.
        """
        if self._began is None or not self.steps:
            raise ValueError("No step is over yet: take batches from clock.waiting_for(loader), and call clock.step().")
        parts = {name: seconds / self.steps * 1e3 for name, seconds in self.seconds.items()}
        whole = (self._ended - self._began) / self.steps * 1e3
        return parts | {"rest": max(0.0, whole - sum(parts.values()))}

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self._clock()
