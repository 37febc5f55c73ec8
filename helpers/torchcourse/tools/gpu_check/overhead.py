"""What the Trainer costs per step beside a raw loop, on the device of this machine."""

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from torchcourse.ranks.run import run_ranks
from torchcourse.ranks.who import device
from torchcourse.timing import measured_in_turn, ratio
from torchcourse.tools.bench.loop import microseconds_over, raw_loop, trainer_loop
from torchcourse.tools.gpu_check.parts import Case, Finding, Part
from torchcourse.tools.gpu_check.ranks import synchronize

STEPS, ROUNDS = 500, 4


def part() -> Part:
    where = "a GPU" if torch.cuda.is_available() else "one CPU thread"
    return Part(
        "The Trainer's overhead",
        f"A small dense network, batches of 32 that lie on the device, SGD, {STEPS} steps a round, {ROUNDS} rounds in "
        f"turn, on {where}. TensorBoard scalars every 50 steps. Median of the differences to the raw loop (range).",
        [Case("Trainer and raw loop", compare)],
    )


def compare() -> Finding:
    """Time a raw loop, the Trainer without metrics and the Trainer with accuracy in turn."""
    [seconds] = run_ranks(_seconds, world_size=1, timeout=300)
    raw = seconds.pop("raw")
    numbers = {"raw": statistics.median(raw) / STEPS * 1e6}
    told = [f"raw step {numbers['raw']:.0f} µs"]
    for name, values in seconds.items():
        over = microseconds_over(raw, values, STEPS)
        numbers[name] = statistics.median(over)
        told.append(
            f"{name} {numbers[name]:+.0f} µs per step ({over[0]:+.0f} to {over[-1]:+.0f}), {ratio(values, raw)}"
        )
    return Finding("; ".join(told), numbers)


def _seconds() -> dict[str, list[float]]:
    place = device()
    loops = {
        "raw": partial(raw_loop, place, STEPS),
        "without metrics": partial(trainer_loop, {}, place, STEPS),
        "with accuracy": partial(trainer_loop, None, place, STEPS),
    }
    return measured_in_turn({name: partial(_seconds_of, prepare, place) for name, prepare in loops.items()}, ROUNDS)


def _seconds_of(prepare: Callable[[], Callable[[], object]], place: torch.device) -> float:
    """Seconds of the loop until the device is done, without those of setting it up."""
    run = prepare()
    synchronize(place)
    start = time.perf_counter()
    run()
    synchronize(place)
    return time.perf_counter() - start
