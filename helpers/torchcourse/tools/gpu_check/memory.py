"""The peak of a training step: what the simulated device of lesson 05 says, and what the GPU's allocator counted."""

from functools import partial

import torch

from torchcourse.ranks.run import run_ranks
from torchcourse.tools.bench.memory import CASES, gpu_peak, simulated_peak
from torchcourse.tools.gpu_check.parts import Case, Finding, NotRun, Part
from torchcourse.units import format_bytes


def part() -> Part:
    return Part(
        "Memory: simulated and measured",
        "Two steps with AdamW. Simulated: fake CPU tensors, counted without being filled. Measured: the most bytes in "
        "blocks of the GPU's allocator at once, which include workspaces that the simulation does not know.",
        [Case(name, partial(compare, number)) for number, (name, *_) in enumerate(CASES)],
    )


def compare(number: int) -> Finding:
    """Compare both for a case of the bench.

    Raises:
        NotRun: nothing could be measured; the text has the simulated peak.
    """
    # In a rank: what a failed kernel leaves of the GPU ends with that process.
    [(simulated, measured)] = run_ranks(_peaks, number, world_size=1, timeout=300)
    told = f"simulated {format_bytes(simulated)}"
    if measured is None:
        why = "the step does not fit on this GPU" if torch.cuda.is_available() else "this machine has no GPU"
        raise NotRun(f"{told}; not measured: {why}")
    difference = simulated / measured - 1
    return Finding(
        f"{told}, measured {format_bytes(measured)}: the simulation says {difference:+.1%}",
        {"simulated": simulated, "measured": measured},
    )


def _peaks(number: int) -> tuple[int, int | None]:
    _, build, shape, dtype = CASES[number]
    return simulated_peak(build, shape, dtype), gpu_peak(build, shape, dtype) if torch.cuda.is_available() else None
