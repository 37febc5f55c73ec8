"""A model of a DataLoader with workers: when each batch is made, when the step waits for it, and how many workers pay.

Times are in any one unit; milliseconds in the lessons.
"""

from dataclasses import dataclass


@dataclass
class Timeline:
    """What `simulate` saw: intervals (begin, end).

    Attributes:
        made: of each batch, (worker, begin, end); the worker is None without workers.
        waits: when the loop stood still for each batch.
        steps: of each training step.
    """

    made: list[tuple[int | None, float, float]]
    waits: list[tuple[float, float]]
    steps: list[tuple[float, float]]

    def batch_time(self) -> float:
        """Return the mean time per batch, over the second half: the start is over by then."""
        half = len(self.steps) // 2
        return (self.steps[-1][1] - self.steps[half - 1][1]) / (len(self.steps) - half)

    def waiting(self) -> float:
        """Return the share of the second half's time that the step waits, 0 to 1."""
        half = len(self.steps) // 2
        idle = sum(end - begin for begin, end in self.waits[half:])
        return idle / (self.steps[-1][1] - self.steps[half - 1][1])


def simulate(
    load: float, step: float, workers: int, *, send: float = 0.0, prefetch: int = 2, batches: int = 24
) -> Timeline:
    """Run a training loop on a clock of its own: each worker is given `prefetch` batches ahead, in turn.

    That is what torch's DataLoader does: batch i belongs to worker i mod workers, batches arrive in order, and with
    each batch that is taken another one is asked for (https://docs.pytorch.org/docs/stable/data.html).

    Args:
        load: to make a batch (fetch, decode, collate), in one process.
        step: of the training step.
        workers: processes that load; with 0 the loop loads itself.
        send: of the loop, to receive a batch from a worker; nothing without workers.
        prefetch: batches asked for ahead, a worker.
        batches: to run, at least 2.
    """
    made: list[tuple[int | None, float, float]] = []
    waits: list[tuple[float, float]] = []
    steps: list[tuple[float, float]] = []
    now = 0.0
    if workers == 0:
        for _ in range(batches):
            made.append((None, now, now + load))
            waits.append((now, now + load))
            steps.append((now + load, now + load + step))
            now = steps[-1][1]
        return Timeline(made, waits, steps)
    free, asked = [0.0] * workers, 0

    def ask(when: float) -> None:
        nonlocal asked
        worker = asked % workers
        begin = max(free[worker], when)
        free[worker] = begin + load
        made.append((worker, begin, free[worker]))
        asked += 1

    for _ in range(min(batches, workers * prefetch)):
        ask(0.0)
    for batch in range(batches):
        ready = max(now, made[batch][2]) + send
        waits.append((now, ready))
        if asked < batches:
            ask(ready)
        steps.append((ready, ready + step))
        now = ready + step
    return Timeline(made, waits, steps)


def batch_time(load: float, step: float, workers: int, send: float = 0.0) -> float:
    """Return the time per batch once the start is over: load + step alone, else the slower of workers and loop."""
    return load + step if workers == 0 else max(load / workers, step + send)


def best_workers(load: float, step: float, cores: int, send: float = 0.0) -> int:
    """Return the smallest number of workers, 0 to `cores`, with which a batch takes the shortest time."""
    return min(range(cores + 1), key=lambda workers: (round(batch_time(load, step, workers, send), 9), workers))


def timeline_finding(workers: int, load: float, step: float = 10.0, send: float = 1.0) -> str:
    """Say what the timeline shows."""
    run = simulate(load, step, workers, send=send, batches=200)
    return f"{workers} workers: {run.batch_time():.1f} ms per batch, and the loop waits {run.waiting():.0%} of the time"
