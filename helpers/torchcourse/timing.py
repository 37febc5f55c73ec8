"""How a table is measured and written: candidates in turn, medians and ranges, Markdown."""

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil

from torchcourse.units import format_bytes


@dataclass
class Table:
    """A table of the report: a title that says what was compared, columns with units, and how it was measured."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    how: str
    notes: list[str] = field(default_factory=list)

    def to_markdown(self) -> str:
        head = f"## {self.title}\n\n{self.how}\n\n"
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return head + table + "".join(f"\n\n{note}" for note in self.notes) + "\n"


def in_turn(candidates: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Call the candidates one after the other, `rounds` times, after one round that is not counted.

    Returns:
        Wall-clock seconds of each counted call, by candidate.
    """
    return measured_in_turn({name: partial(seconds_of, call) for name, call in candidates.items()}, rounds)


def measured_in_turn(
    candidates: Mapping[str, Callable[[], float]], rounds: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Let the candidates measure themselves one after the other, `rounds` times.

    Args:
        candidates: what returns one measurement, each by its name.
        rounds: how many rounds are counted.
        warm_up: how many rounds go before them.
    """
    measured: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(warm_up + rounds):
        for name, measure in candidates.items():
            value = measure()
            if number >= warm_up:
                measured[name].append(value)
    return measured


def seconds_of(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds of one call, of the wall clock or of a different clock."""
    start = clock()
    call()
    return clock() - start


def spread(values: Iterable[float], unit: str, scale: float = 1.0) -> str:
    """Return median and range, such as `0.13 s (0.12–0.15)`."""
    scaled = sorted(value * scale for value in values)
    low, high = (f"{value:.3g}" for value in (scaled[0], scaled[-1]))
    return f"{statistics.median(scaled):.3g} {unit} ({low}–{high})"


def ratio(values: Iterable[float], reference: Iterable[float]) -> str:
    """Return how many times the reference's median the values' median is."""
    return f"{statistics.median(values) / statistics.median(reference):.2f}×"


def machine() -> str:
    """Describe the machine in one line, without its name."""
    import torch  # only here: the list of benchmarks, which imports this module, comes at once

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return (
        f"{_processor()}, {os.cpu_count()} cores, {format_bytes(psutil.virtual_memory().total, decimals=0)}, "
        f"{', '.join(gpus) or 'no GPU'}; {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or sys.platform
