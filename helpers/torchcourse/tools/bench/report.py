"""What the report is made of: tables in Markdown, and the machine in one line."""

import os
import platform
import sys
from dataclasses import dataclass, field
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
