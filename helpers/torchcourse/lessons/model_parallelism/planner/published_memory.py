"""Published bytes a GPU, to check the planner against."""

from dataclasses import dataclass, replace
from typing import Literal

from torchcourse.lessons.model_parallelism.planner.clusters import GPU, H100, Cluster, grand_teton
from torchcourse.lessons.model_parallelism.planner.layout import Layout
from torchcourse.lessons.model_parallelism.planner.models import LLAMA3_8B, Model
from torchcourse.lessons.model_parallelism.planner.published_megatron import KORTHIKANTI, recomputation_runs

TORCHTITAN = (
    "torchtitan, benchmarks of December 2024, "
    "https://github.com/pytorch/torchtitan/blob/main/benchmarks/llama3_h100_202412_torchtitan.md"
)


@dataclass(frozen=True)
class MemoryRow:
    """Published bytes of a GPU.

    Attributes:
        part: "states", "activations" or "total".
        size: in bytes.
        measured: whether it was measured, or is the paper's own sum.
    """

    name: str
    source: str
    model: Model
    cluster: Cluster
    layout: Layout
    part: Literal["states", "activations", "total"]
    size: float
    measured: bool


def _figure_1() -> list[MemoryRow]:
    """Korthikanti et al. 2022, figure 1, in GiB as https://github.com/calculon-ai/calculon (validation.py) has them.

    They are the paper's own sums, and the states leave out the embeddings, which the planner counts.
    """
    rows = {  # states, activations of plain tensor parallelism, and with both of the paper's remedies
        "22B": (45.5625, 59.25, 9.5625),
        "175B": (45.5625, 66.84375, 12.3515625),
        "530B": (31.640625, 114.0234375, 23.076171875),
        "1T": (32.958984375, 131.25, 26.5625),
    }
    found = []
    for run in recomputation_runs():
        name = run.name.split()[1].rstrip(",")
        if run.layout.recomputation == "full":
            plain = replace(run.layout, recomputation="none")
            parts = [("states", plain, rows[name][0]), ("activations", plain, rows[name][1])]
        else:
            parts = [("activations", run.layout, rows[name][2])]
        for part, layout, gib in parts:
            how = f"recomputation {layout.recomputation}" if part == "activations" else "all"
            title = f"GPT {name}, {part}, {how}"
            source = f"{KORTHIKANTI}, figure 1"
            found.append(MemoryRow(title, source, run.model, run.cluster, layout, part, gib * 2**30, measured=False))
    return found


def _torchtitan() -> list[MemoryRow]:
    """torchtitan, table 2: Llama 3.1 8B, FSDP with context parallelism, measured as the allocator's peak.

    FSDP keeps parameters, gradients and Adam's two numbers in float32, all sharded: 16 bytes, as the recipe has.
    """
    gpu = GPU("H100 96 GB", H100.flops, H100.flops_float32, 96 * 2**30, 2.4e12)
    cluster = replace(grand_teton(8), gpu=gpu)
    sharded = Layout(batch=8, stage=3, recomputation="full")
    return [
        MemoryRow(
            f"Llama 3.1 8B, {sequence} tokens, context {context}",
            f"{TORCHTITAN}, table 2",
            replace(LLAMA3_8B, sequence=sequence),
            cluster,
            replace(sharded, batch=8 // context, data=8 // context, context=context),
            "total",
            gib * 2**30,
            measured=True,
        )
        for sequence, context, gib in ((32768, 1, 83.9), (65536, 2, 84.2), (131072, 4, 84.0), (262144, 8, 84.5))
    ]


MEMORY = (*_figure_1(), *_torchtitan())

ZERO_GB = {  # billion parameters: {data-parallel ranks: GB of stage 1, 2, 3}
    7.5: {
        1: (120, 120, 120),
        4: (52.5, 41.3, 30),
        16: (35.6, 21.6, 7.5),
        64: (31.4, 16.6, 1.88),
        256: (30.4, 15.4, 0.47),
        1024: (30.1, 15.1, 0.12),
    },
    128: {
        1: (2048, 2048, 2048),
        4: (896, 704, 512),
        16: (608, 368, 128),
        64: (536, 284, 32),
        256: (518, 263, 8),
        1024: (513, 257, 2),
    },
    1000: {
        1: (16000, 16000, 16000),
        4: (7000, 5500, 4000),
        16: (4750, 2875, 1000),
        64: (4187, 2218, 250),
        256: (4046, 2054, 62.5),
        1024: (4011, 2013, 15.6),
    },
}
"""States in mixed precision with Adam. Rajbhandari et al. 2020, table 1, https://arxiv.org/abs/1910.02054"""
