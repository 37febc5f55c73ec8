"""CPU-seconds: what a project costs, on however many processes it runs.

results, seconds = counted(train, settings, folder, world_size=2)    # ranks
with Meter() as meter: ...                                           # this process
print(meter.seconds)
"""

import time
from collections.abc import Callable
from typing import Any, Self

from torchcourse.ranks.run import run_ranks


def counted(
    fn: Callable[..., Any], *args: Any, world_size: int, timeout: float | None = 600
) -> tuple[list[Any], float]:
    """Call `fn(*args)` on ranks; return what each returns, and the CPU-seconds of all ranks together.

    Raises:
        RankError: as `run_ranks` does.
    """
    results = run_ranks(_with_seconds, fn, args, world_size=world_size, timeout=timeout)
    return [result for result, _ in results], sum(seconds for _, seconds in results)


class Meter:
    """CPU-seconds of this process within a block, all of its threads together; ranks are counted by `counted`."""

    def __enter__(self) -> Self:
        self._start, self.seconds = time.process_time(), 0.0
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.process_time() - self._start


def _with_seconds(fn: Callable[..., Any], args: tuple) -> tuple[Any, float]:
    start = time.process_time()
    return fn(*args), time.process_time() - start
