"""The page: what machine this is, what was run and what was not, one table per part."""

from collections.abc import Mapping, Sequence
from datetime import date

import torch

from torchcourse.tools.bench.report import Table, machine
from torchcourse.tools.gpu_check.parts import DONE, FAILED, NOT_RUN, Part, Row
from torchcourse.units import format_bytes

Results = Mapping[str, tuple[Part, Sequence[Row]]]


def page(results: Results, picture: str | None) -> str:
    """Return the report in Markdown.

    Args:
        results: part and rows, by the part's title.
        picture: the name of the image beside the report, if there is one.
    """
    every = [row for _, rows in results.values() for row in rows]
    failed = [row for row in every if row.state == FAILED]
    parts = ["# The course on this machine", f"{date.today()} · {machine()}", "\n".join(gpu_lines()), summary(every)]
    if failed:
        parts.append("\n".join(f"- **{row.what}** failed: {_cell(row.result)}" for row in failed))
    if picture:
        parts.append(f"![Speed and states per rank of DDP and FSDP2]({picture})")
    for part, rows in results.values():
        cells = [[_cell(row.what), row.state, _cell(row.result)] for row in rows]
        parts.append(Table(part.title, ["what", "state", "result"], cells, part.how).to_markdown())
    return "\n\n".join(parts)


def summary(rows: Sequence[Row]) -> str:
    """Return how many rows there are of each state, in a sentence."""
    counts = {state: sum(row.state == state for row in rows) for state in (DONE, NOT_RUN, FAILED)}
    return f"{counts[DONE]} done, {counts[NOT_RUN]} not run, {counts[FAILED]} failed."


def gpu_lines() -> list[str]:
    """Say which GPUs, driver and libraries there are, or that there is no GPU."""
    if not torch.cuda.is_available():
        build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a build for the CPU"
        return [
            f"**No GPU was found.** PyTorch is {build}. What follows ran on the CPU; the rows say what did not run."
        ]
    nccl = ".".join(map(str, torch.cuda.nccl.version())) if torch.distributed.is_nccl_available() else "missing"
    lines = [f"- CUDA {torch.version.cuda}, NCCL {nccl}, cuDNN {torch.backends.cudnn.version()}, driver {_driver()}"]
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        lines.append(
            f"- GPU {index}: {gpu.name}, {format_bytes(gpu.total_memory)}, compute capability {gpu.major}.{gpu.minor}"
        )
    return lines


def _driver() -> str:
    try:
        import pynvml

        pynvml.nvmlInit()
        version = pynvml.nvmlSystemGetDriverVersion()
    except Exception as error:  # NVML is missing or refuses: the report is worth as much without this word
        return f"unknown ({type(error).__name__})"
    return version.decode() if isinstance(version, bytes) else str(version)


def _cell(text: str) -> str:
    """Write a text so that it stays in its cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")
